"""Nodes that cannot be compiled are refused with a code that says why, and named."""

import numpy as np
import pytest
from onnx import TensorProto as T

from tests.frontend.refusals import BORDER, ONE, Build, conv, edited, in_parts, integers, pad, real, refused, resize
from tests.nets import Net


def training_batch_norm(net: Net, x: str) -> str:
    y = net.node("BatchNormalization", x, *[net.const(np.ones(9))] * 4, training_mode=1)
    net.nodes[-1].output.extend(["running_mean", "running_var"])
    return y


def take_two(net: Net, x: str) -> str:
    return net.node("Slice", x, *(integers(net, [k]) for k in (0, 2, 1)))


def quantised(net: Net, x: str, scale: str, **given: object) -> str:
    net.opset = 21
    return net.node("QuantizeLinear", x, scale, **given)


def dequantised(net: Net, x: str) -> str:
    return net.node("DequantizeLinear", x, net.const(0.5))


def zero_or(net: Net, tested: str, sign: str, zero: float) -> str:
    return net.node("Where", net.node("Equal", tested, net.const(zero)), net.const(1.0), sign)


def layer_norm(net: Net, x: str, axis: int) -> str:
    shape = net.shape_of(x)[axis - 1 if axis > 0 else axis :]
    return net.node("LayerNormalization", x, net.const(np.ones(shape)), axis=axis)


def twice_raised(net: Net, v: str) -> str:
    return net.node("Sqrt", net.node("Add", net.node("Add", v, net.const(1e-3)), net.const(1.0)))


def inverted_twice(net: Net, v: str) -> str:
    return net.node("Reciprocal", net.node("Reciprocal", net.node("Sqrt", net.node("Add", v, net.const(1e-3)))))


def over_one(net: Net, v: str) -> str:
    return net.node("Div", net.node("Sqrt", net.node("Add", v, net.const(1e-3))), net.const(1.0))


def whole_numbers(kind: int, factor: int) -> Build:
    """A comparison times a constant, in integers."""

    def build(net: Net, x: str) -> str:
        number = net.const(factor, np.int64)
        bit = net.node("Cast", net.node("Greater", x, net.const(0.0)), to=kind)
        twice = net.node("Mul", bit, net.node("Cast", number, to=kind))
        return net.node("Cast", net.node("Add", twice, twice), to=T.FLOAT)

    return build


