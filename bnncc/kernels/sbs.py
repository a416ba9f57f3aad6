"""Convolution of bits by sparse bit-sliced counting: only inputs that are set are visited, 32 output channels at a time.

With bits a, w for signs x, y the sum over a window of V valid inputs is 4 C - 2 A - 2 B + V, where C counts a w, A the set inputs, B the
set weights. A and B are known, so only C is computed: the weight rows of the set inputs are added up in bit-sliced counters (one
word a binary digit, one lane an output channel). Where more than about half of a window is set, the unset inputs are added instead.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bnncc.kernels.base import Array, Kernel, epilogue, epilogue_work, integer_type
from bnncc.kernels.binary import conv, refuse_values
from bnncc.kernels.copying import copying, in_ram
from bnncc.kernels.most import most_listed
from bnncc.kernels.windows import INTS, MOST_VARIANTS, Windows, refuse_variants, variant_of, variants
from bnncc.layout import DTYPES, Unit, pack_bits
from bnncc.ops import Conv
from bnncc.program import Constant, Parts
from bnncc.tensor import Op
from bnncc.waits import Reads

LANES = 32  # output channels at a time
REACH = 16_382  # rows from a list's first one that 16-bit entries reach
MOST_TAPS = 32_000  # whose counts, and what they begin with, fit 16 binary digits
MOST_COLUMNS = 64  # whose lists the C keeps on its stack
LINK = 8  # halfwords at the end of a list
LISTING = 9 / 6.8  # what it takes to list an input, relative to adding its row in one block


def refuse(op: Op) -> str:
    c = conv(op)
    if reason := refuse_values(c):
        return reason
    if c.groups > 1 and (c.weight.shape[1] % 32 or c.weight.shape[0] // c.groups % LANES):
        return f"its channels are in {c.groups} groups that are not whole words"
    windows = Windows.of(c)
    if reason := refuse_variants(c, windows):
        return reason
    if c.taps > MOST_TAPS:
        return f"the sums of {c.taps} inputs are beyond 16 binary digits"
    column = c.taps // windows.kernel[1]
    reached = column + 1 + 2 * MOST_VARIANTS <= REACH
    return "" if reached else f"a column of {column} inputs is beyond the reach of 16-bit entries"


def build(op: Op, name: str, lanes: int = LANES, *, by_block: bool = False) -> Parts:
    c = conv(op)
    windows = Windows.of(c)
    kinds = variants(c, windows)
    o, channels = c.weight.shape[:2]
    flipped = np.zeros(o, bool) if c.cut is None else c.cut.inverts[0]
    weight = np.where(flipped[:, None, None, None], -c.weight, c.weight)
    by_tap = (weight > 0).sum(axis=1).reshape(o, *windows.kernel)  # set weights
    limit = unset_limit(c, lanes)
    zeros = kinds.full > 0
    n = len(kinds.valid)
    blocks = -(-o // 32)
    b = np.einsum("oyx,vyx->vo", by_tap, kinds.valid)
    v = channels * kinds.valid.sum(axis=(1, 2))[:, None]
    padding = np.repeat(c.padding.reshape(c.groups, channels), o // c.groups, axis=0)  # of each output's group
    of_padding = np.einsum("ocyx,oc->oyx", weight.astype(np.int64), padding).reshape(by_tap.shape)
    outside = np.einsum("oyx,vyx->vo", of_padding, ~kinds.valid)
    constants, params = epilogue(c, name)
    if c.cut is not None:
        level = c.cut.levels[kinds.cuts]
        level = np.where(flipped, 1 - level, level)
        h = np.clip(-(-(level + 2 * b - v - outside) // 2), -v, v + 1)  # the bit is 2 C - A >= h
        if zeros:
            h = np.concatenate([h, (2 * b - v + 1 - h)[n - kinds.full :]])
        start, parity, offset, planes = counter_start(h, np.concatenate([b, b[n - kinds.full :]])[: len(h)], c.taps)
        arrays = [Constant(f"{name}_start", "uint32_t", sliced(start, planes))]
        extra = pack_bits(parity, Unit("uint32_t", 32, blocks))  # [variants, blocks]
        params = {**params, "offset": offset, "planes": planes}
    else:
        base = v + outside - 2 * b
        if zeros:
            base = np.concatenate([base, (2 * b - v + outside)[n - kinds.full :]])
        kind = integer_type(base)
        planes = 16
        arrays = [
            Constant(f"{name}_start", "uint32_t", np.zeros(planes, np.uint32)),
            Constant(f"{name}_base", kind, base.astype(DTYPES[kind])),
            *constants,
        ]
        extra = np.zeros((0, blocks), np.uint32)
        params = {**params, "base_type": kind, "planes": planes}
    weights = Constant(f"{name}_weights", "uint32_t", packed_rows(weight, windows, extra))
    total = n + (kinds.full if zeros else 0)
    variant, lookup = variant_of(kinds, name)
    slot = windows.kernel[0] * channels + 4 + LINK + (4 + LINK if zeros else 0)
    slot += slot % 2
    ring = row_columns(windows) if by_block else windows.span
    rows = (("weights", "uint32_t", weights.data.shape[1]),) if by_block else ()
    return Parts(
        (weights, *arrays, *lookup),
        (("lists", "uint16_t", ring * slot + (4 + LINK if c.cut is not None else 0)), *rows),
        {
            **params,
            "image": windows.image,
            "kernel": windows.kernel,
            "strides": windows.strides,
            "dilations": windows.dilations,
            "pads": windows.pads,
            "out": windows.out,
            "padded_rows": not windows.inside(0).all(),
            "padded_columns": not windows.inside(1).all(),
            "bits": c.cut is not None,
            "groups": c.groups,
            "channels": channels,
            "blocks": blocks,
            "block": weights.data.shape[1],
            "mask": (1 << o % 32) - 1 if o % 32 else 0,
            "taps": c.taps,
            "column": windows.kernel[0] * channels + 1,
            "far": c.taps + windows.kernel[1] + 2 * MOST_VARIANTS > REACH,
            "span": windows.span,
            "ring": ring,
            "by_block": by_block,
            "slot": slot,
            "limit": limit if zeros else None,
            "variants": total,
            "variant": variant,
            "first_full": n - kinds.full,
            "fulls": kinds.full,
        },
        stack=48 + 4 * (c.taps // 16 + 2 * (windows.kernel[1] + 1)),  # registers, and a carry for 16 entries of a list
    )


def unset_limit(op: Conv, lanes: int = LANES) -> int:
    """The set inputs of a window beyond which its unset ones are added: where both take as long, unset ones being listed extra."""
    blocks = -(-op.weight.shape[0] // op.groups // lanes)
    windows = Windows.of(op)
    shared = max(1, windows.kernel[1] // windows.strides[1])  # windows that a list of a column is for
    listing = LISTING / shared
    return int(op.taps * (blocks + listing) / (2 * blocks + listing))


def counter_start(h: INTS, most: INTS, taps: int) -> tuple[INTS, NDArray[np.bool_], int, int]:
    """From thresholds h of 2 C - A [variants, O], the most that C can be and the most that A can: what the counters begin with, where
    one is added for odd A, the offset of the scalar threshold `offset + ceil(A / 2)`, and the binary digits (8, 12 or 16)."""
    q = -(-h // 2)
    offset = max(1, int(q.max()))
    start = offset - q
    top = max(int((start + most).max()) + 1, offset + (taps + 1) // 2)
    assert top < 1 << 16
    return start, h % 2 == 1, offset, max(8, -(-top.bit_length() // 4) * 4)


def sliced(values: INTS, planes: int) -> Array:
    """[variants, O] numbers as [variants, blocks, planes] words: lane o of word k is digit k of number o."""
    n, o = values.shape
    digits = (values[:, None, :] >> np.arange(planes)[:, None] & 1).astype(bool)  # [n, planes, O]
    packed = pack_bits(digits, Unit("uint32_t", 32, -(-o // 32)))
    return np.ascontiguousarray(packed.reshape(n, planes, -1).transpose(0, 2, 1))


def packed_rows(weight: Array, windows: Windows, extra: Array) -> Array:
    """[blocks, rows]: for each kx a zero and the rows (ky, 32-channel word, its highest channel first); then `extra` [n, blocks]."""
    o, c = weight.shape[:2]
    order = np.concatenate([np.arange(min(c, k + 32) - 1, k - 1, -1) for k in range(0, c, 32)])
    kh, kw = windows.kernel
    rows = np.zeros((kw, 1 + kh * c, o), bool)
    rows[:, 1:] = (weight > 0).reshape(o, c, kh, kw)[:, order].transpose(3, 2, 1, 0).reshape(kw, -1, o)
    packed = pack_bits(rows.reshape(-1, o), Unit("uint32_t", 32, -(-o // 32)))
    return np.ascontiguousarray(np.concatenate([packed, extra]).T.astype(np.uint32))


def row_columns(windows: Windows) -> int:
    """Columns that the windows of a row reach over, and those between them."""
    return (windows.out[1] - 1) * windows.strides[1] + windows.span


def words(op: Op) -> int:
    """Of the rows of all blocks."""
    c = conv(op)
    windows = Windows.of(c)
    kinds = variants(c, windows) if c.cut is not None else None
    extra = 0 if kinds is None else len(kinds.valid) + kinds.full
    return int(-(-c.weight.shape[0] // LANES) * (c.taps + windows.kernel[1] + extra))


def reads(op: Op) -> Reads:
    """The rows of the inputs that are expected to be listed."""
    c = conv(op)
    quads = work(op)["quad"]
    return Reads(4 * quads, 4 * quads / (c.y.pixels * words(op)), 4 * words(op))


def refuse_blocks(op: Op) -> str:
    c = conv(op)
    if reason := refuse(op):
        return reason
    if c.cut is None or c.weight.shape[0] <= LANES:
        return "its outputs are not several words of bits"
    if c.y.pixels == 1:
        return "its weights are read once"
    if c.groups > 1:
        return f"its channels are in {c.groups} groups"
    columns = row_columns(Windows.of(c))
    return f"lists of {columns} columns would have to be kept" if columns > MOST_COLUMNS else ""


def by_block(op: Op, of: Mapping[str, float]) -> Mapping[str, float]:
    """The work, where each row of windows is gone through once a block."""
    c = conv(op)
    blocks = -(-c.weight.shape[0] // LANES)
    again = {part: blocks * of[part] for part in ("pixel", "tap", "unset_tap")}
    return {**in_ram(of), **again, "copy": Windows.of(c).out[0] * words(op)}


def work(op: Op) -> Mapping[str, float]:
    """At the density that is expected; see `worst`."""
    c = conv(op)
    return work_at(c, c.density)


def worst(op: Op, lanes: int = LANES) -> Mapping[str, float]:
    """A bound for any input: as many inputs on lists as there can be, and every list one row too long for its last quad."""
    c = conv(op)
    windows = Windows.of(c)
    blocks = -(-c.weight.shape[0] // lanes)
    rows = most_listed(windows, int(c.weight.shape[1]), unset_limit(c, lanes))
    lists = windows.out[0] * int(windows.inside(1).sum()) + (c.y.pixels if c.cut else 0)
    quads = rows / 4 + lists
    most = {"list": lists, "quad": quads, "carry": quads / 4 + 0.75 * lists}
    full = work_at(c, 1.0, lanes)
    pixels = full["column"] * windows.kernel[0]
    eights = bits_from(int(c.weight.shape[1]))
    listed = {"word": pixels * len(eights[::4]), "eight": pixels * len(eights)}  # all with a bit to list, both ways
    return {**full, **listed, **{part: times * blocks for part, times in most.items()}}


def bits_from(channels: int) -> list[int]:
    """For each eight bits of a pixel: how many bits its word has from there on. Thumb-1 lists a word eight bits at a time, as long as
    any are left."""
    return [min(32 - k % 32, channels - k) for k in range(0, channels, 8)]


def work_at(c: Conv, density: float, lanes: int = LANES) -> Mapping[str, float]:
    windows = Windows.of(c)
    channels, (kh, kw) = c.weight.shape[1], windows.kernel
    rows_in, columns_in = windows.inside(0), windows.inside(1)
    full = rows_in.all(axis=1).sum() * columns_in.all(axis=1).sum()
    unset = density * c.taps > unset_limit(c, lanes)
    pixels, blocks = c.y.pixels, -(-c.weight.shape[0] // lanes)
    listed_share = 1 - density if unset else density  # of the inputs of windows within the image
    inside = int(full) * c.taps
    rows = density * (channels * int(rows_in.sum()) * int(columns_in.sum()) - inside) + listed_share * inside
    lists = len(rows_in) * int(columns_in.sum()) + pixels * (0.5 if c.cut else 0)
    lists *= 1 - (1 - rows / (pixels * c.taps)) ** (c.taps / kw)  # an empty one is left out
    quads = rows / 4 + 0.625 * lists
    lefts = np.arange(windows.out[1])[:, None] * windows.strides[1] - windows.pads[1]
    used = set((lefts + np.arange(windows.span)).ravel().tolist()) & set(range(windows.image[2]))
    listed = len(used) * int(rows_in.sum())  # pixels
    twice = full / pixels if unset else 0

    def with_bits(left: list[int]) -> float:
        """Of places with so many bits left: how many are expected to have one to list."""
        return sum(1 - (1 - density) ** n + (1 - density**n) * twice for n in left)

    eights = bits_from(channels)
    return {
        "call": 1,
        "pixel": pixels * c.groups,
        "tap": pixels * kw * c.groups,
        "unset_tap": int(full) * kw * c.groups if unset else 0,
        "column": listed / kh * (1 + twice) * c.groups,
        "word": listed * with_bits(eights[::4]) * c.groups,
        "eight": listed * with_bits(eights) * c.groups,
        "bit": listed * channels * (density + (1 - density) * twice) * c.groups,
        "block": pixels * blocks,
        "list": lists * blocks,
        "quad": quads * blocks,
        "carry": (quads / 4 + 0.375 * lists) * blocks,
        "unpack": 0
        if c.cut
        else pixels * c.groups * -(-c.weight.shape[0] // c.groups // 32),  # 32 sums from their digits
        "sum": 0 if c.cut else c.y.size,
        **epilogue_work(c),
    }


def not_turned(op: Op) -> bool:
    """Whether the C's rows are the op's."""
    c = conv(op)
    return Windows.of(c) == Windows.plain(c)


PLAIN = (
    Kernel(
        "sbs_conv",
        "sparse bit-sliced counting of the set inputs",
        (Conv,),
        "sbs_conv.c.j2",
        refuse,
        build,
        work,
        rows=not_turned,
        apart=lambda op: conv(op).groups == 1,
        worst=worst,
        reads=reads,
    ),
)
KERNELS = (
    *PLAIN,
    copying(PLAIN[0], words),
    replace(
        PLAIN[0],
        name="sbs_conv_blocks",
        title="sparse bit-sliced counting of the set inputs, one block's weights in RAM at a time",
        refuses=refuse_blocks,
        build=lambda op, name: build(op, name, by_block=True),
        work=lambda op: by_block(op, work(op)),
        worst=lambda op: by_block(op, worst(op)),
        reads=lambda op: Reads(Windows.of(conv(op)).out[0] * words(op)),
        copies=True,
        like="sbs_conv",
        apart=lambda _: False,
    ),
)
