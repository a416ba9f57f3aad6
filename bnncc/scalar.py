"""Scalar arithmetic on the way from an accumulator to a bit: float32 steps, and thresholds found by evaluating them.

onnxruntime's CPU BatchNormalization is s = gamma * (1 / sqrt(v + eps)); y = x * s + (beta - mu * s), every operation rounded
to float32 and nothing fused. No closed formula for the threshold survives that, so it is searched: each step is
monotone in x, hence so is the predicate "result >= 0", and bisection over the ordered inputs is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Array = NDArray[Any]

BINARY = ("mul", "add", "sub", "rsub", "div", "max", "min", "prelu")
UNARY = ("round", "floor", "ceil", "abs", "tanh", "sigmoid")
ROUGH = ("tanh", "sigmoid")  # onnxruntime approximates them: close, not bit for bit
NOTHING = np.zeros((1, 1, 1), np.float32)
U = 2.0**-24  # the unit roundoff of float32


def gamma(n: int) -> float:
    """How far a float32 sum of n products can be from the exact one, relative to the sum of their magnitudes, in any order.

    Higham, Accuracy and Stability of Numerical Algorithms, section 4.2.
    """
    return n * U / (1 - n * U)


def calculate(operation: str, x: Array, c: Array) -> Array:
    """x op c (rsub: c - x; prelu: x * c below 0) in x's own precision; unary operations ignore c."""
    match operation:
        case "mul":
            r = x * c
        case "add":
            r = x + c
        case "sub":
            r = x - c
        case "rsub":
            r = c - x
        case "div":
            r = x / c
        case "max":
            r = np.where(x < c, c, x)  # of -0.0 and 0.0 onnxruntime keeps x, whichever it is
        case "min":
            r = np.where(x > c, c, x)
        case "prelu":
            r = np.where(x < 0, x * c, x)
        case "round":
            r = np.rint(x)
        case "floor" | "ceil" | "abs" | "tanh":
            r = getattr(np, operation)(x)
        case _:
            r = 1 / (1 + np.exp(-x))
    return np.asarray(r, dtype=x.dtype)


@dataclass(frozen=True, eq=False)
class Step:
    """One float32 operation with a constant. `value` broadcasts over [C, H, W]: (1 or C, 1 or H, 1 or W)."""

    operation: str
    value: Floats = field(default_factory=lambda: NOTHING)

    def __post_init__(self) -> None:
        assert self.operation in BINARY + UNARY
        assert self.value.ndim == 3
        assert self.value.dtype == np.float32

    def __call__(self, x: Array) -> Array:
        """The step in x's own precision (float32, but where its exact meaning is asked for)."""
        return calculate(self.operation, x, self.value.astype(x.dtype, copy=False))

    @property
    def monotone(self) -> bool:
        """Whether it keeps the order of its inputs, or reverses it, in every channel."""
        return self.operation != "abs" and (self.operation != "prelu" or not (self.value < 0).any())


@dataclass(frozen=True)
class Operand:
    """One float32 operation with another tensor: x op others[index], which has x's shape or [C, 1, 1]."""

    operation: str
    index: int

    def __post_init__(self) -> None:
        assert self.operation in BINARY


def step(operation: str, value: object) -> Step:
    """A Step whose constant is given per tensor (a scalar), per channel ([C]) or in full ([C, H, W])."""
    c = np.asarray(value, dtype=np.float32)
    return Step(operation, c.reshape((-1, 1, 1)) if c.ndim < 2 else c)


def batch_norm(gamma: Floats, beta: Floats, mean: Floats, var: Floats, epsilon: float) -> tuple[Step, Step]:
    """BatchNormalization as onnxruntime's CPU provider computes it, in two steps: x * s, then + (beta - mean * s)."""
    with np.errstate(all="ignore"):
        inverse = np.float32(1) / np.sqrt((var + np.float32(epsilon)).astype(np.float32))
        scale = (gamma * inverse).astype(np.float32)
        offset = (beta - (mean * scale).astype(np.float32)).astype(np.float32)
    return step("mul", scale), step("add", offset)


