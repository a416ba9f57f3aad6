"""What the importer makes of layers: affine inputs, paddings, scales, biases, means, vectors, views."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper as h

import bnncc
from bnncc.ops import Conv
from bnncc.tensor import Elem
from tests.nets import Net, finish, small_net

Build = Callable[[Net, str], str]


def verified(net: Net, **options: str) -> bnncc.Compiled:
    c = bnncc.compile(net.model(), name="net", **options)
    v = c.verify(samples=24)
    assert v.ok, v
    return c


def exact(c: bnncc.Compiled) -> bool:
    return all(s.op.exact for s in c.program.steps)


def there_and_back(net: Net, x: str) -> str:
    """Bits as {0, 1} and as {-1, 1} again."""
    bit = net.node("Add", net.node("Mul", x, net.const(0.5)), net.const(0.5))
    return net.node("Sub", net.node("Mul", bit, net.const(2.0)), net.const(1.0))


BORDER = [0, 0, 1, 2, 0, 0, 0, 1]
AFTER_BITS: dict[str, Build] = {
    "negated bits": lambda n, x: n.node("Neg", x),
    "one minus bits": lambda n, x: n.node("Sub", n.const(1.0), x),
    "half of bits plus half": lambda n, x: n.node("Add", n.node("Mul", x, n.const(0.5)), n.const(0.5)),
    "bits times 0.3": lambda n, x: n.node("Mul", x, n.const(0.3)),
    "bits over -4 plus 3": lambda n, x: n.node("Add", n.node("Div", x, n.const(-4.0)), n.const(3.0)),
    "clipped bits": lambda n, x: n.node("Clip", x, n.const(-2.0), n.const(2.0)),
    "rectified bits": lambda n, x: n.node("Relu", x),
    "dropout": lambda n, x: n.node("Dropout", x),
    "there and back": there_and_back,
}


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 2, 0, 1]])
@pytest.mark.parametrize("build", AFTER_BITS)
def test_convolution_of_rescaled_bits(build: str, pads: list[int]) -> None:
    net, x = small_net()
    x = net.node("Conv", AFTER_BITS[build](net, x), net.weight((11, 9, 3, 3)), pads=pads)
    net = finish(net, net.sign(net.batch_norm(x), "ge_where"))
    net.outputs.append(x)
    c = verified(net)
    assert exact(c) or build == "rectified bits"


@pytest.mark.parametrize("fill", [-1.0, 0.0, 1.0])
def test_padding_of_negated_bits(fill: float) -> None:
    net, x = small_net()
    x = net.node("Pad", net.node("Neg", x), net.const(BORDER, np.int64), net.const(fill))
    net.outputs.append(net.node("Conv", x, net.weight((7, 9, 3, 3))))
    assert exact(verified(net))


INPUTS: dict[str, Build] = {
    "(u - 128) / 128": lambda n, x: n.node("Div", n.node("Sub", x, n.const(128.0)), n.const(128.0)),
    "1 - u / 128": lambda n, x: n.node("Sub", n.const(1.0), n.node("Div", x, n.const(128.0))),
    "u / 127.5 - 1": lambda n, x: n.node("Sub", n.node("Div", x, n.const(127.5)), n.const(1.0)),
    "u / 255": lambda n, x: n.node("Div", x, n.const(255.0)),
    "Normalize": lambda n, x: n.node(
        "Div", n.node("Sub", n.node("Div", x, n.const(255.0)), n.const(0.1307)), n.const(0.3081)
    ),
    "means": lambda n, x: n.node("Sub", x, n.const([[[[3.0]], [[200.0]]]])),
    "means that are no integers": lambda n, x: n.node("Sub", x, n.const([[[[3.3]], [[200.7]]]])),
    "a mean image": lambda n, x: n.node("Sub", x, n.const(n.rng.integers(0, 255, (1, 2, 6, 6)))),
    "a real mean image": lambda n, x: n.node("Sub", x, n.const(n.rng.uniform(0, 255, (1, 2, 6, 6)))),
    "stds": lambda n, x: n.node("Div", n.node("Sub", x, n.const(100.0)), n.const([[[[30.0]], [[50.0]]]])),
    "BatchNorm first": lambda n, x: n.node(
        "BatchNormalization", x, n.const([1, 2]), n.const([0.5, 0.1]), n.const([100, 140]), n.const([900, 2000])
    ),
}


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 2, 0, 1]])
@pytest.mark.parametrize("build", INPUTS)
def test_normalisations(build: str, pads: list[int], layout: str) -> None:
    """Zero padding is zero after normalisation, so a mean is no part of it."""
    net = Net(np.random.default_rng(2), (2, 6, 6))
    x = INPUTS[build](net, net.node("Cast", "x", to=T.FLOAT))
    x = net.node("Conv", x, net.weight((10, 2, 3, 3)), net.const(net.rng.normal(size=10)), pads=pads)
    c = verified(finish(net, net.sign(net.batch_norm(x), "ge_where")), input_layout=layout)
    assert exact(c) == (build not in ("stds", "BatchNorm first"))


@pytest.mark.parametrize("pads", [{"auto_pad": a} for a in ("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")])
@pytest.mark.parametrize("strides", [[1, 1], [2, 3]])
def test_auto_pad(pads: dict[str, str], strides: list[int]) -> None:
    net, x = small_net(size=9)
    x = net.node("Conv", x, net.weight((6, 9, 3, 4)), strides=strides, **pads)
    x = net.sign(net.batch_norm(x), "bipolar")
    net.outputs.append(net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 1], **pads))
    verified(net)


SCALES = {"one": np.ones(8), "half": np.full(8, 0.5), "each": np.linspace(0.1, 2, 8), "powers": 2.0 ** np.arange(-4, 4)}


@pytest.mark.parametrize("bias", ["none", "integers", "reals"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", ["Conv", "Gemm", "MatMul"])
def test_scales_and_biases(kind: str, scale: str, bias: str) -> None:
    net, x = small_net()
    b = {"none": [], "integers": [net.const(np.arange(8) - 3)], "reals": [net.const(net.rng.normal(size=8))]}[bias]
    signs = net.rng.choice([-1.0, 1.0], (8, 144)) * SCALES[scale][:, None]
    if kind == "Conv":
        net.outputs.append(net.node("Conv", x, net.const(signs.reshape(8, 9, 4, 4)), *b))
    elif kind == "Gemm":
        net.outputs.append(
            net.node("Gemm", net.node("Flatten", x), net.const(signs), *b, transB=1, alpha=-0.5, beta=2.0)
        )
    else:
        y = net.node("MatMul", net.node("Flatten", x), net.const(signs.T))
        net.outputs.append(net.node("Add", y, *b) if b else y)
    assert exact(verified(net))


@pytest.mark.parametrize("scale", [0.7, 1.0])
def test_jitter_in_the_last_digit_of_the_weights_is_one_scale(scale: float) -> None:
    net, x = small_net()
    w = net.rng.choice([-scale, scale], (6, 9, 2, 2)).astype(np.float32)
    jitter = np.where(net.rng.random(w.shape) < 0.5, 1 - 2.0**-23, 1 + 2.0**-23).astype(np.float32)
    net.outputs.append(net.node("Conv", x, net.const(w * jitter)))
    assert exact(verified(net))


def test_jitter_in_weights_of_one_on_real_values() -> None:
    net = Net(np.random.default_rng(0), (60,), T.FLOAT)
    w = net.rng.choice([-1.0, 1.0], (60, 5)) * net.rng.choice([1 - 2.0**-23, 1 + 2.0**-23], (60, 5))
    net.outputs.append(net.node("MatMul", "x", net.const(w.astype(np.float32))))
    c = verified(net)
    assert any("last digits" in why for _, why in c.imported.reasons)


@pytest.mark.parametrize("size", range(3, 13))
@pytest.mark.parametrize("form", ["GlobalAveragePool", "ReduceMean", "ReduceMean, dropping", "AveragePool"])
def test_means_are_one_division(form: str, size: int) -> None:
    net, x = small_net(size=size)
    axes = net.const([-1, 2], np.int64)
    if form.startswith("ReduceMean"):
        y = net.node("ReduceMean", x, axes, keepdims=int("," not in form))
    else:
        y = net.node(form, x, **({"kernel_shape": [size - 2] * 2} if form == "AveragePool" else {}))
    net.outputs = [y, net.sign(net.batch_norm(y), "ge_where")]
    finish(net, y)
    verified(net)


@pytest.mark.parametrize("elem", [T.UINT8, T.INT8, T.FLOAT])
@pytest.mark.parametrize("size", [1, 3, 31, 64, 100])
def test_vectors(elem: int, size: int) -> None:
    net = Net(np.random.default_rng(size), (size,), elem)
    x = "x" if elem == T.FLOAT else net.node("Cast", "x", to=T.FLOAT)
    x = net.sign(net.batch_norm(net.node("Gemm", x, net.weight((20, size)), transB=1)), "ge_where")
    verified(finish(net, x))


def test_batch_norm_and_sign_of_bits() -> None:
    """A threshold that reads bits: after a sign, and after a pool of them."""
    for channels in (5, 12, 40):
        net, x = small_net(channels=channels)
        x = net.node("MaxPool", x, kernel_shape=[2, 2])
        parameters = [net.const(net.rng.normal(size=channels)) for _ in range(3)]
        x = net.node("BatchNormalization", x, *parameters, net.const(net.rng.uniform(0.1, 2, channels)))
        verified(finish(net, net.sign(x, "ge_where")))


def test_views() -> None:
    net, x = small_net()
    flat = net.node("Reshape", x, net.const([1, -1], np.int64))
    back = net.node("Reshape", flat, net.const([1, 9, 4, 4], np.int64))
    y = net.node("Conv", back, net.weight((6, 9, 4, 4)))
    for v in (
        net.node("Squeeze", y, net.const([2, 3], np.int64)),
        net.node("Flatten", y),
        net.node("Identity", y),
        flat,
    ):
        net.outputs.append(v)
    net.outputs.append(net.node("Unsqueeze", net.outputs[0], net.const([2, 3], np.int64)))
    verified(net)


def test_batch_norm_after_flatten_has_a_threshold_for_every_pixel() -> None:
    net, x = small_net()
    x = net.node("Conv", x, net.weight((5, 9, 2, 2)))
    x = net.sign(net.batch_norm(net.node("Flatten", x)), "ge_where")
    c = verified(finish(net, x))
    cuts = [s.op.cut for s in c.program.steps if isinstance(s.op, Conv) and s.op.cut is not None]
    assert any(cut.classes is not None for cut in cuts)


def test_max_and_relu_of_negative_zero() -> None:
    """-0.0 or +0.0: onnxruntime's own choice depends on the lane, so that either counts as equal."""
    for build in (
        lambda n, y: n.node("Relu", n.node("Neg", y)),
        lambda n, y: n.node("Max", n.node("Neg", y), n.const(0.0)),
        lambda n, y: n.node("Min", n.const(0.0), n.node("Neg", y)),
        lambda n, y: n.node("Clip", n.node("Neg", y), n.const(-3.0), n.const(0.0)),
    ):
        net, x = small_net()
        net.outputs.append(build(net, net.node("Conv", x, net.weight((9, 9, 4, 4)))))
        verified(net)


