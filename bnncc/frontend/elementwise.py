"""Importers of elementwise nodes, and of the many ways in which exporters write sign."""

from typing import Any

import numpy as np
import onnx

from bnncc.frontend.load import label
from bnncc.frontend.values import Condition, Context, Difference, Known, Refusal, Value, broadcast, scalar_step
from bnncc.graph import Elem, Sign, Tensor
from bnncc.scalar import apply_steps, batch_norm, step

FLOAT = onnx.TensorProto.FLOAT
ARITHMETIC = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Max": "max", "Min": "min"}
COMPARISONS = {
    "Greater": (True, False),
    "GreaterOrEqual": (False, False),
    "Less": (False, True),
    "LessOrEqual": (True, True),
}


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def identity(ctx: Context, node: onnx.NodeProto) -> Known:
    known = ctx.values[node.input[0]]
    if (
        node.op_type == "Dropout"
        and len(node.input) > 2
        and node.input[2]
        and ctx.need_constant(node, 2, "training_mode").any()
    ):
        raise Refusal("E0201", "Dropout in training mode is random", "export the model in eval mode")
    return known


def cast(ctx: Context, node: onnx.NodeProto) -> Known:
    known = ctx.values[node.input[0]]
    if attributes(node).get("to") != FLOAT:
        raise Refusal("E0201", "only a Cast to float32 is supported", "compute in float32 after the input")
    if isinstance(known, Condition):  # true -> 1, false -> 0
        bit = sign_of(ctx, node, known, ctx.name(node.output[0], "bit"))
        half = ctx.map(node, bit, scalar_step("mul", 0.5), ctx.name(node.output[0], "half"))
        return ctx.map(node, half, scalar_step("add", 0.5), node.output[0])
    return ctx.padded_value(node)


def arithmetic(ctx: Context, node: onnx.NodeProto) -> Known:
    """Add, Sub, Mul, Div, Max, Min with a constant; or the two halves of a straight-through trick."""
    if len(node.input) != 2:
        raise Refusal("E0201", f"{node.op_type} of {len(node.input)} operands is not supported", "use two operands")
    left, right = (ctx.constant(n) for n in node.input)
    operation = ARITHMETIC[node.op_type]
    if left is None and right is None:
        return straight_through(ctx, node)
    index = 0 if left is None else 1
    value = ctx.value(node, index)
    constant = ctx.need_constant(node, 1 - index, "constant operand")
    if index == 1:
        if operation == "div":
            raise Refusal(
                "E0201", "division of a constant by a tensor is not supported", "divide by a constant instead"
            )
        operation = "rsub" if operation == "sub" else operation
    if operation == "div" and (constant == 0).any():
        raise Refusal("E0301", "it divides by zero", "train or export the model again")
    return ctx.map(node, value, step(operation, broadcast(constant, value)), node.output[0])


def straight_through(ctx: Context, node: onnx.NodeProto) -> Known:
    a, b = node.input
    if node.op_type == "Sub":
        sign = ctx.value(node, 0)
        if sign.tensor.elem is Elem.BIN:
            return Difference(sign, b)
    if node.op_type == "Add":
        for first, second in ((a, b), (b, a)):
            d = ctx.values.get(first)
            if isinstance(d, Difference) and equivalent(ctx, d.other, second):
                edit = onnx.helper.make_node(
                    "Identity", [ctx.twins.get(d.sign.tensor.name) or d.sign.tensor.twin], [node.output[0]]
                )
                ctx.edits.replaced[node.output[0]] = [edit]
                ctx.edits.reasons.append(
                    (label(node), "sign(x) - x + x is sign(x); in float32 it can be off by one rounding")
                )
                return d.sign
    raise Refusal(
        "E0201",
        f"{node.op_type} of two tensors is not supported yet",
        "residual connections come in a later release; remove them",
    )


