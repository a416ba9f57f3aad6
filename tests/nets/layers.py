"""Layers with weights, pools and normalisations, with everything about them drawn at random."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto as T

from tests.nets.net import between, calibrated
from tests.nets.writer import DOMAINS, Writer

REAL_MACS = 150_000  # of a layer with sums of real products, which verification computes again in float64
BINARY_MACS = 1_500_000
Geometry = dict[str, Any]


class Layers(Writer):
    """What networks are made of."""

    max_channels = 100

    def width(self, taps: int = 1, *, real: bool = False) -> int:
        """A number of output channels, for `taps` multiply-accumulates each."""
        r = self.rng
        drawn = self.pick(
            r.integers(1, 9), r.integers(1, 34), r.integers(1, self.max_channels + 1), self.pick(8, 16, 32, 64)
        )
        return max(1, min(int(drawn), self.max_channels, (REAL_MACS if real else BINARY_MACS) // max(1, taps)))

    # weights ---------------------------------------------------------------------------------------------------------

    def signs(self, shape: Sequence[int]) -> np.ndarray:
        return self.rng.choice(np.array([-1, 1], np.float32), tuple(shape))

    def binary_weight(self, w: np.ndarray, axis: int = 0, *, scaled: bool = True) -> str:
        """Weights of -1 and +1 as a constant or as the nodes that make them; with a scale, per tensor or along `axis`."""
        net = self.net
        kind = self.pick("one", "one", "one", "tensor", "channel") if scaled else "one"
        column = [1] * w.ndim
        column[axis] = w.shape[axis]
        s = {
            "one": np.float32(1),
            "tensor": np.float32(self.rng.uniform(0.01, 2)),
            "channel": self.rng.uniform(0.01, 2, column).astype(np.float32),
        }[kind]
        forms = ["plain", "plain", "sign", "where", "bipolar", "cast", "int8", "transposed", "jitter", "packed"]
        form = self.pick(*forms)
        self.note("scale", kind)
        self.note("weights", form)
        latent = (w * self.rng.uniform(0.1, 1, w.shape)).astype(np.float32)
        if form == "jitter" and kind != "one":
            far = np.where(self.rng.random(w.shape) < 0.5, 0, np.float32(9) * w)
            return self.const(np.nextafter((w * s).astype(np.float32), far.astype(np.float32)))
        if form == "bipolar" and axis == 0:
            scale = s if kind != "tensor" else self.pick(s, np.full(1, s))
            return net.node(
                "BipolarQuant", self.const(latent), self.const(scale), domain=net.quantizer(self.pick(*DOMAINS))
            )
        if form == "int8" and net.opset >= (13 if kind == "channel" else 10):
            zero = [self.const(np.zeros(s.size if kind == "channel" else ()), np.int8)] if self.chance(0.5) else []
            given = {"axis": axis} if kind == "channel" else {}
            flat = s.reshape(-1) if kind == "channel" else s
            return net.node("DequantizeLinear", self.const(w, np.int8), self.const(flat), *zero, **given)
        if form == "packed" and net.opset >= 18 and w.size % 8 == 0:
            return self._scaled(self._packed(w), s)
        if form == "sign":
            return self._scaled(net.node("Sign", self.const(latent)), s)
        if form == "where":
            y = net.node("Where", net.at_least(self.const(latent), self.const(0.0)), self.const(1.0), self.const(-1.0))
            return self._scaled(y, s)
        if form == "cast":
            return self._scaled(net.node("Cast", self.const(w, np.int8), to=T.FLOAT), s)
        if form == "transposed" and w.ndim == 2:
            quantized = net.node("Sign", self.const(latent.T))
            return self._scaled(net.node("Transpose", quantized, perm=[1, 0]), s)
        return self.const(w * s)

    def _scaled(self, x: str, s: np.ndarray) -> str:
        return x if s.size == 1 and s == 1 else self.net.node("Mul", x, self.const(s))

    def _packed(self, w: np.ndarray) -> str:
        """Eight weights a byte."""
        net = self.net
        packed = np.packbits(w.reshape(-1) > 0)[:, None]
        masks = (128 >> np.arange(8))[None]
        found = net.node("BitwiseAnd", self.const(packed, np.uint8), self.const(masks, np.uint8))
        y = net.node("Where", net.node("Cast", found, to=T.BOOL), self.const(1.0), self.const(-1.0))
        return net.node("Reshape", y, self.indices(w.shape))

    def real_weight(self, shape: Sequence[int]) -> str:
        """Real weights, some of them such as 8 or 16 bits hold."""
        w = (self.rng.normal(size=tuple(shape)) / math.sqrt(math.prod(shape[1:]))).astype(np.float32)
        form = self.pick("f32", "f32", "f16", "i8")
        self.note("weights", f"real {form}")
        if form == "f16":
            w = w.astype(np.float16).astype(np.float32)
        elif form == "i8":
            s = np.float32(np.abs(w).max() / 127)
            q = np.round(w / s).astype(np.int8)
            if self.net.opset >= 10 and self.chance(0.5):
                return self.net.node("DequantizeLinear", self.const(q, np.int8), self.const(s))
            w = q.astype(np.float32) * s
        return self.const(w)

    # convolution -----------------------------------------------------------------------------------------------------

    def window(self, x: str, most: int = 7) -> Geometry:
        """Any kernel, strides, dilations and pads that fit."""
        size, r = self.size(x), self.rng
        kernel = [int(r.integers(1, min(most, n) + 1)) for n in size]
        strides, dilations = ([int(self.pick(*a)) for _ in size] for a in ((1, 1, 2, 3), (1, 1, 2)))
        span = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = [int(r.integers(0, s)) if self.chance(0.6) else 0 for s in (*span, *span)]
        if any(n + p + q < s for n, p, q, s in zip(size, pads, pads[len(size) :], span, strict=False)):
            kernel, dilations, pads = [1] * len(size), [1] * len(size), [0] * (2 * len(size))
        given = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
        if dilations == [1] * len(size) and self.chance(0.15):
            del given["pads"]
            given["auto_pad"] = self.pick("SAME_UPPER", "SAME_LOWER", "VALID")
        return given

    def same(self, x: str, stride: int = 1) -> Geometry:
        """An odd kernel that keeps the size (or divides it by the stride, rounded up)."""
        n = len(self.size(x))
        kernel = [self.pick(1, 3, 3, 3, 5)] * n if self.chance(0.8) else [self.pick(1, 3, 5) for _ in range(n)]
        dilation = self.pick(1, 1, 1, 2) if stride == 1 else 1
        half = [k // 2 * dilation for k in kernel]
        given: Geometry = {"kernel_shape": kernel, "pads": [*half, *half]}
        if stride != 1 or self.chance(0.5):
            given["strides"] = [stride] * n
        if dilation != 1 or self.chance(0.5):
            given["dilations"] = [dilation] * n
        return given

    def groups(self, c: int, *, depthwise: float = 0.12, grouped: float = 0.12) -> int:
        r = self.rng.random()
        if r < depthwise:
            return c
        divisors = [d for d in range(2, c) if c % d == 0]
        return int(self.pick(*divisors)) if divisors and r < depthwise + grouped else 1

    def out_channels(self, x: str, given: Geometry, groups: int, *, real: bool = False) -> int:
        """As many as the size of the layer allows, a multiple of the groups."""
        c = self.channels(x)
        taps = (
            c
            // groups
            * math.prod(given["kernel_shape"])
            * math.prod(self.size(x))
            // math.prod(given.get("strides", [1]))
        )
        n = self.width(taps, real=real)
        if groups == c:
            return c * self.pick(1, 1, 2) if c <= self.max_channels // 2 else c
        return -(-n // groups) * groups

    def conv(
        self,
        x: str,
        given: Geometry,
        out: int = 0,
        *,
        groups: int | None = None,
        real: bool = False,
        bias: float = 0.15,
        norm: bool = False,
        scaled: bool = True,
    ) -> str:
        """A convolution with binary or real weights. With `norm` a BatchNorm follows, perhaps folded into the weights."""
        net = self.net
        if self.chance(0.15 if x in self.bits and not real else 0.05):
            x, given = self._bordered(x, given)
        x = self.first(x)
        c = self.channels(x)
        g = self.groups(c) if groups is None else groups
        o = out or self.out_channels(x, given, g, real=real or x not in self.bits)
        if o % g:
            g = 1
        shape = (o, c // g, *given["kernel_shape"])
        given = {**given, **({"group": g} if g != 1 or self.chance(0.3) else {})}
        if self.chance(0.3):
            del (given := dict(given))["kernel_shape"]
        folded = norm and self.chance(0.25)
        if folded:
            self.note("norm", "folded")
            w = self.rng.normal(size=shape).astype(np.float32) if real else self.signs(shape)
            trial = net.node("Conv", x, net.const(w), **given)
            gamma, beta, mean, var = calibrated(self.rng, *net.values(trial))
            net.undo()
            slope = (gamma / np.sqrt(var + np.float32(1e-5))).astype(np.float32)
            y = net.node(
                "Conv",
                x,
                self.const(w * slope.reshape(-1, *[1] * (len(shape) - 1))),
                self.const(beta - mean * slope),
                **given,
            )
            return self.settle(self.loose(y))
        weight = self.real_weight(shape) if real else self.binary_weight(self.signs(shape), scaled=scaled)
        inputs = [x, weight]
        if self.chance(bias) and scaled:
            inputs.append(self.const(self.pick(np.zeros(o), self.rng.normal(size=o), self.rng.integers(-5, 6, o))))
        y = self.settle(self.loose(net.node("Conv", *inputs, **given)))
        return self.norm(y) if norm else y

    def _bordered(self, x: str, given: Geometry) -> tuple[str, Geometry]:
        """The padding of a convolution as a Pad node, of bits with 0, -1 or +1."""
        if "auto_pad" in given or not any(given.get("pads", ())):
            return x, given
        pads, n = given["pads"], len(self.size(x))
        y = self.pad(x, pads[:n], pads[n:], float(self.pick(-1.0, 1.0, 0.0)) if x in self.bits else 0.0)
        return y, {**given, "pads": [0] * (2 * n)}

    def deconv(self, x: str, out: int = 0, *, norm: bool = True, real: bool = False) -> str:
        """A transposed convolution that enlarges the image."""
        net, x = self.net, self.first(x)
        c, n = self.channels(x), len(self.size(x))
        stride = [self.pick(1, 2, 2, 2, 3) for _ in range(n)] if self.chance(0.3) else [2] * n
        kernel = [self.pick(s, s, s + 1, 3) for s in stride]
        extra = [int(self.rng.integers(0, s)) if self.chance(0.3) else 0 for s in stride]
        pads = [int(self.rng.integers(0, (k + 1) // 2)) if self.chance(0.5) else 0 for k in (*kernel, *kernel)]
        given: Geometry = {"kernel_shape": kernel, "strides": stride, "pads": pads}
        if any(extra):
            given["output_padding"] = extra
        if self.chance(0.25):
            given["dilations"] = [self.pick(1, 2, 2) for _ in range(n)]
        g = self.groups(c, depthwise=0.1, grouped=0.2)
        taps = c // g * math.prod(kernel) * math.prod(self.size(x))
        o = out or min(32, self.width(taps, real=real or x not in self.bits))
        o = c if g == c else -(-o // g) * g
        if g != 1:
            given["group"] = g
        shape = (c, o // g, *kernel)
        weight = self.real_weight(shape) if real else self.binary_weight(self.signs(shape), axis=1, scaled=g == 1)
        inputs = [x, weight]
        if self.chance(0.15):
            inputs.append(self.const(self.rng.normal(size=o)))
        y = self.settle(net.node("ConvTranspose", *inputs, **given))
        return self.norm(y) if norm else y

    # dense -----------------------------------------------------------------------------------------------------------

    def dense(self, x: str, out: int = 0, *, real: bool = False, scaled: bool = True, norm: bool = False) -> str:
        """Gemm or MatMul over the last axis of a vector or of a sequence, with or without a bias."""
        net, r, x = self.net, self.rng, self.turned(x)
        size = self.channels(x)
        o = out or self.width(size * math.prod(self.size(x)), real=real or x not in self.bits)
        exact = np.zeros(o), r.integers(-20, 20, o)
        b = None if not scaled or self.chance(0.5) else self.pick(*exact, r.normal(size=o))
        if self.rank(x) > 2 or self.chance(0.45):
            if self.chance(0.4):
                w = self.real_weight((o, size)) if real else self.binary_weight(self.signs((o, size)), scaled=scaled)
                w = net.node("Transpose", w, perm=[1, 0])
            else:
                w = (
                    self.real_weight((size, o))
                    if real
                    else self.binary_weight(self.signs((size, o)), axis=1, scaled=scaled)
                )
            y = self._layout(net.node("MatMul", x, w), x)
            y = y if b is None else self.arith("Add", y, b)
        elif norm and self.chance(0.25):
            self.note("norm", "folded")
            w = self.rng.normal(size=(o, size)).astype(np.float32) if real else self.signs((o, size))
            trial = net.node("Gemm", x, net.const(w), net.const(np.zeros(o)), transB=1)
            gamma, beta, mean, var = calibrated(self.rng, *net.values(trial))
            net.undo()
            slope = (gamma / np.sqrt(var + np.float32(1e-5))).astype(np.float32)
            return self.loose(
                net.node("Gemm", x, self.const(w * slope[:, None]), self.const(beta - mean * slope), transB=1)
            )
        else:
            turned = self.chance(0.7)
            shape = (o, size) if turned else (size, o)
            w = (
                self.real_weight(shape)
                if real
                else self.binary_weight(self.signs(shape), axis=1 - turned, scaled=scaled)
            )
            given: Geometry = {"transB": 1} if turned else {}
            if scaled and self.chance(0.3):
                given["alpha"] = float(self.pick(1.0, 0.5, -2.0))
            if b is not None and self.chance(0.2):
                given["beta"] = float(self.pick(1.0, 0.5, 2.0))
            if b is None and net.opset < 11:
                b = np.zeros(o)
            inputs = [x, w] + ([] if b is None else [self.const(b if self.chance(0.8) else b[None])])
            y = net.node("Gemm", *inputs, **given)
        return self.norm(y) if norm else self.loose(y)

    # normalisation ---------------------------------------------------------------------------------------------------

    def norm(self, x: str, residual: str = "") -> str:
        """A BatchNorm after which x (plus a residual) changes sign in each channel, near its median."""
        net = self.net
        axis = 1 + self.axis(x)
        (v,) = net.values(x)
        other: np.ndarray | float = 0.0
        if residual:
            (other,) = net.values(residual)
            c = self.axis(residual) + 1
            other = np.moveaxis(other, c, axis)
        return self.loose(self.batch_norm(x, calibrated(self.rng, v, other, axis)))

    def layer_norm(self, x: str) -> str:
        """LayerNorm over the channels (of a vector: its features), whose shift lies between values that occur."""
        net, x = self.net, self.turned(x)
        c = self.channels(x)
        (v,) = net.values(x)
        d = v.astype(np.float64) - v.mean(axis=-1, keepdims=True, dtype=np.float64)
        epsilon = self.pick(1e-5, 1e-5, 1e-3, 1e-6)
        normal = (d / np.sqrt((d**2).mean(axis=-1, keepdims=True) + epsilon)).reshape(-1, c)
        level = np.array([between(column, self.rng.uniform(0.3, 0.7)) for column in normal.T])
        gamma = self.rng.choice([-1.0, 1.0], c) * self.rng.uniform(0.2, 2, c) if self.chance(0.8) else np.ones(c)
        beta = -level * gamma
        if net.opset >= 17 and self.chance(0.6):
            y = net.node("LayerNormalization", x, self.const(gamma), self.const(beta), axis=-1, epsilon=epsilon)
            self.note("norm", "LayerNorm")
            return self._layout(y, x)
        self.note("norm", "LayerNorm in pieces")
        last = [self.rank(x) - 1]
        centred = self._layout(net.node("Sub", x, self.reduce("ReduceMean", x, last, 1)), x)
        square = net.node("Pow", centred, self.const(2.0)) if self.chance(0.6) else net.node("Mul", centred, centred)
        variance = self.reduce("ReduceMean", square, last, 1)
        spread = net.node("Sqrt", net.node("Add", variance, self.const(epsilon)))
        y = self._layout(net.node("Div", centred, spread), x)
        return self.arith("Add", self.arith("Mul", y, gamma), beta)

    # pools -----------------------------------------------------------------------------------------------------------

    def pool(self, x: str, kind: str = "") -> str:
        """MaxPool, or AveragePool where `kind` says so."""
        x = self.first(x)
        size = self.size(x)
        kernel = [int(self.rng.integers(1, min(3, n) + 1)) for n in size]
        strides = [int(self.pick(1, 2, 2, 3)) for _ in size]
        pads = [int(self.rng.integers(0, k)) if self.chance(0.4) else 0 for k in (*kernel, *kernel)]
        geometry = list(zip(size, pads, pads[len(size) :], kernel, strides, strict=False))
        whole = all(-(-(n + p + q - k) // s) * s < n + p for n, p, q, k, s in geometry)  # no window begins outside
        given: Geometry = {"kernel_shape": kernel, "strides": strides, "pads": pads}
        if self.net.opset >= 10 and whole and self.chance(0.4):
            given["ceil_mode"] = 1
        kind = kind or "MaxPool"
        if kind == "AveragePool":
            given.pop("ceil_mode", 0)
            if self.chance(0.5):
                given["count_include_pad"] = self.pick(0, 1)
            if self.net.opset < 10 and self.chance(0.4):  # so torch exports it
                n = len(size)
                x, given["pads"] = self.pad(x, pads[:n], pads[n:], 0.0), [0] * (2 * n)
        y = self.net.node(kind, x, **given)
        if x in self.bits and kind == "MaxPool":
            self.bits.add(y)
        return self.settle(y)

    def halve(self, x: str, kind: str) -> str:
        """A pool of 2 x 2 with stride 2 (sizes must be even)."""
        x = self.first(x)
        n = len(self.size(x))
        given: Geometry = {"kernel_shape": [2] * n, "strides": [2] * n}
        if self.net.opset >= 10 and self.chance(0.3):
            given["ceil_mode"] = 0
        if kind == "AveragePool" and self.chance(0.3):
            given["count_include_pad"] = 1
        y = self.net.node(kind, x, **given)
        if x in self.bits and kind == "MaxPool":
            self.bits.add(y)
        return self.settle(y)

    def whole_pool(self, x: str, kind: str = "mean") -> str:
        """The mean or the maximum of each channel over the whole image, [1, C]."""
        net, n = self.net, len(self.size(x))
        keep = self.pick(0, 1)
        how = self.pick("global", "reduce", "reduce", "window", "twice" if kind == "mean" and n == 2 else "reduce")
        self.note(kind, how)
        name = {"mean": "Mean", "max": "Max", "sum": "Sum"}[kind]
        how = "reduce" if kind == "sum" else how
        if how in ("reduce", "twice"):
            axes = [k for k in range(1, self.rank(x)) if k != self.axis(x)]
            was_last = x in self.last
            if how == "twice" and self.chance(0.5):
                y = self.reduce("ReduceMean", self.reduce("ReduceMean", x, axes[1:], 0), axes[:1], 0)
                keep = 0
            else:
                y = self.reduce(f"Reduce{name}", x, axes, keep)
            if not keep:
                return self._pooled(y, x, kind)
            if was_last:
                return self._pooled(self.squeeze(y, axes), x, kind)
        else:
            x = self.first(x)
            window: Geometry = {"kernel_shape": self.size(x)}
            pool = {"mean": "AveragePool", "max": "MaxPool"}[kind]
            glob = {"mean": "GlobalAveragePool", "max": "GlobalMaxPool"}[kind]
            y = net.node(pool, x, **window) if how == "window" else net.node(glob, x)
        end = self.pick("squeeze", "squeeze", "flatten", "flatten", "flatten", "gather")
        if end == "squeeze":
            y = self.squeeze(y, range(2, 2 + n))
        elif end == "gather":  # x[:, :, 0, 0]
            for _ in range(n):
                y = net.node("Gather", y, self.const(0, np.int64), axis=2)
        else:
            y = self.flatten(y)
        return self._pooled(y, x, kind)

    def _pooled(self, y: str, x: str, kind: str) -> str:
        if x in self.bits and kind == "max":
            self.bits.add(y)
        else:
            self.bits.discard(y)
        return y
