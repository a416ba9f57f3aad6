"""Sums over windows and of tensors, layer normalisation, softmax."""

from collections.abc import Mapping

import numpy as np

from bnncc.kernels.base import Kernel, always, elementwise, float_literal, never, no_parts
from bnncc.layout import pack_bits, unit
from bnncc.ops import Combine, Normalize, NormSign, Softmax, SumPool
from bnncc.program import Constant, Parts
from bnncc.tensor import Elem, Op


def kind(op: Op) -> str:
    if op.x.elem is Elem.BIN:
        return "bit"
    return "integer" if op.x.elem.is_integer else "real"


def refuse_sum(op: Op) -> str:
    assert isinstance(op, SumPool)
    return "" if op.whole else "its window is not the whole input"


def refuse_window(op: Op) -> str:
    assert isinstance(op, SumPool)
    return "its window is the whole input" if op.whole else ""


def sum_work(op: Op) -> Mapping[str, float]:
    assert isinstance(op, SumPool)
    read = kind(op)
    if read == "bit" and unit(op.x.shape[0]).words > 1:
        read = "wide_bit"
    elif read == "real" and op.order != "rows":
        read = "lane_real"
    return {"call": 1, "channel": op.x.shape[0], read: op.x.size}


def window_work(op: Op) -> Mapping[str, float]:
    assert isinstance(op, SumPool)
    read = ("padded_" if op.padded else "") + kind(op)
    return {"call": 1, "channel": op.y.size, read: op.y.size * op.taps_per_channel}


def build_combine(op: Op, name: str) -> Parts:
    assert isinstance(op, Combine)
    offsets = set(op.offset) or {0}
    one = next(iter(offsets)) if len(offsets) == 1 else None
    arrays = () if one is not None else (Constant(f"{name}_offset", "int32_t", np.array(op.offset, np.int32)),)
    return Parts(arrays, (), {"factors": op.factors, "offset": one})


def combine_work(op: Op) -> Mapping[str, float]:
    bits = sum(t.elem is Elem.BIN for t in op.inputs)
    terms = len(op.inputs) - bits
    bit = (
        "mixed_bit" if terms else "wide_bit" if unit(op.x.shape[0]).words > 1 else "bit"
    )  # mixed: words do not stay in registers
    value = "value" if all(t.elem is op.y.elem for t in op.inputs) else "converted_value"
    return {"call": 1, "pixel": op.y.pixels, value: op.y.size, "term": op.y.size * terms, bit: op.y.size * bits}


def build_normalize(op: Op, _name: str) -> Parts:
    assert isinstance(op, Normalize)
    return Parts((), (), {"epsilon": float_literal(op.epsilon), "features": op.features, "count": op.count})


def norm_work(op: Op) -> Mapping[str, float]:
    assert isinstance(op, Normalize | NormSign)
    wide = "wide_" if unit(op.x.shape[0]).words > 1 else ""
    value = "value"
    if isinstance(op, NormSign) and norm_types(op)[0] == "int64_t":
        value = "long_value"
    elif isinstance(op, NormSign) and op.x.elem is Elem.BIN:
        value = f"{wide}bit"
    elif isinstance(op, Normalize) and op.count < 8:
        value = "few_value"
    falls = isinstance(op, NormSign) and bool(op.falling.any())
    falling = {f"{wide}falling": op.x.size} if falls else {}
    return {"call": 1, "row": op.x.size // op.count, value: op.x.size, **falling}


def norm_types(op: NormSign) -> tuple[str, str]:
    """The types that hold N times a sum of squares, and a distance from the mean times N."""
    largest, n = max(abs(op.x.lo), abs(op.x.hi)), op.count
    squares = "int32_t" if n * n * largest * largest < 1 << 31 else "int64_t"
    return squares, "int32_t" if 2 * n * largest < 1 << 31 else "int64_t"


def build_norm_sign(op: Op, name: str) -> Parts:
    """rho per channel, or per channel and pixel; as bits where gamma < 0, and which channels are negated."""
    assert isinstance(op, NormSign)
    c, h, w = op.x.shape
    rho = np.ascontiguousarray(np.broadcast_to(op.rho, (c, *op.rho.shape[1:])).reshape(c, -1))
    falling = np.broadcast_to(op.falling, (c, *op.rho.shape[1:])).reshape(c, -1)
    arrays = [Constant(f"{name}_rho", "float", rho)]
    u = unit(c)
    if falling.any():
        arrays.append(Constant(f"{name}_falling", u.c_type, pack_bits(np.ascontiguousarray(falling.T), u)))
    if any(op.inverts):
        arrays.append(Constant(f"{name}_inverts", u.c_type, pack_bits(np.array(op.inverts), u)))
    n = op.count
    squares, distance = norm_types(op)
    return Parts(
        tuple(arrays),
        (),
        {
            "features": op.features,
            "count": n,
            "epsilon": float_literal(n * n * op.epsilon),
            "falls": bool(falling.any()),
            "inverts": any(op.inverts),
            "per_pixel": rho.shape[1] > 1,
            "squares_type": squares,
            "distance_type": distance,
            "pixels": h * w,
        },
    )


def softmax_work(op: Op) -> Mapping[str, float]:
    return {"call": 1, "pixel": op.y.pixels, "value": op.y.size}


def build_softmax(op: Op, _name: str) -> Parts:
    assert isinstance(op, Softmax)
    return Parts((), (), {"log": op.log})


KERNELS = (
    Kernel("sum", "sum of each channel over all pixels", (SumPool,), "sum.c.j2", refuse_sum, no_parts, sum_work),
    Kernel(
        "window_sum",
        "sum of each channel over a window",
        (SumPool,),
        "window_sum.c.j2",
        refuse_window,
        no_parts,
        window_work,
    ),
    Kernel(
        "combine", "integer sum of tensors", (Combine,), "combine.c.j2", never, build_combine, combine_work, elementwise
    ),
    Kernel(
        "normalize", "mean and variance of a row", (Normalize,), "normalize.c.j2", never, build_normalize, norm_work
    ),
    Kernel(
        "norm_sign",
        "distance from the mean against the norm",
        (NormSign,),
        "norm_sign.c.j2",
        never,
        build_norm_sign,
        norm_work,
        apart=always,
    ),
    Kernel("softmax", "exponentials over their sum", (Softmax,), "softmax.c.j2", never, build_softmax, softmax_work),
)
