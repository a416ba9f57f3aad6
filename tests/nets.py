"""Random binarized networks as ONNX, for tests: written with onnx.helper, calibrated so that channels take both values."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from bnncc.frontend.load import session

SIGNS = ("bipolar", "ge_where", "ge_cast", "lt_where", "add_sign", "detach")


@dataclass
class Net:
    """A network under construction: nodes, constants, and a batch of inputs to calibrate on."""

    rng: np.random.Generator
    shape: tuple[int, ...]  # of the input, ONNX layout without batch
    elem: int = T.UINT8
    samples: int = 12
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    signs: list[str] = field(default_factory=list)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        size = (self.samples, 1, *self.shape)
        if self.elem == T.UINT8:
            self.x = self.rng.integers(0, 256, size).astype(np.uint8)
        elif self.elem == T.INT8:
            self.x = self.rng.integers(-128, 128, size).astype(np.int8)
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
        """Calibrated so that about half of each channel's values come out on either side of zero."""
        (v,) = self.values(x)
        axes = tuple(k for k in range(v.ndim) if k != 2)
        c = v.shape[2]
        median = np.median(v, axis=axes)
        spread = v.std(axis=axes) + 1e-3
        gamma = self.rng.choice([-1.0, 1.0], c) * self.rng.uniform(0.1, 3, c)
        beta = self.rng.normal(size=c) * 0.2
        var = spread**2 * self.rng.uniform(0.5, 2, c)
        mean = median + self.rng.uniform(-0.4, 0.4, c) + beta / gamma * np.sqrt(var)
        return self.node(
            "BatchNormalization", x, self.const(gamma), self.const(beta), self.const(mean), self.const(var)
        )

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


def random_net(seed: int, *, max_channels: int = 100, forms: tuple[str, ...] = SIGNS) -> Net:
    """A network of 2 to 5 weighted layers with everything that the compiler handles mixed at random."""
    rng = np.random.default_rng(seed)
    pick = lambda *options: options[int(rng.integers(len(options)))]  # noqa: E731
    elem = pick(T.UINT8, T.UINT8, T.INT8, T.FLOAT)
    image = (int(pick(1, 2, 3, 4)), int(rng.integers(4, 13)), int(rng.integers(4, 13)))
    net = Net(rng, image, elem)
    if elem == T.FLOAT:
        x = net.sign(net.batch_norm("x"), pick(*forms)) if rng.random() < 0.7 else net.sign("x", "ge_where")
    elif rng.random() < 0.2:
        x = net.node("Cast", "x", to=T.FLOAT)
    else:
        centre = 128.0 if elem == T.UINT8 else float(pick(0.0, 1.0))
        mean = pick(centre, np.full((1, image[0], 1, 1), centre) + rng.integers(-9, 9, (1, image[0], 1, 1)))
        x = net.normalise(mean, pick(128.0, 64.0, 1.0))
    c, height, width = image
    channels = lambda: int(
        pick(rng.integers(1, 9), rng.integers(1, 34), rng.integers(1, max_channels + 1), pick(8, 16, 32, 64))
    )
    layers = int(rng.integers(2, 4))
    for _ in range(layers):
        kernel = (int(rng.integers(1, min(7, height) + 1)), int(rng.integers(1, min(7, width) + 1)))
        dilations = tuple(int(pick(1, 1, 2)) for _ in range(2))
        strides = tuple(int(pick(1, 1, 2, 3)) for _ in range(2))
        span = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = [int(rng.integers(0, s)) if rng.random() < 0.6 else 0 for s in (*span, *span)]
        binary = x in net.signs
        size = [height + pads[0] + pads[2] - span[0], width + pads[1] + pads[3] - span[1]]
        if min(size) < 0:
            kernel, dilations, pads, size = (1, 1), (1, 1), [0, 0, 0, 0], [height - 1, width - 1]
        out = channels()
        source = x
        if binary and any(pads) and rng.random() < 0.4:
            widths = net.const([0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]], np.int64)
            source = net.node("Pad", x, widths, net.const(pick(-1.0, 1.0, 0.0)))
            pads = [0, 0, 0, 0]
        inputs = [source, net.weight((out, c, *kernel), scaled=rng.random() < 0.2)]
        if rng.random() < 0.2:
            inputs.append(net.const(rng.normal(size=out)))
        x = net.node("Conv", *inputs, kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations)
        c, height, width = out, size[0] // strides[0] + 1, size[1] // strides[1] + 1
        place = pick("none", "before", "between", "after")
        pool = dict(
            kernel_shape=[2, 2],
            strides=[int(pick(1, 2)), int(pick(1, 2))],
            pads=pick([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]),
        )
        if min(height, width) < 3:
            place = "none"

        def pooled(v: str, *, here: str, place: str = place, pool: dict[str, list[int]] = pool) -> str:
            return net.node("MaxPool", v, **pool) if place == here else v

        x = pooled(
            net.sign(pooled(net.batch_norm(pooled(x, here="before")), here="between"), pick(*forms)), here="after"
        )
        if place == "after":
            net.signs[-1] = net.signs[-1]
        if place != "none":
            p = pool["pads"]
            height = (height + p[0] + p[2] - 2) // pool["strides"][0] + 1
            width = (width + p[1] + p[3] - 2) // pool["strides"][1] + 1
        if place == "after":
            net.signs.append(x)
    if rng.random() < 0.3:
        x = net.node(pick("GlobalAveragePool", "GlobalAveragePool"), x)
        x = net.sign(net.batch_norm(x), pick(*forms))
        height = width = 1
    if rng.random() < 0.3:
        net.outputs.append(x)
    x = net.node("Flatten", x)
    size = c * height * width
    if rng.random() < 0.5:
        out = channels()
        x = net.node("Gemm", x, net.weight((out, size)), transB=1)
        x = net.sign(net.batch_norm(x), pick(*forms))
        size = out
    out = int(rng.integers(2, 12))
    x = net.node("MatMul", x, net.const(rng.choice([-1.0, 1.0], (size, out))))
    net.outputs.append(
        net.batch_norm(x)
        if rng.random() < 0.6
        else net.node("Add", x, net.const(rng.normal(size=out)))
        if rng.random() < 0.5
        else x
    )
    return net
