"""Kernels that move values: slices, padding, reshaping, transposition, upsampling, concatenation."""

from collections import Counter
from collections.abc import Mapping

from bnncc.kernels.base import Kernel, always, float_literal, never, no_parts
from bnncc.layout import DTYPES, c_type, unit
from bnncc.ops import Concat, Pad, Reshape, Slice, Transpose, Upsample
from bnncc.program import Parts
from bnncc.tensor import Elem, Op, Tensor
from bnncc.view import factor

INLINE_COPY = 8  # bytes


def scaled(variable: str, factor: int, offset: int) -> str:
    product = variable if factor == 1 else f"{variable} * {factor}"
    return product if offset == 0 else f"{product} {'+' if offset > 0 else '-'} {abs(offset)}"


def source(op: Op) -> tuple[str, str]:
    """The channel and the pixel of x that y's (c, oy, ox) comes from, in C."""
    if isinstance(op, Reshape):
        flat = flat_index(op)
        channel = flat if op.x.pixels == 1 else f"{factor(flat)} / {op.x.pixels}"
        return channel, "0" if op.x.pixels == 1 else f"{factor(flat)} % {op.x.pixels}"
    variables = ("c", "oy", "ox")
    match op:
        case Slice():
            c, y, x = (scaled(v, d, s) for v, d, s in zip(variables, op.step, op.start, strict=True))
        case Pad():
            c, y, x = (scaled(v, 1, -b) for v, b in zip(variables, op.before, strict=True))
        case Upsample():
            c = "c"
            y, x = (v if f == 1 else f"{v} / {f}" for v, f in zip(variables[1:], op.factors, strict=True))
        case _:
            assert isinstance(op, Transpose)
            c, y, x = (variables[op.axes.index(k)] for k in range(3))
    if op.x.pixels == 1:
        return c, "0"
    return c, x if op.x.shape[1] == 1 else f"{factor(y)} * {op.x.shape[2]} + {x}"


def flat_index(op: Op) -> str:
    """The place of y's (c, oy, ox) in the order [C, H, W], in C."""
    _, height, width = op.y.shape
    rows = "c" if height == 1 else f"c * {height} + oy"
    return rows if width == 1 else f"{factor(rows)} * {width} + ox"


def inside(op: Op) -> str:
    """The C condition under which y's (c, oy, ox) is of x and no padding; "" where it always is."""
    if not isinstance(op, Pad):
        return ""
    tests = []
    for v, b, n, m in zip(("c", "oy", "ox"), op.before, op.x.shape, op.y.shape, strict=True):
        tests += ([f"{v} >= {b}"] if b else []) + ([f"{v} < {b + n}"] if b + n < m else [])
    return " && ".join(tests)


def build_move(op: Op, _name: str) -> Parts:
    channel, pixel = source(op)
    fill = "0u"
    if isinstance(op, Pad):
        real = op.x.elem is Elem.F32
        fill = (
            float_literal(op.value)
            if real
            else f"{int(op.value > 0)}u"
            if op.x.elem is Elem.BIN
            else f"{int(op.value)}"
        )
    return Parts((), (), {"channel": channel, "pixel": pixel, "inside": inside(op), "fill": fill})


def keeps_channels(op: Op) -> bool:
    """Whether whole pixels are moved."""
    if isinstance(op, Slice):
        return op.start[0] == 0 and op.step[0] == 1 and op.y.shape[0] == op.x.shape[0]
    return isinstance(op, Upsample) or (isinstance(op, Transpose) and op.axes[0] == 0)


def keeps_runs(op: Op) -> bool:
    """Whether neighbouring channels stay neighbours."""
    return keeps_channels(op) or (isinstance(op, Slice) and op.step[0] == 1)


def refuse_pixels(op: Op) -> str:
    if op.x.elem is not Elem.BIN:
        return f"its input is {op.x.elem.value}, not binary"
    return "" if keeps_channels(op) else "it changes the channels of a pixel, or pads"


def lanes(op: Op) -> int:
    return unit(op.y.shape[0]).words if op.y.elem is Elem.BIN else op.y.shape[0]


