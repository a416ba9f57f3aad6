"""Convolution of 8-bit, integer and real inputs with -1/+1 weights."""

from collections.abc import Mapping

import numpy as np

from bnncc.graph import Conv, Elem, Op
from bnncc.kernels.base import Array, Kernel
from bnncc.kernels.binary import conv, output_parts
from bnncc.layout import pack_bits, unit
from bnncc.program import Constant, Parts

GROUP = 4  # inputs to one table of partial sums


def packed_rows(op: Conv, bits: int) -> Array:
    """[O, words]: each output channel's signs in the order (ky, kx, c), `bits` of them a group."""
    o = op.weight.shape[0]
    flat = np.ascontiguousarray(op.weight.transpose(0, 2, 3, 1).reshape(o, -1) > 0)
    groups = -(-flat.shape[1] // bits) * bits
    padded = np.zeros((o, -(-groups // 32) * 32), bool)
    padded[:, : flat.shape[1]] = flat
    return pack_bits(padded, unit(max(17, padded.shape[1])))


def centred(op: Conv) -> dict[str, object]:
    """How a template reads one input: mul * x - zero[c]."""
    zeros = set(op.zero) or {0}
    return {"mul": op.mul, "zero": next(iter(zeros)) if len(zeros) == 1 else None}


def zero_constants(op: Conv, name: str) -> tuple[Constant, ...]:
    if len(set(op.zero)) <= 1:
        return ()
    return (Constant(f"{name}_zero", "int32_t", np.array(op.zero, np.int32)),)


def refuse_sums(op: Op) -> str:
    return "its input is binary: see the binary kernels" if op.x.elem is Elem.BIN else ""


def refuse_table(op: Op) -> str:
    if op.x.elem is Elem.BIN:
        return refuse_sums(op)
    return "" if op.x.elem.is_integer else "its input is real, and sums in another order would differ more"


def value_type(op: Conv, bound: int) -> str:
    """The type of scratch values up to `bound`."""
    if not op.x.elem.is_integer:
        return "float"
    return "int16_t" if bound < 1 << 15 else "int32_t"


def largest(op: Conv) -> int:
    return int(op.largest.max())


def build_sums(op: Op, name: str) -> Parts:
    c = conv(op)
    constants, params = output_parts(c, name)
    weights = Constant(f"{name}_weights", "uint32_t", packed_rows(c, 1))
    patch = ("patch", value_type(c, largest(c)), c.taps)
    return Parts(
        (weights, *constants, *zero_constants(c, name)),
        (patch,),
        {**params, **centred(c), "words": weights.data.shape[1], "taps": c.taps, "patch_type": patch[1]},
    )


def build_table(op: Op, name: str) -> Parts:
    c = conv(op)
    constants, params = output_parts(c, name)
    weights = Constant(f"{name}_weights", "uint32_t", packed_rows(c, GROUP))
    groups = -(-c.taps // GROUP)
    table_type = value_type(c, min(c.bound, GROUP * largest(c)))
    scratch = (("patch", value_type(c, largest(c)), groups * GROUP), ("table", table_type, groups << GROUP))
    return Parts(
        (weights, *constants, *zero_constants(c, name)),
        scratch,
        {
            **params,
            **centred(c),
            "words": weights.data.shape[1],
            "taps": c.taps,
            "groups": groups,
            "patch_type": scratch[0][1],
            "table_type": table_type,
        },
    )


def work_sums(op: Op) -> Mapping[str, float]:
    c = conv(op)
    pixels = c.y.shape[1] * c.y.shape[2]
    return {
        "call": 1,
        "pixel": pixels,
        "padded_tap" if c.padded else "tap": pixels * c.kernel[0] * c.kernel[1],
        "input": pixels * c.taps,
        "channel": pixels * c.weight.shape[0],
        "mac" if c.x.elem.is_integer else "real_mac": c.macs,
    }


def work_table(op: Op) -> Mapping[str, float]:
    c = conv(op)
    pixels = c.y.shape[1] * c.y.shape[2]
    groups = -(-c.taps // GROUP)
    channels = pixels * c.weight.shape[0]
    return {
        "call": 1,
        "pixel": pixels,
        "padded_tap" if c.padded else "tap": pixels * c.kernel[0] * c.kernel[1],
        "input": pixels * c.taps,
        "group": pixels * groups,
        "channel": channels,
        "lookup": channels * groups,
    }


KERNELS = (
    Kernel(
        "value_conv",
        "adds and subtracts each input as the weight's bit says",
        Conv,
        "value_conv.c.j2",
        refuse_sums,
        build_sums,
        work_sums,
    ),
    Kernel(
        "table_conv",
        "looks up the signed sums of four inputs at a time",
        Conv,
        "table_conv.c.j2",
        refuse_table,
        build_table,
        work_table,
    ),
)
