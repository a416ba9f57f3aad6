"""What cannot be compiled is refused with a code that says why and names the node."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h

import bnncc
from tests.nets import Net, finish, small_net

Build = Callable[[Net, str], str]


def refused(model: onnx.ModelProto, code: str, where: str = "", **options: object) -> bnncc.Diagnostic:
    with pytest.raises(bnncc.BnnccError) as caught:
        bnncc.compile(model, name="net", **options)
    found = caught.value.diagnostics
    assert [d.code for d in found] == [code]
    assert found[0].message
    assert where in found[0].where
    return found[0]


def edited(build: Build, **kind: object) -> onnx.ModelProto:
    """A small network whose bits go through `build` before they leave it."""
    net, x = small_net(**kind)
    net.outputs.append(build(net, x))
    return net.model()


def declared(net: Net, shape: tuple[int, ...], elem: int = T.FLOAT) -> onnx.ModelProto:
    """The model of a net whose output onnxruntime cannot tell."""
    output = net.outputs[0]
    graph = h.make_graph(
        net.nodes,
        "net",
        [h.make_tensor_value_info("x", net.elem, (1, *net.shape))],
        [h.make_tensor_value_info(output, elem, shape)],
        [onnx.numpy_helper.from_array(v, k) for k, v in net.constants.items()],
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", net.opset)], ir_version=net.ir)


def conv(net: Net, x: str, *weights: str, **given: object) -> str:
    return net.node("Conv", x, *weights, **given)


def training_batch_norm(net: Net, x: str) -> str:
    y = net.node("BatchNormalization", x, *[net.const(np.ones(9))] * 4, training_mode=1)
    net.nodes[-1].output.extend(["running_mean", "running_var"])
    return y


def real(net: Net, x: str) -> str:
    """A layer with real weights."""
    return conv(net, x, net.const(net.rng.normal(size=ONE)))


ONE = (9, 9, 1, 1)
BORDER = [0, 0, 1, 1, 0, 0, 1, 1]


def integers(net: Net, values: object) -> str:
    return net.const(values, np.int64)


def pad(net: Net, x: str, widths: list[int], **given: object) -> str:
    return net.node("Pad", x, integers(net, widths), **given)


def resize(net: Net, x: str, scales: list[float], **given: object) -> str:
    return net.node("Resize", x, "", net.const(scales), **given)


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


def in_parts(
    net: Net,
    x: str,
    *,
    square: Callable[[Net, str], str] = lambda n, c: n.node("Mul", c, c),
    spread: Callable[[Net, str], str] = lambda n, v: n.node("Sqrt", n.node("Add", v, n.const(1e-3))),
    end: Callable[[Net, str, str], str] = lambda n, c, s: n.node("Div", c, s),
    axis: int = 1,
    keep: int = 1,
) -> str:
    """A layer normalisation in single nodes, one of them unlike what it should be."""

    def mean(x: str) -> str:
        return net.node("ReduceMean", x, integers(net, [axis]), keepdims=keep)

    centred = net.node("Sub", x, mean(x))
    return end(net, centred, spread(net, mean(square(net, centred))))


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


def test_a_mean_that_is_subtracted_along_another_axis() -> None:
    """Without its axis, the mean of each row of a cube broadcasts to other values than those it is the mean of."""
    net = Net(np.random.default_rng(0), (4, 4, 4))
    x = net.node("Transpose", net.node("Cast", "x", to=T.FLOAT), perm=[0, 2, 3, 1])
    net.outputs.append(in_parts(net, x, axis=3, keep=0))
    refused(net.model(), "E0205", "Sub")


def test_a_window_larger_than_the_image() -> None:
    net, x = small_net()
    net.outputs.append(conv(net, x, net.weight((9, 9, 7, 7)), pads=[1, 1, 1, 1]))
    found = refused(declared(net, (1, 9, 0, 0)), "E0105", "Conv")
    assert "[7, 7]" in found.message
    assert "[6, 6]" in found.message
    net.outputs[0] = conv(net, x, net.weight((9, 9, 7, 7)))
    refused(declared(net, (1, 9, -2, -2)), "E0104", "Conv")


def test_a_mean_for_another_number_of_channels() -> None:
    """Which ONNX does not check before opset 15."""
    net, x = small_net()
    net.opset = 12
    gamma, beta, mean, var = (net.const(np.ones(n)) for n in (9, 9, 1, 9))
    net.outputs.append(net.node("BatchNormalization", x, gamma, beta, mean, var))
    assert "its mean has shape [1]" in refused(declared(net, (1, 9, 4, 4)), "E0105").message


def test_an_output_that_is_a_comparison() -> None:
    net, x = small_net()
    net.outputs.append(net.node("Greater", x, net.const(0.0)))
    assert "comparison" in refused(declared(net, (1, 9, 4, 4), T.BOOL), "E0208").message


def test_what_others_say_is_one_line_without_their_paths() -> None:
    scales = {"coordinate_transformation_mode": "no such mode"}
    found = refused(edited(lambda n, x: resize(n, x, [1, 1, 2, 2], **scales)), "E0107", "Resize")
    assert "no such mode" in found.message
    assert not {"\n", "/onnxruntime_src"} & set(found.message.split(" "))
    reflected = refused(edited(lambda n, x: pad(n, x, BORDER, mode="reflect")), "E0201", "Pad")
    assert "mode reflect" in reflected.message


def test_every_problem_is_reported_at_once() -> None:
    net, x = small_net()
    net.outputs = [
        net.node("Softmax", x, axis=2),
        net.node("Gemm", net.node("Flatten", x), net.weight((144, 3)), alpha=0.0),
        conv(net, x, net.const(np.full(ONE, np.nan))),
        net.node("Elu", x),
    ]
    with pytest.raises(bnncc.ModelError) as caught:
        bnncc.compile(net.model(), name="net")
    found = caught.value.diagnostics
    assert [d.code for d in found] == ["E0201", "E0203", "E0301", "E0201"]
    assert [d.where.split("_")[0] for d in found] == ["Softmax", "Gemm", "Conv", "Elu"]
    assert all(d.remedy for d in found)


def test_problems_behind_others_are_reported_too() -> None:
    net, x = small_net()
    y = net.node("Selu", net.node("Elu", conv(net, x, net.const(np.full(ONE, np.inf)))))
    net.outputs.append(conv(net, y, net.const(np.full(ONE, np.nan))))
    with pytest.raises(bnncc.ModelError) as caught:
        bnncc.compile(net.model(), name="net")
    found = caught.value.diagnostics
    assert [(d.code, d.where.split("_")[0]) for d in found] == [
        ("E0301", "Conv"),
        ("E0201", "Elu"),
        ("E0201", "Selu"),
        ("E0301", "Conv"),
    ]


def test_every_sign_that_can_meet_zero_is_reported_at_once() -> None:
    net, x = small_net()
    even = conv(net, x, net.weight((9, 9, 2, 1)))
    net.outputs = [
        net.node("Sign", even),
        net.node("Sign", net.node("Relu", real(net, x))),
        net.node("Sign", net.node("Add", even, net.const(0.5))),  # never zero
    ]
    with pytest.raises(bnncc.ModelError) as caught:
        bnncc.compile(net.model(), name="net")
    found = caught.value.diagnostics
    assert [d.code for d in found] == ["E0304", "E0304"]
    assert "9 of 9 channels" in found[0].message
    assert "ReLU" in found[1].message
    assert all("--sign-at-zero" in d.remedy for d in found)


def test_a_message_about_many_nodes_names_a_few() -> None:
    net, x = small_net()
    x = real(net, x)
    for _ in range(300):
        x = net.node("Relu", x)
    net.outputs.append(net.node("Sign", x))
    found = refused(net.model(), "E0304", "Sign")
    assert len(found.where) < 300
    assert " more, Sign" in found.where


def test_an_axis_that_is_not_there_is_refused() -> None:
    net, x = small_net()
    net.outputs.append(net.node("Softmax", net.node("Flatten", conv(net, x, net.weight(ONE))), axis=1))
    model = net.model()
    model.graph.node[-1].attribute[0].i = 5
    assert "5" in refused(model, "E0105").message  # onnx says it, or where it does not know the shapes the importer


@pytest.mark.parametrize("operation", ["Sub", "Add", "Mul", "Div"])
def test_arithmetic_on_bytes_wraps_around_and_is_refused(operation: str) -> None:
    net = Net(np.random.default_rng(0), (2, 4, 4))
    net.outputs.append(net.node("Cast", net.node(operation, "x", net.const(3, np.uint8)), to=T.FLOAT))
    assert "uint8" in refused(net.model(), "E0201", f"{operation}_1").message


def test_large_sums_are_refused() -> None:
    net = Net(np.random.default_rng(0), (70_000,))
    net.outputs.append(net.node("MatMul", net.normalise(0.0, 1.0), net.weight((70_000, 2))))
    refused(net.model(), "E0302", "MatMul")
    net = Net(np.random.default_rng(0), (1, 300, 300))
    net.outputs.append(net.node("GlobalAveragePool", net.node("Cast", "x", to=T.FLOAT)))
    refused(net.model(), "E0302", "GlobalAveragePool")


def test_large_integers_that_the_file_rounds_are_refused() -> None:
    """Times 0.3, the file's float32 no longer tells one sum from the next."""
    for size, scale, code in ((9000, 0.3, "E0303"), (9000, 0.5, ""), (2000, 0.3, "")):
        net = Net(np.random.default_rng(0), (size,))
        y = net.node("MatMul", net.node("Cast", "x", to=T.FLOAT), net.weight((size, 3)))
        net.outputs.append(net.node("MatMul", net.node("Mul", y, net.const(scale)), net.weight((3, 2))))
        if code:
            refused(net.model(), code, "MatMul")
        else:
            assert bnncc.compile(net.model(), name="net").verify(samples=4).ok


