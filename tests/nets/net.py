"""A network under construction as ONNX nodes, with the values that a batch of inputs takes in it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from bnncc.frontend.source.session import session

SIGNS = ("bipolar", "ge_where", "ge_cast", "lt_where", "add_sign", "detach", "sign")
QONNX = "qonnx.custom_op.general"
NEWEST_IR = 13


@dataclass
class Net:
    """Nodes, constants, and a batch of inputs to calibrate on.

    How the file is written apart from its nodes: `batch` names a symbolic batch ("" for 1), `listed` says that initializers are
    inputs too, `inlined` which constants are Constant nodes, `inferred` that the shapes of all values are in the file.
    """

    rng: np.random.Generator
    shape: tuple[int, ...]  # of the input, ONNX layout without batch
    elem: int = T.UINT8
    holds: str = ""  # for a float input: "u8" or "i8" if it holds such integers
    samples: int = 12
    opset: int = 18
    ir: int = 10
    batch: str = ""
    listed: bool = False
    inferred: bool = False
    naming: str = "plain"  # or "torch", "tf": what exporters call values
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inlined: set[str] = field(default_factory=set)
    outputs: list[str] = field(default_factory=list)
    signs: list[str] = field(default_factory=list)
    kinks: list[str] = field(default_factory=list)  # inputs of Relu and its like, which bend at 0
    last: set[str] = field(default_factory=set)  # values with their channels in the last axis
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    bare: bool = False  # leave the functions out of the file, as Brevitas does
    metadata: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # for bnncc.compile
    count: int = 0
    family: str = ""
    notes: set[str] = field(default_factory=set)  # the forms in which it is written
    attempts: int = 1  # networks drawn until one had channels that take both values

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
        self._known: dict[str, np.ndarray] = {}
        self._evaluated = 0  # nodes whose values are known

    def const(self, value: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def node(self, kind: str, *inputs: str, domain: str = "", outputs: int = 1, **given: object) -> str:
        """Append a node; the name of its (first) output. Further outputs are that name with "_1", "_2" behind it."""
        self.count += 1
        n = self.count
        name = {
            "plain": f"t{n}",
            "torch": f"/features/features.{n}/{kind}_output_0",
            "tf": f"model/layer_{n}/{kind}__{n}:0",
        }[self.naming]
        names = [name, *(f"{name}_{k}" for k in range(1, outputs))]
        self.nodes.append(h.make_node(kind, list(inputs), names, name=f"{kind}_{n}", domain=domain, **given))
        return name

    def model(self) -> onnx.ModelProto:
        """The whole file."""
        dim: int | str = self.batch or 1
        inputs = [h.make_tensor_value_info("x", self.elem, (dim, *self.shape))]
        outputs = [h.make_tensor_value_info(o, T.FLOAT, None) for o in self.outputs]
        m = self._model(self.nodes, inputs, outputs)
        inferred = onnx.shape_inference.infer_shapes(m, data_prop=True)
        known = {v.name: v for v in [*inferred.graph.value_info, *inferred.graph.output]}
        for o in m.graph.output:
            o.CopyFrom(known[o.name])
            if not o.type.tensor_type.HasField("shape"):  # exporters know what inference cannot tell
                o.CopyFrom(h.make_tensor_value_info(o.name, T.FLOAT, [dim, *self.shape_of(o.name)]))
        if self.inferred:
            del m.graph.value_info[:]
            m.graph.value_info.extend(v for v in inferred.graph.value_info if v.name not in self.constants)
        if self.bare:
            del m.functions[:]
        return m

    def _model(
        self, nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        used = {name for node in nodes for name in node.input}
        tensors = {k: nh.from_array(v, k) for k, v in self.constants.items() if k in used}
        inlined = [k for k in tensors if k in self.inlined]
        graph = h.make_graph(
            [*(h.make_node("Constant", [], [k], value=tensors.pop(k)) for k in inlined), *nodes],
            "net",
            inputs,
            outputs,
            list(tensors.values()),
        )
        if self.listed:
            graph.input.extend(h.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors.values())
        domains = sorted({f.domain for f in self.functions})
        opsets = [h.make_opsetid("", self.opset)] + [h.make_opsetid(d, 1) for d in domains]
        ir = max(self.ir, 8) if self.functions else self.ir  # which brought functions
        m = h.make_model(graph, opset_imports=opsets, ir_version=ir, functions=self.functions)
        h.set_model_props(m, self.metadata)
        return m

    def values(self, *names: str) -> list[np.ndarray]:
        """onnxruntime's values for the calibration batch, stacked. Only nodes new since the last call are run."""
        self._known["x"] = self.x
        new = self.nodes[self._evaluated :]
        if any(n not in self._known for n in names):
            made = [o for node in new for o in node.output]
            given = sorted({i for node in new for i in node.input if i and i not in made and i in self._known})
            inputs = [
                h.make_tensor_value_info(i, h.np_dtype_to_tensor_dtype(self._known[i].dtype), self._known[i].shape[1:])
                for i in given
            ]
            s = session(self._model(new, inputs, [onnx.ValueInfoProto(name=o) for o in made]))
            feeds = ({i: self._known[i][k] for i in given} for k in range(self.samples))
            runs = [s.run(None, feed) for feed in feeds]
            self._known |= {o: np.stack(v) for o, v in zip(made, zip(*runs, strict=True), strict=True)}
            self._evaluated = len(self.nodes)
        return [self._known[n] for n in names]

    def undo(self) -> onnx.NodeProto:
        """Take the last node out again."""
        self._evaluated = min(self._evaluated, len(self.nodes) - 1)
        return self.nodes.pop()

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
        return self.node("BatchNormalization", x, *map(self.const, calibrated(self.rng, *self.values(x))))

    def sign(self, x: str, form: str) -> str:
        one, minus = self.const(1.0), self.const(-1.0)
        zero = self.const(0.0)
        if form == "bipolar":
            y = self.node("BipolarQuant", x, one, domain=self.quantizer())
        elif form == "ge_where":
            y = self.node("Where", self.at_least(x, zero), one, minus)
        elif form == "lt_where":
            y = self.node("Where", self.node("Less", x, zero), minus, one)
        elif form == "ge_cast":
            bit = self.node("Cast", self.at_least(x, zero), to=T.FLOAT)
            y = self.node("Sub", self.node("Mul", bit, self.const(2.0)), one)
        elif form == "add_sign":
            y = self.node("Sign", self.node("Add", self.node("Sign", x), self.const(0.1)))
        elif form == "detach":
            clip = self.clip(x, -1.0, 1.0)
            inner = self.node("Where", self.at_least(x, zero), one, minus)
            y = self.node("Add", self.node("Sub", inner, clip), clip)
        else:
            y = self.node("Sign", x)
        self.signs.append(y)
        return y

    def at_least(self, x: str, threshold: str) -> str:
        """x >= threshold; GreaterOrEqual is an operator from opset 12."""
        if self.opset >= 12:
            return self.node("GreaterOrEqual", x, threshold)
        return self.node("Not", self.node("Less", x, threshold))

    def clip(self, x: str, low: float | None, high: float | None) -> str:
        """The bounds are attributes up to opset 10."""
        if self.opset < 11:
            given = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
            return self.node("Clip", x, **given)
        bounds = ["" if v is None else self.const(v) for v in (low, high)]
        return self.node("Clip", x, *(bounds if bounds[1] else bounds[:1]))

    def quantizer(self, domain: str = QONNX, kind: str = "BipolarQuant") -> str:
        """`domain`, in which BipolarQuant (or MultiThreshold) is then defined."""
        if (domain, kind) not in [(f.domain, f.name) for f in self.functions]:
            define = {"BipolarQuant": bipolar_quant, "MultiThreshold": multi_threshold}[kind]
            self.functions.append(define(domain, self.opset))
        return domain

    def mixed(self) -> list[float]:
        """Share of the channels of each sign that take both values, and of each kink that lie on both sides, on the batch."""
        names = [*self.signs, *self.kinks]
        return [mixed(v, v.ndim - 1 if n in self.last else 2) for n, v in zip(names, self.values(*names), strict=True)]


