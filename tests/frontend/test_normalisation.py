"""Layer and group normalisation, against onnxruntime."""

import numpy as np
import pytest
from onnx import TensorProto as T

from bnncc.ops import (
    Normalize,
    NormSign,
    Threshold,
)
from tests.frontend.forms import Build, Forms, binary, checked, ints, ops, real, verified
from tests.nets import Net, small_net


def parts(net: Net, x: str, axis: tuple[int, ...], *, inverse: str = "", behind: str = "") -> str:
    """A layer normalisation in single nodes; `behind` a variance without the axis comes what gives it back."""
    centred = net.node("Sub", x, net.node("ReduceMean", x, ints(net, *axis)))
    squared = net.node("Mul", centred, centred) if inverse else net.node("Pow", centred, net.const(2.0))
    variance = net.node("ReduceMean", squared, ints(net, *axis), keepdims=0 if behind else 1)
    if behind:
        shape = [1, *net.shape_of(x)]
        shape[axis[0]] = 1
        variance = net.node("Reshape", variance, ints(net, *shape))
    if behind == "Expand":
        variance = net.node(behind, variance, ints(net, *shape))
    spread = net.node("Add", variance, net.const(1e-3))
    root = net.node("Sqrt", spread)
    if inverse == "Reciprocal":
        return net.node("Mul", centred, net.node("Reciprocal", root))
    if inverse == "Div":
        return net.node("Mul", net.node("Div", net.const(1.0), root), centred)
    return net.node("Div", centred, root)


def norm(net: Net, x: str, axis: int, *, bias: bool = True, zero: bool = False) -> str:
    shape = net.shape_of(x)[axis - 1 :] if axis > 0 else net.shape_of(x)[axis:]
    gamma = net.rng.choice([-1, 1], shape) * net.rng.uniform(0.5, 2, shape)
    if zero:
        gamma.reshape(-1)[0] = 0
    inputs = [net.const(gamma), *([net.const(net.rng.normal(size=shape) / 2)] if bias else [])]
    return net.node("LayerNormalization", x, *inputs, axis=axis, epsilon=1e-3)


def last(build: Build) -> Build:
    """The form between two transpositions, on channels that come last."""
    return lambda n, x: n.node("Transpose", build(n, n.node("Transpose", x, perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2])


NORMS: Forms = {
    "channels": last(lambda n, x: norm(n, x, -1)),
    "channels without a bias": last(lambda n, x: norm(n, x, 3, bias=False)),
    "a channel that counts for nothing": last(lambda n, x: norm(n, x, -1, zero=True)),
    "all features": lambda n, x: norm(n, n.node("Flatten", x), 1),
    "all features of an image": lambda n, x: norm(n, x, 1),
    "channels in parts": lambda n, x: parts(n, x, (1,)),
    "channels in parts, times": lambda n, x: parts(n, x, (1,), inverse="Reciprocal"),
    "channels in parts, over": lambda n, x: parts(n, x, (1,), inverse="Div"),
    "last channels in parts": last(lambda n, x: parts(n, x, (-1,))),
    "torch's variance": lambda n, x: parts(n, x, (1,), behind="Reshape"),
    "torch's variance of last channels": last(lambda n, x: parts(n, x, (-1,), behind="Expand")),
    "one group": lambda n, x: n.node(
        "InstanceNormalization", n.node("Reshape", x, ints(n, 1, 1, -1)), n.const([0.75]), n.const([0.25])
    ),
    "features in parts": lambda n, x: parts(n, x, (1, 2, 3)),
}


@pytest.mark.parametrize("of", ["sums", "real values"])
def test_layer_normalisations(of: str) -> None:
    net, x = small_net()
    c, _ = checked(net, binary(net, x) if of == "sums" else real(net, x), NORMS)
    assert len(ops(c, Normalize)) == len(NORMS)


@pytest.mark.parametrize("at_zero", [True, False])
def test_the_sign_of_a_layer_norm_of_integers_needs_no_root(at_zero: bool) -> None:
    net, x = small_net()
    x = binary(net, x, 8)
    form = "GreaterOrEqual" if at_zero else "Greater"
    for build in NORMS.values():
        bit = net.node(form, build(net, x), net.const(0.0))
        net.outputs.append(net.node("Where", bit, net.const(1.0), net.const(-1.0)))
    c = verified(net)
    assert len(ops(c, NormSign)) == len(NORMS)
    assert not ops(c, Normalize)


def test_thresholds_that_differ_from_pixel_to_pixel() -> None:
    """More kinds of pixels than 16 bits can number."""
    net = Net(np.random.default_rng(0), (3, 270, 270), samples=2)
    levels = net.const(net.rng.integers(1, 255, (1, 3, 270, 270)) - 0.5)
    bit = net.node("GreaterOrEqual", net.node("Cast", "x", to=T.FLOAT), levels)
    net.outputs = [net.node("Where", bit, net.const(1.0), net.const(-1.0))]
    c = verified(net)
    assert any(s.op.cut.classes.max() > 1 << 16 for s in c.program.steps if isinstance(s.op, Threshold))
