"""Importers of elementwise nodes, and of the many ways in which exporters write sign."""

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import onnx

from bnncc.frontend.affine import EXACT
from bnncc.frontend.geometry import attributes
from bnncc.frontend.norms import stage
from bnncc.frontend.source.text import label
from bnncc.frontend.sums import OPERATIONS, between, several, straight_through
from bnncc.frontend.values import Condition, Context, Known, Moment, Refusal, Value, Zero, broadcast, scalar_step
from bnncc.ops import Map, Sign
from bnncc.scalar import Operand, Step, apply_steps, batch_norm, step
from bnncc.tensor import Elem, Tensor, bits, integer

FLOAT = onnx.TensorProto.FLOAT
WHOLE = {onnx.TensorProto.INT8, onnx.TensorProto.INT16, onnx.TensorProto.INT32, onnx.TensorProto.INT64}
COMPARISONS = {
    "Greater": (True, False),
    "GreaterOrEqual": (False, False),
    "Less": (False, True),
    "LessOrEqual": (True, True),
}


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
    to = ctx.source.types.get(node.output[0], FLOAT) if node.op_type == "CastLike" else attributes(node).get("to")
    if to == onnx.TensorProto.BOOL and isinstance(known, Condition | Zero):
        return known
    if to not in (FLOAT, *WHOLE) or (to != FLOAT and not isinstance(known, Condition)):
        raise Refusal("E0201", "only a Cast to float32 is supported", "compute in float32 after the input")
    if isinstance(known, Condition):  # true -> 1, false -> 0
        name = node.output[0]
        return as_number(ctx, node, known, (ctx.name(name, "bit"), ctx.name(name, "half"), name))
    return known if isinstance(known, Moment) else ctx.padded_value(node)


def expand(ctx: Context, node: onnx.NodeProto) -> Known:
    if (known := stage(ctx, node)) is not None:
        return known
    value = ctx.value(node)
    if ctx.out_shape(node) != value.shape:
        raise Refusal(
            "E0205", f"it expands {list(value.shape)} to {list(ctx.out_shape(node))}", "use tensors of one shape"
        )
    return value


def arithmetic(ctx: Context, node: onnx.NodeProto) -> Known:
    """Add, Sub, Mul, Div, Max, Min, Sum: with a constant, between tensors, in a straight-through trick or a layer norm."""
    constants = [ctx.constant(n) for n in node.input]
    tensors = [k for k, c in enumerate(constants) if c is None]
    if (known := stage(ctx, node)) is not None:
        return known
    if len(node.input) == 1:
        return ctx.value(node)
    if len(node.input) == 2 and len(tensors) == 1:
        return with_constant(ctx, node, tensors[0])
    if len(tensors) < len(node.input):
        raise Refusal("E0201", f"{node.op_type} of tensors and constants at once is not supported", "use two operands")
    if node.op_type == "Add" and (sign := straight_through(ctx, node)):
        return sign
    values = [ctx.value(node, k) for k in tensors]
    if node.op_type == "Sub" and values[0].tensor.elem is Elem.BIN:
        ctx.differences[node.output[0]] = values[0], node.input[1]
    return several(ctx, node, values)


def with_constant(ctx: Context, node: onnx.NodeProto, index: int) -> Known:
    """Input `index` op the other, which is a constant."""
    operation = OPERATIONS[node.op_type]
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


def power(ctx: Context, node: onnx.NodeProto) -> Known:
    """The square of a tensor."""
    if (known := stage(ctx, node)) is not None:
        return known
    exponent = ctx.need_constant(node, 1, "exponent")
    if exponent.size != 1 or float(exponent.flat[0]) != 2:
        raise Refusal("E0201", "only the square is supported of Pow", "multiply instead")
    value = ctx.value(node)
    x = value.tensor
    y = Tensor(node.output[0], Elem.F32, x.shape, twin=node.output[0], channels_last=value.last)
    op = Map(x=x, others=(x,), y=y, steps=(Operand("mul", 0),), origin=(label(node),))
    return replace(value, tensor=ctx.add(op))


def root(ctx: Context, node: onnx.NodeProto) -> Known:
    """Sqrt and Reciprocal, inside of a layer normalisation."""
    known = stage(ctx, node)
    if known is None:
        raise Refusal(
            "E0201", f"{node.op_type} is only supported inside of a layer normalisation", "use LayerNormalization"
        )
    return known


UNARY = {"Abs": "abs", "Ceil": "ceil", "Floor": "floor", "Round": "round", "Sigmoid": "sigmoid", "Tanh": "tanh"}