def test_a_pool_of_accumulators_that_is_an_output() -> None:
    net, x = small_net()
    y = net.node("Conv", x, net.weight((5, 9, 2, 2)))
    net.outputs = [net.node("MaxPool", y, kernel_shape=[2, 2], pads=[1, 0, 1, 0]), net.node("GlobalMaxPool", y)]
    verified(net)


def test_two_layers_without_a_sign_between() -> None:
    net, x = small_net()
    y = net.node("Conv", x, net.weight((5, 9, 2, 2)))
    net.outputs.append(net.node("Conv", y, net.weight((4, 5, 2, 2)), pads=[1, 1, 1, 1]))
    assert exact(verified(net))


def test_the_input_as_an_output() -> None:
    for elem in (T.UINT8, T.FLOAT):
        net = Net(np.random.default_rng(0), (2, 3, 3), elem)
        net.outputs.append(net.node("Flatten", "x"))
        model = net.model()
        model.graph.output[0].CopyFrom(h.make_tensor_value_info(net.outputs[0], elem, (1, 18)))
        assert bnncc.compile(model, name="net").verify(samples=3).ok


def test_bits_are_bits_whatever_the_exporter_wrote_around_them() -> None:
    """A chain that maps -1 and +1 to themselves is nothing."""
    net, x = small_net()
    x = AFTER_BITS["there and back"](net, x)
    c = verified(finish(net, x))
    assert [s.op.x.elem for s in c.program.steps if isinstance(s.op, Conv)] == [Elem.U8, Elem.BIN]