BLUR = np.outer([1, 2, 1], [1, 2, 1]) / 16
NODES: dict[str, tuple[str, Build]] = {
    "an operator": ("E0201", lambda n, x: n.node("Elu", x)),
    "a softmax over the height": ("E0201", lambda n, x: n.node("Softmax", x, axis=2)),
    "an index": ("E0201", lambda n, x: n.node("Cast", n.node("ArgMax", x, axis=1), to=T.FLOAT)),
    "integers that are no bits": ("E0201", whole_numbers(T.INT8, 100)),
    "bits that wrap around": ("E0201", whole_numbers(T.UINT8, -1)),
    "a cast": ("E0201", lambda n, x: n.node("Cast", n.node("Cast", x, to=T.DOUBLE), to=T.FLOAT)),
    "three operands": ("E0201", lambda n, x: n.node("Max", x, n.const(0.0), n.const(1.0))),
    "1 / x": ("E0201", lambda n, x: n.node("Div", n.const(1.0), x)),
    "a channel's value / x": ("E0201", lambda n, x: n.node("Div", n.node("GlobalAveragePool", x), x)),
    "a cube": ("E0201", lambda n, x: n.node("Pow", x, n.const(3.0))),
    "a lonely root": ("E0201", lambda n, x: n.node("Sqrt", n.node("Abs", x))),
    "a lonely reciprocal": ("E0201", lambda n, x: n.node("Reciprocal", x)),
    "training BatchNorm": ("E0201", training_batch_norm),
    "Dropout in training": (
        "E0201",
        lambda n, x: n.node("Dropout", x, n.const(0.5), n.const(True, bool)),
    ),
    "Not of bits": ("E0201", lambda n, x: n.node("Where", n.node("Not", n.const(True, bool)), x, x)),
    "Where of tensors": ("E0201", lambda n, x: n.node("Where", n.const(np.ones((1, 9, 4, 4)) > 0, bool), x, x)),
    "Where of a ramp": (
        "E0201",
        lambda n, x: n.node("Where", n.node("Less", x, n.const(0.0)), n.const(np.arange(4)), n.const(1.0)),
    ),
    "Where that float32 cannot scale": (
        "E0201",
        lambda n, x: n.node(
            "Where", n.node("Less", n.node("Mul", x, n.const(3)), n.const(0.0)), n.const(0.3), n.const(0.1)
        ),
    ),
    "a comparison on its own": (
        "E0201",
        lambda n, x: n.node("Cast", n.node("Flatten", n.node("Less", x, n.const(0.0))), to=T.FLOAT),
    ),
    "a mean over the batch": ("E0201", lambda n, x: n.node("ReduceMean", x, integers(n, [0]))),
    "two to the power of a deviation": (
        "E0201",
        lambda n, x: in_parts(n, x, square=lambda n, c: n.node("Pow", n.const(2.0), c)),
    ),
    "an epsilon on an epsilon": ("E0201", lambda n, x: in_parts(n, x, spread=twice_raised)),
    "the inverse of an inverse": (
        "E0201",
        lambda n, x: in_parts(n, x, spread=inverted_twice, end=lambda n, c, s: n.node("Mul", c, s)),
    ),
    "a deviation times a spread over one": (
        "E0201",
        lambda n, x: in_parts(n, x, spread=over_one, end=lambda n, c, s: n.node("Mul", c, s)),
    ),
    "a spread over a deviation": ("E0201", lambda n, x: in_parts(n, x, end=lambda n, c, s: n.node("Div", s, c))),
    "Sign of a layer norm without a bias": (
        "E0304",
        lambda n, x: n.node("Sign", layer_norm(n, n.node("Flatten", conv(n, x, n.weight(ONE))), 1)),
    ),
    "a scale beyond float32": (
        "E0301",
        lambda n, x: conv(n, n.node("Mul", x, n.const(1e20)), n.const(np.full(ONE, 1e20))),
    ),
    "an alpha beyond float32": (
        "E0301",
        lambda n, x: n.node("Gemm", n.node("Flatten", x), n.const(np.full((144, 3), 1e20)), alpha=1e20),
    ),
    "a padding that ONNX does not know": ("E0105", lambda n, x: conv(n, x, n.weight((9, 9, 3, 3)), auto_pad="SAME")),
    "the same of a pool": ("E0105", lambda n, x: n.node("MaxPool", x, kernel_shape=[2, 2], auto_pad="SAME")),
    "the same transposed": (
        "E0105",
        lambda n, x: n.node("ConvTranspose", x, n.weight((9, 9, 3, 3)), auto_pad="SAME"),
    ),
    "pads as large as the window": (
        "E0105",
        lambda n, x: n.node("MaxPool", x, kernel_shape=[1, 1], pads=[1, 1, 1, 1]),
    ),
    "a layer norm over height and width": ("E0201", lambda n, x: layer_norm(n, x, 2)),
    "a centred value that is not normalised": (
        "E0208",
        lambda n, x: n.node("Sub", x, n.node("ReduceMean", x, integers(n, [1]))),
    ),
    "half of a layer norm": (
        "E0201",
        lambda n, x: n.node("Neg", n.node("Sub", x, n.node("ReduceMean", x, integers(n, [1])))),
    ),
    "a reflecting border": ("E0201", lambda n, x: conv(n, pad(n, x, BORDER, mode="reflect"), n.weight(ONE))),
    "a negative border": ("E0201", lambda n, x: pad(n, x, [0, 0, -1, 0, 0, 0, 0, 0])),
    "a padded batch": ("E0201", lambda n, x: n.node("Flatten", pad(n, x, [1, 0, 0, 0, 0, 0, 0, 0]), axis=0)),
    "linear resizing": ("E0201", lambda n, x: resize(n, x, [1, 1, 2, 2], mode="linear")),
    "resizing by 5/4": ("E0201", lambda n, x: resize(n, x, [1, 1, 1.25, 1.25], mode="nearest")),
    "resizing channels": ("E0201", lambda n, x: resize(n, x, [1, 2, 1, 1], mode="nearest")),
    "constants before and behind": (
        "E0201",
        lambda n, x: n.node("Concat", n.const(np.zeros((1, 2, 4, 4))), x, n.const(np.ones((1, 2, 4, 4))), axis=1),
    ),
    "scattered channels": (
        "E0201",
        lambda n, x: n.node("ScatterND", x, integers(n, [[[0, 3], [0, 5]]]), take_two(n, x)),
    ),
    "a comparison with one": ("E0201", lambda n, x: zero_or(n, x, n.node("Sign", x), 1.0)),
    "a zero of something else": ("E0201", lambda n, x: zero_or(n, real(n, x), n.node("Sign", real(n, x)), 0.0)),
    "pixels normalised by channel": (
        "E0201",
        lambda n, x: n.node("InstanceNormalization", x, n.const(np.ones(9)), n.const(np.zeros(9))),
    ),
    "quantised to float8": (
        "E0201",
        lambda n, x: n.node("Cast", quantised(n, x, n.const(0.5), output_dtype=T.FLOAT8E4M3FN), to=T.FLOAT),
    ),
    "quantised by zero": ("E0301", lambda n, x: dequantised(n, quantised(n, x, n.const(0.0)))),
    "quantised in blocks": (
        "E0201",
        lambda n, x: dequantised(n, quantised(n, x, n.const(np.ones((1, 3, 4, 4))), axis=1, block_size=3)),
    ),
    "concatenated heights": ("E0201", lambda n, x: n.node("Concat", x, x, axis=2)),
    "uneven indices": ("E0201", lambda n, x: n.node("Gather", x, integers(n, [0, 1, 3]), axis=1)),
    "a slice backwards": (
        "E0201",
        lambda n, x: n.node("Slice", x, *(integers(n, [k]) for k in (-1, -(1 << 31), 2, -1))),
    ),
    "a batch behind": ("E0201", lambda n, x: n.node("Transpose", x, perm=[1, 0, 2, 3])),
    "pool indices": ("E0201", lambda n, x: n.node("MaxPool", x, outputs=2, kernel_shape=[2, 2])),
    "a last window outside": (
        "E0201",
        lambda n, x: n.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1], ceil_mode=1),
    ),
    "groups that do not fit": ("E0105", lambda n, x: conv(n, x, n.weight((9, 1, 1, 1)), group=3)),
    "a pad of a whole window": (
        "E0105",
        lambda n, x: n.node("AveragePool", x, kernel_shape=[2, 2], pads=[2, 2, 2, 2]),
    ),
    "weights that vary": ("E0202", lambda n, x: conv(n, x, n.node("Reshape", x, integers(n, [1, 9, 4, 4])))),
    "a slope that varies": ("E0202", lambda n, x: n.node("PRelu", x, n.node("GlobalMaxPool", x))),
    "alpha zero": ("E0203", lambda n, x: n.node("Gemm", n.node("Flatten", x), n.weight((144, 3)), alpha=0.0)),
    "five axes": ("E0204", lambda n, x: n.node("Reshape", x, integers(n, [1, 9, 2, 2, 4]))),
    "channels as a batch": ("E0204", lambda n, x: n.node("Reshape", x, integers(n, [9, 16]))),
    "a slope with too many axes": ("E0205", lambda n, x: n.node("PRelu", x, n.const(np.full((1, 1, 1, 1, 1), 0.5)))),
    "a widening operand": ("E0205", lambda n, x: n.node("Add", x, n.const(np.ones((2, 9, 4, 4))))),
    "a row on an image": (
        "E0205",
        lambda n, x: n.node("Add", x, n.node("ReduceMax", x, integers(n, [2]))),
    ),
    "a widening zero": (
        "E0205",
        lambda n, x: n.node(
            "Where", n.node("GreaterOrEqual", x, n.const(np.zeros((3, 9, 4, 4)))), n.const(1.0), n.const(-1.0)
        ),
    ),
    "a widening choice": (
        "E0205",
        lambda n, x: n.node(
            "Where", n.node("GreaterOrEqual", x, n.const(0.0)), n.const(np.ones((2, 9, 4, 4))), n.const(-1.0)
        ),
    ),
    "an expansion": (
        "E0205",
        lambda n, x: n.node("Expand", n.node("GlobalMaxPool", x), integers(n, [1, 9, 4, 4])),
    ),
    "NaN weights": ("E0301", lambda n, x: conv(n, x, n.const(np.full(ONE, np.nan)))),
    "an infinite bias": ("E0301", lambda n, x: conv(n, x, n.weight(ONE), n.const(np.full(9, np.inf)))),
    "division by zero": ("E0301", lambda n, x: n.node("Div", x, n.const(0.0))),
    "a negative variance": (
        "E0301",
        lambda n, x: n.node("BatchNormalization", x, *[n.const(np.ones(9))] * 3, n.const(-np.ones(9))),
    ),
    "an overflowing scale": (
        "E0301",
        lambda n, x: n.node(
            "BatchNormalization", x, n.const(np.full(9, 3e38)), *[n.const(np.ones(9))] * 2, n.const(np.zeros(9))
        ),
    ),
    "Sign of an even number of bits": ("E0304", lambda n, x: n.node("Sign", conv(n, x, n.weight((9, 9, 2, 1))))),
    "Sign in a padded layer": (
        "E0304",
        lambda n, x: n.node("Sign", conv(n, x, n.weight((9, 9, 3, 3)), pads=[1, 1, 1, 1])),
    ),
    "Sign of rectified values": ("E0304", lambda n, x: n.node("Sign", n.node("Relu", real(n, x)))),
    "Sign of pooled rectified values": (
        "E0304",
        lambda n, x: n.node("Sign", n.node("MaxPool", n.node("Relu", real(n, x)), kernel_shape=[2, 2])),
    ),
    "Sign of a fixed blur of bits": (
        "E0304",
        lambda n, x: n.node(
            "Sign", n.node("Conv", x, n.const(np.full((9, 1, 3, 3), BLUR)), group=9, pads=[1, 1, 1, 1])
        ),
    ),
    "Sign of rounded values": ("E0304", lambda n, x: n.node("Sign", n.node("Round", real(n, x)))),
    "Sign of pooled rounded values": (
        "E0304",
        lambda n, x: n.node("Sign", n.node("MaxPool", n.node("Floor", real(n, x)), kernel_shape=[2, 2])),
    ),
    "Sign of a sum of clipped values": (
        "E0304",
        lambda n, x: n.node(
            "Sign", n.node("Add", *(n.node("Clip", real(n, x), n.const(-1.0), n.const(1.0)) for _ in range(2)))
        ),
    ),
    "Sign of bits and clipped values": (
        "E0304",
        lambda n, x: n.node("Sign", n.node("Sub", n.node("Clip", real(n, x), n.const(-1.0), n.const(1.0)), x)),
    ),
    "Sign of rectified values and even integers": (
        "E0304",
        lambda n, x: n.node(
            "Sign",
            n.node("Add", n.node("Add", conv(n, x, n.weight((9, 9, 1, 1))), n.const(1.0)), n.node("Relu", real(n, x))),
        ),
    ),
    "Sign of clipped values, shifted": (
        "E0304",
        lambda n, x: n.node(
            "Sign", n.node("Sub", n.node("Clip", real(n, x), n.const(-1.0), n.const(1.0)), n.const(1.0))
        ),
    ),
}


@pytest.mark.parametrize("case", NODES)
def test_refused_nodes(case: str) -> None:
    code, build = NODES[case]
    model = edited(build)
    last = model.graph.output[0].name
    refused(model, code, last if code == "E0208" else "(")
