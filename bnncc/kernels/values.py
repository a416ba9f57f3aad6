"""Convolution of 8-bit, integer and real inputs with -1/+1 weights."""

from collections.abc import Mapping

import numpy as np

from bnncc.kernels.base import Array, Kernel, always, epilogue, epilogue_work
from bnncc.kernels.binary import conv
from bnncc.kernels.orders import order
from bnncc.layout import pack_bits, unit
from bnncc.ops import Conv
from bnncc.program import Constant, Parts
from bnncc.tensor import Elem, Op

GROUP = 4  # inputs to one table of partial sums
PER_WORD = 8  # of these in a word of weights
LANES = 8  # interleaved sums


def packed_rows(op: Conv, bits: int) -> Array:
    """[O, words]: each output channel's signs in the order of its patch, `bits` of them a group."""
    o = op.weight.shape[0]
    ordered = op.weight.transpose(0, 2, 3, 1) if op.integer else op.weight
    flat = np.ascontiguousarray(ordered.reshape(o, -1) > 0)
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
    c = conv(op)
    if not c.binary:
        return "its weights are real"
    return "its input is binary: see the binary kernels" if c.x.elem is Elem.BIN else ""


def refuse_table(op: Op) -> str:
    c = conv(op)
    if reason := refuse_sums(op):
        return reason
    if not c.integer:
        return "its input is real, and sums in another order would differ more"
    return "" if c.groups == 1 else f"its channels are in {c.groups} groups"


def refuse_real(op: Op) -> str:
    return "its weights are binary" if conv(op).binary else ""


def value_type(op: Conv, bound: int) -> str:
    """The type of scratch values up to `bound`."""
    if not op.x.elem.is_integer:
        return "float"
    return "int16_t" if bound < 1 << 15 else "int32_t"


def largest(op: Conv) -> int:
    return int(op.largest.max())


def is_patch(c: Conv) -> bool:
    """Whether x itself is the patch: float32 values in the order in which they are summed."""
    return c.x.elem is Elem.F32 and c.x.pixels == c.y.pixels == 1 and c.groups == 1 and not c.padded


def build_sums(op: Op, name: str) -> Parts:
    c = conv(op)
    constants, params = epilogue(c, name)
    weights = Constant(f"{name}_weights", "uint32_t", packed_rows(c, 1))
    patch = ("patch", value_type(c, largest(c)), c.taps)
    return Parts(
        (weights, *constants, *zero_constants(c, name), *start_constants(c, name)),
        () if is_patch(c) else (patch,),
        {
            **params,
            **centred(c),
            **groups(c),
            "is_patch": is_patch(c),
            "words": weights.data.shape[1],
            "taps": c.taps,
            "patch_type": patch[1],
            "order": None if one_chain(c) else order(c),
        },
    )


def one_chain(c: Conv) -> bool:
    """Whether the inputs are summed one after the other."""
    o = order(c)
    return c.integer or (c.taps <= o.block and o.fused and not c.start)


def start_constants(c: Conv, name: str) -> tuple[Constant, ...]:
    return (Constant(f"{name}_start", "float", np.array(c.start, np.float32)),) if c.start else ()


def groups(c: Conv) -> dict[str, object]:
    return {
        "group_inputs": c.weight.shape[1],
        "group_outputs": c.weight.shape[0] // c.groups,
        "starts": bool(c.start),
    }


