"""Convolution of bits by tables: how many of 5 inputs agree with each of the 32 combinations of signs, in 4-bit lanes of 16 pixels.

A table's entry has 8 output rows a word; with three entries added a lane is at most 15, so that no lane reaches the next one. The
tables of a column of the image serve all windows over it and all output channels, which only have a stream of indices
each. The time does not depend on the data. Tables of all combinations of a few bits: Arlazarov, Dinic, Kronrod, Faradzhev,
On economical construction of the transitive closure of a directed graph (1970).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from bnncc.kernels.base import Array, Kernel, epilogue, epilogue_work
from bnncc.kernels.binary import conv, refuse_values
from bnncc.kernels.windows import INTS, Windows
from bnncc.layout import DTYPES, pack_bits, unit
from bnncc.ops import Conv
from bnncc.program import Constant, Parts
from bnncc.tensor import Op
from bnncc.waits import Reads

GROUP = 5  # inputs of a table
ENTRIES = 1 << GROUP
SUMMED = 3  # entries whose sum fits 4 bits
MOST_TRIPLES = 17  # sums of three that fit 8 bits
PLACES = 16  # output pixels at a time: two words of 8 lanes
REACH = 1 << 16  # words of a column's tables that 16-bit indices reach
MOST_TAPS = 16_000  # sums and thresholds are in 16-bit halves
MOST_SETS = 64


@dataclass(frozen=True)
class Places:
    """The output pixels that are computed at a time: 16 rows of a column, the even ones in the first word of lanes, or 8 rows of
    two columns, the first one in the first word. Place 2 k + q is lane k of word q."""

    windows: Windows
    columns: int  # of output: 1 or 2

    @classmethod
    def of(cls, op: Conv) -> "Places":
        """The division of the output that leaves fewer lanes idle."""
        return min((cls(windows_of(op), n) for n in (1, 2)), key=lambda p: p.passes * p.steps)

    @property
    def rows(self) -> int:
        return PLACES // self.columns

    @property
    def passes(self) -> int:
        return -(-self.windows.out[0] // self.rows)

    @property
    def steps(self) -> int:
        """Of a pass, from left to right."""
        return -(-self.windows.out[1] // self.columns)

    @property
    def lane_rows(self) -> int:
        """Input rows from a lane to the next one."""
        return self.windows.strides[0] * (2 if self.columns == 1 else 1)

    @property
    def shift_rows(self) -> int:
        """Input rows from one word of an entry to the next one: the same rows of output, seen from another row of the window."""
        kh, (stride, dilation) = self.windows.kernel[0], (self.windows.strides[0], self.windows.dilations[0])
        own = stride if self.columns == 1 else 0
        return gcd(own, dilation if kh > 1 else 0) or 1

    @property
    def second(self) -> int:
        """The word of an entry that is the second of the first row of the window."""
        return self.windows.strides[0] // self.shift_rows if self.columns == 1 else 0

    @property
    def words(self) -> int:
        """Of an entry."""
        return self.second + self.word_of(self.windows.kernel[0] - 1) + 1

    def word_of(self, ky: int) -> int:
        """The word of an entry that is the first of row ky of the window."""
        return ky * self.windows.dilations[0] // self.shift_rows

    @property
    def ring(self) -> int:
        """Columns of the image that are there at a time."""
        return (self.columns - 1) * self.windows.strides[1] + self.windows.span

    @property
    def pixels(self) -> tuple[INTS, INTS]:
        """The row and the column of each place, [passes, steps, PLACES]; there are some beyond the output."""
        place = np.arange(PLACES)
        row, column = (place, place * 0) if self.columns == 1 else (place // 2, place % 2)
        p, s = np.ogrid[: self.passes, : self.steps]
        shape = (self.passes, self.steps, PLACES)
        rows = p[..., None] * self.rows + row
        return np.broadcast_to(rows, shape), np.broadcast_to(s[..., None] * self.columns + column, shape)


@dataclass(frozen=True)
class Sums:
    """How the entries that a window adds are divided: `sets` of so many `triples`, a whole number of them for a column of the window."""

    groups: int
    triples: int
    sets: int
    lookups: int  # for a column of the window; what is missing in the last triples is a zero entry

    @classmethod
    def of(cls, op: Conv, windows: Windows) -> "Sums":
        kh, kw = windows.kernel
        groups = -(-op.weight.shape[1] // GROUP)
        triples = -(-kh * groups // SUMMED)
        sets = -(-triples // MOST_TRIPLES)
        return cls(groups, -(-triples // sets), kw * sets, kh * groups)


def windows_of(op: Conv) -> Windows:
    """The windows; lanes are rows, so images one row high are turned."""
    plain = Windows.plain(op)
    flat = op.x.shape[1] == op.kernel[0] == op.y.shape[1] == 1 and op.pads[0] == 0
    return plain.turned() if flat else plain


def refuse(op: Op) -> str:
    c = conv(op)
    if reason := refuse_values(c):
        return reason
    if c.groups > 1:
        return f"its channels are in {c.groups} groups"
    if c.cut is not None and len(c.cut.levels) > 1:
        return "its thresholds change from pixel to pixel"
    if c.sparse:
        return "its windows have taps between the input's pixels"
    if c.y.pixels == 1:
        return "it has one output pixel only"
    places = Places.of(c)
    sums = Sums.of(c, places.windows)
    if c.taps > MOST_TAPS or sums.sets > MOST_SETS:
        return f"its windows of {c.taps} inputs are too large"
    words = table_words(places, sums)
    return "" if words <= REACH else f"the tables of a column of {words} words are beyond the reach of 16-bit indices"


def table_words(places: Places, sums: Sums) -> int:
    """The tables of a column: entries of all groups, and one of zeros."""
    return (sums.groups * ENTRIES + 1) * places.words


def build(op: Op, name: str) -> Parts:
    c = conv(op)
    places = Places.of(c)
    windows = places.windows
    sums = Sums.of(c, windows)
    o, channels = c.weight.shape[:2]
    outside = channels * outside_taps(c, places)  # inputs that count for nothing
    flipped = np.zeros(o, bool) if c.cut is None else c.cut.inverts[0]
    weight = np.where(flipped[:, None, None, None], -c.weight, c.weight).reshape(o, channels, *windows.kernel)
    stream = indices(weight, places, sums)
    if c.cut is not None:
        starts, thresholds = against_thresholds(c, outside)
        stream = np.concatenate([stream, thresholds[:, None]], axis=1)
    else:
        starts = (outside - c.taps).astype(np.int32)  # with Y inputs that agree the sum is 2 Y + outside - taps
    start, which = np.unique(starts.reshape(places.passes * places.steps, -1), axis=0, return_inverse=True)
    u = unit(channels)
    first_rows = np.arange(places.passes)[:, None] * places.rows * windows.strides[0] - windows.pads[0]
    tops = first_rows + np.arange(places.words) * places.shift_rows
    rows = tops[..., None] + np.arange(8) * places.lane_rows
    inside = (rows >= 0) & (rows < windows.image[1])
    valid = (inside | (c.pad_value != 0)).astype(np.uint32)
    arrays = [
        Constant(f"{name}_stream", "uint16_t", stream.astype(np.uint16)),
        Constant(f"{name}_start", "uint32_t" if c.cut else "int32_t", start),
        Constant(
            f"{name}_valid", "uint32_t", (valid << 4 * np.arange(8, dtype=np.uint32)).sum(axis=2, dtype=np.uint32)
        ),
    ]
    if len(start) > 1:
        kind = "uint8_t" if len(start) <= 256 else "uint16_t"
        numbers = np.asarray(which).reshape(places.passes, -1)
        arrays.append(Constant(f"{name}_kinds", kind, numbers.astype(DTYPES[kind])))
    constants, params = ((), {}) if c.cut else epilogue(c, name)
    edge = [int(w) for w in pack_bits(c.padding > 0, u)]  # the words that a pixel of padding counts as
    if any(edge) and u.words > 1:
        arrays.append(Constant(f"{name}_edge", "uint32_t", np.array(edge, np.uint32)))
    padded_columns = not windows.inside(1).all() or windows.out[1] % places.columns > 0
    return Parts(
        (*arrays, *constants),
        (
            ("tables", "uint32_t", places.ring * table_words(places, sums)),
            ("lanes", "uint32_t", max(32 * u.words, GROUP * sums.groups)),
            ("sums", "uint32_t", 4 * sums.sets),
            ("outputs", "uint32_t", -(-o // 32) * 32 if c.cut else 8 * o),
        ),
        {
            **params,
            "bits": c.cut is not None,
            "places": places,
            "windows": windows,
            "sums": sums,
            "table": table_words(places, sums),
            "kinds": len(start),
            "start": start.shape[1],
            "edge": edge[0],
            "edges": any(edge),
            "counts": c.pad_value != 0,
            "padded_rows": not inside.all(),
            "outside": padded_columns and not leaves_out(c, places),
            "skips": leaves_out(c, places),
            "blanks": SUMMED * sums.triples * sums.sets > windows.kernel[1] * sums.lookups,
            "outputs": o,
        },
        stack=60,
    )


def against_thresholds(c: Conv, outside: INTS) -> tuple[NDArray[np.uint32], INTS]:
    """What the sums of each step begin with, and a threshold of each output: with Y inputs that agree, the bit is
    2 Y >= level + taps - outside.

    Where something is outside there are two starts, for even and for odd level + taps, and bit 0 of the threshold says which.
    """
    assert c.cut is not None
    level = np.clip(np.where(c.cut.inverts[0], 1 - c.cut.levels[0], c.cut.levels[0]), -c.taps, c.taps + 1)
    twice = level + c.taps
    if not outside.any():
        return in_halves(outside), 2 * -(-twice // 2)
    return in_halves(np.stack([outside // 2, -(-outside // 2)], axis=2)), 2 * -(-twice // 2) + twice % 2


def leaves_out(c: Conv, places: Places) -> bool:
    """Whether columns outside the image are left out, not tables of zeros."""
    return places.columns == 1 and c.pad_value == 0 and not places.windows.inside(1).all()


def outside_taps(c: Conv, places: Places) -> INTS:
    """[passes, steps, PLACES]: taps of each window that are outside the image and count for nothing."""
    windows = places.windows
    row, column = places.pixels
    if c.pad_value != 0:
        return np.zeros(row.shape, np.int64)
    rows_in, columns_in = (windows.inside(axis).sum(axis=1) for axis in (0, 1))
    there = (row < windows.out[0]) & (column < windows.out[1])
    taps = rows_in[np.minimum(row, windows.out[0] - 1)] * columns_in[np.minimum(column, windows.out[1] - 1)]
    return np.where(there, windows.kernel[0] * windows.kernel[1] - taps, 0)


def in_halves(values: INTS) -> NDArray[np.uint32]:
    """[..., PLACES] numbers as [..., 8] words, in the order in which the lanes of a set are spread: places 0, 2, 4, 6, then 1, 3, 5,
    7, in the low halves, and 8 further on in the high ones."""
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])
    return (values[..., order] | values[..., order + 8] << 16).astype(np.uint32)


def indices(weight: Array, places: Places, sums: Sums) -> INTS:
    """[O, lookups of all sets]: for each column of the window, each group and row: which word of the column's tables."""
    o, channels, kh, kw = weight.shape
    signs = np.zeros((o, sums.groups * GROUP, kh, kw), np.int64)
    signs[:, :channels] = weight > 0
    entry = (signs.reshape(o, sums.groups, GROUP, kh, kw) << np.arange(GROUP)[:, None, None]).sum(axis=2)
    entry += np.arange(sums.groups)[:, None, None] * ENTRIES
    word = entry * places.words + np.array([places.word_of(ky) for ky in range(kh)])[:, None]
    per_column = SUMMED * sums.triples * sums.sets // kw
    out = np.full((o, kw, per_column), sums.groups * ENTRIES * places.words)
    out[..., : sums.lookups] = word.transpose(0, 3, 1, 2).reshape(o, kw, -1)
    return out.reshape(o, -1)


