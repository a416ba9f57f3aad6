"""Depthwise convolution of bits: the products of 32 channels are one xor, and bit-sliced adders count those that are +1."""

from collections.abc import Mapping

import numpy as np

from bnncc.kernels.base import Kernel, always, epilogue, epilogue_work, integer_type
from bnncc.kernels.binary import conv, refuse_values
from bnncc.kernels.sbs import sliced
from bnncc.kernels.windows import Windows, refuse_variants, variant_of, variants
from bnncc.layout import DTYPES, pack_bits, unit
from bnncc.ops import Conv
from bnncc.program import Constant, Parts
from bnncc.tensor import Op

MOST_TAPS = 49


def refuse(op: Op) -> str:
    c = conv(op)
    if reason := refuse_values(c):
        return reason
    if c.groups != c.x.shape[0] or c.weight.shape[0] != c.groups:
        return "it is not depthwise with one output a channel"
    if c.taps > MOST_TAPS:
        return f"its window of {c.taps} inputs is too large to be written out"
    return refuse_variants(c, Windows.plain(c))


def build(op: Op, name: str) -> Parts:
    c = conv(op)
    channels, taps = c.x.shape[0], c.taps
    kinds = variants(c, Windows.plain(c))
    flipped = np.zeros(channels, bool) if c.cut is None else c.cut.inverts[0]
    weight = np.where(flipped[:, None, None, None], -c.weight, c.weight)[:, 0].reshape(channels, *kinds.valid.shape[1:])
    valid = kinds.valid.sum(axis=(1, 2))[:, None]
    outside = c.padding * np.einsum("oyx,vyx->vo", weight.astype(np.int64), ~kinds.valid)
    wrong = np.einsum(
        "oyx,vyx->vo", (weight < 0).astype(np.int64), ~kinds.valid
    )  # taps outside, which read 0, are counted so often
    u = unit(channels)
    negated = pack_bits(np.ascontiguousarray(weight.reshape(channels, taps).T < 0), u)  # [taps, words]; padding bits: 0
    arrays = [Constant(f"{name}_weights", u.c_type, negated)]
    constants, params = epilogue(c, name)
    if c.cut is not None:
        level = c.cut.levels[kinds.cuts]
        level = np.where(flipped, 1 - level, level)
        least = np.clip(-(-(level + valid - outside) // 2), 0, valid + 1)  # the bit: so many products are +1
        planes = taps.bit_length() + 1
        start = (1 << planes - 1) - least - wrong  # the last plane is reached when `least` is
    else:
        planes = taps.bit_length()
        start = np.zeros((len(kinds.valid), channels), np.int64)
        base = outside - valid - 2 * wrong
        kind = integer_type(base)
        arrays += [Constant(f"{name}_base", kind, base.astype(DTYPES[kind])), *constants]
        params = {**params, "base_type": kind}
    planes = max(planes, 2)
    arrays.append(Constant(f"{name}_start", "uint32_t", sliced(start, planes)))
    variant, lookup = variant_of(kinds, name)
    numbers = {"planes": planes, "bits": c.cut is not None, "variants": len(kinds.valid), "variant": variant}
    return Parts((*arrays, *lookup), (), {**params, **numbers})


def work(op: Op) -> Mapping[str, float]:
    c = conv(op)
    words, pixels, planes = unit(c.x.shape[0]).words, c.y.pixels, c.taps.bit_length() + (c.cut is not None)
    return {
        "call": 1,
        "pixel": pixels,
        "padded_tap" if c.padded else "tap": pixels * c.taps,
        "word": pixels * words,
        "quad": c.taps // 4 * pixels * words,
        "single": c.taps % 4 * pixels * words,
        "carry": (c.taps // 4 * (planes - 2) + c.taps % 4 * planes) * pixels * words,
        "sum" if words == 1 else "wide_sum": 0 if c.cut else c.y.size,
        **epilogue_work(c),
    }


KERNELS = (
    Kernel(
        "depthwise_conv",
        "xor and bit-sliced adders, 32 channels at a time",
        (Conv,),
        "depthwise_conv.c.j2",
        refuse,
        build,
        work,
        rows=always,
        apart=always,
    ),
)
