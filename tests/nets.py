"""Random binarized networks as ONNX, for tests: written with onnx.helper, calibrated so that channels take both values."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from bnncc.frontend.load import session

SIGNS = ("bipolar", "ge_where", "ge_cast", "lt_where", "add_sign", "detach", "sign")


@dataclass
class Net:
    """A network under construction: nodes, constants, and a batch of inputs to calibrate on."""

    rng: np.random.Generator
    shape: tuple[int, ...]  # of the input, ONNX layout without batch
    elem: int = T.UINT8
    holds: str = ""  # for a float input: "u8" or "i8" if it holds such integers
    samples: int = 12
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    signs: list[str] = field(default_factory=list)
    pooled: list[str] = field(default_factory=list)  # max-pools of signs
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)  # for bnncc.compile
    count: int = 0

    def __post_init__(self) -> None:
        size = (self.samples, 1, *self.shape)
        if self.elem == T.UINT8:
            self.x = self.rng.integers(0, 256, size).astype(np.uint8)
        elif self.elem == T.INT8:
            self.x = self.rng.integers(-128, 128, size).astype(np.int8)
        elif self.holds:
            self.x = (self.rng.integers(0, 256, size) - (128 if self.holds == "i8" else 0)).astype(np.float32)
        else:
            self.x = self.rng.normal(size=size).astype(np.float32)

    def const(self, value: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def node(self, kind: str, *inputs: str, domain: str = "", **given: object) -> str:
        self.count += 1
        name = f"t{self.count}"
        self.nodes.append(h.make_node(kind, list(inputs), [name], name=f"{kind}_{self.count}", domain=domain, **given))
        return name

    def model(self, outputs: list[str] | None = None, opset: int = 18) -> onnx.ModelProto:
        outs = [h.make_tensor_value_info(o, T.FLOAT, None) for o in (outputs or self.outputs)]
        graph = h.make_graph(
            self.nodes,
            "net",
            [h.make_tensor_value_info("x", self.elem, (1, *self.shape))],
            outs,
            [nh.from_array(v, k) for k, v in self.constants.items()],
        )
        opsets = [h.make_opsetid("", opset)] + [h.make_opsetid(f.domain, 1) for f in self.functions]
        m = h.make_model(graph, opset_imports=opsets, ir_version=10, functions=self.functions)
        h.set_model_props(m, self.metadata)
        if outputs is None:
            inferred = onnx.shape_inference.infer_shapes(m, data_prop=True)
            known = {v.name: v for v in [*inferred.graph.value_info, *inferred.graph.output]}
            for o in m.graph.output:
                o.CopyFrom(known[o.name])
        return m

    def values(self, *names: str) -> list[np.ndarray]:
        """onnxruntime's values for the calibration batch, stacked."""
        s = session(self.model(list(names)))
        runs = [s.run(None, {"x": x}) for x in self.x]
        return [np.stack(v) for v in zip(*runs, strict=True)]

    def shape_of(self, x: str) -> tuple[int, ...]:
        """The shape of a value, without the batch."""
        return self.values(x)[0].shape[2:]

    # layers ------------------------------------------------------------------------------------------------------

    def normalise(self, mean: object = 128.0, scale: object = 128.0) -> str:
        x = "x" if self.elem == T.FLOAT else self.node("Cast", "x", to=T.FLOAT)
        return self.node("Div", self.node("Sub", x, self.const(mean)), self.const(scale))

    def weight(self, shape: tuple[int, ...], *, scaled: bool = False) -> str:
        w = self.rng.choice([-1.0, 1.0], shape)
        if scaled:
            w = w * self.rng.uniform(0.01, 2, (shape[0],)).reshape(-1, *[1] * (len(shape) - 1)).astype(np.float32)
        return self.const(w)

    def batch_norm(self, x: str) -> str:
        """Calibrated so that each channel changes sign between two values that it takes, near its median."""
        (v,) = self.values(x)
        rows = np.moveaxis(v, 2, 0).reshape(v.shape[2], -1)
        c = len(rows)
        change = np.array([_between(row, self.rng.uniform(0.3, 0.7)) for row in rows])
        spread = rows.std(axis=1) + 1e-3
        gamma = self.rng.choice([-1.0, 1.0], c) * self.rng.uniform(0.1, 3, c)
        beta = self.rng.normal(size=c) * 0.2
        var = spread**2 * self.rng.uniform(0.5, 2, c)
        mean = change + beta / gamma * np.sqrt(var + 1e-5)
        return self.node("BatchNormalization", x, *(self.const(p) for p in (gamma, beta, mean, var)))

    def sign(self, x: str, form: str) -> str:
        one, minus = self.const(1.0), self.const(-1.0)
        zero = self.const(0.0)
        if form == "bipolar":
            if not self.functions:
                self.functions.append(bipolar_quant())
            y = self.node("BipolarQuant", x, one, domain="qonnx.custom_op.general")
        elif form == "ge_where":
            y = self.node("Where", self.node("GreaterOrEqual", x, zero), one, minus)
        elif form == "lt_where":
            y = self.node("Where", self.node("Less", x, zero), minus, one)
        elif form == "ge_cast":
            bit = self.node("Cast", self.node("GreaterOrEqual", x, zero), to=T.FLOAT)
            y = self.node("Sub", self.node("Mul", bit, self.const(2.0)), one)
        elif form == "add_sign":
            y = self.node("Sign", self.node("Add", self.node("Sign", x), self.const(0.1)))
        elif form == "detach":
            clip = self.node("Clip", x, minus, one)
            inner = self.node("Where", self.node("GreaterOrEqual", x, zero), one, minus)
            y = self.node("Add", self.node("Sub", inner, clip), clip)
        else:
            y = self.node("Sign", x)
        self.signs.append(y)
        return y

    def mixed(self) -> list[float]:
        """Share of each sign's channels that take both values on the calibration batch."""
        out = []
        for v in self.values(*self.signs) if self.signs else []:
            axes = tuple(k for k in range(v.ndim) if k != 2)
            out.append(float(((v.min(axis=axes) < 0) & (v.max(axis=axes) > 0)).mean()))
        return out


