"""Ops that only move values: they hold for every element type, and are exact."""

from dataclasses import dataclass

import numpy as np

from bnncc.tensor import Array, Op


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Op):
    """The channels of all inputs, one after the other; integers are widened to y's type, -1 and +1 become numbers."""

    def evaluate(self, x: Array, *others: Array) -> Array:
        return np.concatenate([v.astype(self.y.elem.dtype) for v in (x, *others)], axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice(Op):
    """Channels, rows and columns from `start` in steps of `step`, as many as y has."""

    start: tuple[int, int, int]
    step: tuple[int, int, int] = (1, 1, 1)

    def evaluate(self, x: Array, *_: Array) -> Array:
        c, h, w = (slice(s, s + n * d, d) for s, n, d in zip(self.start, self.y.shape, self.step, strict=True))
        return x[:, c, h, w]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pad(Op):
    """A border of a constant, `before` each axis and after it as much as y has room for."""

    before: tuple[int, int, int]
    value: float

    def evaluate(self, x: Array, *_: Array) -> Array:
        ends = zip(self.before, self.x.shape, self.y.shape, strict=True)
        widths = [(0, 0), *((b, n - m - b) for b, m, n in ends)]
        return np.pad(x, widths, constant_values=np.asarray(self.value, x.dtype))


@dataclass(frozen=True, kw_only=True, eq=False)
class Reshape(Op):
    """The same values in the order of [C, H, W] under another shape."""

    def evaluate(self, x: Array, *_: Array) -> Array:
        return x.reshape(-1, *self.y.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Transpose(Op):
    """Axis k of y is axis axes[k] of x, of C, H, W."""

    axes: tuple[int, int, int]

    def evaluate(self, x: Array, *_: Array) -> Array:
        return x.transpose(0, *(1 + a for a in self.axes))


@dataclass(frozen=True, kw_only=True, eq=False)
class Upsample(Op):
    """Each pixel repeated factors[0] times down and factors[1] times across: nearest neighbour."""

    factors: tuple[int, int]

    def evaluate(self, x: Array, *_: Array) -> Array:
        return x.repeat(self.factors[0], axis=2).repeat(self.factors[1], axis=3)