def test_more_than_65535_binary_inputs_are_counted() -> None:
    net = Net(np.random.default_rng(0), (70_000,), T.FLOAT)
    net.constants["c0"] = np.ones((70_000, 2), np.float32)
    net.outputs.append(net.node("MatMul", net.sign("x", "ge_where"), "c0"))
    compiled = bnncc.compile(net.model())
    assert compiled.verify(np.ones((1, 70_000), np.float32)).outputs_c.popitem()[1].ravel().tolist() == [70_000, 70_000]
    assert compiled.verify(samples=2).ok


def input_model(shape: tuple[object, ...], elem: int = T.FLOAT, count: int = 1) -> onnx.ModelProto:
    infos = [h.make_tensor_value_info(f"x{k}", elem, shape) for k in range(count)]
    nodes = [h.make_node("Identity", ["x0"], ["y"])]
    graph = h.make_graph(nodes, "g", infos, [h.make_tensor_value_info("y", elem, shape)])
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    "model",
    [
        input_model((1, 3), count=2),
        input_model((1, 3), T.INT32),
        input_model((1, 3), T.DOUBLE),
        input_model((2, 3)),
        input_model((1, 2, 3, 4, 5)),
        input_model((3,)),
        input_model((1, "n")),
    ],
    ids=["two inputs", "int32", "double", "batch 2", "five dimensions", "one dimension", "symbolic size"],
)
def test_unsupported_inputs(model: onnx.ModelProto) -> None:
    refused(model, "E0207")


