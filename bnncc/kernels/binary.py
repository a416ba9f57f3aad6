"""Convolution of -1/+1 inputs with -1/+1 weights: xor, carry-save popcount, one patch of packed bits a pixel."""

from collections.abc import Mapping

import numpy as np

from bnncc.kernels.base import Array, Kernel, always, epilogue, epilogue_work
from bnncc.layout import Unit, pack_bits, unit
from bnncc.ops import Conv
from bnncc.program import Constant, Parts
from bnncc.tensor import Elem, Op


def conv(op: Op) -> Conv:
    assert isinstance(op, Conv)
    return op


def patch_words(op: Conv) -> int:
    """Words of a patch: its pixels' units side by side, rounded up."""
    u = unit(op.x.shape[0])
    return -(-op.kernel[0] * op.kernel[1] * u.words * u.bits // 32)


def packed_weights(op: Conv) -> Array:
    """[O, words]: each output channel's signs in the order and the layout of a patch."""
    o, c, kh, kw = op.weight.shape
    units = pack_bits(np.ascontiguousarray(op.weight.transpose(0, 2, 3, 1).reshape(o, kh * kw, c) > 0), unit(c))
    rows = np.ascontiguousarray(units.reshape(o, -1)).view(np.uint8)
    padded = np.zeros((o, 4 * patch_words(op)), np.uint8)
    padded[:, : rows.shape[1]] = rows
    return padded.view("<u4").astype(np.uint32)


def is_whole(op: Conv) -> bool:
    """Whether one window covers the whole input, as in a dense layer, and its pixels are whole words."""
    return op.whole and unit(op.x.shape[0]).bits == 32


def refuse_values(c: Conv) -> str:
    if not c.binary:
        return "its weights are real"
    return "" if c.x.elem is Elem.BIN else f"its input is {c.x.elem.value}, not binary"


def refuse_dense(op: Op) -> str:
    c = conv(op)
    if reason := refuse_patch(op):
        return reason
    return "" if is_whole(c) else "the window is not the whole input in whole words"


def refuse_patch(op: Op) -> str:
    c = conv(op)
    return refuse_values(c) or ("" if c.groups == 1 else f"its channels are in {c.groups} groups")


def refuse_grouped(op: Op) -> str:
    c = conv(op)
    return refuse_values(c) or ("" if c.groups > 1 else "its channels are in one group")


def edge_words(u: Unit, values: Array) -> list[int]:
    """The words that a padding pixel of -1 and +1 counts as."""
    return [int(w) for w in pack_bits(values > 0, u)]


def build_patch(op: Op, name: str) -> Parts:
    c = conv(op)
    u = unit(c.x.shape[0])
    words = patch_words(c)
    masked = c.padded and c.pad_value == 0
    constants, params = epilogue(c, name)
    weights = Constant(f"{name}_weights", "uint32_t", packed_weights(c))
    scratch = [("patch", "uint32_t", words)] + ([("mask", "uint32_t", words)] if masked else [])
    edge = edge_words(u, c.padding)
    full = edge_words(u, np.ones(c.x.shape[0]))
    edges: tuple[Constant, ...] = ()
    if c.padded and c.pad_value != 0 and u.words > 1:
        edges = (Constant(f"{name}_edge", "uint32_t", np.array(edge, np.uint32)),)
    return Parts(
        (weights, *constants, *edges),
        tuple(scratch),
        {**params, "words": words, "unit": u, "masked": masked, "edge": edge[0], "full": full[0]},
    )


def build_dense(op: Op, name: str) -> Parts:
    c = conv(op)
    constants, params = epilogue(c, name)
    weights = Constant(f"{name}_weights", "uint32_t", packed_weights(c))
    return Parts((weights, *constants), (), {**params, "words": patch_words(c)})


def build_grouped(op: Op, name: str) -> Parts:
    c = conv(op)
    o, inputs = c.weight.shape[:2]
    words = -(-c.taps // 32)
    flat = np.zeros((o, words * 32), bool)
    flat[:, : c.taps] = c.weight.transpose(0, 2, 3, 1).reshape(o, c.taps) > 0
    weights = Constant(f"{name}_weights", "uint32_t", pack_bits(flat, Unit("uint32_t", 32, words)))
    masked = c.padded and c.pad_value == 0
    scratch = [("patch", "uint32_t", words)] + ([("mask", "uint32_t", words)] if masked else [])
    constants, params = epilogue(c, name)
    groups = {"group_inputs": inputs, "group_outputs": o // c.groups, "unit": gathered(c)}
    return Parts((weights, *constants), tuple(scratch), {**params, **groups, "words": words, "masked": masked})


def gathered(c: Conv) -> int:
    """Bits of a group that are gathered at a time: a power of two, so that they never cross words."""
    inputs = int(c.weight.shape[1])
    return min(32, inputs & -inputs)


def work_grouped(op: Op) -> Mapping[str, float]:
    c = conv(op)
    pixels = c.y.pixels
    masked = border_pixels(c) if c.padded and c.pad_value == 0 else 0
    return {
        "call": 1,
        "group": pixels * c.groups,
        "padded_tap" if c.padded else "tap": pixels * c.groups * c.kernel[0] * c.kernel[1],
        "padded_input" if c.padded else "input": pixels * c.groups * c.taps // gathered(c),
        **row_work(c, pixels - masked, "", -(-c.taps // 32)),
        **row_work(c, masked, "masked_", -(-c.taps // 32)),
        "bit": pixels * c.weight.shape[0] if c.cut else 0,
        **epilogue_work(c),
    }


def work_patch(op: Op) -> Mapping[str, float]:
    c = conv(op)
    pixels = c.y.shape[1] * c.y.shape[2]
    taps = pixels * c.kernel[0] * c.kernel[1]
    u = unit(c.x.shape[0])
    masked = border_pixels(c) if c.padded and c.pad_value == 0 else 0
    return {
        "call": 1,
        "pixel" if c.kernel != (1, 1) else "lone_pixel": pixels,
        "tap" if u.bits == 32 else "narrow_tap": taps,
        "tap_word": taps * (u.words - 1),
        **row_work(c, pixels - masked, "", patch_words(c)),
        **row_work(c, masked, "masked_", patch_words(c)),
        "bit": pixels * c.weight.shape[0] if c.cut else 0,
        **epilogue_work(c),
    }


def border_pixels(op: Conv) -> int:
    """Output pixels whose window reaches outside the input, or between its pixels."""
    if op.sparse:
        return op.y.pixels
    inside = 1
    for axis in (0, 1):
        start = np.arange(op.y.shape[1 + axis]) * op.strides[axis] - op.pads[axis]
        end = start + (op.kernel[axis] - 1) * op.dilations[axis]
        inside *= int(((start >= 0) & (end < op.x.shape[1 + axis])).sum())
    return op.y.shape[1] * op.y.shape[2] - inside


def row_work(op: Conv, pixels: int, prefix: str, words: int) -> dict[str, float]:
    """What the rows of weights take that are compared at each of `pixels` pixels: blocks of 8 words, and 4, 2 and 1 left over;
    shorter rows are compared in line, otherwise where they end in bits."""
    rows = pixels * op.weight.shape[0]
    if words <= 3 and not prefix:
        return {f"{'bit_' if op.cut else ''}row{words}": rows}
    parts = {"block8": words // 8, "words4": words // 4 % 2, "words2": words // 2 % 2, "words1": words % 2}
    return {f"{prefix}channel": rows, **{prefix + part: rows * times for part, times in parts.items()}}


def work_dense(op: Op) -> Mapping[str, float]:
    c = conv(op)
    return {
        "call": 1,
        **row_work(c, 1, "", patch_words(c)),
        "bit": c.weight.shape[0] if c.cut else 0,
        **epilogue_work(c),
    }


KERNELS = (
    Kernel(
        "binary_conv",
        "xor and carry-save popcount over a gathered patch",
        (Conv,),
        "binary_conv.c.j2",
        refuse_patch,
        build_patch,
        work_patch,
        rows=always,
        apart=always,
    ),
    Kernel(
        "binary_dense",
        "xor and carry-save popcount over the input in place",
        (Conv,),
        "binary_dense.c.j2",
        refuse_dense,
        build_dense,
        work_dense,
        apart=always,
    ),
    Kernel(
        "grouped_conv",
        "xor and carry-save popcount over a patch of each group's bits",
        (Conv,),
        "grouped_conv.c.j2",
        refuse_grouped,
        build_grouped,
        work_grouped,
        rows=always,
        apart=always,
    ),
)