def small_net(channels: int = 9, elem: int = T.UINT8, size: int = 6) -> tuple[Net, str]:
    """A net with one layer: x [2, size, size] -> Conv 3x3 -> BatchNormalization -> sign, [channels, size - 2, size - 2]."""
    net = Net(np.random.default_rng(channels), (2, size, size), elem)
    x = "x" if elem == T.FLOAT else net.normalise()
    x = net.node("Conv", x, net.weight((channels, 2, 3, 3)), kernel_shape=[3, 3])
    return net, net.sign(net.batch_norm(x), "ge_where")


def finish(net: Net, x: str, outputs: int = 5) -> Net:
    """Flatten, a binary dense layer, the output."""
    x = net.node("Flatten", x)
    (size,) = net.shape_of(x)
    net.outputs.append(net.node("MatMul", x, net.const(net.rng.choice([-1.0, 1.0], (size, outputs)))))
    return net


def _between(values: np.ndarray, share: float) -> float:
    """A number that share of the way from one to the next of the values, near their median.

    Values that lie much closer than others are one integer after rounding, and are not parted.
    """
    distinct = np.unique(values)
    steps = np.flatnonzero(np.diff(distinct) > 1e-3 * np.ptp(distinct))
    if not len(steps):
        return float(distinct[0]) + share
    k = steps[np.argmin(np.abs(steps - np.searchsorted(distinct, np.median(values))))]
    return float(distinct[k] + share * (distinct[k + 1] - distinct[k]))


def bipolar_quant() -> onnx.FunctionProto:
    nodes = [
        h.make_node("Constant", [], ["zero"], value_float=0.0),
        h.make_node("GreaterOrEqual", ["x", "zero"], ["positive"]),
        h.make_node("Neg", ["scale"], ["minus"]),
        h.make_node("Where", ["positive", "scale", "minus"], ["y"]),
    ]
    return h.make_function(
        "qonnx.custom_op.general", "BipolarQuant", ["x", "scale"], ["y"], nodes, [h.make_opsetid("", 18)]
    )


MIXED = 0.3  # of each layer's channels, at least, take both values


