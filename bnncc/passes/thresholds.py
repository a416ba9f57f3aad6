"""Every sign becomes a comparison: with integers or float32 levels found by evaluating, or with a row's norm."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, product

import numpy as np

from bnncc.errors import Diagnostic, raise_all
from bnncc.graph import Graph, needed
from bnncc.ops import MOVES, Conv, Map, MaxPool, Normalize, NormSign, Pad, Sign, Threshold
from bnncc.passes.maps import constant_steps, joined
from bnncc.scalar import NOTHING, Cut, Floats, Operand, Step, apply_steps, calculate, find_cut, near_channels
from bnncc.tensor import Elem, Op, Tensor


def find_thresholds(graph: Graph) -> Graph:
    """sign(steps(x)) becomes x >= T, found by evaluating the steps. Refuses a ternary Sign that can meet zero (E0304)."""
    out: list[Op] = []
    problems: list[Diagnostic] = []
    often = frequent(graph)
    for op in graph.ops:
        if not isinstance(op, Sign):
            out.append(op)
            continue
        maker = graph.producer(op.x)
        steps = before_sign(constant_steps(maker))
        if isinstance(maker, Normalize):
            out.append(norm_sign(graph, maker, (), op, problems) or threshold(graph, often, op, op.x, (), problems))
        elif maker is None or steps is None:
            out.append(threshold(graph, often, op, op.x, (), problems))
        elif not isinstance(norm := graph.producer(maker.x), Normalize):
            made = threshold(graph, often, replace(op, origin=joined(maker, op)), maker.x, steps, problems)
            out.append(threshold(graph, often, op, op.x, (), []) if made_anyway(graph, maker) else made)
        else:
            out.append(norm_sign(graph, norm, steps, op, problems) or threshold(graph, often, op, op.x, (), problems))
    raise_all(problems)
    return graph.with_ops(needed(graph.with_ops(out), [o.tensor for o in graph.outputs]))


def made_anyway(graph: Graph, maker: Op) -> bool:
    """Whether something else than signs reads what the Map makes, and nothing else what it reads: then it becomes part of the
    convolution before it if the signs read its float32 too, and the sums are never stored."""
    conv = graph.producer(maker.x)
    alone = isinstance(conv, Conv) and not conv.file_error and not graph.is_output(maker.x)
    return alone and graph.users(maker.x) == [maker] and not all(isinstance(u, Sign) for u in graph.users(maker.y))


def before_sign(steps: tuple[Step, ...] | None) -> tuple[Step, ...] | None:
    """The steps that a threshold can take in: monotone ones, without a last tanh, which keeps the sign; else None."""
    while steps and steps[-1].operation == "tanh":
        steps = steps[:-1]
    return (
        steps
        if steps is not None and all(s.monotone and s.operation not in ("tanh", "sigmoid") for s in steps)
        else None
    )


def threshold(
    graph: Graph,
    often: Mapping[str, Sequence[Floats]],
    op: Sign,
    x: Tensor,
    steps: tuple[Step, ...],
    problems: list[Diagnostic],
) -> Threshold:
    bounds = (x.lo, x.hi) if x.elem.is_integer else None
    cut = find_cut(steps, x.shape, bounds, strict=op.at_zero <= 0, negate=op.negate)
    if op.at_zero == 0:
        at = find_cut(steps, x.shape, bounds, strict=False, negate=op.negate)
        if x.elem.is_integer:
            problems += reachable_zero(op, x, cut, at)
        elif is_often_zero(often.get(x.name, ()), steps):
            why = "its input, the model's own, rounded, of integers, or of what a ReLU or a clip cut off, is exactly zero at times"
            problems.append(refused(op, why))
        elif is_flat_at_zero(cut, at):
            problems.append(refused(op, "rounding or clipping makes it exactly zero over a whole range of values"))
    maker = graph.producer(x)
    if isinstance(maker, Conv) and maker.file_error and bounds:
        cut = replace(cut, near=near_channels(cut, steps, x.shape, bounds, maker.file_error))
    return Threshold(x=x, y=op.y, origin=op.origin, cut=cut)


def reachable_zero(op: Sign, x: Tensor, above: Cut, at: Cut) -> Iterator[Diagnostic]:
    """`above` cuts at > 0 and `at` at >= 0; an integer between the two makes the reference's Sign give 0, which is no bit.

    Real values that are exactly zero are another matter: see docs/exactness.md.
    """
    if above.levels.shape != at.levels.shape:
        ambiguous = np.array([True])
    else:
        low, high = np.minimum(above.levels, at.levels), np.maximum(above.levels, at.levels)
        first = low + (x.lo - low) % x.stride  # the first reachable value at or above low
        ambiguous = ((first < high) & (first <= x.hi) & (first >= x.lo)).any(axis=0) | (
            above.inverts != at.inverts
        ).any(axis=0)
    if ambiguous.any():
        yield refused(op, f"it can meet zero in {int(ambiguous.sum())} of {op.y.shape[0]} channels")


def refused(op: Sign, why: str) -> Diagnostic:
    return Diagnostic(
        "E0304",
        f"Sign has no value at zero, where ONNX gives 0, neither -1 nor +1: {why}",
        op.where,
        "export sign as Where(x >= 0, 1, -1), put a BatchNorm before it, or say --sign-at-zero=+1 or -1",
    )


def is_flat_at_zero(above: Cut, at: Cut) -> bool:
    """Whether more real values lie between > 0 and >= 0 than float32's rounding puts there."""
    if above.levels.shape != at.levels.shape:
        return True
    ends = [np.where(np.isnan(c.levels), np.inf, c.levels).astype(np.float64) for c in (above, at)]
    low, high = np.minimum(*ends), np.maximum(*ends)
    apart = low < high
    endless = apart & (np.isinf(low) | np.isinf(high))
    width = np.subtract(high, low, where=apart & ~endless, out=np.zeros_like(low))
    return bool((endless | (width > np.maximum(1e-3 * np.maximum(np.abs(low), np.abs(high)), 1e-6))).any())