def unary(ctx: Context, node: onnx.NodeProto) -> Known:
    value = ctx.map(node, ctx.value(node), Step(UNARY[node.op_type]), node.output[0])
    return quantized(ctx, node, value)


def quantized(ctx: Context, node: onnx.NodeProto, value: Value) -> Value:
    """The value as integers, where its last steps round and bound it (in either order)."""
    lo, hi, rounds, root = -math.inf, math.inf, False, value.tensor
    for root, s in islice(ctx.backwards(value.tensor), 8):  # noqa: B007
        if s.value.size == 1 and s.operation in ("max", "min") and float(s.value.flat[0]).is_integer():
            bound = float(s.value.flat[0])
            lo, hi = (max(lo, bound), hi) if s.operation == "max" else (lo, min(hi, bound))
        elif s.operation in ("round", "floor", "ceil"):
            rounds = True
        else:
            break
    else:  # rounded integers that were only bounded once more
        if root.elem.is_integer and isinstance(ctx.makers.get(root.name), Map):
            lo, hi, rounds = max(lo, root.lo), min(hi, root.hi), True
    maker = ctx.makers.get(value.tensor.name)
    if not rounds or not -EXACT < lo <= hi < EXACT or not isinstance(maker, Map):
        return value
    name = ctx.name(node.output[0], "integers")
    elem = integer(int(lo), int(hi))
    y = Tensor(name, elem, maker.y.shape, int(lo), int(hi), 1, value.tensor.twin, value.last)
    return replace(value, tensor=ctx.add(replace(maker, y=y)))


def activation(ctx: Context, node: onnx.NodeProto) -> Known:
    """LeakyRelu, PRelu and HardSigmoid."""
    value, given = ctx.value(node), attributes(node)
    if node.op_type == "HardSigmoid":
        chain = (("mul", given.get("alpha", 0.2)), ("add", given.get("beta", 0.5)), ("max", 0.0), ("min", 1.0))
        for k, (operation, constant) in enumerate(chain):
            name = node.output[0] if k == 3 else ctx.name(node.output[0], f"step{k}")
            value = ctx.map(node, value, scalar_step(operation, float(constant)), name)
        return value
    slope = np.array(given.get("alpha", 0.01)) if node.op_type == "LeakyRelu" else ctx.need_constant(node, 1, "slope")
    if slope.ndim > len(value.shape):  # ONNX forbids it, infers x's shape, and onnxruntime computes another one
        raise Refusal(
            "E0205", f"its slope of shape {list(slope.shape)} has more axes than its input", "use a slope a channel"
        )
    return ctx.map(node, value, step("prelu", broadcast(slope, value)), node.output[0])


def negative(ctx: Context, node: onnx.NodeProto) -> Known:
    return ctx.map(node, ctx.value(node), scalar_step("mul", -1.0), node.output[0])


def clip(ctx: Context, node: onnx.NodeProto) -> Known:
    """Clip (either form) and Relu."""
    value = ctx.value(node)
    if node.op_type == "Relu":
        return ctx.map(node, value, scalar_step("max", 0.0), node.output[0])
    given = attributes(node)
    bounds = [
        float(ctx.need_constant(node, i, name).item()) if len(node.input) > i and node.input[i] else given.get(name)
        for i, name in ((1, "min"), (2, "max"))
    ]
    for k, (operation, bound) in enumerate(zip(("max", "min"), bounds, strict=True)):
        if bound is not None:
            last = k == 1 or bounds[1] is None
            name = node.output[0] if last else ctx.name(node.output[0], "min")
            value = ctx.map(node, value, scalar_step(operation, float(bound)), name)
    return quantized(ctx, node, value)


def batch_normalization(ctx: Context, node: onnx.NodeProto) -> Known:
    given = attributes(node)
    if given.get("training_mode", 0):
        raise Refusal("E0201", "BatchNormalization in training mode", "export the model in eval mode")
    value = ctx.value(node)
    names = ("scale", "bias", "mean", "variance")
    gamma, beta, mean, var = (ctx.need_constant(node, i + 1, n).astype(np.float32) for i, n in enumerate(names))
    channel = value.shape[1] if len(value.shape) > 1 else 1
    for p, name in zip((gamma, beta, mean, var), names, strict=True):
        if p.shape != (channel,):
            raise Refusal(
                "E0105", f"its {name} has shape {list(p.shape)} for {channel} channels", "export the model again"
            )
    epsilon = float(given.get("epsilon", 1e-5))
    if (var + np.float32(epsilon) <= 0).any():
        raise Refusal("E0301", "its variance plus epsilon is not positive", "train or export the model again")
    scale, offset = batch_norm(gamma, beta, mean, var, epsilon)
    if not (np.isfinite(scale.value).all() and np.isfinite(offset.value).all()):
        raise Refusal("E0301", "its folded scale or offset overflows float32", "train or export the model again")
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
            y = bits(node.output[0], maker.x.shape, node.output[0], channels_last=value.last)
            at_zero = zero if not maker.negate else -zero
            op = Sign(x=maker.x, y=y, at_zero=at_zero, negate=maker.negate, origin=(label(node),))
            return replace(value, tensor=ctx.add(op))
    return bit(ctx, node, value, at_zero=0, negate=False, name=node.output[0])