def apply_steps(
    x: Array, steps: Sequence[Step | Operand], others: Sequence[Array] = (), *, dtype: type[Any] = np.float32
) -> Array:
    """The steps, in order, on x [..., C, H, W] converted to float32 (or to float64, for what they mean without rounding)."""
    v = x.astype(dtype)
    with np.errstate(all="ignore"):
        for s in steps:
            v = s(v) if isinstance(s, Step) else calculate(s.operation, v, others[s.index].astype(dtype))
    return v


@dataclass(frozen=True, eq=False)
class Cut:
    """bit = (x >= level) ^ invert, with levels [classes, C] (int64 or float32) and inverts [classes, C].

    `classes` [H, W] says which row a pixel uses; None when all pixels use row 0. An integer level above every reachable
    value means never, one at the lowest means always. `near` counts the channels in which the file's own float sum, where
    that is not exact, is close enough to the threshold at some reachable integer to decide otherwise.
    """

    levels: Array
    inverts: NDArray[np.bool_]
    classes: NDArray[np.int64] | None = None
    near: int = 0

    @property
    def channels(self) -> int:
        return int(self.levels.shape[1])


def apply_cut(x: Array, cut: Cut) -> Array:
    """-1/+1 for x [N, C, H, W]."""
    if cut.classes is None:
        levels, inverts = cut.levels[0][:, None, None], cut.inverts[0][:, None, None]
    else:
        levels = cut.levels[cut.classes].transpose(2, 0, 1)
        inverts = cut.inverts[cut.classes].transpose(2, 0, 1)
    return np.where((x >= levels) ^ inverts, 1, -1)


def float_order(bits: NDArray[np.int64]) -> Floats:
    """Integers -> float32, increasing: 0 is +0.0, 0x7f800000 is +inf, -1 is -0.0."""
    raw = np.where(bits >= 0, bits, -1 - bits + 0x80000000)
    return raw.astype(np.uint32).view(np.float32)


FLOAT_LO, FLOAT_HI = -0x7F800000, 0x7F7FFFFF  # the least and the largest finite float32 in float_order