def equivalent(ctx: Context, a: str, b: str) -> bool:
    """Whether two names hold the same value: one value, or the same steps on one tensor (a clip that is written twice)."""
    u, v = ctx.values.get(a), ctx.values.get(b)
    if a == b or not (isinstance(u, Value) and isinstance(v, Value)):
        return a == b
    (root_u, steps_u), (root_v, steps_v) = ctx.chain(u.tensor), ctx.chain(v.tensor)
    return (
        root_u.name == root_v.name
        and len(steps_u) == len(steps_v)
        and all(
            p.operation == q.operation and np.array_equal(p.value, q.value)
            for p, q in zip(steps_u, steps_v, strict=True)
        )
    )


def negative(ctx: Context, node: onnx.NodeProto) -> Known:
    return ctx.map(node, ctx.value(node), scalar_step("mul", -1.0), node.output[0])


def clip(ctx: Context, node: onnx.NodeProto) -> Known:
    """Clip (either form) and Relu."""
    value = ctx.value(node)
    if node.op_type == "Relu":
        return ctx.map(node, value, scalar_step("max", 0.0), node.output[0])
    given = attributes(node)
    bounds = [
        float(ctx.need_constant(node, i, name)) if len(node.input) > i and node.input[i] else given.get(name)
        for i, name in ((1, "min"), (2, "max"))
    ]
    for k, (operation, bound) in enumerate(zip(("max", "min"), bounds, strict=True)):
        if bound is not None:
            last = k == 1 or bounds[1] is None
            name = node.output[0] if last else ctx.name(node.output[0], "min")
            value = ctx.map(node, value, scalar_step(operation, float(bound)), name)
    return value


def batch_normalization(ctx: Context, node: onnx.NodeProto) -> Known:
    given = attributes(node)
    if given.get("training_mode", 0):
        raise Refusal("E0201", "BatchNormalization in training mode", "export the model in eval mode")
    value = ctx.value(node)
    names = ("scale", "bias", "mean", "variance")
    gamma, beta, mean, var = (ctx.need_constant(node, i + 1, n).astype(np.float32) for i, n in enumerate(names))
    epsilon = float(given.get("epsilon", 1e-5))
    if (var + np.float32(epsilon) <= 0).any():
        raise Refusal("E0301", "its variance plus epsilon is not positive", "train or export the model again")
    scale, offset = batch_norm(gamma, beta, mean, var, epsilon)
    if not (np.isfinite(scale.value).all() and np.isfinite(offset.value).all()):
        raise Refusal("E0301", "its folded scale or offset overflows float32", "train or export the model again")
    channel = value.shape[1]
    if gamma.shape != (channel,):
        raise Refusal("E0105", f"it has {gamma.size} parameters for {channel} channels", "export the model again")
    shape = (channel,) + (1,) * (len(value.shape) - 2)
    for s, name in ((scale, ctx.name(node.output[0], "scaled")), (offset, node.output[0])):
        value = ctx.map(node, value, step(s.operation, broadcast(s.value.reshape(shape), value)), name)
    return value


# sign in its dialects -------------------------------------------------------------------------------------------------


def sign(ctx: Context, node: onnx.NodeProto) -> Known:
    """Sign. A Sign over an earlier Sign (tf2onnx: Sign + Add(0.1) + Sign) becomes one with its value at zero."""
    value = ctx.value(node)
    root, steps = ctx.chain(value.tensor)
    maker = ctx.makers.get(root.name)
    if isinstance(maker, Sign):
        below, zero, above = (int(np.sign(apply_steps(np.full(root.shape, v), steps)).ravel()[0]) for v in (-1, 0, 1))
        per_channel = any(s.value.size > 1 for s in steps)
        if not per_channel and (below, above) == (-1, 1) and maker.at_zero == 0 and zero:
            y = Tensor(node.output[0], Elem.BIN, maker.x.shape, -1, 1, 2, twin=node.output[0])
            at_zero = zero if not maker.negate else -zero
            return Value(
                ctx.add(Sign(x=maker.x, y=y, at_zero=at_zero, negate=maker.negate, origin=(label(node),))), value.shape
            )
    return bit(ctx, node, value, at_zero=0, negate=False, name=node.output[0])


