"""Importers of QuantizeLinear and DequantizeLinear between layers: an activation of a few bits, as Brevitas' QCDQ writes it."""

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.frontend.elementwise import quantized
from bnncc.frontend.geometry import attributes
from bnncc.frontend.values import Context, Known, Refusal, Value, broadcast, within
from bnncc.scalar import Step, step

T = onnx.TensorProto
RANGES: dict[int, tuple[int, int]] = {
    T.INT4: (-8, 7),
    T.UINT4: (0, 15),
    T.INT8: (-128, 127),
    T.UINT8: (0, 255),
    T.INT16: (-(1 << 15), (1 << 15) - 1),
    T.UINT16: (0, (1 << 16) - 1),
}


def quantize(ctx: Context, node: onnx.NodeProto) -> Known:
    """round(x / scale), bounded so that the zero point can be added, and the zero point added."""
    value = ctx.value(node)
    kind = ctx.source.types.get(node.output[0], 0)
    if kind not in RANGES:
        name = T.DataType.Name(kind).lower()
        raise Refusal("E0201", f"QuantizeLinear to {name} is not supported", "use integers of 4, 8 or 16 bits")
    scale, zero = parameters(ctx, node, value)
    if not (scale > 0).all():
        raise Refusal("E0301", "its scale is not positive", "train or export the model again")
    lo, hi = (np.float32(bound) - zero for bound in RANGES[kind])
    chain = [("div", scale), ("round", np.zeros((1, 1, 1), np.float32)), ("max", lo), ("min", hi)]
    for operation, constant in chain:
        last = operation == "min" and not zero.any()
        name = node.output[0] if last else ctx.name(node.output[0], operation)
        value = ctx.map(node, value, Step(operation, constant), name)
    value = quantized(ctx, node, value)
    return ctx.map(node, value, step("add", zero), node.output[0]) if zero.any() else value


def dequantize(ctx: Context, node: onnx.NodeProto) -> Known:
    """(x - zero point) * scale."""
    value = ctx.value(node)
    scale, zero = parameters(ctx, node, value)
    if zero.any():
        value = ctx.map(node, value, step("sub", zero), ctx.name(node.output[0], "centred"))
    return ctx.map(node, value, step("mul", scale), node.output[0])


def parameters(ctx: Context, node: onnx.NodeProto, value: Value) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and zero point, per tensor or per channel, in the form that Step wants."""
    given = attributes(node)
    scale = ctx.need_constant(node, 1, "scale")
    zero = ctx.need_constant(node, 2, "zero point") if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if scale.dtype != np.float32 or given.get("block_size") or max(scale.ndim, zero.ndim) > 1:
        raise Refusal("E0201", "its scale is neither per tensor nor per axis in float32", "quantize per tensor")
    axis = within(int(given.get("axis", 1)), len(value.shape))
    shape = (-1,) + (1,) * (len(value.shape) - 1 - axis)
    made = [broadcast(a.reshape(shape if a.size > 1 else ()).astype(np.float32), value) for a in (scale, zero)]
    return made[0], made[1] if (made[1] != made[1].flat[0]).any() else made[1][:1, :1, :1]
