"""Importers of arithmetic between tensors: residual sums, in integers wherever these are exact, and products."""

from dataclasses import fields

import numpy as np
import onnx

from bnncc.frontend.affine import EXACT, Affine, affine
from bnncc.frontend.source.text import label
from bnncc.frontend.values import Context, Known, Refusal, Value, scalar_step
from bnncc.ops import Combine, Conv, Map
from bnncc.scalar import Operand, Step
from bnncc.tensor import Elem, Op, Tensor, integer

OPERATIONS = {"Add": "add", "Sum": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Max": "max", "Min": "min"}


def between(ctx: Context, operation: str, node: onnx.NodeProto, left: Value, right: Value, output: str) -> Value:
    """left op right, called `output`; one of them may have one value a channel."""
    if left.shape != right.shape:
        small, large = sorted((left, right), key=lambda v: v.tensor.size)
        small = one_pixel(node, small, large)
        left, right = (small, large) if small.shape == left.shape else (large, small)
    else:
        right = ctx.arranged(node, right, left)
    if operation in ("add", "sub") and left.tensor.shape == right.tensor.shape:
        total = in_integers(ctx, node, left, right, -1 if operation == "sub" else 1, output)
        if total:
            return total
    same_size = left.tensor.size == right.tensor.size
    swap = same_size and operation != "div" and prefers(ctx, right.tensor, left.tensor)
    swap = swap or left.tensor.size < right.tensor.size
    if swap:
        left, right = right, left
        operation = "rsub" if operation == "sub" else operation
        if operation == "div":
            raise Refusal("E0201", "division of a channel's value by an image is not supported", "divide the image")
    y = Tensor(output, Elem.F32, left.tensor.shape, twin=ctx.twin(output), channels_last=left.last)
    op = Map(x=left.tensor, others=(right.tensor,), y=y, steps=(Operand(operation, 0),), origin=(label(node),))
    return Value(ctx.add(op), left.shape, left.last)


def one_pixel(node: onnx.NodeProto, small: Value, large: Value) -> Value:
    """The smaller operand as one value a channel. Raises Refusal if it is not that."""
    if (
        small.tensor.pixels == 1
        and small.tensor.shape[0] == large.tensor.shape[0]
        and len(small.shape) == len(large.shape)
    ):
        return small
    raise Refusal(
        "E0205",
        f"{node.op_type} of shapes {list(small.shape)} and {list(large.shape)} is not supported",
        "use tensors of one shape, or one value a channel",
    )


def prefers(ctx: Context, a: Tensor, b: Tensor) -> bool:
    """Whether arithmetic is better fused behind what makes `a` than behind what makes `b`: a convolution, the latest."""

    def rank(t: Tensor) -> tuple[bool, int]:
        root, _ = ctx.chain(t)
        return isinstance(ctx.makers.get(root.name), Conv), ctx.position.get(root.name, -1)

    return rank(a) > rank(b)


def in_integers(ctx: Context, node: onnx.NodeProto, left: Value, right: Value, sign: int, output: str) -> Value | None:
    """left + sign * right as an integer sum, where both are exact multiples of powers of two; None where not."""
    parts = affine(ctx, left.tensor), affine(ctx, right.tensor)
    a, b = parts
    if not (a and b and a.exact and b.exact and per_channel(a) and per_channel(b)):
        return None
    unit = min(abs(a.scale), abs(b.scale))
    terms = [(p, round(p.scale / unit) * s) for p, s in ((a, 1), (b, sign))]
    if max(abs(f) for _, f in terms) > EXACT:
        return None
    factors = tuple(f * p.mul for p, f in terms)
    offset = np.zeros(left.tensor.shape[0])
    for p, f in terms:
        offset = offset + f * (p.rest[:, 0, 0] - np.array(p.zero or 0))
    ends = [[f * k for k in (p.q.lo, p.q.hi)] for (p, _), f in zip(terms, factors, strict=True)]
    lo = sum(map(min, ends)) + int(offset.min())
    hi = sum(map(max, ends)) + int(offset.max())
    if sum(max(map(abs, e)) for e in ends) + 2 * np.abs(offset).max() >= EXACT:
        return None
    strides = [abs(f) * p.q.stride for (p, _), f in zip(terms, factors, strict=True)]
    stride = int(np.gcd.reduce(strides)) if np.ptp(offset) == 0 else 1
    scaled = unit != 1
    name = ctx.name(output, "sum") if scaled else output
    y = Tensor(name, integer(lo, hi), left.tensor.shape, lo, hi, stride, ctx.twin(name), left.last)
    offsets = tuple(int(k) for k in np.broadcast_to(offset, left.tensor.shape[:1])) if offset.any() else ()
    op = Combine(x=a.q, others=(b.q,), y=y, factors=factors, offset=offsets, origin=(label(node),))
    total = Value(ctx.add(op), left.shape, left.last)
    return ctx.map(node, total, scalar_step("mul", unit), output) if scaled else total


def per_channel(a: Affine) -> bool:
    return a.rest.shape[1:] == (1, 1)


def several(ctx: Context, node: onnx.NodeProto, values: list[Value]) -> Known:
    """left op right op ... in this order."""
    total = values[0]
    for k, v in enumerate(values[1:], 2):
        name = node.output[0] if k == len(values) else ctx.name(node.output[0], f"{k}")
        total = between(ctx, OPERATIONS[node.op_type], node, total, v, name)
    return total


# the straight-through trick, sign - x + x -----------------------------------------------------------------------------


def straight_through(ctx: Context, node: onnx.NodeProto) -> Value | None:
    """The sign in Add(Sub(sign, x), x), whose reference becomes the sign itself; None for any other node."""
    a, b = node.input
    for first, second in ((a, b), (b, a)):
        sign, other = ctx.differences.get(first, (None, ""))
        if sign is not None and equivalent(ctx, other, second):
            twin = ctx.twins.get(sign.tensor.name) or sign.tensor.twin
            ctx.edits.replaced[node.output[0]] = [onnx.helper.make_node("Identity", [twin], [node.output[0]])]
            ctx.edits.reasons.append(
                (label(node), "sign(x) - x + x is sign(x); in float32 it can be off by one rounding")
            )
            return sign
    return None


def equivalent(ctx: Context, a: str, b: str) -> bool:
    """Whether two names hold the same value: one value, or the same arithmetic on one tensor (a clip that is written twice)."""
    u, v = ctx.values.get(a), ctx.values.get(b)
    return a == b or (isinstance(u, Value) and isinstance(v, Value) and same(ctx, u.tensor, v.tensor))


def same(ctx: Context, a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are made by the same ops from the same tensors."""
    open_, seen = [(a, b)], {(a.name, b.name)}
    while open_:
        s, t = open_.pop()
        if s.name == t.name:
            continue
        p, q = ctx.makers.get(s.name), ctx.makers.get(t.name)
        if not (p and q and type(p) is type(q) and len(p.inputs) == len(q.inputs) and same_fields(p, q)):
            return False
        new = [(u, v) for u, v in zip(p.inputs, q.inputs, strict=True) if (u.name, v.name) not in seen]
        seen.update((u.name, v.name) for u, v in new)
        open_ += new
    return True


def same_fields(p: Op, q: Op) -> bool:
    skipped = ("x", "y", "others", "origin")
    return all(equal(getattr(p, f.name), getattr(q, f.name)) for f in fields(p) if f.name not in skipped)


def equal(a: object, b: object) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(equal(u, v) for u, v in zip(a, b, strict=True))
    if isinstance(a, Step) and isinstance(b, Step):
        return a.operation == b.operation and np.array_equal(a.value, b.value)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(np.asarray(a), np.asarray(b))
    return a == b
