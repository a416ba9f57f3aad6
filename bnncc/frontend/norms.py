"""Importers of layer normalisation, as one node or in its parts, and of softmax."""

from dataclasses import replace

import numpy as np
import onnx

from bnncc.frontend.geometry import attributes
from bnncc.frontend.source.text import label
from bnncc.frontend.values import Context, Known, Moment, Refusal, Value, broadcast, within
from bnncc.ops import Normalize, Softmax
from bnncc.scalar import step
from bnncc.tensor import Elem, Tensor


def layer_normalization(ctx: Context, node: onnx.NodeProto) -> Known:
    """LayerNormalization over all features, or over the channels of a channels-last image."""
    value, given = ctx.value(node), attributes(node)
    if any(node.output[1:]):
        raise Refusal("E0201", "LayerNormalization with its mean as an output is not supported", "use its first output")
    rank = len(value.shape)
    axis = within(int(given.get("axis", -1)), rank)
    over = tuple(range(axis, rank))
    features = over == tuple(range(1, rank))
    if not features and (over != (rank - 1,) or not value.last):
        if over != (rank - 1,) or rank < 3:
            raise Refusal(
                "E0201",
                f"layer normalisation over axes {list(over)} is not supported",
                "normalise channels or all features",
            )
        value = ctx.last_axis(node, value)
    names = [ctx.name(node.output[0], n) for n in ("normalized", "scaled")]
    has = [len(node.input) > k and bool(node.input[k]) for k in (1, 2)]
    if not any(has):
        names[0] = node.output[0]
    y = normalize(ctx, node, value, features, float(given.get("epsilon", 1e-5)), names[0])
    shape = (1,) * axis + value.shape[axis:]
    for k, operation in ((1, "mul"), (2, "add")):
        if has[k - 1]:
            constant = ctx.need_constant(node, k, "scale" if k == 1 else "bias").astype(np.float32)
            last = k == 2 or not has[1]
            constant = np.broadcast_to(constant, shape)
            y = ctx.map(node, y, step(operation, broadcast(constant, y)), node.output[0] if last else names[1])
    return y


def instance_normalization(ctx: Context, node: onnx.NodeProto) -> Known:
    """The normalisation of a single channel, which is over all features: torch's GroupNorm of one group."""
    value = ctx.value(node)
    if value.shape[1] != 1:
        raise Refusal(
            "E0201",
            f"{node.op_type} of {value.shape[1]} channels, each over its pixels, is not supported",
            "normalise channels or all features",
        )
    scale, bias = (ctx.need_constant(node, k, name).astype(np.float32) for k, name in ((1, "scale"), (2, "bias")))
    names = [ctx.name(node.output[0], n) for n in ("normalized", "scaled")]
    y = normalize(ctx, node, value, True, float(attributes(node).get("epsilon", 1e-5)), names[0])
    y = ctx.map(node, y, step("mul", scale), names[1])
    return ctx.map(node, y, step("add", bias), node.output[0])


def normalize(ctx: Context, node: onnx.NodeProto, value: Value, features: bool, epsilon: float, name: str) -> Value:
    """(x - mean) / sqrt(var + epsilon), called `name`."""
    if not 0 < epsilon < 1e6:
        raise Refusal("E0301", f"its epsilon is {epsilon}", "train or export the model again")
    x = value.tensor
    y = Tensor(name, Elem.F32, x.shape, twin=ctx.twin(name), channels_last=value.last)
    op = Normalize(x=x, y=y, epsilon=epsilon, features=features, origin=(label(node),))
    return Value(ctx.add(op), value.shape, value.last)


def stage(ctx: Context, node: onnx.NodeProto) -> Known | None:
    """A node of a layer normalisation in parts: ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div; None for others."""
    known = [ctx.values.get(n) for n in node.input]
    moments = [k for k in known if isinstance(k, Moment)]
    if not moments:
        return None
    kind, m = node.op_type, moments[0]
    numbers = [number(ctx, n) for n in node.input]
    match kind, m.stage:
        case "Expand" | "Reshape" | "Unsqueeze", "variance" | "spread" if ctx.out_shape(node) == m.shape:
            return m
        case "Sub", "mean" if isinstance(known[0], Value) and known[0].tensor.name == m.given.tensor.name:
            return replace(m, stage="centred")
        case "Pow", "centred" if numbers[1:] == [2]:
            return replace(m, stage="squared")
        case "Mul", "centred" if moments == [m, m]:
            return replace(m, stage="squared")
        case "Add", "variance" if m.epsilon == 0 and len(numbers) == 2:
            epsilon = next((n for n in numbers if n is not None), None)
            if epsilon is not None:
                return replace(m, stage="variance", epsilon=epsilon)
        case "Sqrt", "variance":
            return replace(m, stage="spread")
        case "Reciprocal", "spread" if not m.inverse:
            return replace(m, inverse=True)
        case "Div", "spread" if numbers[0] == 1 and not m.inverse:
            return replace(m, inverse=True)
        case ("Div", "centred") | ("Mul", "centred" | "spread") if len(moments) == 2:
            centred, spread = sorted(moments, key=lambda k: k.stage)
            if spread.stage == "spread" and spread.inverse == (kind == "Mul") and centred == before_spread(spread):
                return normalize(ctx, node, m.value, m.features, spread.epsilon, node.output[0])
    raise Refusal("E0201", f"{kind} of a {m.stage} is no part of a layer normalisation", "use LayerNormalization")


def number(ctx: Context, name: str) -> float | None:
    """A constant of one element."""
    constant = ctx.constant(name)
    return float(constant.flat[0]) if constant is not None and constant.size == 1 else None


def before_spread(m: Moment) -> Moment:
    """What must have been squared for this spread."""
    return replace(m, stage="centred", epsilon=0.0, inverse=False)


def softmax(ctx: Context, node: onnx.NodeProto) -> Known:
    """Softmax and LogSoftmax over channels, or over the features of a vector."""
    value = ctx.value(node)
    rank = len(value.shape)
    axis = within(int(attributes(node).get("axis", -1 if ctx.opset >= 13 else 1)), rank)
    over = tuple(range(axis, rank)) if ctx.opset < 13 else (axis,)
    if rank <= 2 and axis == rank - 1:
        value = ctx.vector(node, value)
    elif over == (rank - 1,) and rank == 4 and value.axes[-1]:
        value = ctx.last_axis(node, value)
    elif any(value.axes[a - 1] and value.shape[a] > 1 for a in over) or all(a == 0 or value.axes[a - 1] for a in over):
        raise Refusal(
            "E0201", f"softmax over axis {axis} of shape {list(value.shape)} is not supported", "apply it to channels"
        )
    x = value.tensor
    y = Tensor(node.output[0], Elem.F32, x.shape, twin=node.output[0], channels_last=value.last)
    op = Softmax(x=x, y=y, log=node.op_type == "LogSoftmax", origin=(label(node),))
    return Value(ctx.add(op), value.shape, value.last)
