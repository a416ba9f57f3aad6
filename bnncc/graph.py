"""The Graph: what is to be computed. Typed ops over tensors [C, H, W] (a vector is [C, 1, 1]; the batch is always one sample).

Every op is a frozen dataclass whose `evaluate` is its meaning in numpy, over a batch [N, C, H, W]; kernels, passes and
the numpy reference are all tested against it. Integers are evaluated in int64, real values in float32.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.scalar import Cut, Step, apply_cut, apply_steps

Array = NDArray[Any]


class Elem(Enum):
    """Element type of a tensor; it alone fixes the tensor's layout in memory."""

    BIN = "bin"  # -1 or +1
    U8 = "u8"
    I8 = "i8"
    I32 = "i32"  # an accumulator: exact integer
    F32 = "f32"

    @property
    def is_integer(self) -> bool:
        return self is not Elem.F32

    @property
    def dtype(self) -> type[Any]:
        """The numpy type in which `evaluate` holds it."""
        return np.float32 if self is Elem.F32 else np.int64


@dataclass(frozen=True)
class Tensor:
    """A value. Integers are lo, lo + stride, ... hi; `twin` is the value of the reference model that it equals, "" if none."""

    name: str
    elem: Elem
    shape: tuple[int, int, int]
    lo: int = 0
    hi: int = 0
    stride: int = 1
    twin: str = ""

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]