def mixed(v: np.ndarray, axis: int = 2) -> float:
    """Share of the channels (`axis` of [samples, 1, ...]) with values below and above 0."""
    others = tuple(k for k in range(v.ndim) if k != axis)
    return float(((v.min(axis=others) < 0) & (v.max(axis=others) > 0)).mean())


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


def calibrated(
    rng: np.random.Generator, v: np.ndarray, residual: np.ndarray | float = 0.0, axis: int = 2
) -> list[NDArray[np.float32]]:
    """gamma, beta, mean, var of a BatchNorm (epsilon 1e-5) of v, after which v + residual changes sign between two values that
    each channel takes."""
    rows = np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1).astype(np.float64)
    others = np.moveaxis(residual + np.zeros_like(v), axis, 0).reshape(rows.shape).astype(np.float64)
    c = len(rows)
    share = rng.uniform(0.3, 0.7, c)
    gamma = rng.choice([-1.0, 1.0], c) * rng.uniform(0.1, 3, c)
    beta = rng.normal(size=c) * 0.2
    var = (rows.std(axis=1) + 1e-3) ** 2 * rng.uniform(0.5, 2, c)
    slope = gamma / np.sqrt(var + 1e-5)
    change = np.array([between(r * s + o, p) for r, s, o, p in zip(rows, slope, others, share, strict=True)])
    mean = (change + beta) / slope
    return [p.astype(np.float32) for p in (gamma, beta, mean, var)]


