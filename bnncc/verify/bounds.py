"""Rigorous bounds on the float32 rounding of real-valued layers, for tolerances that are derived and not chosen.

An op maps (value, error) to (value, error): value in float64, error a bound on how far any float32 evaluation, in whatever
order of summation, can be from it. Sums of n terms err by at most gamma_n * sum |terms| with gamma_n = n u / (1 - n u),
u = 2**-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2). Where the error of an input is zero both sides hold
the same float32, and elementwise arithmetic gives the same bits again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.graph import Graph
from bnncc.ops import (
    Concat,
    Conv,
    Map,
    MaxPool,
    Normalize,
    NormSign,
    Pad,
    Reshape,
    Slice,
    Softmax,
    Streamed,
    SumPool,
    Threshold,
    Transpose,
    Upsample,
)
from bnncc.scalar import Cut, Operand, Step, U, apply_cut, calculate, gamma
from bnncc.tensor import Elem, Op, Tensor

Array = NDArray[Any]
Doubles = NDArray[np.float64]
ROUGH = {"tanh": 2.0**-21, "sigmoid": 2.0**-21}  # how far the two sides' approximations can be apart


@dataclass(frozen=True)
class Bounded:
    """A batch of values with error bounds; `band` marks the bits that rounding may decide either way."""

    value: Array
    error: Doubles
    band: NDArray[np.bool_] | None = None


def exact(x: Array) -> Bounded:
    return Bounded(x, np.zeros(x.shape))


def apply(op: Op, *inputs: Bounded) -> Bounded:
    """The output of `op` with its bound."""
    x = inputs[0]
    match op:
        case Conv():
            return conv(op, *inputs)
        case Streamed():
            return apply(op.then, conv(op.conv, *inputs))
        case Map():
            made = steps(op.steps, x, inputs[1:])
            return Bounded(made.value.astype(op.y.elem.dtype), made.error)
        case Threshold():
            return cut(op.cut, x)
        case Normalize():
            return normalize(op, x)
        case NormSign():
            return norm_sign(op, x)
        case Softmax():
            return softmax(op, x)
        case SumPool() if op.x.elem is Elem.F32:
            terms, taps = op.spread(x.value.astype(np.float64), 0), (4, 5)
            total = op.slide(terms).sum(axis=taps)
            error = op.slide(op.spread(x.error, 0)).sum(axis=taps) + gamma(op.taps_per_channel) * op.slide(
                np.abs(terms)
            ).sum(axis=taps)
            return Bounded(total.astype(np.float32), error)
        case Pad():
            return Bounded(op.evaluate(x.value), replace(op, value=0).evaluate(x.error))
        case Concat():
            return Bounded(op.evaluate(*(i.value for i in inputs)), np.concatenate([i.error for i in inputs], axis=1))
        case MaxPool() if x.band is not None:
            low, high = (op.evaluate(np.where(x.band, bit, x.value)) for bit in (-1, 1))
            return Bounded(op.evaluate(x.value), np.zeros(low.shape), low != high)
        case Slice() | Reshape() | Transpose() | Upsample() if x.band is not None:
            return Bounded(*map(op.evaluate, (x.value, x.error, x.band)))
        case MaxPool() if op.x.elem is Elem.F32:
            return Bounded(op.evaluate(x.value), np.asarray(replace(op, minimum=()).evaluate(x.error), np.float64))
        case Slice() | Reshape() | Transpose() | Upsample() if op.x.elem is Elem.F32:
            return Bounded(op.evaluate(x.value), np.asarray(op.evaluate(x.error), np.float64))
        case _:
            return exact(op.evaluate(*(i.value for i in inputs)))


def conv(op: Conv, x: Bounded, *others: Bounded) -> Bounded:
    plain = replace(op, cut=None, steps=(), others=())
    if op.integer:
        total = exact(plain.evaluate(x.value))
    else:
        v = plain.terms(x.value)
        of_sums = gamma(op.taps + bool(op.start))
        start = tuple(of_sums * abs(b) for b in op.start)
        sizes = replace(plain, weight=np.abs(op.weight).astype(np.float32), start=start)
        error = sizes.accumulate(plain.spread(x.error, 0) + of_sums * np.abs(v))
        total = Bounded(plain.accumulate(v).astype(np.float32), np.asarray(error, np.float64))
    if op.cut:
        return cut(op.cut, total)
    return steps(op.steps, total, others) if op.steps else total


def steps(chain: Sequence[Step | Operand], x: Bounded, others: Sequence[Bounded] = ()) -> Bounded:
    value, error = x.value.astype(np.float32), x.error
    with np.errstate(all="ignore"):
        for s in chain:
            operand = exact(s.value) if isinstance(s, Step) else others[s.index]
            made = calculate(s.operation, value, operand.value.astype(np.float32))
            error = one_step(s.operation, value, error, operand, made)
            value = made
    return Bounded(value, error)


def one_step(operation: str, v: Array, e: Doubles, operand: Bounded, made: Array) -> Doubles:
    """The error of `made` = v op operand, where v errs by e; a float32 rounding on each side unless both inputs agree."""
    c, ec = np.abs(operand.value.astype(np.float64)), operand.error
    differs = (e > 0) | (ec > 0)
    rounding = 2 * U * np.abs(made.astype(np.float64))
    match operation:
        case "add" | "sub" | "rsub":
            error = e + ec + rounding
        case "mul":
            error = e * c + ec * np.abs(v.astype(np.float64)) + e * ec + rounding
        case "div":
            error = e / c + rounding
        case "prelu":
            error = e * np.maximum(1, c) + rounding
        case "max" | "min":
            error = np.maximum(e, ec)
        case "round" | "floor" | "ceil":
            error = e + 1
        case "tanh" | "sigmoid":
            return np.asarray(e + ROUGH[operation], np.float64)
        case _:
            error = e
    return np.where(differs, error, 0.0)


def cut(c: Cut, x: Bounded) -> Bounded:
    levels = c.levels[0][:, None, None] if c.classes is None else c.levels[c.classes].transpose(2, 0, 1)
    with np.errstate(invalid="ignore"):
        near = np.abs(x.value.astype(np.float64) - levels) <= x.error
    bits = apply_cut(x.value.astype(np.float32) if c.levels.dtype == np.float32 else x.value, c)
    return Bounded(bits, np.zeros(bits.shape), near & (x.error > 0))


def normalize(op: Normalize, x: Bounded) -> Bounded:
    """Both forms of the variance, the mean of squared distances and that of squares less the squared mean, are within the bound."""
    v = x.value.astype(np.float64)
    n = op.count

    def average(a: Array) -> Doubles:
        return np.asarray(a.mean(axis=op.axes, keepdims=True), np.float64)

    mean = average(v)
    centred = v - mean
    of_mean = average(x.error) + gamma(n) * average(np.abs(v))
    of_centred = x.error + of_mean + 2 * U * np.abs(centred)
    variance = average(centred**2)
    of_squares = average(np.abs(centred) * of_centred + of_centred**2)
    of_variance = 2 * gamma(n + 3) * average(v**2) + 2 * of_squares
    spread = np.sqrt(variance + op.epsilon)
    least = np.sqrt(np.maximum(variance + op.epsilon - of_variance, op.epsilon))
    value = centred / spread
    error = of_centred / least + np.abs(centred) * (1 / least - 1 / spread) + 6 * U * np.abs(value)
    return Bounded(value.astype(np.float32), error)


def norm_sign(op: NormSign, x: Bounded) -> Bounded:
    """The band is where the reference's normalised value, or the C's distance from the mean, may round across rho."""
    normalized = normalize(Normalize(x=op.x, y=op.y, epsilon=op.epsilon, features=op.features), x)
    value = np.where(op.falling, -normalized.value, normalized.value).astype(np.float64)
    rho = op.rho.astype(np.float64)
    with np.errstate(invalid="ignore"):
        near = np.abs(value - rho) <= normalized.error + 8 * U * (np.abs(value) + np.abs(rho))
    made = op.evaluate(x.value)
    return Bounded(made, np.zeros(made.shape), near)


def softmax(op: Softmax, x: Bounded) -> Bounded:
    v = x.value.astype(np.float64)
    value = op.evaluate(v)
    distance = v.max(axis=1, keepdims=True) - v
    of_logits = 2 * x.error.max(axis=1, keepdims=True) + 2 * U * distance
    relative = np.expm1(of_logits.max(axis=1, keepdims=True)) + 2 * (op.x.shape[0] + 16) * U
    if op.log:
        return Bounded(value, of_logits + relative + 4 * U * np.abs(value))
    return Bounded(value, np.abs(value) * (relative + np.expm1(of_logits)) + 2.0**-126)


def cached(graph: Graph, values: Mapping[str, Array], inputs: Array) -> Callable[[Tensor], Bounded]:
    """What a tensor is where every step gets the reference's own values, [N, C, H, W]: those of its twin, exactly, else what
    its op makes of its inputs. `values` are the reference's by name, `inputs` the samples."""
    known: dict[str, Bounded] = {graph.input.name: exact(inputs)}

    def find(t: Tensor) -> Bounded:
        if t.name not in known:
            op = graph.producer(t)
            assert op is not None
            known[t.name] = exact(t.from_reference(values)) if t.twin else apply(op, *map(find, op.inputs))
        return known[t.name]

    return find


def run(graph: Graph, x: Array, bits: Mapping[str, Array]) -> dict[str, Bounded]:
    """Every tensor of the graph with its bound, for inputs [N, C, H, W]; outputs under "output:NAME".

    `bits` holds the reference's binary tensors: where rounding may decide, the bounds of what follows take its decision.
    """
    values = {graph.input.name: exact(np.asarray(x, dtype=graph.input.elem.dtype))}
    for op in graph.ops:
        made = apply(op, *(values[t.name] for t in op.inputs))
        values[op.y.name] = Bounded(bits[op.y.name], made.error, made.band) if op.y.name in bits else made
    for o in graph.outputs:
        values[f"output:{o.name}"] = steps(o.steps, values[o.tensor.name]) if o.steps else values[o.tensor.name]
    return values