def random_net(seed: int, *, max_channels: int = 100, forms: tuple[str, ...] = SIGNS) -> Net:
    """A network of 2 to 5 weighted layers with everything that the compiler handles mixed at random."""
    for attempt in range(100):
        net = RandomNet(np.random.default_rng([seed, attempt]), max_channels, forms).build()
        if min(net.mixed()) >= MIXED:
            return net
    raise AssertionError(f"seed {seed}: every network saturates")


class RandomNet:
    """The choices behind `random_net`."""

    def __init__(self, rng: np.random.Generator, max_channels: int, forms: tuple[str, ...]) -> None:
        self.rng, self.max_channels, self.forms = rng, max_channels, forms

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def channels(self) -> int:
        r = self.rng
        return int(
            self.pick(
                r.integers(1, 9), r.integers(1, 34), r.integers(1, self.max_channels + 1), self.pick(8, 16, 32, 64)
            )
        )

    def build(self) -> Net:
        x = self.input()
        exits = self.chance(0.2)
        for _ in range(int(self.rng.integers(2, 4))):
            x = self.block(x)
            if exits or self.chance(0.1):
                self.head(x)
        if self.chance(0.3):
            mean = self.pick(("GlobalAveragePool", {}), ("ReduceMean", {"axes": [2, 3]}))
            x = self.net.node(mean[0], x, *([self.net.const([2, 3], np.int64)] if mean[1] else []))
            x = self.sign(self.net.batch_norm(x))
        if self.chance(0.2) and not exits:
            self.net.outputs.append(x)
        if self.chance(0.5):
            x = self.sign(self.net.batch_norm(self.dense(self.net.node("Flatten", x), self.channels())))
        self.head(x)
        if exits:
            self.net.metadata = {
                "bnncc.exits": json.dumps(self.net.outputs),
                "bnncc.exit_rule": "entropy",
                "bnncc.exit_threshold": str(float(self.rng.uniform(0.1, 1.5))),
            }
        return self.net

    def input(self) -> str:
        """The network's start: bytes or floats, normalised in one of the usual ways."""
        elem = self.pick(T.UINT8, T.UINT8, T.INT8, T.FLOAT)
        image = (int(self.pick(1, 2, 3, 4)), int(self.rng.integers(4, 13)), int(self.rng.integers(4, 13)))
        holds = self.pick("", "u8", "i8") if elem == T.FLOAT else ""
        self.net = net = Net(self.rng, image, elem, holds)
        if holds:
            net.options["input"] = holds
        if self.chance(0.3):
            net.options["input_layout"] = "nhwc"
        if elem == T.FLOAT and not holds:
            starts = {"normalised": lambda: self.sign(net.batch_norm("x")), "sign": lambda: net.sign("x", "ge_where")}
            return starts.get(self.pick("normalised", "sign", "real"), lambda: "x")()
        unsigned = elem == T.UINT8 or holds == "u8"
        how = self.pick("plain", "binary", "binary", "means", "127.5" if unsigned else "plain", "mnist", "imagenet")
        x = "x" if elem == T.FLOAT else net.node("Cast", "x", to=T.FLOAT)
        column = (1, image[0], 1, 1)
        if how == "plain":
            return x
        if how == "127.5":
            return net.node("Sub", net.node("Div", x, net.const(127.5)), net.const(1.0))
        if how in ("mnist", "imagenet"):
            x = net.node("Div", x, net.const(255.0))
            mean, std = 0.1307, 0.3081
            if how == "imagenet":
                mean, std = self.rng.uniform(0.4, 0.5, column), self.rng.uniform(0.2, 0.3, column)
            return net.node("Div", net.node("Sub", x, net.const(mean)), net.const(std))
        centre = np.full(column, 128.0 if unsigned else float(self.pick(0.0, 1.0)))
        if how == "means":
            centre += self.rng.integers(-9, 9, column)
        return net.node("Div", net.node("Sub", x, net.const(centre)), net.const(self.pick(128.0, 64.0, 1.0)))

    def sign(self, x: str) -> str:
        return self.net.sign(x, self.pick(*self.forms))

    def block(self, x: str) -> str:
        """Convolution, BatchNorm, sign, with a max-pool somewhere between; or an odd number of taps and a bare Sign."""
        net, r = self.net, self.rng
        binary = x in net.signs or x in net.pooled
        c, *size = net.shape_of(x)
        kernel = [int(r.integers(1, min(7, n) + 1)) for n in size]
        strides, dilations = ([int(self.pick(*a)) for _ in range(2)] for a in ((1, 1, 2, 3), (1, 1, 2)))
        span = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = [int(r.integers(0, s)) if self.chance(0.6) else 0 for s in (*span, *span)]
        if any(n + p + q < s for n, p, q, s in zip(size, pads, pads[2:], span, strict=False)):
            kernel, dilations, pads = [1, 1], [1, 1], [0, 0, 0, 0]
        given: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
        fill = 0.0
        if binary and any(pads) and self.chance(0.4):
            fill = float(self.pick(-1.0, 1.0, 0.0))
            widths = net.const([0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]], np.int64)
            x = net.node("Pad", x, widths, net.const(fill))
            given["pads"] = [0, 0, 0, 0]
        elif dilations == [1, 1] and self.chance(0.15):
            del given["pads"]
            given["auto_pad"] = self.pick("SAME_UPPER", "SAME_LOWER", "VALID")
        out = self.channels()
        zero_border = "auto_pad" in given or (any(pads) and not fill)
        odd = c * kernel[0] * kernel[1] % 2 and binary and not zero_border
        inputs = [x, net.weight((out, c, *kernel), scaled=self.chance(0.2) and not odd)]
        if self.chance(0.2) and not odd:
            inputs.append(net.const(r.normal(size=out)))
        x = net.node("Conv", *inputs, **given)
        if odd and self.chance(0.5):
            return net.sign(x, "sign")  # an odd number of -1 and +1 is never 0
        place = self.pick("none", "before", "between", "after")
        for here, layer in (("before", net.batch_norm), ("between", self.sign)):
            x = layer(self.pool(x) if place == here else x)
        if place == "after":
            x = self.pool(x)
            net.pooled.append(x)
        return x

    def pool(self, x: str) -> str:
        _, *size = self.net.shape_of(x)
        kernel = [int(self.rng.integers(1, min(3, n) + 1)) for n in size]
        strides = [int(self.pick(1, 2, 2, 3)) for _ in range(2)]
        pads = [int(self.rng.integers(0, k)) if self.chance(0.4) else 0 for k in (*kernel, *kernel)]
        geometry = list(zip(size, pads, pads[2:], kernel, strides, strict=False))
        whole = all(-(-(n + p + q - k) // s) * s < n + p for n, p, q, k, s in geometry)  # no window begins outside
        ceil_mode = int(whole and self.chance(0.4))
        return self.net.node("MaxPool", x, kernel_shape=kernel, strides=strides, pads=pads, ceil_mode=ceil_mode)

    def dense(self, x: str, out: int) -> str:
        """Gemm or MatMul over a vector, with or without a bias."""
        net, r = self.net, self.rng
        (size,) = net.shape_of(x)
        if self.chance(0.5):
            return net.node("MatMul", x, net.const(r.choice([-1.0, 1.0], (size, out))))
        bias = {"none": None, "integers": r.integers(-20, 20, out), "reals": r.normal(size=out)}[
            self.pick("none", "integers", "reals")
        ]
        inputs = [x, net.weight((out, size), scaled=self.chance(0.2))] + ([] if bias is None else [net.const(bias)])
        return net.node("Gemm", *inputs, transB=1, alpha=float(self.pick(1.0, 1.0, 0.5, -2.0)))

    def head(self, x: str) -> None:
        """An output: logits, with a BatchNorm, with a bias, or as they are."""
        net = self.net
        x = self.dense(net.node("Flatten", x), int(self.rng.integers(2, 12)))
        how = self.pick("batch_norm", "bias", "plain")
        if how == "batch_norm":
            x = net.batch_norm(x)
        elif how == "bias":
            x = net.node("Add", x, net.const(self.rng.normal(size=net.shape_of(x)[0])))
        net.outputs.append(x)
