"""One operation in the many ways in which exporters write it, at every opset, for images in NCHW or NHWC."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto as T

from tests.nets.net import QONNX, SIGNS, Net, between, mixed

MIXED = 0.3  # of each layer's channels, at least, take both values
DOMAINS = (QONNX, "onnx.brevitas", "finn.custom_op.general")
THRESHOLDS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
TERNARY = ("sign", "detach_sign")  # 0 at zero


class Writer:
    """Writes operations into `net`. Values are names; `bits` are those of -1 and +1."""

    net: Net

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nhwc = False  # go back to NHWC after convolutions and pools, as tf2onnx does
        self.bits: set[str] = set()

    @property
    def last(self) -> set[str]:
        return self.net.last

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def note(self, what: str, form: str) -> None:
        """Keep a count of the forms in which the network's file is written."""
        self.net.notes.add(f"{what}: {form}")

    # values --------------------------------------------------------------------------------------------------------

    def rank(self, x: str) -> int:
        return len(self.net.shape_of(x)) + 1

    def axis(self, x: str) -> int:
        """The axis of the channels."""
        return self.rank(x) - 1 if x in self.last else 1

    def channels(self, x: str) -> int:
        return self.net.shape_of(x)[self.axis(x) - 1]

    def size(self, x: str) -> list[int]:
        """Height and width, or the length."""
        return [n for k, n in enumerate(self.net.shape_of(x), 1) if k != self.axis(x)]

    def batch(self) -> int:
        """How a Reshape writes the batch."""
        return -1 if self.net.batch else self.pick(1, 1, -1)

    def like(self, y: str, x: str) -> str:
        """y, with the layout of x; bits if x is."""
        for tags in (self.bits, self.last):
            if x in tags:
                tags.add(y)
        return y

    def loose(self, x: str) -> str:
        """x, perhaps through a node without effect."""
        if not self.chance(0.04):
            return x
        return self.like(self.net.node(self.pick("Identity", "Identity", "Dropout"), x), x)

    def const(self, value: object, dtype: type = np.float32) -> str:
        """A constant: an initializer or, if the file is so written, a Constant node."""
        return self.net.const(value, dtype)

    def per_channel(self, value: object, x: str) -> str:
        """A constant for each channel of x, in a shape that broadcasts."""
        a = np.asarray(value, np.float32).reshape(-1)
        tail = 0 if x in self.last else self.rank(x) - 2
        shape = (len(a), *[1] * tail)
        front = self.rank(x) - len(shape)
        return self.const(a.reshape((1,) * self.pick(0, front) + shape))

    # layout --------------------------------------------------------------------------------------------------------

    def transpose(self, x: str, perm: Sequence[int]) -> str:
        y = self.net.node("Transpose", x, perm=list(perm))
        if x in self.bits:
            self.bits.add(y)
        return y

    def first(self, x: str) -> str:
        """x with its channels in axis 1."""
        if x not in self.last:
            return x
        r = self.rank(x)
        return self.transpose(x, [0, r - 1, *range(1, r - 1)])

    def turned(self, x: str) -> str:
        """x with its channels in the last axis."""
        r = self.rank(x)
        if x in self.last or r == 2:
            return x
        y = self.transpose(x, [0, *range(2, r), 1])
        self.last.add(y)
        return y

    def settle(self, x: str) -> str:
        """x after an operation of NCHW, in the layout of the file."""
        return self.turned(x) if self.nhwc and self.chance(0.8) else x

    def agreed(self, *xs: str) -> list[str]:
        """The values in one layout: that of the first."""
        turn = self.turned if xs[0] in self.last else self.first
        return [turn(x) for x in xs]

    def indices(self, values: Sequence[int]) -> str:
        return self.const(list(values), np.int64)

    def flatten(self, x: str) -> str:
        """[1, N]; the order of the elements is the file's."""
        net = self.net
        if self.rank(x) == 2:
            return x
        n = math.prod(net.shape_of(x))
        how = self.pick("Flatten", "Flatten", "minus", "size", "zero", "shape")
        self.note("flatten", how)
        if how == "Flatten":
            y = net.node("Flatten", x, **({} if self.chance(0.5) else {"axis": 1}))
        elif how == "shape":
            if net.opset >= 15 and self.chance(0.3):
                batch = net.node("Shape", x, start=0, end=1)
            else:
                batch = self.unsqueeze(net.node("Gather", net.node("Shape", x), self.const(0, np.int64), axis=0), [0])
            rest = self.indices([-1]) if self.chance(0.7) else self.indices([n])
            y = net.node("Reshape", x, net.node("Concat", batch, rest, axis=0))
        elif how == "minus":
            y = net.node("Reshape", x, self.indices([0 if net.batch else self.pick(0, 1), -1]))
        else:
            y = net.node("Reshape", x, self.indices([0 if how == "zero" else self.batch(), n]))
        if x in self.bits:
            self.bits.add(y)
        return y

    def unsqueeze(self, x: str, axes: Sequence[int]) -> str:
        return self._axes("Unsqueeze", x, axes, 13)

    def squeeze(self, x: str, axes: Sequence[int]) -> str:
        return self._axes("Squeeze", x, axes, 13)

    def reduce(self, kind: str, x: str, axes: Sequence[int], keepdims: int) -> str:
        return self._axes(kind, x, axes, 13 if kind == "ReduceSum" else 18, keepdims=keepdims)

    def _axes(self, kind: str, x: str, axes: Sequence[int], from_opset: int, **given: int) -> str:
        """An operator with axes: an attribute before `from_opset`, an input from there on."""
        r = self.rank(x) if kind != "Unsqueeze" else 0
        if r and self.net.opset >= 11 and self.chance(0.4):
            axes = [a - r for a in axes]
        if self.net.opset < from_opset:
            return self.net.node(kind, x, axes=list(axes), **given)
        return self.net.node(kind, x, self.indices(axes), **given)

    # moves ---------------------------------------------------------------------------------------------------------

    def concat(self, *xs: str) -> str:
        xs = tuple(self.agreed(*xs))
        axis = self.axis(xs[0])
        y = self.net.node("Concat", *xs, axis=axis - self.rank(xs[0]) if self._negative() else axis)
        if xs[0] in self.last:
            self.last.add(y)
        if all(x in self.bits for x in xs):
            self.bits.add(y)
        return y

    def _negative(self) -> bool:
        return self.net.opset >= 11 and self.chance(0.2)

    def slices(self, x: str, cut: int) -> tuple[str, str]:
        """The channels before `cut` and from it on: two Slices, or a Split."""
        net, c, axis = self.net, self.channels(x), self.axis(x)
        sizes = [cut, c - cut]
        if self.chance(0.5):
            a = self._split(x, sizes, axis)
            b = f"{a}_1"
        else:
            end = self.pick(2**63 - 1, c)
            a = self._slice(x, 0, self.pick(cut, cut - c), axis)
            b = self._slice(x, self.pick(cut, cut - c), end, axis)
        net.values(a)
        return self.like(a, x), self.like(b, x)

    def _split(self, x: str, sizes: list[int], axis: int) -> str:
        net = self.net
        equal = sizes[0] == sizes[1]
        if net.opset >= 18 and equal and self.chance(0.5):
            return net.node("Split", x, outputs=2, axis=axis, num_outputs=2)
        if net.opset >= 13:
            return net.node(
                "Split", x, *([] if equal and net.opset < 18 else [self.indices(sizes)]), outputs=2, axis=axis
            )
        return net.node("Split", x, outputs=2, axis=axis, **({} if equal and self.chance(0.5) else {"split": sizes}))

    def _slice(self, x: str, start: int, end: int, axis: int) -> str:
        net = self.net
        if net.opset < 10:
            return net.node("Slice", x, starts=[start], ends=[end], axes=[axis])
        steps = [self.indices([1])] if self.chance(0.4) else []
        return net.node("Slice", x, *map(self.indices, ([start], [end], [axis])), *steps)

    def pad(self, x: str, before: Sequence[int], after: Sequence[int], value: float) -> str:
        """A border of height and width."""
        net, r = self.net, self.rank(x)
        spatial = [k for k in range(1, r) if k != self.axis(x)]
        widths = [0] * (2 * r)
        for k, p, q in zip(spatial, before, after, strict=True):
            widths[k], widths[r + k] = p, q
        if net.opset < 11:
            y = net.node("Pad", x, mode="constant", pads=widths, value=value)
        else:
            fill = [self.const(value)] if value or self.chance(0.7) else []
            axes: list[str] = []
            if net.opset >= 18 and fill and self.chance(0.3):
                axes, widths = [self.indices(spatial)], [*before, *after]
            y = net.node("Pad", x, self.indices(widths), *fill, *axes)
        if x in self.last:
            self.last.add(y)
        if x in self.bits and abs(value) == 1:
            self.bits.add(y)
        return y

    def more_channels(self, x: str, before: int, after: int) -> str:
        """Channels of zeros around those of x."""
        net, r = self.net, self.rank(x)
        widths = [0] * (2 * r)
        widths[self.axis(x)], widths[r + self.axis(x)] = before, after
        if net.opset < 11:
            return self._layout(net.node("Pad", x, mode="constant", pads=widths, value=0.0), x)
        return self._layout(net.node("Pad", x, self.indices(widths), self.const(0.0)), x)

    def upsample(self, x: str, factors: Sequence[int]) -> str:
        """Nearest neighbours."""
        net, x = self.net, self.first(x)
        scales = [1.0, 1.0, *map(float, factors)]
        if net.opset < 11:
            y = net.node("Upsample" if net.opset < 10 else "Resize", x, self.const(scales), mode="nearest")
        else:
            size = [n * f for n, f in zip(self.size(x), factors, strict=True)]
            none = "" if net.opset >= 13 else self.const([])
            given = self.pick(
                {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
                {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"},
                {},
            )
            if self.chance(0.3) and not net.batch:
                sizes = self.indices([1, self.channels(x), *size])
                y = net.node(
                    "Resize", x, none, "" if net.opset >= 13 else self.const([]), sizes, mode="nearest", **given
                )
            else:
                y = net.node("Resize", x, none, self.const(scales), mode="nearest", **given)
        return self.settle(self.like(y, x))

    def shuffle(self, x: str, groups: int) -> str:
        """Channel i * (C / groups) + j goes to j * groups + i."""
        x = self.first(x)
        c, size = self.channels(x), self.size(x)
        n = 0 if self.net.batch else self.pick(0, 1)
        a = self.net.node("Reshape", x, self.indices([n, groups, c // groups, *size]))
        b = self.net.node("Transpose", a, perm=[0, 2, 1, *range(3, 3 + len(size))])
        y = self.net.node("Reshape", b, self.indices([self.batch(), c, *size]))
        return self.settle(self.like(y, x))

    # arithmetic ------------------------------------------------------------------------------------------------------

    def add(self, *xs: str) -> str:
        xs = tuple(self.agreed(*xs))
        return self._layout(self.net.node(self.pick("Add", "Add", "Add", "Sum"), *self._mixed(xs)), xs[0])

    def _mixed(self, xs: Sequence[str]) -> list[str]:
        return [xs[int(k)] for k in self.rng.permutation(len(xs))]

    def _layout(self, y: str, x: str) -> str:
        if x in self.last:
            self.last.add(y)
        return y

    def arith(self, kind: str, x: str, value: object) -> str:
        """x op value, one for each channel or a scalar."""
        a = np.asarray(value, np.float32)
        c = self.const(a) if a.size == 1 else self.per_channel(a, x)
        swap = kind in ("Add", "Mul") and self.chance(0.2)
        return self._layout(self.net.node(kind, *((c, x) if swap else (x, c))), x)

    def shifted(self, x: str, value: np.ndarray) -> str:
        """x plus one number a channel, in the ways in which learnable shifts are exported."""
        net = self.net
        how = self.pick("add", "add", "sub", "expand", "full")
        self.note("shift", how)
        if how == "add" or self.rank(x) == 2:
            return self.arith("Add", x, value)
        if how == "sub":
            return self.arith("Sub", x, -value)
        shape = [1] * self.rank(x)
        shape[self.axis(x)] = len(value)
        column = np.asarray(value, np.float32).reshape(shape)
        if how == "full":
            return self._layout(net.node("Add", x, self.const(np.broadcast_to(column, (1, *net.shape_of(x))))), x)
        full = net.node("Expand", self.const(column), net.node("Shape", x))
        return self._layout(net.node("Add", x, full), x)

    def batch_norm(self, x: str, params: Sequence[np.ndarray], epsilon: float = 1e-5) -> str:
        """(gamma, beta, mean, var), as a node or in pieces."""
        net = self.net
        how = self.pick("node", "node", "node", "pieces", "pow", "mul")
        self.note("norm", how)
        if how == "node":
            x = self.first(x)
            given = {} if epsilon == 1e-5 and self.chance(0.5) else {"epsilon": epsilon}
            if self.chance(0.5):
                given["momentum"] = 0.9
            if net.opset >= 14 and self.chance(0.3):
                given["training_mode"] = 0
            return self.settle(net.node("BatchNormalization", x, *map(self.const, params), **given))
        gamma, beta, mean, var = params
        if how == "mul":
            scale = (gamma / np.sqrt(var + np.float32(epsilon))).astype(np.float32)
            return self.arith("Add", self.arith("Mul", x, scale), beta - mean * scale)
        y = self.arith("Sub", x, mean)
        shaped = self.per_channel(var, y)
        spread = net.node("Add", shaped, self.const(epsilon))
        root = net.node("Sqrt", spread) if how == "pieces" else net.node("Pow", spread, self.const(0.5))
        y = self._layout(net.node("Div", y, root), x)
        return self.arith("Add", self.arith("Mul", y, gamma), beta)

    # sign ------------------------------------------------------------------------------------------------------------

    def sign(self, x: str, *, generic: bool = True) -> str:
        """-1 or +1; `generic` says that x is never exactly zero, as after a BatchNorm."""
        net = self.net
        form = self.pick(*SIGNS, "not", "le_where", "detach_sign", "quant", "one_hot")
        if not generic and form in TERNARY and "sign_at_zero" not in net.options:
            form = "ge_where"
        self.note("sign", form)
        one, minus, zero = self.const(1.0), self.const(-1.0), self.const(0.0)
        if form == "not":
            y = net.node("Where", net.node("Not", net.node("Less", x, zero)), one, minus)
        elif form == "le_where":
            if net.opset >= 12:
                smaller = net.node("LessOrEqual", x, zero)
            else:
                smaller = net.node("Not", net.node("Greater", x, zero))
            y = net.node("Where", smaller, minus, one)
        elif form == "detach_sign":
            inner = net.node("Sign", x)
            a, b = net.clip(x, -1.0, 1.0), net.clip(x, -1.0, 1.0)
            y = net.node("Add", net.node("Sub", inner, a), b)
        elif form == "quant":
            y = net.node(
                "BipolarQuant", x, self.const(self.pick(1.0, [1.0])), domain=net.quantizer(self.pick(*DOMAINS))
            )
        elif form == "one_hot":
            bit = net.node("Cast", net.node("Greater", x, zero), to=T.FLOAT)
            y = net.node("Sub", net.node("Mul", bit, self.const(2.0)), one)
        else:
            y = net.sign(x, form)
            net.signs.pop()
        return self._signed(y, x)

    def _signed(self, y: str, x: str) -> str:
        self._layout(y, x)
        self.bits.add(y)
        self.net.signs.append(y)
        return self.loose(y)

    def cut(self, x: str) -> str:
        """Sign with a threshold for each channel, between values that it takes; or one threshold."""
        net = self.net
        (v,) = net.values(x)
        axis = 1 + self.axis(x)
        rows = np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1)
        levels = np.array([between(row, self.rng.uniform(0.3, 0.7)) for row in rows], np.float32)
        one = between(v, 0.5)
        if mixed(v - np.float32(one), axis) >= 2 * MIXED and self.chance(0.3):
            levels = np.float32([one])
        how = self.pick("compare", "compare", "shift", "shift", "table")
        if how == "table" and (levels.size == 1 or self.rank(x) == 2):
            self.note("sign", "MultiThreshold")
            net.bare = True  # what stands in for it here is not the operator's whole meaning
            given = {"data_layout": {2: "NC", 3: "NCW", 4: "NCHW"}[self.rank(x)]} if x not in self.last else {}
            given = {"out_dtype": "BIPOLAR", "out_scale": 2.0, "out_bias": -1.0, **given}
            domain = net.quantizer(kind="MultiThreshold")
            table = self.const(levels.reshape(-1, 1))
            return self._signed(net.node("MultiThreshold", x, table, domain=domain, **given), x)
        if how == "shift" and levels.size > 1:
            return self.sign(self.shifted(x, -levels))
        kind = self.pick(*THRESHOLDS)
        self.note("sign", f"threshold {kind}")
        level = self.const(levels[0]) if levels.size == 1 else self.per_channel(levels, x)
        args, above = ((x, level), kind in ("Greater", "GreaterOrEqual"))
        if self.chance(0.2):
            args, above = (level, x), not above
        if net.opset < 12 and kind.endswith("OrEqual"):
            condition = net.node("Not", net.node("Less" if kind == "GreaterOrEqual" else "Greater", *args))
        else:
            condition = net.node(kind, *args)
        if self.chance(0.3):  # either polarity
            above = not above
        ends = (1.0, -1.0) if above else (-1.0, 1.0)
        return self._signed(net.node("Where", condition, *map(self.const, ends)), x)

    def binarize(self, x: str, *, generic: bool = False) -> str:
        """Sign of x where its channels take both values, else with thresholds."""
        (v,) = self.net.values(x)
        if mixed(v, 1 + self.axis(x)) >= 2 * MIXED and self.chance(0.6):
            return self.sign(x, generic=generic)
        return self.cut(x)

    # activations ----------------------------------------------------------------------------------------------------

    def activation(self, x: str) -> str:
        """ReLU, clip, PReLU or RPReLU of a value whose channels lie on both sides of zero."""
        net = self.net
        c = self.channels(x)
        net.kinks.append(x)
        how = self.pick(
            "relu", "relu", "max", "clip", "relu6", "hardtanh", "minmax", "prelu", "prelu1", "rprelu", "leaky"
        )
        self.note("activation", how)
        if how == "relu":
            y = net.node("Relu", x)
        elif how == "max":
            y = net.node("Max", x, self.const(0.0))
        elif how == "clip":
            y = net.clip(x, 0.0, None)
        elif how == "relu6":
            y = net.clip(x, 0.0, 6.0)
        elif how == "hardtanh":
            y = net.clip(x, -1.0, 1.0)
        elif how == "minmax":
            y = net.node("Min", net.node("Max", x, self.const(-1.0)), self.const(1.0))
        elif how == "leaky":
            y = net.node("LeakyRelu", x, alpha=float(self.pick(0.01, 0.1)))
        elif how == "prelu1":
            y = net.node("PRelu", x, self.const(self.pick(0.25, [0.25])))
        elif how == "prelu":
            y = net.node("PRelu", x, self.per_channel(self.rng.uniform(0.05, 0.5, c), x))
        else:
            x = self.arith("Sub", x, self.rng.normal(size=c) * 0.2)
            y = self._layout(net.node("PRelu", x, self.per_channel(self.rng.uniform(0.05, 0.5, c), x)), x)
            y = self.arith("Add", y, self.rng.normal(size=c) * 0.2)
        return self.loose(self._layout(y, x))