def test_no_input() -> None:
    graph = h.make_graph(
        [h.make_node("Identity", ["c"], ["y"])],
        "g",
        [],
        [h.make_tensor_value_info("y", T.FLOAT, (1, 2))],
        [onnx.numpy_helper.from_array(np.ones((1, 2), np.float32), "c")],
    )
    refused(h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10), "E0207")


def test_a_constant_output_is_refused() -> None:
    net, x = small_net()
    net = finish(net, x)
    net.outputs.append(net.node("Identity", net.const(np.ones((1, 3)))))
    refused(net.model(), "E0208")


def test_a_symbolic_batch_is_one_sample() -> None:
    bnncc.compile(input_model(("batch", 3)), name="net")


@pytest.mark.parametrize("version", [1, 8, 1000])
def test_opsets(version: int) -> None:
    model = input_model((1, 3))
    model.opset_import[0].version = version
    refused(model, "E0103")


@pytest.mark.parametrize(
    "metadata",
    [
        {"bnncc.exits": "not json"},
        {"bnncc.exits": '["a"]'},
        {"bnncc.exits": "[" * 5000},
        {"bnncc.exits": "[1, 2]"},
        {"bnncc.exits": '["OUT0", "OUT1"]'},
        {"bnncc.exits": '["OUT0", "OUT1"]', "bnncc.exit_threshold": "nan"},
        {"bnncc.exits": '["OUT0", "OUT1"]', "bnncc.exit_threshold": "1e300"},
        {"bnncc.exits": '["OUT0", "OUT1"]', "bnncc.exit_threshold": "1", "bnncc.exit_rule": "max_probability"},
        {"bnncc.exits": '["OUT0", "OUT0"]', "bnncc.exit_threshold": "1"},
    ],
)
def test_bad_exits(metadata: dict[str, str]) -> None:
    net, x = small_net()
    finish(finish(net, x), x)
    if metadata["bnncc.exits"] == "[1, 2]":
        for k, name in enumerate(net.outputs):  # ONNX names may look like numbers
            for node in net.nodes:
                node.output[:] = [str(k + 1) if o == name else o for o in node.output]
        net.outputs = ["1", "2"]
    filled = {k: v.replace("OUT0", net.outputs[0]).replace("OUT1", net.outputs[1]) for k, v in metadata.items()}
    net.metadata = filled
    refused(net.model(), "E0209", "metadata_props")


