"""Convolution of -1/+1 inputs with -1/+1 weights: xor, carry-save popcount, one patch of packed bits a pixel."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bnncc.kernels.base import Array, Kernel, always, epilogue, epilogue_work, integer_type
from bnncc.kernels.windows import Variants, Windows, variant_of, variants
from bnncc.layout import DTYPES, Unit, pack_bits, unit
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


def block(outputs: int) -> int:
    """Rows of weights that are compared at a time: at most 16, and a divisor of how many a patch serves."""
    return max(rows for rows in range(1, 17) if outputs % rows == 0)


def padding_sums(op: Conv, kinds: Variants) -> Array:
    """[classes of windows, O]: by how much too little the accumulator gets where padding is a -1 of the patch, whatever it is."""
    o, channels = op.weight.shape[:2]
    missing = 1 + np.repeat(op.padding.reshape(op.groups, channels), o // op.groups, axis=0)  # of each output's group
    by_tap = np.einsum("ocyx,oc->oyx", op.weight.astype(np.int64), missing)
    return np.asarray(np.einsum("oyx,vyx->vo", by_tap, ~kinds.valid))


def compared(op: Conv, name: str, weights: Array, served: int, **params: object) -> Parts:
    """For rows of weights [O, words], of which each patch is compared with `served`; the assembly is for more than 3 words.

    Where padding is not -1, which it is in the patch, each class of windows has its own levels, or what its sums begin with.
    """
    words = int(weights.shape[1])
    kinds = variants(op, Windows.plain(op))
    missing = padding_sums(op, kinds)
    cut = op.cut
    extra: tuple[Constant, ...] = ()
    params = {"words": words, "block": block(served), "based": bool(missing.any()) and cut is None, **params}
    if missing.any():
        params["pixel_class"], extra = variant_of(kinds, name)
        if cut is not None:
            classed = replace(
                cut, levels=cut.levels[kinds.cuts] - missing, inverts=cut.inverts[kinds.cuts], classes=kinds.of
            )
            op = replace(op, cut=classed)
        else:
            base = op.taps + missing
            kind = params["base_type"] = integer_type(base, 8)
            extra = (Constant(f"{name}_base", kind, base.astype(DTYPES[kind])), *extra)
    constants, shared = epilogue(op, name)
    constants = tuple(c for c in constants if not missing.any() or c.name != f"{name}_classes")
    rows = Constant(f"{name}_weights", "uint32_t", weights)
    return Parts((rows, *constants, *extra), (), {**shared, **params}, stack=48 if words > 3 else 0)


def build_patch(op: Op, name: str) -> Parts:
    c = conv(op)
    parts = compared(c, name, packed_weights(c), c.y.shape[0], unit=unit(c.x.shape[0]), in_runs=in_runs(c))
    return replace(parts, scratch=(("patch", "uint32_t", patch_words(c)),))


def build_dense(op: Op, name: str) -> Parts:
    c = conv(op)
    return compared(c, name, packed_weights(c), c.y.shape[0])


def build_grouped(op: Op, name: str) -> Parts:
    c = conv(op)
    o, inputs = c.weight.shape[:2]
    words = -(-c.taps // 32)
    flat = np.zeros((o, words * 32), bool)
    flat[:, : c.taps] = c.weight.transpose(0, 2, 3, 1).reshape(o, c.taps) > 0
    weights = pack_bits(flat, Unit("uint32_t", 32, words))
    served = o // c.groups
    parts = compared(c, name, weights, served, group_inputs=inputs, group_outputs=served, unit=gathered(c))
    return replace(parts, scratch=(("patch", "uint32_t", words),))


def gathered(c: Conv) -> int:
    """Bits of a group that are gathered at a time: a power of two, so that they never cross words."""
    inputs = int(c.weight.shape[1])
    return min(32, inputs & -inputs)


def work_grouped(op: Op) -> Mapping[str, float]:
    c = conv(op)
    pixels = c.y.pixels
    return {
        "call": 1,
        "group": pixels * c.groups,
        "padded_tap" if c.padded else "tap": pixels * c.groups * c.kernel[0] * c.kernel[1],
        "padded_input" if c.padded else "input": pixels * c.groups * c.taps // gathered(c),
        **row_work(c, pixels, -(-c.taps // 32), c.weight.shape[0] // c.groups),
        "bit": pixels * c.weight.shape[0] if c.cut else 0,
        **epilogue_work(c),
    }


def work_patch(op: Op) -> Mapping[str, float]:
    c = conv(op)
    u, pixels = unit(c.x.shape[0]), c.y.pixels
    return {
        "call": 1,
        "pixel" if c.kernel != (1, 1) else "lone_pixel": pixels,
        **(run_work(c, u.words) if in_runs(c) else tap_work(c, u, "", pixels)),
        **row_work(c, pixels, patch_words(c), c.weight.shape[0]),
        "bit": pixels * c.weight.shape[0] if c.cut else 0,
        **epilogue_work(c),
    }


def tap_work(op: Conv, u: Unit, prefix: str, pixels: int) -> dict[str, float]:
    """What gathering the patches of so many pixels takes, tap by tap."""
    taps = pixels * op.kernel[0] * op.kernel[1]
    return {f"{prefix}tap" if u.bits == 32 else "narrow_tap": taps, f"{prefix}tap_word": taps * (u.words - 1)}


def run_work(op: Conv, words: int) -> dict[str, float]:
    """What gathering the patches takes where a row of the window is a run of words, copied in fours."""
    border = border_pixels(op)
    runs, length = (op.y.pixels - border) * op.kernel[0], op.kernel[1] * words
    edge = tap_work(op, unit(op.x.shape[0]), "edge_", border)
    return {"run": runs, "run_words4": runs * (length // 4), "run_words1": runs * (length % 4), **edge}


def in_runs(op: Conv) -> bool:
    """Whether a row of a window inside the input is a run of whole words, worth copying as such."""
    u = unit(op.x.shape[0])
    return u.bits == 32 and op.dilations[1] == 1 and op.up == (1, 1) and op.kernel[1] * u.words > 3


def border_pixels(op: Conv) -> int:
    """Output pixels whose window reaches outside the input."""
    windows = Windows.plain(op)
    inside = [windows.inside(axis).all(axis=1).sum() for axis in (0, 1)]
    return op.y.pixels - int(inside[0] * inside[1])


def row_work(op: Conv, patches: int, words: int, served: int) -> dict[str, float]:
    """What the rows of weights take that are compared with so many patches, each serving `served` outputs: blocks of 8 words,
    and 4, 2 and 1 left over; shorter rows are compared in line, otherwise where they end in bits."""
    rows = patches * op.weight.shape[0]
    if words <= 3:
        return {f"{'bit_' if op.cut else ''}row{words}": rows}
    parts = {"block8": words // 8, "words4": words // 4 % 2, "words2": words // 2 % 2, "words1": words % 2}
    return {"batch": rows // block(served), "channel": rows, **{part: rows * times for part, times in parts.items()}}


def work_dense(op: Op) -> Mapping[str, float]:
    c = conv(op)
    return {
        "call": 1,
        **row_work(c, 1, patch_words(c), c.weight.shape[0]),
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
