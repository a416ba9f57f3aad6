"""Ops on each value or each pixel by itself, and the normalisations over a pixel or a sample."""

from dataclasses import dataclass

import numpy as np

from bnncc.scalar import ROUGH, Cut, Floats, Operand, Step, apply_cut, apply_steps
from bnncc.tensor import Array, Elem, Op


@dataclass(frozen=True, kw_only=True, eq=False)
class Map(Op):
    """Elementwise float32 arithmetic in the reference's order, one rounding a step (BatchNorm, scales, biases, clips, sums).

    With an integer y its results are integers, lo..hi.
    """

    steps: tuple[Step | Operand, ...]

    @property
    def exact(self) -> bool:
        return not any(s.operation in ROUGH for s in self.steps)

    def evaluate(self, x: Array, *others: Array) -> Array:
        return apply_steps(x, self.steps, others).astype(self.y.elem.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Combine(Op):
    """The integer sum of factors[k] * inputs[k] + offset[c]: a residual stream of accumulators stays in integers."""

    factors: tuple[int, ...]
    offset: tuple[int, ...] = ()

    def evaluate(self, x: Array, *others: Array) -> Array:
        total = sum(f * v.astype(np.int64) for f, v in zip(self.factors, (x, *others), strict=True))
        return np.asarray(total + np.array(self.offset or 0, np.int64).reshape(-1, 1, 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Sign(Op):
    """x > 0 is +1, x < 0 and NaN are -1, and zero is `at_zero` (0: a ternary Sign, refused where zero is reachable)."""

    at_zero: int
    negate: bool = False

    def evaluate(self, x: Array, *_: Array) -> Array:
        bits = (x >= 0) if self.at_zero > 0 else (x > 0)
        return np.where(bits ^ self.negate, 1, -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Threshold(Op):
    """x >= level, per channel (and per pixel class); what becomes of Map and Sign."""

    cut: Cut

    def evaluate(self, x: Array, *_: Array) -> Array:
        return apply_cut(x, self.cut)


@dataclass(frozen=True, kw_only=True, eq=False)
class Norm(Op):
    """Normalisation over the channels of each pixel, or over all features of the sample."""

    epsilon: float
    features: bool  # over [C, H, W]; else over C

    @property
    def axes(self) -> tuple[int, ...]:
        return (1, 2, 3) if self.features else (1,)

    @property
    def count(self) -> int:
        """Values that are normalised together."""
        return self.x.size if self.features else self.x.shape[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Normalize(Norm):
    """(x - mean) / sqrt(var + epsilon) in float32."""

    @property
    def exact(self) -> bool:
        return False

    def evaluate(self, x: Array, *_: Array) -> Array:
        v = x.astype(np.float64)
        centred = v - v.mean(axis=self.axes, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=self.axes, keepdims=True) + self.epsilon)
        return np.asarray(centred / spread, np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class NormSign(Norm):
    """The sign of gamma * Normalize(x) + beta for integers x, without the division.

    With D = N x - sum x and V = N sum x^2 - (sum x)^2 over the N values normalised together, it is +1 where
    sign(gamma) * D >= rho * sqrt(V + N^2 epsilon), rho = -beta / |gamma|. `rho` [C or 1, H or 1, W or 1] is -inf or +inf where
    gamma = 0; `falling` of the same shape says where gamma < 0. `inverts`, if not empty, says which channels are then negated.
    """

    rho: Floats
    falling: Array
    strict: bool = False
    inverts: tuple[bool, ...] = ()

    @property
    def exact(self) -> bool:
        return False  # the reference itself rounds a mean and a variance, and can decide a tie otherwise

    def parts(self, x: Array) -> tuple[Array, Array]:
        """sign(gamma) * D, int64, and sqrt(V + N^2 epsilon), float32, for x [N, C, H, W]."""
        v = x.astype(np.int64)
        n = self.count
        total = v.sum(axis=self.axes, keepdims=True)
        d = n * v - total
        spread = n * (v * v).sum(axis=self.axes, keepdims=True) - total * total
        root = np.sqrt(spread.astype(np.float32) + np.float32(n * n * self.epsilon))
        return np.where(self.falling, -d, d), root

    def evaluate(self, x: Array, *_: Array) -> Array:
        d, root = self.parts(x)
        level = self.rho * root
        above = d.astype(np.float32) > level if self.strict else d.astype(np.float32) >= level
        return np.where(above ^ np.array(self.inverts or False).reshape(-1, 1, 1), 1, -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Softmax(Op):
    """Softmax over the channels of each pixel, or its logarithm."""

    log: bool = False

    @property
    def exact(self) -> bool:
        return False

    def evaluate(self, x: Array, *_: Array) -> Array:
        v = x.astype(np.float64)
        d = v - v.max(axis=1, keepdims=True)
        total = np.exp(d).sum(axis=1, keepdims=True)
        return np.asarray(d - np.log(total) if self.log else np.exp(d) / total, Elem.F32.dtype)
