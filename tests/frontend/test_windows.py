"""Convolutions, pools and reductions, against onnxruntime."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto as T

from bnncc.ops import (
    Conv,
    SumPool,
)
from tests.frontend.forms import Build, Forms, binary, checked, ints, ops, real, take
from tests.nets import Net, small_net


def weights(net: Net, kind: str, *shape: int) -> str:
    return net.weight(shape) if kind == "binary" else net.const(net.rng.normal(size=shape) / 4)


CONVS: dict[str, Callable[[Net, str, str], str]] = {
    "groups": lambda n, x, k: n.node("Conv", x, weights(n, k, 9, 4, 3, 3), group=3, pads=[1, 0, 1, 2]),
    "a channel each": lambda n, x, k: n.node("Conv", x, weights(n, k, 12, 1, 3, 3), group=12, pads=[1, 1, 1, 1]),
    "two for each channel": lambda n, x, k: n.node("Conv", x, weights(n, k, 24, 1, 2, 2), group=12, strides=[2, 1]),
    "dilated": lambda n, x, k: n.node("Conv", x, weights(n, k, 5, 12, 2, 2), dilations=[2, 3], pads=[1, 2, 0, 1]),
    "a bias": lambda n, x, k: n.node("Conv", x, weights(n, k, 6, 6, 1, 1), n.const(n.rng.normal(size=6)), group=2),
    "transposed": lambda n, x, k: n.node("ConvTranspose", x, weights(n, k, 12, 5, 2, 2), strides=[2, 2]),
    "transposed, cropped": lambda n, x, k: n.node(
        "ConvTranspose", x, weights(n, k, 12, 5, 3, 4), strides=[2, 3], pads=[1, 0, 1, 2], output_padding=[1, 0]
    ),
    "transposed by groups": lambda n, x, k: n.node(
        "ConvTranspose", x, weights(n, k, 12, 2, 3, 3), n.const(np.arange(6)), group=3, strides=[2, 2]
    ),
    "transposed to a shape": lambda n, x, k: n.node(
        "ConvTranspose", x, weights(n, k, 12, 4, 3, 3), strides=[2, 2], output_shape=[8, 8], auto_pad="SAME_LOWER"
    ),
    "transposed, dilated": lambda n, x, k: n.node("ConvTranspose", x, weights(n, k, 12, 3, 2, 2), dilations=[2, 1]),
    "a matrix at each pixel": lambda n, x, k: n.node(
        "MatMul", n.node("Transpose", x, perm=[0, 2, 3, 1]), weights(n, k, 12, 5)
    ),
    "the whole image": lambda n, x, k: n.node("Gemm", n.node("Flatten", x), weights(n, k, 6, 192), transB=1, alpha=0.5),
}


@pytest.mark.parametrize("of", ["bits", "bytes", "real values"])
@pytest.mark.parametrize("kind", ["binary", "real"])
def test_convolutions(kind: str, of: str) -> None:
    net, x = small_net(channels=12)
    if of == "bytes":
        net = Net(np.random.default_rng(7), (12, 4, 4))
        x = net.node("Cast", "x", to=T.FLOAT)
    elif of == "real values":
        x = real(net, x, 12)
    forms = {f: (lambda n, y, b=build: b(n, y, kind)) for f, build in CONVS.items()}
    c, _ = checked(net, x, forms)
    exact = kind == "binary" and of != "real values"
    assert all(s.op.exact for s in c.program.steps) == exact
    layers = [op for op in ops(c, Conv) if op.y.name != x]
    assert sum(op.binary == (kind == "binary") for op in layers) >= len(CONVS)


SEQUENCES: Forms = {
    "binary": lambda n, x: n.node("Conv", x, n.weight((5, 6, 3)), pads=[1, 1]),
    "binary by groups": lambda n, x: n.node("Conv", x, n.weight((9, 2, 4)), group=3, strides=[2], dilations=[2]),
    "real": lambda n, x: n.node("Conv", x, n.const(n.rng.normal(size=(5, 6, 3))), auto_pad="SAME_UPPER"),
    "transposed": lambda n, x: n.node("ConvTranspose", x, n.weight((6, 4, 2)), strides=[2]),
    "largest": lambda n, x: n.node("MaxPool", x, kernel_shape=[3], strides=[2], pads=[1, 0]),
    "means": lambda n, x: n.node("AveragePool", x, kernel_shape=[3], strides=[2], pads=[1, 1]),
    "the mean": lambda n, x: n.node("GlobalAveragePool", x),
    "the mean, dropping": lambda n, x: n.node("ReduceMean", x, ints(n, -1), keepdims=0),
    "the mean over channels": lambda n, x: n.node("ReduceMean", x, ints(n, 1)),
    "a matrix at each time": lambda n, x: n.node("MatMul", n.node("Transpose", x, perm=[0, 2, 1]), n.weight((6, 5))),
    "twice as long": lambda n, x: n.node(
        "Resize",
        x,
        "",
        n.const([1, 1, 2]),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "longer": lambda n, x: n.node("Pad", x, ints(n, 0, 0, 2, 0, 0, 1), n.const(-1.0)),
    "part": lambda n, x: take(n, x, (2, 3, 9, 1)),
    "flat": lambda n, x: n.node("Flatten", x),
    "an image": lambda n, x: n.node("Conv", n.node("Unsqueeze", x, ints(n, 2)), n.weight((5, 6, 1, 3))),
}


def test_sequences() -> None:
    net = Net(np.random.default_rng(2), (3, 14))
    x = net.node("Conv", net.normalise(), net.weight((6, 3, 3)))
    checked(net, net.sign(net.batch_norm(x), "ge_where"), SEQUENCES)


def average(**given: Any) -> Build:
    return lambda n, x: n.node("AveragePool", x, kernel_shape=[2, 3], **given)


def reduce(kind: str, *axes: int, **given: Any) -> Build:
    """ReduceSum takes its axes as an input from opset 13, the others from opset 18."""
    return lambda n, x: n.node(kind, x, ints(n, *axes), **given)


POOLS: Forms = {
    "plain": average(),
    "strides": average(strides=[2, 1]),
    "without the border": average(pads=[1, 1, 0, 2], count_include_pad=0),
    "with the border": average(pads=[1, 1, 0, 2], count_include_pad=1),
    "a last window that is cut": average(strides=[5, 2], ceil_mode=1),
    "cut, without the border": average(strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    "cut, with the border": average(strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1),
    "the same size": average(auto_pad="SAME_UPPER"),
    "the same size, lower": average(auto_pad="SAME_LOWER", count_include_pad=1),
    "the whole": lambda n, x: n.node("GlobalAveragePool", x),
    "largest": lambda n, x: n.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0], ceil_mode=1),
    "largest, dilated": lambda n, x: n.node("MaxPool", x, kernel_shape=[2, 2], dilations=[2, 3]),
    "mean over both": reduce("ReduceMean", 2, 3),
    "mean over height": reduce("ReduceMean", -2),
    "mean over width, dropping": reduce("ReduceMean", 3, keepdims=0),
    "mean over channels": reduce("ReduceMean", 1),
    "sum": reduce("ReduceSum", 2, 3),
    "sum over width": reduce("ReduceSum", 3, keepdims=0),
    "sum over channels": reduce("ReduceSum", 1),
    "maximum": reduce("ReduceMax", 2, 3, keepdims=0),
    "maximum over height": reduce("ReduceMax", 2),
}  # fmt: skip


@pytest.mark.parametrize("of", ["bits", "sums", "real values"])
def test_pools_and_reductions(of: str) -> None:
    net, x = small_net(size=8)
    given = {"bits": lambda: x, "sums": lambda: binary(net, x), "real values": lambda: real(net, x)}[of]()
    always = ("maximum",) if of == "bits" else ()  # of so many bits one is +1
    c, _ = checked(net, given, {k: form for k, form in POOLS.items() if k not in always})
    assert all(op.exact == (of != "real values") for op in ops(c, SumPool))
