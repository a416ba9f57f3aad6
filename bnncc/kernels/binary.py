"""Convolution of -1/+1 inputs with -1/+1 weights: xor, carry-save popcount, one patch of packed bits a pixel."""

from collections.abc import Mapping

import numpy as np

from bnncc.graph import Conv, Elem, Op
from bnncc.kernels.base import Array, Kernel, cut_constants
from bnncc.layout import Unit, pack_bits, unit
from bnncc.program import Constant, Parts


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
    return op.kernel == op.x.shape[1:] and op.y.shape[1:] == (1, 1) and not op.padded and unit(op.x.shape[0]).bits == 32


def refuse_dense(op: Op) -> str:
    c = conv(op)
    if c.x.elem is not Elem.BIN:
        return f"its input is {c.x.elem.value}, not binary"
    if not is_whole(c):
        return "the window is not the whole input in whole words"
    return ""


def refuse_patch(op: Op) -> str:
    c = conv(op)
    return "" if c.x.elem is Elem.BIN else f"its input is {c.x.elem.value}, not binary"


def output_parts(op: Conv, name: str) -> tuple[tuple[Constant, ...], dict[str, object]]:
    """What the output stage needs, with a threshold or without."""
    if op.cut is None:
        return (), {"cut": False}
    return cut_constants(op.cut, name)


def edge_words(u: Unit, channels: int, value: int) -> list[int]:
    """The words that a padding pixel of -1 or +1 counts as."""
    bits = np.full(channels, value > 0)
    return [int(w) for w in pack_bits(bits, u)]


def build_patch(op: Op, name: str) -> Parts:
    c = conv(op)
    u = unit(c.x.shape[0])
    words = patch_words(c)
    masked = c.padded and c.pad_value == 0
    constants, params = output_parts(c, name)
    weights = Constant(f"{name}_weights", "uint32_t", packed_weights(c))
    scratch = [("patch", "uint32_t", words)] + ([("mask", "uint32_t", words)] if masked else [])
    edge = edge_words(u, c.x.shape[0], c.pad_value)
    full = edge_words(u, c.x.shape[0], 1)
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
    constants, params = output_parts(c, name)
    weights = Constant(f"{name}_weights", "uint32_t", packed_weights(c))
    return Parts((weights, *constants), (), {**params, "words": patch_words(c)})


def work_patch(op: Op) -> Mapping[str, float]:
    c = conv(op)
    pixels = c.y.shape[1] * c.y.shape[2]
    taps = pixels * c.kernel[0] * c.kernel[1]
    u = unit(c.x.shape[0])
    masked = border_pixels(c) if c.padded and c.pad_value == 0 else 0
    return {
        "call": 1,
        "pixel": pixels,
        "tap" if u.bits == 32 else "narrow_tap": taps,
        "tap_word": taps * (u.words - 1),
        **row_work(c, pixels - masked, ""),
        **row_work(c, masked, "masked_"),
        "bit": pixels * c.weight.shape[0] if c.cut else 0,
    }


def border_pixels(op: Conv) -> int:
    """Output pixels whose window reaches outside the input."""
    inside = 1
    for axis in (0, 1):
        start = np.arange(op.y.shape[1 + axis]) * op.strides[axis] - op.pads[axis]
        end = start + (op.kernel[axis] - 1) * op.dilations[axis]
        inside *= int(((start >= 0) & (end < op.x.shape[1 + axis])).sum())
    return op.y.shape[1] * op.y.shape[2] - inside


def row_work(op: Conv, pixels: int, prefix: str) -> dict[str, float]:
    """What the rows of weights take that are compared at each of `pixels` pixels: blocks of 8 words, and the words left over."""
    rows = pixels * op.weight.shape[0]
    words = patch_words(op)
    return {f"{prefix}channel": rows, f"{prefix}block8": rows * (words // 8), f"{prefix}word": rows * (words % 8)}


def work_dense(op: Op) -> Mapping[str, float]:
    c = conv(op)
    return {"call": 1, **row_work(c, 1, ""), "bit": c.weight.shape[0] if c.cut else 0}


KERNELS = (
    Kernel(
        "binary_conv",
        "xor and carry-save popcount over a gathered patch",
        Conv,
        "binary_conv.c.j2",
        refuse_patch,
        build_patch,
        work_patch,
    ),
    Kernel(
        "binary_dense",
        "xor and carry-save popcount over the input in place",
        Conv,
        "binary_dense.c.j2",
        refuse_dense,
        build_dense,
        work_dense,
    ),
)