def between(values: np.ndarray, share: float) -> float:
    """A number that share of the way from one to the next of the values, near their median.

    Values that lie much closer than others are one integer after rounding, and are not parted.
    """
    distinct = np.unique(values)
    steps = np.flatnonzero(np.diff(distinct) > 1e-3 * np.ptp(distinct))
    if not len(steps):
        return float(distinct[0]) + share
    k = steps[np.argmin(np.abs(steps - np.searchsorted(distinct, np.median(values))))]
    return float(distinct[k] + share * (distinct[k + 1] - distinct[k]))


def _at_least(threshold: str, opset: int) -> list[onnx.NodeProto]:
    if opset >= 12:
        return [h.make_node("GreaterOrEqual", ["x", threshold], ["positive"])]
    return [h.make_node("Less", ["x", threshold], ["negative"]), h.make_node("Not", ["negative"], ["positive"])]


def multi_threshold(domain: str = QONNX, opset: int = 18) -> onnx.FunctionProto:
    """One threshold for all channels, [1, 1], or for a vector's, [C, 1]; to -1 and +1."""
    nodes = [
        h.make_node("Transpose", ["thresholds"], ["row"], perm=[1, 0]),
        *_at_least("row", opset),
        *(h.make_node("Constant", [], [k], value=nh.from_array(np.float32(v))) for k, v in (("one", 1), ("minus", -1))),
        h.make_node("Where", ["positive", "one", "minus"], ["y"]),
    ]
    given = ["out_dtype", "out_scale", "out_bias", "data_layout"]
    imports = [h.make_opsetid("", opset)]
    return h.make_function(domain, "MultiThreshold", ["x", "thresholds"], ["y"], nodes, imports, given)


def bipolar_quant(domain: str = QONNX, opset: int = 18) -> onnx.FunctionProto:
    nodes = [
        h.make_node("Constant", [], ["zero"], value=nh.from_array(np.float32(0))),
        *_at_least("zero", opset),
        h.make_node("Neg", ["scale"], ["minus"]),
        h.make_node("Where", ["positive", "scale", "minus"], ["y"]),
    ]
    return h.make_function(domain, "BipolarQuant", ["x", "scale"], ["y"], nodes, [h.make_opsetid("", opset)])