def work_move(op: Op) -> Mapping[str, float]:
    work: dict[str, float] = {"call": 1, "pixel": op.y.pixels}
    if op.y.elem is not Elem.BIN and keeps_runs(op):
        first = op.start[0] if isinstance(op, Slice) else 0
        channels, width = op.y.shape[0], op.y.shape[2]
        if isinstance(op, Slice) and keeps_channels(op) and op.step[2] == 1 and width == op.x.shape[2]:
            return {**work, **run_work(op.y.shape[1], width * channels, itemsize(op.y), width * channels)}  # whole rows
        return {**work, **run_work(op.y.pixels, channels, itemsize(op.y), first, channels, op.x.shape[0])}
    moved = "value"
    if op.y.elem is Elem.BIN:
        moved = "wide_bit" if unit(op.x.shape[0]).words > 1 else "bit"
    kind = "reshaped_" if isinstance(op, Reshape) else "padded_" if isinstance(op, Pad) else ""
    divided = op.y.size if isinstance(op, Reshape) and op.x.pixels & (op.x.pixels - 1) else 0
    # where a division is a call, it takes as long as its quotient, a channel of x, has digits
    return {**work, f"{kind}{moved}": op.y.size, "division": divided, "digit": divided * op.x.shape[0].bit_length()}


def itemsize(t: Tensor) -> int:
    return DTYPES[c_type(t)].itemsize


def run_work(times: int, length: int, itemsize: int, *begins: int) -> Mapping[str, float]:
    """Copying so many runs of values: gcc makes a call of memcpy of each, unless it is few bytes. `begins`: values that lie before the
    runs, and between them."""
    count = length * itemsize
    if count <= INLINE_COPY:
        return {"short_run": times}
    odd = any(n * itemsize % 4 for n in begins)
    return {"odd_run" if odd else "run": times, "odd_byte" if odd else "byte": times * count}


def work_pixels(op: Op) -> Mapping[str, float]:
    return {"call": 1, "pixel": op.y.pixels, "word": op.y.pixels * lanes(op)}


def refuse_bits(op: Op) -> str:
    return "" if op.y.elem is Elem.BIN else f"its result is {op.y.elem.value}, not binary"


def refuse_values(op: Op) -> str:
    return "its result is binary" if op.y.elem is Elem.BIN else ""


def work_concat(op: Op) -> Mapping[str, float]:
    work = Counter({"call": 1})
    begin = 0
    for t in op.inputs:
        channels = t.shape[0]
        if t.elem is op.y.elem:
            work.update(run_work(t.pixels, channels, itemsize(t), begin, channels, op.y.shape[0]))
        else:
            work["bit" if t.elem is Elem.BIN else "value"] += t.size
        begin += channels
    return work


def work_bits(op: Op) -> Mapping[str, float]:
    """Words that are copied as they are, and such that are shifted."""
    copied = shifted = begin = 0
    for t in op.inputs:
        words = unit(t.shape[0]).words
        copied, shifted = (copied + words, shifted) if begin % 32 == 0 else (copied, shifted + words)
        begin += t.shape[0]
    return {
        "call": 1,
        "part": op.y.pixels * len(op.inputs),
        "word": op.y.pixels * copied,
        "shifted_word": op.y.pixels * shifted,
    }


KERNELS = (
    Kernel(
        "move",
        "each value from its place",
        (Pad, Reshape, Slice, Transpose, Upsample),
        "move.c.j2",
        never,
        build_move,
        work_move,
        apart=always,
    ),
    Kernel(
        "move_pixels",
        "whole packed pixels",
        (Slice, Transpose, Upsample),
        "move_pixels.c.j2",
        refuse_pixels,
        build_move,
        work_pixels,
        apart=always,
    ),
    Kernel("concat_bits", "packed bits side by side", (Concat,), "concat_bits.c.j2", refuse_bits, no_parts, work_bits),
    Kernel("concat", "values side by side", (Concat,), "concat.c.j2", refuse_values, no_parts, work_concat),
)