def windows(x: Array, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]) -> Array:
    """Sliding windows of a padded batch [N, C, H, W] as [N, C, Ho, Wo, kh, kw] (a view)."""
    span = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    v = np.lib.stride_tricks.sliding_window_view(x, span, axis=(2, 3))
    return v[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def pad_hw(x: Array, pads: tuple[int, int, int, int], value: float) -> Array:
    """Pad [N, C, H, W] by (top, left, bottom, right)."""
    top, left, bottom, right = pads
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


@dataclass(frozen=True, kw_only=True)
class Op:
    """What all ops share: one input, one output, and the names of the ONNX nodes it came from."""

    x: Tensor
    y: Tensor
    origin: tuple[str, ...] = ()

    def evaluate(self, x: Array) -> Array:
        """The output [N, C, H, W] for the input [N, C, H, W]."""
        raise NotImplementedError

    @property
    def exact(self) -> bool:
        """Whether the C reproduces the reference bit for bit on the same input."""
        return True


@dataclass(frozen=True, kw_only=True, eq=False)
class Window(Op):
    """Geometry shared by convolution and pooling; pads are (top, left, bottom, right), all in pixels."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    @property
    def padded(self) -> bool:
        """Whether any window reaches outside the input."""
        (_, h, w), (_, oh, ow) = self.x.shape, self.y.shape
        top, left = self.pads[:2]
        bottom = (oh - 1) * self.strides[0] + (self.kernel[0] - 1) * self.dilations[0] - top
        right = (ow - 1) * self.strides[1] + (self.kernel[1] - 1) * self.dilations[1] - left
        return top > 0 or left > 0 or bottom >= h or right >= w


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv(Window):
    """Convolution with weights of -1/+1 [O, C, kh, kw]; a dense layer is one whose kernel covers the whole input.

    An integer input enters as `mul * x - zero[c]`. Padding contributes `pad_value`: 0 is neither -1 nor +1, and such taps
    count for nothing. With `cut` the accumulator becomes a bit at once. `file_error` bounds how far the file's own float sum
    can be from the accumulator, in its units; 0 where that is exact.
    """

    weight: NDArray[np.int8]
    pad_value: int = 0
    mul: int = 1
    zero: tuple[int, ...] = ()
    cut: Cut | None = None
    file_error: float = 0.0

    @property
    def taps(self) -> int:
        """Inputs to one output: C * kh * kw."""
        return int(np.prod(self.weight.shape[1:]))

    @property
    def macs(self) -> int:
        return self.taps * self.y.size

    @property
    def exact(self) -> bool:
        return self.x.elem.is_integer

    @property
    def largest(self) -> NDArray[np.int64]:
        """Per input channel, the largest |mul * x - zero|."""
        zero = np.array(self.zero or (0,) * self.x.shape[0], np.int64)
        return np.maximum(np.abs(self.mul * self.x.lo - zero), np.abs(self.mul * self.x.hi - zero))

    @property
    def bound(self) -> int:
        """The largest sum of |input| over a window, which no integer accumulator exceeds."""
        return int(self.largest.sum()) * self.kernel[0] * self.kernel[1]

    def inputs(self, x: Array) -> Array:
        """What is summed, padded: [N, C, H', W'], int64 or float64."""
        if self.x.elem is Elem.F32:
            return pad_hw(x.astype(np.float64), self.pads, self.pad_value)
        zero = np.array(self.zero or 0, np.int64).reshape(-1, 1, 1)
        return pad_hw(self.mul * x.astype(np.int64) - zero, self.pads, self.pad_value)

    def accumulate(self, v: Array) -> Array:
        """Sum of weight * v over each window of the padded `v`, in float64 (exact for integers below 2**53)."""
        w = windows(v, self.kernel, self.strides, self.dilations)[:, :, : self.y.shape[1], : self.y.shape[2]]
        n, c, oh, ow = w.shape[:4]
        columns = w.transpose(0, 2, 3, 1, 4, 5).reshape(n * oh * ow, c * self.kernel[0] * self.kernel[1])
        total = columns.astype(np.float64) @ self.weight.reshape(self.weight.shape[0], -1).T.astype(np.float64)
        out: Array = total.reshape(n, oh, ow, -1).transpose(0, 3, 1, 2)
        return out

    def evaluate(self, x: Array) -> Array:
        total = self.accumulate(self.inputs(x)).astype(Elem.F32.dtype if self.x.elem is Elem.F32 else np.int64)
        return apply_cut(total, self.cut) if self.cut else total


@dataclass(frozen=True, kw_only=True, eq=False)
class Map(Op):
    """Elementwise float32 arithmetic in the reference's order, one rounding a step (BatchNorm, scales, biases, clips)."""

    steps: tuple[Step, ...]

    def evaluate(self, x: Array) -> Array:
        return apply_steps(x, self.steps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sign(Op):
    """x > 0 is +1, x < 0 and NaN are -1, and zero is `at_zero` (0: a ternary Sign, refused where zero is reachable)."""

    at_zero: int
    negate: bool = False

    def evaluate(self, x: Array) -> Array:
        bits = (x >= 0) if self.at_zero > 0 else (x > 0)
        return np.where(bits ^ self.negate, 1, -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Threshold(Op):
    """x >= level, per channel (and per pixel class); what becomes of Map and Sign."""

    cut: Cut

    def evaluate(self, x: Array) -> Array:
        return apply_cut(x, self.cut)


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Window):
    """Maximum over a window; padding never wins. For channels in `minimum` the minimum (AND where the maximum is OR)."""

    minimum: tuple[bool, ...] = ()

    def evaluate(self, x: Array) -> Array:
        sign = np.where(np.array(self.minimum, bool), -1, 1)[:, None, None] if self.minimum else 1
        lowest = -np.inf if self.x.elem is Elem.F32 else np.iinfo(np.int64).min + 1
        (_, oh, ow) = self.y.shape
        top, left = self.pads[:2]
        bottom = max(0, (oh - 1) * self.strides[0] + (self.kernel[0] - 1) * self.dilations[0] + 1 - top - x.shape[2])
        right = max(0, (ow - 1) * self.strides[1] + (self.kernel[1] - 1) * self.dilations[1] + 1 - left - x.shape[3])
        v = pad_hw(np.asarray(x * sign, dtype=self.x.elem.dtype), (top, left, bottom, right), lowest)
        w = windows(v, self.kernel, self.strides, self.dilations)[:, :, :oh, :ow]
        return np.asarray(w.max(axis=(4, 5)) * sign, dtype=self.x.elem.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sum(Op):
    """Sum over all pixels (a mean is this and a division)."""

    @property
    def exact(self) -> bool:
        return self.x.elem.is_integer

    def evaluate(self, x: Array) -> Array:
        wide = np.float64 if self.x.elem is Elem.F32 else np.int64
        return np.asarray(x.sum(axis=(2, 3), keepdims=True, dtype=wide), dtype=self.x.elem.dtype)


@dataclass(frozen=True)
class Output:
    """A graph output: its ONNX name and shape, the tensor, and the float32 steps on the way out."""

    name: str
    shape: tuple[int, ...]
    tensor: Tensor
    steps: tuple[Step, ...] = ()
    origin: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exits:
    """Early exits: indices into the outputs in order of depth, and the entropy threshold in nats."""

    outputs: tuple[int, ...]
    threshold: float


@dataclass(frozen=True)
class Graph:
    """Ops in an order in which every input is made before it is used."""

    input: Tensor
    ops: tuple[Op, ...]
    outputs: tuple[Output, ...]
    exits: Exits | None = None

    @cached_property
    def _makers(self) -> Mapping[str, Op]:
        return {op.y.name: op for op in self.ops}

    @cached_property
    def _readers(self) -> Mapping[str, list[Op]]:
        readers: dict[str, list[Op]] = {}
        for op in self.ops:
            readers.setdefault(op.x.name, []).append(op)
        return readers

    def producer(self, tensor: Tensor) -> Op | None:
        return self._makers.get(tensor.name)

    def users(self, tensor: Tensor) -> list[Op]:
        return self._readers.get(tensor.name, [])

    def is_output(self, tensor: Tensor) -> bool:
        return any(o.tensor.name == tensor.name for o in self.outputs)

    def sole_user(self, tensor: Tensor) -> Op | None:
        """The one op that reads `tensor`, if nothing else does."""
        users = self.users(tensor)
        return users[0] if len(users) == 1 and not self.is_output(tensor) else None

    def with_ops(self, ops: Iterable[Op]) -> "Graph":
        return replace(self, ops=tuple(ops))

    def run(self, x: Array) -> dict[str, Array]:
        """Every tensor by name, for a batch x [N, C, H, W]; outputs under "output:NAME" with their steps applied."""
        values: dict[str, Array] = {self.input.name: np.asarray(x, dtype=self.input.elem.dtype)}
        for op in self.ops:
            values[op.y.name] = op.evaluate(values[op.x.name])
        for o in self.outputs:
            v = values[o.tensor.name]
            values[f"output:{o.name}"] = apply_steps(v, o.steps) if o.steps else v
        return values


def check(graph: Graph) -> None:
    """The invariants that hold after every pass; a violation is a bug in a pass (AssertionError)."""
    made = {graph.input.name: graph.input}
    for op in graph.ops:
        assert made.get(op.x.name) == op.x, f"{op.y.name} reads {op.x.name} before it is made, or under another type"
        assert op.y.name not in made, f"{op.y.name} is made twice"
        assert min(op.y.shape) > 0, f"{op.y.name} is empty"
        assert (op.y.elem is Elem.BIN) == is_binary_op(op), f"{op.y.name} has the wrong element type"
        if isinstance(op, Conv):
            assert op.weight.shape[:2] == (op.y.shape[0], op.x.shape[0])
            assert np.isin(op.weight, (-1, 1)).all()
            assert op.x.elem is not Elem.BIN or (op.mul == 1 and not op.zero)
        made[op.y.name] = op.y
    for o in graph.outputs:
        assert made.get(o.tensor.name) == o.tensor, f"output {o.name} is never made"


def is_binary_op(op: Op) -> bool:
    """Whether the op's output is -1/+1."""
    if isinstance(op, MaxPool):
        return op.x.elem is Elem.BIN
    return isinstance(op, Sign | Threshold) or (isinstance(op, Conv) and op.cut is not None)


def needed(graph: Graph, tensors: Iterable[Tensor]) -> Iterator[Op]:
    """The ops that `tensors` depend on, in the graph's order."""
    wanted = {t.name for t in tensors}
    keep = []
    for op in reversed(graph.ops):
        if op.y.name in wanted:
            wanted.add(op.x.name)
            keep.append(op)
    return reversed(keep)
