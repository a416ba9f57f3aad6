"""First layers: sums of integer inputs with -1/+1 weights from tables, four pixels in the 16-bit halves of two words.

The pixels are in four rows, one below the other. The inputs of a column of their windows are divided into groups, each with a table
of its sums under all combinations of signs; the tables of a block of columns serve all windows in it and all output channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bnncc.kernels.base import Array, Kernel
from bnncc.kernels.binary import conv
from bnncc.kernels.copying import copying
from bnncc.kernels.values import centred, refuse_table, zero_constants
from bnncc.kernels.windows import Windows
from bnncc.ops import Conv
from bnncc.program import Constant, Parts
from bnncc.tensor import Op
from bnncc.waits import Reads

ROWS = 4  # of output at a time
EIGHT = 8  # output channels whose bits for four pixels fill a word
LEAST = 3  # inputs for which tables pay
WIDE = 6  # bits that index a table, at most
FIRST, MORE = 4, 3  # lookups that find registers at a time: the first ones of a channel, and later ones
ENTRY, INPUT, TABLE, BLOCK = 4.1, 15.0, 20.0, 100.0  # what they take, about, in cycles of a Cortex-M4
REACH = 1 << 16  # bytes of a window's tables that 16-bit offsets reach
MOST_BYTES = 2560  # of the tables of a block, as long as it has several columns of windows
FOR_TWICE = 51_200  # bytes of them that twice the time would be worth: 512 for a hundredth


@dataclass(frozen=True)
class Blocks:
    """The windows, and how they are gone through: blocks of so many columns of `outputs`, four rows high.

    `sizes` are the inputs of each table of a column. Where the output is one row high, rows and columns are exchanged: `turned`.
    """

    windows: Windows
    turned: bool
    sizes: tuple[int, ...]
    outputs: int

    @property
    def passes(self) -> int:
        return -(-self.windows.out[0] // ROWS)

    @property
    def count(self) -> int:
        """Blocks in a pass."""
        return -(-self.windows.out[1] // self.outputs)

    @property
    def height(self) -> int:
        """Input rows that the windows of four rows reach over."""
        return (ROWS - 1) * self.windows.strides[0] + self.windows.kernel[0]

    @property
    def pairs(self) -> int:
        """Rows that are read with the one two output rows below, as the halves of words."""
        return self.height - 2 * self.windows.strides[0]

    @property
    def entries(self) -> int:
        """Of the tables of a column, two words each."""
        return sum(1 << k for k in self.sizes)

    @property
    def lookups(self) -> int:
        return self.windows.kernel[1] * len(self.sizes)

    def columns(self, outputs: int) -> int:
        """Columns of the input that so many columns of windows reach over."""
        return (outputs - 1) * self.windows.strides[1] + self.windows.span

    @property
    def made(self) -> int:
        """Columns whose tables are made in a pass."""
        last = self.windows.out[1] - (self.count - 1) * self.outputs
        return (self.count - 1) * self.columns(self.outputs) + self.columns(last)

    @property
    def inside(self) -> int:
        """Columns of all passes that are made of values in the image alone."""
        (top, left), (down, right) = self.windows.pads, self.windows.strides
        tops = np.arange(self.passes) * ROWS * down - top
        lefts = np.arange(0, self.windows.out[1], self.outputs)
        count = np.minimum(self.outputs, self.windows.out[1] - lefts)
        first, end = lefts * right - left, (lefts + count - 1) * right + self.windows.span - left
        columns = np.minimum(end, self.windows.image[2]) - np.maximum(first, 0)
        rows = (tops >= 0) & (tops <= self.windows.image[1] - self.height)
        return int(rows.sum() * np.maximum(columns, 0).sum())

    @property
    def channel_words(self) -> int:
        """Words of weights an output channel: what its sum begins with, and offsets of entries."""
        return 1 + -(-self.lookups // 2)

    @classmethod
    def of(cls, op: Conv) -> "Blocks":
        """The division that costs least, in time and memory."""
        windows, turned = Windows.plain(op), op.y.shape[1] == 1
        windows = windows.turned() if turned else windows
        taps = windows.kernel[0] * windows.image[0]
        divisions = (tuple(even(taps, -(-taps // limit))) for limit in range(1, WIDE + 1))
        options = [b for sizes in divisions for b in cls.dividing(windows, turned, sizes)]
        return min(options, key=lambda b: b.cost(int(op.weight.shape[0])) * (1 + b.bytes / FOR_TWICE))

    @classmethod
    def dividing(cls, windows: Windows, turned: bool, sizes: tuple[int, ...]) -> "list[Blocks]":
        """The blocks that have room; one column of windows in any case."""
        blocks = [cls(windows, turned, sizes, n) for n in range(1, windows.out[1] + 1)]
        return [b for b in blocks if b.outputs == 1 or b.bytes <= MOST_BYTES]

    @property
    def bytes(self) -> int:
        """Of the tables of a block."""
        return 8 * self.entries * self.columns(self.outputs)

    def cost(self, outputs: int) -> float:
        """Of a pass, about, in cycles of a Cortex-M4."""
        column = ENTRY * self.entries + INPUT * sum(self.sizes) + TABLE * len(self.sizes)
        channels = self.windows.out[1] * padded(outputs)
        return BLOCK * self.count + self.made * column + channels * channel(self.lookups)


def batches(lookups: int) -> list[int]:
    """Lookups of an output channel, as many at a time as find registers."""
    first = min(FIRST, lookups)
    return [first, *even(lookups - first, -(-(lookups - first) // MORE))]


def channel(lookups: int) -> int:
    """Cycles of a Cortex-M4 for so many: each an offset and two words, two of which are added at a time; 2 more a batch, 7 for the bits."""
    return 7 + 3 * lookups + sum(2 + 2 * -(-n // 2) for n in batches(lookups))


def even(count: int, parts: int) -> list[int]:
    """So many things in parts of like size."""
    return [count // parts + (k < count % parts) for k in range(parts)]


def padded(outputs: int) -> int:
    """Output channels, with those that fill the last word of bits."""
    return -(-outputs // EIGHT) * EIGHT


def refuse(op: Op) -> str:
    c = conv(op)
    if reason := refuse_table(op):
        return reason
    if c.cut is None:
        return "its sums are not compared with thresholds"
    if len(c.cut.levels) > 1:
        return "its thresholds change from pixel to pixel"
    if c.taps < LEAST:
        return f"its windows have {c.taps} inputs only"
    if c.y.pixels == 1:
        return "it has one output pixel only"
    if 2 * c.bound >= 1 << 15:
        return f"its sums reach {c.bound}, too much for 16-bit halves"
    b = Blocks.of(c)
    if c.sparse or (b.windows.dilations[0] > 1 and b.windows.kernel[0] > 1):
        return "the rows of its windows are not side by side"
    tables = 8 * b.entries * b.windows.span
    return "" if tables <= REACH else f"the tables of a window of {tables} bytes are beyond the reach of 16-bit offsets"


def build(op: Op, name: str) -> Parts:
    c = conv(op)
    assert c.cut is not None
    b = Blocks.of(c)
    o, windows = c.weight.shape[0], b.windows
    tops = np.array([0, (b.passes - 1) * ROWS * windows.strides[0]]) - windows.pads[0]
    lefts = np.array([0, (windows.out[1] - 1) * windows.strides[1] + windows.span - 1]) - windows.pads[1]
    return Parts(
        (Constant(f"{name}_weights", "uint32_t", stream(c, b)), *zero_constants(c, name)),
        (
            ("pairs", "uint32_t", b.pairs * windows.image[0] * b.columns(b.outputs)),
            ("tables", "uint32_t", 2 * b.entries * b.columns(b.outputs)),
            ("bits", "uint32_t", -(-o // 32) * 4 if o > 16 else padded(o) // EIGHT),
        ),
        {
            **centred(c),
            "patch_type": "int16_t",
            "blocks": b,
            "windows": windows,
            "edged_rows": bool(tops[0] < 0 or tops[1] + b.height > windows.image[1]),
            "edged_columns": bool(lefts[0] < 0 or lefts[1] >= windows.image[2]),
            "eights": padded(o) // EIGHT,
            "tables": [(k, b.sizes.count(k)) for k in dict.fromkeys(b.sizes)],
        },
        stack=44,
    )


def stream(c: Conv, b: Blocks) -> Array:
    """[outputs, words]: 32768 less the threshold in both halves, so that bit 15 of a sum's half is the output, and the offsets in bytes
    of the entries to add, two a word. Channels that only fill up come out 0."""
    assert c.cut is not None
    o = c.weight.shape[0]
    flipped = c.cut.inverts[0]
    weight = np.where(flipped[:, None, None, None], -c.weight, c.weight)
    level = np.clip(np.where(flipped, 1 - c.cut.levels[0], c.cut.levels[0]), -c.bound, c.bound + 1)
    order = (0, 2, 3, 1) if b.turned else (0, 3, 2, 1)  # O, columns, rows, C
    column = (weight > 0).transpose(order).reshape(o, b.windows.kernel[1], -1).astype(np.uint32)
    offsets = np.zeros((padded(o), b.windows.kernel[1], len(b.sizes)), np.uint32)
    at = entry = 0
    for k, size in enumerate(b.sizes):
        number = (column[:, :, at : at + size] << np.arange(size, dtype=np.uint32)).sum(axis=2, dtype=np.uint32)
        offsets[:o, :, k] = 8 * (entry + number)
        at, entry = at + size, entry + (1 << size)
    offsets[:o] += (8 * b.entries * b.windows.dilations[1] * np.arange(b.windows.kernel[1], dtype=np.uint32))[:, None]
    halves = np.zeros((padded(o), 2 * b.channel_words), np.uint32)
    halves[:, :2] = 16384
    halves[:o, :2] = (32768 - level)[:, None]
    halves[:, 2 : 2 + b.lookups] = offsets.reshape(padded(o), -1)
    return halves[:, ::2] | halves[:, 1::2] << np.uint32(16)


def rows(op: Op) -> int:
    """Rows that are made at a time; an image of one is turned."""
    return ROWS if op.y.shape[1] > 1 else 0


def weight_words(op: Op) -> int:
    c = conv(op)
    return padded(c.weight.shape[0]) * Blocks.of(c).channel_words


def reads(op: Op) -> Reads:
    """The weights of all outputs, for each four pixels."""
    c = conv(op)
    b = Blocks.of(c)
    words = padded(c.weight.shape[0]) * (1 + b.lookups)  # the halves are read by themselves
    return Reads(b.passes * b.windows.out[1] * words, span=4 * weight_words(op), size=2)


def work(op: Op) -> Mapping[str, float]:
    c = conv(op)
    b = Blocks.of(c)
    o = c.weight.shape[0]
    columns, quads = b.passes * b.made, b.passes * b.windows.out[1]
    channels, values = quads * padded(o), b.pairs * c.x.shape[0]
    return {
        "call": 1,
        "pass": b.passes,
        "block": b.passes * b.count,
        "column": columns,
        "pair": b.inside * values,
        "edge_pair": (columns - b.inside) * values,
        "table": columns * len(b.sizes),
        "entry": columns * b.entries,
        "window": quads,
        "word": quads * -(-o // 32),
        "channel": channels,
        "batch": channels * len(batches(b.lookups)),
        "lookup": channels * b.lookups,
    }


PLAIN = (
    Kernel(
        "quad_conv",
        "lookups in tables of partial sums, four pixels at a time",
        (Conv,),
        "quad_conv.c.j2",
        refuse,
        build,
        work,
        rows=rows,
        reads=reads,
    ),
)
KERNELS = (*PLAIN, copying(PLAIN[0], weight_words))
