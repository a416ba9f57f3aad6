"""First layers: sums of integer inputs with -1/+1 weights from tables, two pixels in the 16-bit halves of a word."""

from collections.abc import Mapping

import numpy as np

from bnncc.kernels.base import Kernel, always
from bnncc.kernels.binary import conv
from bnncc.kernels.copying import copying
from bnncc.kernels.values import centred, refuse_table, zero_constants
from bnncc.ops import Conv
from bnncc.program import Constant, Parts
from bnncc.tensor import Op
from bnncc.waits import Reads

LEAST, NARROW, WIDE = 3, 4, 6  # bits that index a table
MOST_IN_ASSEMBLY = 5  # tables
IN_REGISTERS = 3  # lookups whose sums find registers on Thumb-1
ENTRY, LOOKUP, WORD = 2.3, 3.0, 2.0  # what they take, relative to each other (cycles on a Cortex-M4)


def refuse(op: Op) -> str:
    c = conv(op)
    if reason := refuse_table(op):
        return reason
    if c.cut is None:
        return "its sums are not compared with thresholds"
    if len(c.cut.levels) > 1:
        return "its thresholds change from pixel to pixel"
    if c.sparse or c.dilations[1] > 1:
        return "the columns of its windows are not side by side"
    if c.taps < LEAST:
        return f"its windows have {c.taps} inputs only"
    if c.y.shape[2] < 2:
        return "a row has one output pixel only"
    return "" if 2 * c.bound < 1 << 15 else f"its sums reach {c.bound}, too much for 16-bit halves"


def widths(op: Conv) -> list[int]:
    """The bits of each table's index: the division of the inputs that costs least."""
    o, taps = int(op.weight.shape[0]), op.taps

    def made(limit: int) -> list[int]:
        n = -(-taps // limit)
        least, more = divmod(taps, n)
        return [least + (k < more) for k in range(n)]

    def cycles(w: list[int]) -> float:
        return sum(ENTRY * float(1 << k) + LOOKUP * o for k in w) + WORD * o * len(words(w))

    return min((w for w in map(made, range(NARROW, WIDE + 1)) if w[-1] >= LEAST), key=cycles)


def words(sizes: list[int]) -> list[list[int]]:
    """Tables whose bits share a word of weights, in order."""
    out: list[list[int]] = [[]]
    for size in sizes:
        if sum(out[-1]) + size > 32:
            out.append([])
        out[-1].append(size)
    return out


def build(op: Op, name: str) -> Parts:
    c = conv(op)
    assert c.cut is not None
    o = c.weight.shape[0]
    flipped = c.cut.inverts[0]
    weight = np.where(flipped[:, None, None, None], -c.weight, c.weight)
    level = np.clip(np.where(flipped, 1 - c.cut.levels[0], c.cut.levels[0]), -c.bound, c.bound + 1)
    signs = (weight > 0).transpose(0, 3, 2, 1).reshape(o, -1)  # (kx, ky, c)
    sizes = widths(c)
    rows = np.zeros((-(-o // 16) * 16, 1 + len(words(sizes))), np.uint32)
    rows[:o, 0] = (32768 - level) * 65537
    lookups: list[list[tuple[int, int, int]]] = []
    tables: list[tuple[int, int, int]] = []
    at = entry = 0
    for k, word in enumerate(words(sizes)):
        shift = 0
        lookups.append([])
        for size in word:
            part = signs[:, at : at + size].astype(np.uint32)
            rows[:o, 1 + k] |= (part << np.arange(shift, shift + part.shape[1], dtype=np.uint32)).sum(
                axis=1, dtype=np.uint32
            )
            lookups[-1].append((entry, shift, 1 << size))
            tables.append((at, size, entry))
            at, entry, shift = at + size, entry + (1 << size), shift + size
    columns = (-(-c.y.shape[2] // 2) * 2 - 1) * c.strides[1] + c.kernel[1]
    return Parts(
        (Constant(f"{name}_weights", "uint32_t", rows), *zero_constants(c, name)),
        (
            ("strip", "int16_t", columns * c.kernel[0] * c.x.shape[0]),
            ("table", "uint32_t", entry),
        ),
        {
            **centred(c),
            "patch_type": "int16_t",
            "taps": c.taps,
            "columns": columns,
            "edged": c.padded or columns - c.pads[1] > c.x.shape[2],
            "edged_rows": c.reach[0] > 0 or c.reach[2] > 0,
            "lookups": lookups,
            "tables": tables,
            "row": rows.shape[1],
            "mask": f"0x{(1 << o % 32) - 1:x}u",
        },
        stack=36,
    )


def weight_words(op: Op) -> int:
    return int(-(-conv(op).weight.shape[0] // 16)) * 16 * (1 + len(words(widths(conv(op)))))


def reads(op: Op) -> Reads:
    """The weights of all outputs, for each pair of pixels."""
    c = conv(op)
    return Reads(c.y.shape[1] * -(-c.y.shape[2] // 2) * weight_words(op), span=4 * weight_words(op))


def work(op: Op) -> Mapping[str, float]:
    c = conv(op)
    sizes = widths(c)
    rows, pairs, sixteens = c.y.shape[1], -(-c.y.shape[2] // 2), -(-c.weight.shape[0] // 16)
    columns = (2 * pairs - 1) * c.strides[1] + c.kernel[1]
    # with Thumb-2 a row of few lookups is in assembly; on Thumb-1 later ones find no register
    kind = "" if len(words(sizes)) == 1 and len(sizes) <= MOST_IN_ASSEMBLY else "c_"
    early = min(len(sizes), IN_REGISTERS)
    channels = 16 * rows * pairs * sixteens
    return {
        "call": 1,
        "row": rows,
        "line": rows * c.kernel[0] * c.x.shape[0],
        "padded_input" if max(c.reach[0], c.reach[2]) > 0 else "input": rows * columns * c.kernel[0] * c.x.shape[0],
        "pair": rows * pairs,
        **{f"table{k}": rows * pairs * sizes.count(k) for k in range(LEAST, WIDE + 1)},
        "sixteen": rows * pairs * sixteens,
        "word": channels * len(words(sizes)),
        f"{kind}lookup": channels * early,
        f"{kind}late_lookup": channels * (len(sizes) - early),
    }


PLAIN = (
    Kernel(
        "pair_conv",
        "lookups in tables of partial sums, two pixels at a time",
        (Conv,),
        "pair_conv.c.j2",
        refuse,
        build,
        work,
        rows=always,
        reads=reads,
    ),
)
KERNELS = (*PLAIN, copying(PLAIN[0], weight_words))