def bisect(predicate: "Predicate", lo: int, hi: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each of many monotone predicates over the integers lo..hi changes.

    Returns (level, falling): predicate(x) == (x >= level) ^ falling. A constant predicate gets level lo (true) or hi + 1
    (false) and is not falling.
    """
    first, last = predicate(lo), predicate(hi)
    low = np.full(first.shape, lo, np.int64)
    high = np.full(first.shape, hi, np.int64)
    changes = first != last
    # invariant where it changes: predicate(low) == first, predicate(high) == last
    while True:
        open_ = changes & (high - low > 1)
        if not open_.any():
            break
        middle = low + (high - low) // 2
        same = predicate(middle) == first
        low = np.where(open_ & same, middle, low)
        high = np.where(open_ & ~same, middle, high)
    constant = np.where(first, lo, hi + 1)
    return np.where(changes, high, constant), changes & first


class Predicate:
    """sign(steps(x)) per element of an [C, H, W] grid of channels and pixels, x given as one integer or one each."""

    def __init__(self, steps: Sequence[Step], shape: tuple[int, int, int], *, floats: bool, strict: bool) -> None:
        self.steps, self.shape, self.floats, self.strict = steps, shape, floats, strict

    def value(self, x: "int | NDArray[np.int64]") -> Floats:
        """steps(x)."""
        v = np.broadcast_to(np.asarray(x, dtype=np.int64), self.shape)
        return np.broadcast_to(apply_steps(float_order(v) if self.floats else v, self.steps), self.shape)

    def __call__(self, x: "int | NDArray[np.int64]") -> NDArray[np.bool_]:
        y = self.value(x)
        return (y > 0) if self.strict else (y >= 0)


def find_cut(
    steps: Sequence[Step],
    shape: tuple[int, int, int],
    bounds: tuple[int, int] | None,
    *,
    strict: bool,
    negate: bool = False,
) -> Cut:
    """The threshold that equals `sign(steps(x))` for every x, bit for bit.

    shape is [C, H, W]; bounds are an integer's reachable lo..hi (|x| <= 2**24, so that float32 holds them), or None for float32
    inputs (finite ones). strict means +1 only above zero, negate swaps the outcome. NaN compares false. Constants that
    differ between pixels give one class for each distinct row.
    """
    per_pixel = any(s.value.shape[1:] != (1, 1) for s in steps)
    rows, columns, steps = distinct_pixels(steps, shape)
    grid = (shape[0], int(rows.max()) + 1, int(columns.max()) + 1)
    predicate = Predicate(steps, grid, floats=bounds is None, strict=strict)
    lo, hi = bounds or (FLOAT_LO, FLOAT_HI)
    level, falling = bisect(predicate, lo, hi)
    # overflow times zero: NaN at both ends around what is the same for every x that does not overflow
    dead = np.isnan(predicate.value(lo)) & np.isnan(predicate.value(hi)) & predicate(0)
    level, inverts = np.where(dead, lo, level), falling ^ negate
    levels: Array = level
    if bounds is None:  # "always" is -inf; "never" is NaN: nothing, +inf included, compares >= to it
        levels = float_order(np.minimum(level, hi))
        levels = np.where(level > hi, np.float32(np.nan), np.where(level == lo, np.float32(-np.inf), levels))
    flat_levels = levels.reshape(grid[0], -1).T
    flat_inverts = inverts.reshape(grid[0], -1).T
    if not per_pixel:
        return Cut(flat_levels, flat_inverts)
    both = np.concatenate([flat_levels.astype(np.float64), flat_inverts.astype(np.float64)], axis=1)
    unique, firsts, index = np.unique(both, axis=0, return_index=True, return_inverse=True)
    if len(unique) == 1:
        return Cut(flat_levels[:1], flat_inverts[:1])
    classes = index.reshape(grid[1:])[rows][:, columns]
    return Cut(flat_levels[firsts], flat_inverts[firsts], classes)


def distinct_pixels(
    steps: Sequence[Step], shape: tuple[int, int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Step]]:
    """The kind of each row [H] and of each column [W] of pixels, and the steps on one row and one column of each kind.

    Rows (columns) are of one kind if every constant is the same in both; where padding made them differ, few are.
    """
    steps, kinds = list(steps), []
    for axis in (1, 2):
        wide = [np.moveaxis(s.value, axis, 0) for s in steps if s.value.shape[axis] > 1]
        seen: dict[bytes, int] = {}
        kind = [seen.setdefault(b"".join(v[k].tobytes() for v in wide), len(seen)) for k in range(shape[axis])]
        kinds.append(np.array(kind, np.int64))
        firsts = np.unique(kinds[-1], return_index=True)[1]
        steps = [Step(s.operation, s.value.take(firsts, axis)) if s.value.shape[axis] > 1 else s for s in steps]
    return kinds[0], kinds[1], steps


def near_channels(
    cut: Cut, steps: Sequence[Step], shape: tuple[int, int, int], bounds: tuple[int, int], error: float
) -> int:
    """Channels of an integer `cut` in which an accumulator off by up to `error` can fall on the other side."""
    rows, columns, steps = distinct_pixels(steps, shape)
    firsts = [np.unique(kind, return_index=True)[1] for kind in (rows, columns)]
    if cut.classes is None:
        levels = cut.levels[0][:, None, None]
    else:
        levels = cut.levels[cut.classes[np.ix_(*firsts)]].transpose(2, 0, 1)
    at = np.broadcast_to(levels, (shape[0], len(firsts[0]), len(firsts[1]))).astype(np.float64)
    # The steps may jump (floor): they are asked at both ends of what the error allows, not for their slope.
    above, under_above, below, under_below = (
        apply_steps(v, steps, dtype=np.float64) for v in (at + error, at - error, at - 1 + error, at - 1 - error)
    )
    close = (above * under_above <= 0) | (below * under_below <= 0)
    return int((close & (at > bounds[0]) & (at <= bounds[1])).any(axis=(1, 2)).sum())