def test_exits_that_are_images_are_refused() -> None:
    net, x = small_net()
    finish(net, x).outputs.append(x)
    net.metadata = {"bnncc.exits": f'["{net.outputs[0]}", "{x}"]', "bnncc.exit_threshold": "1"}
    refused(net.model(), "E0209")


def test_options() -> None:
    net, x = small_net()
    model = finish(net, x).model()
    refused(model, "E0402", input="i8")
    refused(model, "E0401", target="cortex-m99")
    for name in ("int", "9lives", "a b", "x" * 41, "", "ünicode"):
        with pytest.raises(bnncc.UsageError, match="E0403"):
            bnncc.compile(model, name=name)
    for name in ("model", "stdint", "Driver"):  # NAME.h would stand in front of another header
        with pytest.raises(bnncc.UsageError, match="E0403"):
            bnncc.compile(model, name=name)


def test_require_binary_names_the_real_layers() -> None:
    net, x = small_net(elem=T.FLOAT)
    model = finish(net, x).model()
    found = refused(model, "E0305", "Conv", require_binary=True)
    assert "--input u8" in found.remedy
    bnncc.compile(model, name="net", input="u8", require_binary=True)


def test_a_float_input_to_a_binary_layer_warns() -> None:
    net, x = small_net(elem=T.FLOAT)
    model = finish(net, x).model()
    assert [w.code for w in bnncc.compile(model, name="net").warnings] == ["W0401"]
    assert not bnncc.compile(model, name="net", input="i8").warnings


def test_a_float_input_that_is_quantised_first_does_not_warn() -> None:
    net, _ = small_net(elem=T.FLOAT)
    net.nodes.clear()
    y = net.node("QuantizeLinear", "x", net.const(0.25), net.const(0, np.int8))
    net.outputs.append(conv(net, net.node("DequantizeLinear", y, net.const(0.25)), net.weight((9, 2, 3, 3))))
    assert not bnncc.compile(net.model(), name="net").warnings


def test_a_ternary_sign_over_real_values_warns() -> None:
    net = Net(np.random.default_rng(0), (6,), T.FLOAT)
    model = finish(net, net.sign(net.node("Add", "x", net.const(0.1)), "sign")).model()
    assert [w.code for w in bnncc.compile(model, name="net").warnings] == ["W0301"]
    assert not bnncc.compile(model, name="net", sign_at_zero=1).warnings


@pytest.mark.parametrize("of", ["real", "scaled integers"])
def test_a_ternary_sign_of_what_can_be_equal(of: str) -> None:
    """A difference of two tensors is zero where they are equal, often if a ReLU made them; --sign-at-zero decides it."""
    net, x = small_net()
    a, b = (real(net, x) if of == "real" else conv(net, x, net.weight(ONE)) for _ in range(2))
    a, b = (net.node("LeakyRelu", net.node("Mul", v, net.const(0.3))) for v in (a, b))
    net.outputs.append(net.node("Sign", net.node("Sub", a, b)))
    (found,) = bnncc.compile(net.model(), name="net").warnings
    assert found.code == "W0301"
    assert "--sign-at-zero=+1" in found.remedy
    a, b = (net.node("Relu", v) for v in (a, b))
    net.outputs.append(net.node("Sign", net.node("Sub", a, b)))
    assert "ReLU" in refused(net.model(), "E0304").message
    for at_zero in (1, -1):
        c = bnncc.compile(net.model(), name="net", sign_at_zero=at_zero)
        assert not c.warnings
        v = c.verify(net.x)
        assert v.ok
        assert v.left_out == 0


def test_a_ternary_sign_of_the_float_input_is_refused() -> None:
    """An input is exactly zero more often than by chance."""
    net = Net(np.random.default_rng(0), (6,), T.FLOAT)
    refused(finish(net, net.sign("x", "sign")).model(), "E0304", "Sign")
