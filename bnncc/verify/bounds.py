"""Rigorous bounds on the float32 rounding of real-valued layers, for tolerances that are derived and not chosen.

An op maps (value, error) to (value, error): value in float64, error a bound on how far any float32 evaluation, in whatever
order of summation, can be from it. Sums of n terms err by at most gamma_n * sum |terms| with gamma_n = n u / (1 - n u),
u = 2**-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2). Where the error of an input is zero both sides hold
the same float32, and elementwise arithmetic gives the same bits again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.graph import Conv, Elem, Graph, Map, MaxPool, Op, Sum, Threshold, pad_hw
from bnncc.scalar import Cut, Step, apply_cut

Array = NDArray[Any]
Doubles = NDArray[np.float64]
U = 2.0**-24


@dataclass(frozen=True)
class Bounded:
    """A batch of values with error bounds; `band` marks the bits that rounding may decide either way."""

    value: Array
    error: Doubles
    band: NDArray[np.bool_] | None = None


def exact(x: Array) -> Bounded:
    return Bounded(x, np.zeros(x.shape))


def gamma(n: int) -> float:
    return n * U / (1 - n * U)


def apply(op: Op, x: Bounded) -> Bounded:
    """The output of `op` with its bound."""
    if isinstance(op, Conv):
        return conv(op, x)
    if isinstance(op, Map):
        return steps(op.steps, x)
    if isinstance(op, Threshold):
        return cut(op.cut, x)
    if isinstance(op, Sum) and op.x.elem is Elem.F32:
        total = x.value.astype(np.float64).sum(axis=(2, 3), keepdims=True)
        size = np.abs(x.value.astype(np.float64)).sum(axis=(2, 3), keepdims=True)
        error = x.error.sum(axis=(2, 3), keepdims=True) + gamma(op.x.shape[1] * op.x.shape[2]) * size
        return Bounded(total, error)
    if isinstance(op, MaxPool) and op.x.elem is Elem.F32:
        return Bounded(op.evaluate(x.value), np.asarray(op.evaluate(x.error), np.float64))
    y = op.evaluate(x.value)
    return exact(y)


def conv(op: Conv, x: Bounded) -> Bounded:
    if op.x.elem is not Elem.F32:
        return exact(op.evaluate(x.value))
    v = op.inputs(x.value)
    magnitudes = Conv(**{**op.__dict__, "weight": np.ones_like(op.weight)})
    error = magnitudes.accumulate(pad_hw(x.error, op.pads, 0) + gamma(op.taps) * np.abs(v))
    total = Bounded(op.accumulate(v), np.asarray(error, np.float64))
    return cut(op.cut, total) if op.cut else total


def steps(chain: tuple[Step, ...], x: Bounded) -> Bounded:
    value, error = x.value.astype(np.float32), x.error
    for s in chain:
        c = np.abs(s.value.astype(np.float64))
        value = s(value)
        scale = c if s.operation == "mul" else 1 / c if s.operation == "div" else 1.0
        rounding = 0.0 if s.operation in ("max", "min") else U * np.abs(value.astype(np.float64))
        error = np.where(error > 0, error * scale + 2 * rounding, 0)
    return Bounded(value, error)


def cut(c: Cut, x: Bounded) -> Bounded:
    levels = c.levels[0][:, None, None] if c.classes is None else c.levels[c.classes].transpose(2, 0, 1)
    with np.errstate(invalid="ignore"):
        near = np.abs(x.value.astype(np.float64) - levels) <= x.error
    bits = apply_cut(x.value.astype(np.float32) if c.levels.dtype == np.float32 else x.value, c)
    return Bounded(bits, np.zeros(bits.shape), near & (x.error > 0))


def run(graph: Graph, x: Array, bits: Mapping[str, Array]) -> dict[str, Bounded]:
    """Every tensor of the graph with its bound, for inputs [N, C, H, W]; outputs under "output:NAME".

    `bits` holds the reference's binary tensors: where rounding may decide, the bounds of what follows take its decision.
    """
    values = {graph.input.name: exact(np.asarray(x, dtype=graph.input.elem.dtype))}
    for op in graph.ops:
        made = apply(op, values[op.x.name])
        values[op.y.name] = Bounded(bits[op.y.name], made.error, made.band) if op.y.name in bits else made
    for o in graph.outputs:
        values[f"output:{o.name}"] = steps(o.steps, values[o.tensor.name]) if o.steps else values[o.tensor.name]
    return values
