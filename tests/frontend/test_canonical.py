"""Layers over images of integers that are not the integers themselves: the canonical form means what the file means."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto as T

import bnncc
from bnncc.frontend.source.session import session
from tests.nets import Net

Form = Callable[[Net, str], str]


def conv(scale: float = 1.0, *, kind: str = "Conv", **attributes: object) -> Form:
    def build(net: Net, x: str) -> str:
        weight = net.const(net.rng.choice([-1, 1], (8, 8, 3, 3)) * scale)
        return net.node(kind, x, weight, **attributes)

    return build


def dense(net: Net, x: str) -> str:
    weight = net.rng.choice([-1, 1], (8 * 25, 3)) * 0.3
    return net.node("Gemm", net.node("Flatten", x), net.const(weight), net.const(net.rng.normal(size=3)))


def pooled(net: Net, x: str) -> str:
    return conv()(net, net.node("AveragePool", x, kernel_shape=[2, 2], strides=[1, 1]))


def residual(net: Net, x: str) -> str:
    return net.node("Add", x, conv(pads=[1, 1, 1, 1])(net, x))


def filled(net: Net, x: str) -> str:
    """A border of ones."""
    widths = net.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    return conv()(net, net.node("Pad", x, widths, net.const(1.0)))


READERS: dict[str, Form] = {
    "conv": conv(),
    "conv, zero padding": conv(pads=[1, 1, 1, 1]),
    "conv, border of ones": filled,
    "conv, +-0.3": conv(0.3, pads=[1, 1, 1, 1], strides=[2, 2]),
    "transposed": conv(kind="ConvTranspose", strides=[2, 2]),
    "dense": dense,
    "pooled": pooled,
    "residual": residual,
}
ENDS = (
    (1, 0), (0, 1), (2, -2), (-2, 2), (3, -3), (-3, 3), (0, -1), (-1, 0), (5, 2), (2, 5), (-2, -5), (-5, -2),
    (0.7, 0.1), (0.1, 0.7), (-0.1, -0.7), (1 / 3, -1 / 3), (-1 / 3, 1 / 3), (-1, -436.75), (-436.75, -1), (1e-3, 1e3),
)  # fmt: skip


def two_valued(high: float, low: float) -> Form:
    """`high` where x >= 0, `low` elsewhere, as arithmetic on a comparison."""

    def build(net: Net, x: str) -> str:
        bit = net.node("Cast", net.node("GreaterOrEqual", x, net.const(0.0)), to=T.FLOAT)
        return net.node("Add", net.node("Mul", bit, net.const(high - low)), net.const(low))

    return build


def image(factor: float, offset: float) -> Form:
    return lambda net, x: net.node("Add", net.node("Mul", x, net.const(factor)), net.const(offset))


def compare(form: Form, reader: Form) -> None:
    """The reference beside the file, and the compiler's graph beside the reference."""
    net = Net(np.random.default_rng(0), (8, 5, 5), T.INT8, samples=4)
    net.outputs = [reader(net, form(net, net.node("Cast", "x", to=T.FLOAT)))]
    c = bnncc.compile(net.model(), name="net")
    with_file, canonical = (
        np.concatenate([session(m).run(net.outputs, {"x": x})[0] for x in net.x])
        for m in (c.imported.given, c.imported.reference)
    )
    scale = np.abs(with_file).max()
    assert np.abs(with_file - canonical).max() <= 1e-5 * scale, c.imported.reasons
    made = c.program.graph.run(net.x[:, 0])[f"output:{net.outputs[0]}"]
    assert np.abs(made.reshape(canonical.shape) - canonical).max() <= 1e-5 * scale


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_two_values(ends: tuple[float, float], reader: str) -> None:
    compare(two_valued(*ends), READERS[reader])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "factor", [1.0, -1.0, 0.5, -0.5, 3.0, -3.0, 1 / 127.5, -1 / 127.5, 0.01, -0.01], ids=lambda f: f"{f:.3g}"
)
@pytest.mark.parametrize("offset", [0.0, -1.0, 0.3])
def test_images_of_integers(factor: float, offset: float, reader: str) -> None:
    compare(image(factor, offset), READERS[reader])


NUMBERS = st.floats(-100, 100, width=32).filter(lambda v: v == 0 or abs(v) > 1e-3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(high=NUMBERS, low=NUMBERS, reader=st.sampled_from(sorted(READERS)))
def test_any_two_values(high: float, low: float, reader: str) -> None:
    if abs(high - low) > 1e-3:
        compare(two_valued(high, low), READERS[reader])


@pytest.mark.parametrize("ends", ENDS[:8], ids=str)
def test_the_c_means_the_same(ends: tuple[float, float]) -> None:
    net = Net(np.random.default_rng(0), (8, 5, 5), T.INT8, samples=8)
    y = conv(pads=[1, 1, 1, 1])(net, two_valued(*ends)(net, net.node("Cast", "x", to=T.FLOAT)))
    net.outputs = [
        net.node(
            "GlobalAveragePool", net.node("Where", net.node("Less", y, net.const(0.5)), net.const(-1.0), net.const(1.0))
        )
    ]
    assert bnncc.compile(net.model(), name="net").verify(net.x).ok


def after(*operations: tuple[str, float]) -> Form:
    def build(net: Net, x: str) -> str:
        for kind, constant in operations:
            x = net.node(kind, x, net.const(constant))
        return x

    return build


@pytest.mark.parametrize(
    "form",
    [
        after(("Mul", 1e-30), ("Mul", 1e-30), ("Mul", 1e30)),  # vanishes in float32, and stays away
        after(("Mul", 1e-20), ("Add", 1e20)),
        after(("Mul", 0.0)),
        after(*[("Mul", 1e-30)] * 14),
        after(*[("Div", 1e30)] * 14, ("Div", 1e-30)),
    ],
    ids=["vanishing product", "vanishing sum", "times zero", "beyond float64", "quotients beyond float64"],
)
def test_values_that_do_not_follow_the_integers(form: Form) -> None:
    """What is lost in float32 is lost in the C too."""
    net = Net(np.random.default_rng(0), (8, 5, 5), T.INT8, samples=4)
    net.outputs = [conv()(net, form(net, net.node("Cast", "x", to=T.FLOAT)))]
    c = bnncc.compile(net.model(), name="net")
    v = c.verify(net.x)
    assert v.ok
    assert not c.imported.reasons or v.given is None or v.given.largest_difference == 0


@pytest.mark.filterwarnings("error")
def test_values_that_overflow() -> None:
    net = Net(np.random.default_rng(0), (8, 5, 5), T.INT8, samples=4)
    net.outputs = [conv()(net, after(*[("Mul", 1e30)] * 12)(net, net.node("Cast", "x", to=T.FLOAT)))]
    with pytest.raises(bnncc.ModelError, match="E0301"):
        bnncc.compile(net.model(), name="net")