def is_often_zero(often: Sequence[Floats], steps: tuple[Step, ...]) -> bool:
    """Whether the steps make real values exactly zero by more than chance, of which those in `often` are frequent."""
    values = list(often)
    for s in steps:
        values = followed(values, s, [])
    return any((v == 0).any() for v in values)


ROUNDING = ("round", "floor", "ceil")
LEVELS = 256  # magnitudes of weights with which sums of bits repeat
FREQUENT = 16  # of a tensor; more are not followed


def frequent(graph: Graph) -> dict[str, list[Floats]]:
    """The values, [1 or C, 1 or H, 1 or W], that real tensors take exactly and often: small integers, an input's zeros, bounds of clips.

    What is computed of them is among them too: +1 of one clip and -1 of another are 0 in their sum.
    """
    found: dict[str, list[Floats]] = {graph.input.name: [NOTHING]} if graph.input.elem is Elem.F32 else {}
    if not any(isinstance(op, Sign) and op.at_zero == 0 for op in graph.ops):
        return found
    for op in graph.ops:
        inputs = [integers(t) if t.elem.is_integer else found.get(t.name, []) for t in op.inputs]
        if op.y.elem is not Elem.F32:
            continue
        values: list[Floats] = []
        if isinstance(op, Map):
            values = inputs[0]
            for s in op.steps:
                values = followed(values, s, inputs[1:])
        elif isinstance(op, (MaxPool, *MOVES)):  # which move channels
            values = [v[:1, :1, :1] for v in chain(*inputs) if (v == v.flat[0]).all()]
            values += [NOTHING for v in chain(*inputs) if (v == 0).any()]
            values += [np.full((1, 1, 1), op.value, np.float32)] if isinstance(op, Pad) else []
        elif isinstance(op, Conv) and of_few_levels(op):
            values = [NOTHING]
        found[op.y.name] = distinct(values)[:FREQUENT]  # of which other tensors' are made
    return found


def integers(x: Tensor) -> list[Floats]:
    """What a tensor of integers holds: all of a few hundred, or the smallest magnitudes."""
    values = range(x.lo, x.hi + 1, x.stride)
    if len(values) > FREQUENT**2:
        half, middle = FREQUENT**2 // 2 * x.stride, x.lo % x.stride
        values = range(max(x.lo, middle - half), min(x.hi, middle + half) + 1, x.stride)
    return [np.full((1, 1, 1), v, np.float32) for v in values]