def bit(ctx: Context, node: onnx.NodeProto, value: Value, *, at_zero: int, negate: bool, name: str) -> Value:
    twin = "" if ctx.mark in name else name
    y = bits(name, value.tensor.shape, twin, channels_last=value.last)
    op = Sign(x=value.tensor, y=y, at_zero=at_zero, negate=negate, origin=(label(node),))
    return replace(value, tensor=ctx.add(op))


def sign_of(ctx: Context, node: onnx.NodeProto, c: Condition, name: str) -> Value:
    """+1 where the condition holds, -1 elsewhere."""
    at_zero = -1 if c.strict else 1
    return bit(ctx, node, c.value, at_zero=at_zero, negate=c.negate, name=name)


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


def equal(ctx: Context, node: onnx.NodeProto) -> Known:
    """A comparison with zero, for a sign that is not to be 0."""
    index = 0 if ctx.constant(node.input[0]) is None else 1
    if ctx.need_constant(node, 1 - index, "operand").any():
        raise Refusal(
            "E0201", "only a comparison with zero is supported of Equal", "write sign as Where(x >= 0, 1, -1)"
        )
    return Zero(ctx.value(node, index))


def nonzero_sign(ctx: Context, node: onnx.NodeProto, c: Zero) -> Value:
    """Where(x == 0, 1 or -1, s), for s that is Sign(x), or is x itself and a Sign."""
    value = ctx.value(node, 2)
    maker = ctx.makers.get(value.tensor.name)
    choice = np.unique(ctx.need_constant(node, 1, "choice")).tolist()
    tested = c.value.tensor.name
    if (
        not isinstance(maker, Sign)
        or maker.at_zero
        or tested not in (maker.x.name, maker.y.name)
        or choice not in ([1], [-1])
    ):
        raise Refusal(
            "E0201", "Where of an Equal is only supported around a Sign", "write sign as Where(x >= 0, 1, -1)"
        )
    given = replace(value, tensor=maker.x)
    at_zero = int(choice[0]) * (-1 if maker.negate else 1)
    return bit(ctx, node, given, at_zero=at_zero, negate=maker.negate, name=node.output[0])


def where(ctx: Context, node: onnx.NodeProto) -> Known:
    c = ctx.values.get(node.input[0])
    if isinstance(c, Zero):
        return nonzero_sign(ctx, node, c)
    if not isinstance(c, Condition):
        raise Refusal("E0201", "Where needs a comparison with a constant", "write sign as Where(x >= 0, 1, -1)")
    if any(ctx.constant(name) is None for name in node.input[1:]):
        return chosen(ctx, node, c)
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


def chosen(ctx: Context, node: onnx.NodeProto, c: Condition) -> Value:
    """Where between tensors, or a tensor and a constant: the sum of both choices, each times 1 or 0.

    For finite values these are onnxruntime's bits, but for the sign of a zero.
    """
    parts = []
    for index, side in ((1, "high"), (2, "low")):
        holds = c if index == 1 else replace(c, negate=not c.negate)
        names = [ctx.name(node.output[0], f"{side}.{k}") for k in ("bit", "half", "mask", "part")]
        mask = as_number(ctx, node, holds, (names[0], names[1], names[2]))
        if ctx.constant(node.input[index]) is None:
            parts.append(between(ctx, "mul", node, ctx.value(node, index), mask, names[3]))
        else:
            constant = ctx.need_constant(node, index, "choice")
            parts.append(ctx.map(node, mask, step("mul", broadcast(constant, mask)), names[3]))
    return between(ctx, "add", node, parts[0], parts[1], node.output[0])


def as_number(ctx: Context, node: onnx.NodeProto, c: Condition, names: tuple[str, str, str]) -> Value:
    """1 where the condition holds, 0 elsewhere, called by the last of the names."""
    bit = sign_of(ctx, node, c, names[0])
    half = ctx.map(node, bit, scalar_step("mul", 0.5), names[1])
    return ctx.map(node, half, scalar_step("add", 0.5), names[2])