def build_real(op: Op, name: str) -> Parts:
    c = conv(op)
    constants, params = epilogue(c, name)
    rows: Array = c.weight.reshape(c.weight.shape[0], -1)
    scales: tuple[Constant, ...] = ()
    if c.storage == "i8":
        per_channel = np.array(c.scales, np.float32)
        rows = np.rint(rows / per_channel[:, None]).astype(np.int8)
        scales = (Constant(f"{name}_scales", "float", per_channel),)
    elif c.storage == "f16":
        rows = rows.astype(np.float16).view(np.uint16)
    kind = {"f32": "float", "f16": "uint16_t", "i8": "int8_t"}[c.storage]
    return Parts(
        (Constant(f"{name}_weights", kind, np.ascontiguousarray(rows)), *scales, *start_constants(c, name), *constants),
        () if is_patch(c) else (("patch", "float", c.taps),),
        {
            **params,
            **groups(c),
            "is_patch": is_patch(c),
            "taps": c.taps,
            "storage": c.storage,
            "weight_type": kind,
            "patch_type": "float",
            "order": order(c),
        },
    )


def work_real(op: Op) -> Mapping[str, float]:
    c = conv(op)
    return {
        "call": 1,
        "pixel": c.y.pixels,
        "padded_input" if c.padded else "input": 0 if is_patch(c) else c.y.pixels * c.groups * c.taps,
        "channel": c.y.size,
        f"{c.storage}_mac": c.y.size * c.taps,
        **order_work(c),
        **epilogue_work(c),
    }


def order_work(c: Conv) -> Mapping[str, float]:
    """What the reference's order of sums takes beside the sums: parts of a sum, and interleaved ones."""
    o = order(c)
    parts = -(-c.taps // o.block) if o.block else 0
    return {"part": c.y.size * parts if parts > 1 else 0, "lane": 0 if o.block else c.y.size * LANES}


def build_table(op: Op, name: str) -> Parts:
    c = conv(op)
    constants, params = epilogue(c, name)
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
            "is_patch": False,
            "words": weights.data.shape[1],
            "taps": c.taps,
            "groups": groups,
            "patch_type": scratch[0][1],
            "table_type": table_type,
        },
    )


def tap(c: Conv) -> str:
    """What a tap of a patch costs by: of one channel it is read without a loop."""
    return ("padded_" if c.padded else "") + ("lone_tap" if c.weight.shape[1] == 1 else "tap")


def work_sums(op: Op) -> Mapping[str, float]:
    c = conv(op)
    real = "" if c.integer else "real_"
    pixels = c.y.shape[1] * c.y.shape[2]
    return {
        "call": 1,
        "pixel": pixels,
        tap(c): pixels * c.groups * c.taps_per_channel,
        f"{real}input": 0 if is_patch(c) else pixels * c.groups * c.taps,
        f"{real}channel": c.y.size,
        "mac" if c.integer else "real_mac" if one_chain(c) else "indexed_mac": c.y.size * c.taps,
        **({} if c.integer else order_work(c)),
        **epilogue_work(c),
    }


def work_table(op: Op) -> Mapping[str, float]:
    c = conv(op)
    pixels = c.y.shape[1] * c.y.shape[2]
    groups = -(-c.taps // GROUP)
    channels = pixels * c.weight.shape[0]
    words = -(-groups // PER_WORD)
    return {
        "call": 1,
        "pixel": pixels,
        tap(c): pixels * c.kernel[0] * c.kernel[1],
        "input": pixels * c.taps,
        "group": pixels * groups,
        "channel": channels,
        "bit": channels if c.cut else 0,
        "word": channels * words if words > 1 else 0,
        "lookup": channels * groups,
        **epilogue_work(c),
    }


KERNELS = (
    Kernel(
        "value_conv",
        "adds and subtracts each input as the weight's bit says",
        (Conv,),
        "value_conv.c.j2",
        refuse_sums,
        build_sums,
        work_sums,
        rows=always,
        apart=always,
    ),
    Kernel(
        "table_conv",
        "looks up the signed sums of four inputs at a time",
        (Conv,),
        "table_conv.c.j2",
        refuse_table,
        build_table,
        work_table,
        rows=always,
        apart=always,
    ),
    Kernel(
        "real_conv",
        "multiply-adds in the order of the reference",
        (Conv,),
        "real_conv.c.j2",
        refuse_real,
        build_real,
        work_real,
        rows=always,
        apart=always,
    ),
)