def of_few_levels(op: Conv) -> bool:
    """Whether real weights, all multiples of one small number, can sum integers up to exactly zero, as those of a fixed blur."""
    largest = float(np.abs(op.weight).max())
    if not op.x.elem.is_integer or largest == 0 or any(op.start):
        return False
    levels = op.weight * (LEVELS / 2.0 ** np.frexp(largest)[1])
    if (levels != np.rint(levels)).any():
        return False
    units = (levels / np.gcd.reduce(levels.astype(np.int64), axis=None)).astype(np.int64)
    odd = units.reshape(len(units), -1).sum(axis=1) % 2 == 1
    return not (op.x.elem is Elem.BIN and odd.all() and not any(op.pads))  # of bits, an odd sum is not zero


def followed(values: list[Floats], s: Step | Operand, others: list[list[Floats]]) -> list[Floats]:
    """The frequent values behind a step."""
    if isinstance(s, Operand):
        pairs = product(values, others[s.index][:FREQUENT])
        return distinct([np.asarray(calculate(s.operation, a, b), np.float32) for a, b in pairs])
    values = [apply_steps(v, (s,)) for v in values]
    if s.operation in ("max", "min"):
        return distinct([*values, s.value])
    return distinct([*values, NOTHING]) if s.operation in ROUNDING else values


def distinct(values: list[Floats]) -> list[Floats]:
    """Each value once, and those that are nearest to zero first: a chain of ReLUs does not make them more and more."""
    once = {(v.shape, v.tobytes()): v for v in values}.values()
    return sorted(once, key=lambda v: float(np.abs(v).min()))[: FREQUENT**2]


def norm_sign(
    graph: Graph, norm: Normalize, steps: tuple[Step, ...], op: Sign, problems: list[Diagnostic]
) -> NormSign | None:
    """The sign of gamma * normalize(x) + beta, for x that is an integer times a power of two; None for other forms."""
    scaled = graph.producer(norm.x)
    before = constant_steps(scaled) or ()
    x = scaled.x if scaled and before else norm.x
    scale = uniform_scale(before)
    slope = linear(steps)
    if not x.elem.is_integer or scale is None or slope is None or norm.count * squares(x) * norm.count >= 1 << 62:
        return None
    epsilon = norm.epsilon / scale**2
    if not 1e-30 < epsilon * norm.count**2 < 1e30:  # the C's square root is of float32
        return None
    gamma, beta = slope
    if op.at_zero == 0 and (beta == 0).any():
        problems.append(refused(op, "the layer normalisation before it has channels without a bias, and the mean is 0"))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        constant = np.where((beta > 0) | ((beta == 0) & (op.at_zero > 0)), -np.inf, np.inf)
        rho = np.where(gamma == 0, constant, -beta / np.abs(gamma)).astype(np.float32)
    return NormSign(
        x=x,
        y=op.y,
        origin=joined(*(p for p in (scaled, norm) if p and p.y.name != x.name), op),
        epsilon=epsilon,
        features=norm.features,
        rho=rho,
        falling=gamma < 0,
        strict=op.at_zero <= 0,
        inverts=(True,) * x.shape[0] if op.negate else (),
    )


def squares(x: Tensor) -> int:
    return max(abs(x.lo), abs(x.hi)) ** 2


def uniform_scale(steps: tuple[Step, ...]) -> float | None:
    """The product of steps that all multiply by one power of two; None for others."""
    scale = 1.0
    for s in steps:
        if s.operation not in ("mul", "div") or s.value.size != 1 or abs(np.frexp(s.value.flat[0])[0]) != 0.5:
            return None
        scale = scale * float(s.value.flat[0]) if s.operation == "mul" else scale / float(s.value.flat[0])
    return scale if 2.0**-100 < scale < 2.0**100 else None


def linear(steps: tuple[Step, ...]) -> tuple[Floats, Floats] | None:
    """gamma and beta of steps that are at most a product and then a sum; None for others."""
    gamma, beta = np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32)
    for k, s in enumerate(steps):
        if s.operation == "mul" and k == 0:
            gamma = s.value
        elif s.operation == "add" and k == len(steps) - 1:
            beta = s.value
        else:
            return None
    return tuple(np.broadcast_arrays(gamma, beta))  # type: ignore[return-value]
