"""Ops over windows: convolution and pooling."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnncc.scalar import ROUGH, Cut, Operand, Step, apply_cut, apply_steps
from bnncc.tensor import Array, Elem, Op


def windows(x: Array, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]) -> Array:
    """Sliding windows of a padded batch [N, C, H, W] as [N, C, Ho, Wo, kh, kw] (a view)."""
    span = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    v = np.lib.stride_tricks.sliding_window_view(x, span, axis=(2, 3))
    return v[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Window(Op):
    """Geometry shared by convolution and pooling, all in pixels.

    `pads` are (top, left, bottom, right); a negative one crops. `up` is the input's own stride: input pixel i stands at
    i * up, with nothing between (a transposed convolution of stride s is a convolution with up = s).
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    up: tuple[int, int] = (1, 1)

    @property
    def taps_per_channel(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def reach(self) -> tuple[int, int, int, int]:
        """How far the windows reach over each edge of the input (top, left, bottom, right); negative: not up to it."""
        ends = []
        for axis in (0, 1):
            size = (self.x.shape[1 + axis] - 1) * self.up[axis] + 1
            last = (self.y.shape[1 + axis] - 1) * self.strides[axis] + (self.kernel[axis] - 1) * self.dilations[axis]
            ends.append(last + 1 - self.pads[axis] - size)
        return self.pads[0], self.pads[1], ends[0], ends[1]

    @property
    def sparse(self) -> bool:
        """Whether windows have taps between the input's pixels."""
        return self.up != (1, 1)

    @property
    def padded(self) -> bool:
        """Whether some tap of some window is at no pixel of the input."""
        return self.sparse or max(self.reach) > 0

    @property
    def whole(self) -> bool:
        """Whether the one window is the whole input."""
        return self.kernel == self.x.shape[1:] and self.y.pixels == 1 and not self.padded and self.dilations == (1, 1)

    def at_pixels(self, axis: int) -> NDArray[np.bool_]:
        """Which taps of each row (axis 0) or column (1) of windows are at pixels of the input: [Ho, kh] or [Wo, kw]."""
        windows, taps = np.arange(self.y.shape[1 + axis]), np.arange(self.kernel[axis])
        at = windows[:, None] * self.strides[axis] + taps * self.dilations[axis] - self.pads[axis]
        return np.asarray((at >= 0) & (at < self.x.shape[1 + axis] * self.up[axis]) & (at % self.up[axis] == 0))

    def spread(self, x: Array, fill: float) -> Array:
        """x [N, C, H, W] on the grid that windows slide over: spread by `up`, padded or cropped to what they reach."""
        if self.sparse:
            n, c, h, w = x.shape
            grid = np.zeros((n, c, (h - 1) * self.up[0] + 1, (w - 1) * self.up[1] + 1), x.dtype)
            grid[:, :, :: self.up[0], :: self.up[1]] = x
            x = grid
        top, left, bottom, right = self.reach
        x = x[:, :, max(0, -top) : x.shape[2] - max(0, -bottom), max(0, -left) : x.shape[3] - max(0, -right)]
        edges = ((0, 0), (0, 0), (max(0, top), max(0, bottom)), (max(0, left), max(0, right)))
        return np.pad(x, edges, constant_values=fill)

    def slide(self, v: Array) -> Array:
        """The windows [N, C, Ho, Wo, kh, kw] of a grid made by `spread`."""
        return windows(v, self.kernel, self.strides, self.dilations)[:, :, : self.y.shape[1], : self.y.shape[2]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv(Window):
    """Convolution; a dense layer is one whose kernel covers the whole input.

    Weights [O, C / groups, kh, kw] are int8 of -1 and +1, or float32. Binary weights take an integer input as
    `mul * x - zero[c]`. Padding contributes `pad_value`, its negative where x is negated: 0 is neither -1 nor +1, and such taps
    count for nothing. The accumulator becomes a bit at once with `cut`, or a float32 with `steps`. `file_error` bounds how far the
    file's own float sum can be from the accumulator, in its units; 0 where that is exact. Float weights lie in flash as `storage`
    says: "f32", "f16", or "i8" times one of `scales` per output channel; `weight` holds their values, which these give without rounding.

    `order` says how the reference sums real values, which no result depends on but for rounding: "conv" as its Conv does,
    "packed" as its MatMul and Gemm do with constant weights, "rows" and "columns" as they do with weights computed in the
    graph, [in, out] and [out, in] (transB). `start`, one value an output channel, is what such sums of real values begin with: the
    C of a Gemm. A bias added after the sums is one of `steps`. `density` is the share of +1 expected among binary inputs: what some
    kernels take depends on it, no result does.
    """

    weight: NDArray[np.int8] | NDArray[np.float32]
    groups: int = 1
    pad_value: int = 0
    mul: int = 1
    zero: tuple[int, ...] = ()
    cut: Cut | None = None
    steps: tuple[Step | Operand, ...] = ()
    file_error: float = 0.0
    storage: str = "f32"
    scales: tuple[float, ...] = ()
    order: str = "conv"
    start: tuple[float, ...] = ()
    density: float = 0.5

    @property
    def binary(self) -> bool:
        """Whether the weights are -1 and +1."""
        return self.weight.dtype == np.int8

    @property
    def of_bits(self) -> bool:
        """Whether weights and inputs are -1 and +1."""
        return self.binary and self.x.elem is Elem.BIN

    @property
    def integer(self) -> bool:
        """Whether the accumulator is an integer."""
        return self.binary and self.x.elem.is_integer

    @property
    def exact(self) -> bool:
        return self.integer and not any(s.operation in ROUGH for s in self.steps)

    @property
    def taps(self) -> int:
        """Inputs to one output: C / groups * kh * kw."""
        return int(np.prod(self.weight.shape[1:]))

    @property
    def macs(self) -> int:
        """Multiply-accumulates; those at inserted zeros of a transposed convolution are left out."""
        return self.taps * self.y.size // (self.up[0] * self.up[1])

    @property
    def largest(self) -> NDArray[np.int64]:
        """Per input channel, the largest |mul * x - zero|."""
        zero = np.array(self.zero or (0,) * self.x.shape[0], np.int64)
        return np.maximum(np.abs(self.mul * self.x.lo - zero), np.abs(self.mul * self.x.hi - zero))

    @property
    def bound(self) -> int:
        """The largest sum of |input| over a window, which no integer accumulator exceeds."""
        of_groups = self.largest.reshape(self.groups, -1).sum(axis=1)
        return int(of_groups.max()) * self.taps_per_channel

    @property
    def padding(self) -> NDArray[np.int64]:
        """What padding contributes in each input channel."""
        return self.pad_value * self.x.signs.ravel()

    def terms(self, x: Array) -> Array:
        """What is summed, on the grid: int64 or float64."""
        if not self.integer:
            return self.spread(x.astype(np.float64), self.pad_value)
        zero = np.array(self.zero or 0, np.int64).reshape(-1, 1, 1)
        signs = self.x.signs
        return self.spread((self.mul * x.astype(np.int64) - zero) * signs, self.pad_value) * signs

    def accumulate(self, v: Array) -> Array:
        """`start` and the sum of weight * v over each window of the grid `v`, in float64 (exact for integers below 2**53)."""
        w = self.slide(v)
        n, _, oh, ow = w.shape[:4]
        rows = w.reshape(n, self.groups, -1, *w.shape[2:]).transpose(1, 0, 3, 4, 2, 5, 6)
        columns = rows.reshape(self.groups, n * oh * ow, self.taps).astype(np.float64)
        weights = self.weight.reshape(self.groups, -1, self.taps).astype(np.float64)
        total = columns @ weights.transpose(0, 2, 1)
        by_channel = total.reshape(self.groups, n, oh, ow, -1).transpose(1, 0, 4, 2, 3).reshape(n, -1, oh, ow)
        return np.asarray(by_channel + np.array(self.start or 0.0, np.float64).reshape(-1, 1, 1))

    def evaluate(self, x: Array, *others: Array) -> Array:
        total = self.accumulate(self.terms(x)).astype(np.int64 if self.integer else np.float32)
        if self.cut:
            return apply_cut(total, self.cut)
        return apply_steps(total, self.steps, others) if self.steps else total


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Window):
    """Maximum over a window; padding never wins. For channels in `minimum` the minimum (AND where the maximum is OR)."""

    minimum: tuple[bool, ...] = ()

    def evaluate(self, x: Array, *_: Array) -> Array:
        sign = np.where(np.array(self.minimum, bool), -1, 1)[:, None, None] if self.minimum else 1
        lowest = -np.inf if self.x.elem is Elem.F32 else np.iinfo(np.int64).min + 1
        v = self.spread(np.asarray(x * sign, dtype=self.x.elem.dtype), lowest)
        return np.asarray(self.slide(v).max(axis=(4, 5)) * sign, dtype=self.x.elem.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class SumPool(Window):
    """Sum over a window, where padding counts for 0 (a mean is this and a division).

    `order` says how the reference sums real values: "rows" one after the other, "columns" each column of the window first
    (AveragePool before opset 19, strides to 2, kernels to 32), "lanes" as GlobalAveragePool and AveragePool before opset 19
    over the whole image, "reduce" as ReduceMean and ReduceSum over the whole image.
    """

    order: str = "rows"

    @property
    def exact(self) -> bool:
        return self.x.elem.is_integer

    def evaluate(self, x: Array, *_: Array) -> Array:
        wide = np.float64 if self.x.elem is Elem.F32 else np.int64
        v = self.slide(self.spread(np.asarray(x, dtype=wide), 0))
        return np.asarray(v.sum(axis=(4, 5)), dtype=self.x.elem.dtype)