def bit(ctx: Context, node: onnx.NodeProto, value: Value, *, at_zero: int, negate: bool, name: str) -> Value:
    twin = "" if ctx.mark in name else name
    y = Tensor(name, Elem.BIN, value.tensor.shape, -1, 1, 2, twin=twin)
    return Value(ctx.add(Sign(x=value.tensor, y=y, at_zero=at_zero, negate=negate, origin=(label(node),))), value.shape)


def sign_of(ctx: Context, node: onnx.NodeProto, c: Condition, name: str) -> Value:
    """+1 where the condition holds, -1 elsewhere."""
    at_zero = -1 if c.strict else 1
    return bit(ctx, node, c.value, at_zero=at_zero, negate=c.negate, name=name)


def bipolar_quant(ctx: Context, node: onnx.NodeProto) -> Known:
    """qonnx's BipolarQuant(x, scale): scale where x >= 0, else -scale."""
    value = ctx.value(node)
    scale = ctx.need_constant(node, 1, "scale")
    if (scale == 1).all():
        return bit(ctx, node, value, at_zero=1, negate=False, name=node.output[0])
    inner = bit(ctx, node, value, at_zero=1, negate=False, name=ctx.name(node.output[0], "bit"))
    return ctx.map(node, inner, step("mul", broadcast(scale, inner)), node.output[0])


def comparison(ctx: Context, node: onnx.NodeProto) -> Known:
    strict, negate = COMPARISONS[node.op_type]
    index = 0 if ctx.constant(node.input[0]) is None else 1
    if index == 1:  # c > x is x < c
        mirrored = {
            "Greater": "Less",
            "GreaterOrEqual": "LessOrEqual",
            "Less": "Greater",
            "LessOrEqual": "GreaterOrEqual",
        }
        strict, negate = COMPARISONS[mirrored[node.op_type]]
    value = ctx.value(node, index)
    threshold = ctx.need_constant(node, 1 - index, "threshold")
    if (threshold != 0).any():  # x - c and 0 compare as x and c do: float32 subtraction underflows gradually
        value = ctx.map(node, value, step("sub", broadcast(threshold, value)), ctx.name(node.output[0], "shifted"))
    return Condition(value, strict, negate)


def negation(ctx: Context, node: onnx.NodeProto) -> Known:
    c = ctx.values[node.input[0]]
    if not isinstance(c, Condition):
        raise Refusal("E0201", "Not of something that is not a comparison", "write sign as Where(x >= 0, 1, -1)")
    return Condition(c.value, c.strict, not c.negate)


def where(ctx: Context, node: onnx.NodeProto) -> Known:
    c = ctx.values.get(node.input[0])
    if not isinstance(c, Condition):
        raise Refusal("E0201", "Where needs a comparison with a constant", "write sign as Where(x >= 0, 1, -1)")
    high, low = (ctx.need_constant(node, i, "choice") for i in (1, 2))
    if len({*np.unique(high)}) != 1 or len({*np.unique(low)}) != 1:
        raise Refusal(
            "E0201", "Where chooses between tensors that are not uniform", "write sign as Where(x >= 0, 1, -1)"
        )
    a, b = float(high.flat[0]), float(low.flat[0])
    if (a, b) == (1.0, -1.0):
        return sign_of(ctx, node, c, node.output[0])
    if (a, b) == (-1.0, 1.0):
        return sign_of(ctx, node, Condition(c.value, c.strict, not c.negate), node.output[0])
    inner = sign_of(ctx, node, c, ctx.name(node.output[0], "bit"))
    half, middle = scalar_step("mul", (a - b) / 2), scalar_step("add", (a + b) / 2)
    made = apply_steps(np.array([1, -1]).reshape(2, 1, 1, 1), (half, middle)).ravel()
    if made.tolist() != [np.float32(a), np.float32(b)]:
        raise Refusal(
            "E0201",
            f"Where chooses between {a:g} and {b:g}",
            "write sign as Where(x >= 0, 1, -1), and scale it afterwards",
        )
    scaled = ctx.map(node, inner, half, ctx.name(node.output[0], "scaled"))
    return ctx.map(node, scaled, middle, node.output[0])