def reads(op: Op) -> Reads:
    """The streams of all outputs, for each step."""
    c = conv(op)
    places = Places.of(c)
    sums = Sums.of(c, places.windows)
    length = c.weight.shape[0] * (SUMMED * sums.triples * sums.sets + (c.cut is not None))
    return Reads(places.passes * places.steps * length, span=2 * length, size=2)


def work(op: Op) -> Mapping[str, float]:
    c = conv(op)
    places = Places.of(c)
    windows = places.windows
    sums = Sums.of(c, windows)
    o, words, steps = c.weight.shape[0], unit(c.weight.shape[1]).words, places.passes * places.steps
    kw = windows.kernel[1]
    lefts = np.arange(places.steps)[:, None] * places.columns * windows.strides[1] - windows.pads[1]
    used = set((lefts + np.arange(places.ring)).ravel().tolist())
    taken = kw * places.steps  # columns of windows
    if leaves_out(c, places):
        used &= set(range(windows.image[2]))
        taken = int(windows.inside(1).sum())
    shifts = places.passes * len(used) * places.words
    sets = places.passes * taken * sums.sets // kw * o
    return {
        "call": 1,
        "step": steps,
        "shift": shifts,
        "word": shifts * words,
        "group": shifts * sums.groups,
        "channel" if c.cut else "wide_channel": steps * o,
        "set": sets,
        "triple": sets * sums.triples,
        "block": steps * -(-o // 32) if c.cut else 0,
        "sum": 0 if c.cut else c.y.size,
        **epilogue_work(c),
    }


KERNELS = (
    Kernel(
        "lut_conv",
        "tables of partial sums for 16 pixels at a time",
        (Conv,),
        "lut_conv.c.j2",
        refuse,
        build,
        work,
        reads=reads,
        dsp=True,
        roomy=True,
    ),
)
