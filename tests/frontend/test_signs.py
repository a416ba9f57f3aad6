"""Sign in its dialects: each at -1, 0 and +1 and beside them, against onnxruntime."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper

import bnncc
from tests.nets import SIGNS, Net, bipolar_quant

Form = Callable[[Net, str], str]


def where(
    condition: str, high: float, low: float, threshold: float = 0.0, *, mirrored: bool = False, full: bool = False
) -> Form:
    def build(net: Net, x: str) -> str:
        c = net.const(threshold)
        ends = [net.const(np.full((1, 16), v) if full else v) for v in (high, low)]
        return net.node("Where", net.node(condition, *((c, x) if mirrored else (x, c))), *ends)

    return build


def quantized(domain: str, scale: object) -> Form:
    def build(net: Net, x: str) -> str:
        function = bipolar_quant()
        function.domain = domain
        net.functions.append(function)
        return net.node("BipolarQuant", x, net.const(scale), domain=domain)

    return build


def negated(net: Net, x: str) -> str:
    return net.node("Where", net.node("Not", net.node("Less", x, net.const(1.0))), net.const(1.0), net.const(-1.0))


def as_bit(net: Net, x: str) -> str:
    return net.node("Cast", net.node("Greater", x, net.const(0.0)), to=T.FLOAT)


def from_bit(net: Net, x: str) -> str:
    return net.node("Add", net.node("Mul", as_bit(net, x), net.const(-2.0)), net.const(1.0))


def sign_of_sign(offset: float) -> Form:
    return lambda net, x: net.node("Sign", net.node("Add", net.node("Sign", x), net.const(offset)))


def integers(net: Net, x: str) -> str:
    y = net.node("Where", net.node("Less", x, net.const(0.0)), net.const(-1, np.int64), net.const(1, np.int64))
    return net.node("Cast", y, to=T.FLOAT)


def whole(kind: int, *, less: bool = False) -> Form:
    """(x >= 0) * 2 - 1 in integers, or 1 - (x < 0) * 2."""

    def build(net: Net, x: str) -> str:
        one, two = (net.const(v, helper.tensor_dtype_to_np_dtype(kind)) for v in (1, 2))
        bit = net.node("Cast", net.node("Less" if less else "GreaterOrEqual", x, net.const(0.0)), to=kind)
        twice = net.node("Mul", bit, two)
        return net.node("Cast", net.node("Sub", *((one, twice) if less else (twice, one))), to=T.FLOAT)

    return build


def doubles(net: Net, x: str) -> str:
    y = net.node("Where", net.node("Less", x, net.const(0.0)), net.const(-1, np.float64), net.const(1, np.float64))
    return net.node("Cast", y, to=T.FLOAT)


def twice_clipped(net: Net, x: str) -> str:
    """detach() as legacy torch exports it: the clip is written twice."""
    a, b = (net.node("Clip", x, net.const(-1.0), net.const(1.0)) for _ in range(2))
    return net.node("Add", net.node("Sub", where("GreaterOrEqual", 1.0, -1.0)(net, x), a), b)


def flipped_sum(net: Net, x: str) -> str:
    clip = net.node("Clip", x, net.const(-1.0), net.const(1.0))
    return net.node("Add", clip, net.node("Sub", where("Greater", 1.0, -1.0)(net, x), clip))


def zero_replaced(by: float, *, given: bool = False, cast: bool = False) -> Form:
    """torch.where(s == 0, by, s), or of x == 0; as masked_fill, with a Cast to bool."""

    def build(net: Net, x: str) -> str:
        s = net.node("Sign", x)
        is_zero = net.node("Equal", x if given else s, net.const(0.0))
        is_zero = net.node("Cast", is_zero, to=T.BOOL) if cast else is_zero
        return net.node("Where", is_zero, net.const(by), s)

    return build


COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
FORMS: dict[str, Form] = {
    **{f: (lambda net, x, f=f: net.sign(x, f)) for f in SIGNS if f != "sign"},
    **{
        f"{c} {h:g} {low:g}": where(c, h, low)
        for c in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
        for h, low in ((1, -1), (-1, 1))
    },
    **{f"mirrored {c}": where(c, 1, -1, mirrored=True) for c in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    "threshold 3": where("GreaterOrEqual", 1, -1, 3.0),
    "threshold 2.5 mirrored": where("Less", 1, -1, 2.5, mirrored=True),
    "full constants": where("GreaterOrEqual", 1, -1, full=True),
    "scaled": where("Greater", 0.375, -0.375),
    "scaled by a third": where("Greater", 1 / 3, -1 / 3),
    "zero and one": where("Greater", 1, 0),
    "two and five": where("LessOrEqual", 5, 2),
    "a zero of either sign": where("Greater", 1.0, -1.0, -0.0),
    "negated": negated,
    "a bit": as_bit,
    "from a bit": from_bit,
    "as integers": integers,
    "in integers": whole(T.INT64),
    "in short integers": whole(T.INT8, less=True),
    "as doubles": doubles,
    "sign of sign": sign_of_sign(0.1),
    "sign of sign below": sign_of_sign(-0.5),
    "clipped twice": twice_clipped,
    "the other way round": flipped_sum,
    "zero as one": zero_replaced(1.0),
    "zero as minus one": zero_replaced(-1.0, cast=True),
    "a zero given as one": zero_replaced(1.0, given=True),
    "qonnx": quantized("qonnx.custom_op.general", 1.0),
    "brevitas, scaled": quantized("onnx.brevitas", 0.25),
    "finn, per channel": quantized("finn.custom_op.general", np.linspace(0.1, 2, 16).reshape(1, 16)),
}


def compiled(form: Form) -> tuple[bnncc.Compiled, Net]:
    """int8 vector -> sign -> itself and a dense layer over it."""
    net = Net(np.random.default_rng(0), (16,), T.INT8)
    y = form(net, net.node("Cast", "x", to=T.FLOAT))
    net.outputs = [y, net.node("MatMul", y, net.weight((16, 3)))]
    return bnncc.compile(net.model(), name="net"), net


@pytest.mark.parametrize("form", FORMS)
def test_sign_forms(form: str) -> None:
    c, _ = compiled(FORMS[form])
    x = np.concatenate(
        [np.arange(-8, 8).reshape(1, 16), np.zeros((1, 16)), np.random.default_rng(1).integers(-3, 4, (30, 16))]
    )
    assert c.verify(x).ok
    assert any(s.op.x.elem.value == "bin" for s in c.program.steps), "the dense layer does not see bits"


@pytest.mark.parametrize(
    "form",
    [
        lambda net, x: net.node("Sign", x),
        lambda net, x: net.node("Neg", net.node("Sign", x)),
        lambda net, x: net.node("Sign", net.node("Add", net.node("Sign", x), net.const(2.0))),
        lambda net, x: net.node("Sign", net.node("Mul", net.node("Sign", x), net.const(2.0))),
    ],
)
def test_a_sign_that_gives_zero_is_no_bit(form: Form) -> None:
    with pytest.raises(bnncc.ModelError, match="E0304"):
        compiled(form)


def test_sign_where_zero_is_out_of_reach() -> None:
    c, net = compiled(lambda net, x: net.node("Sign", net.node("Add", x, net.const(0.5))))
    assert c.verify(net.x).ok


@pytest.mark.parametrize("operator", ["FloatQuant", "XnorPopcountMatMul"])
def test_quantizers_of_other_kinds_are_refused(operator: str) -> None:
    """Custom operators of a known domain, but without a meaning that is known here."""

    def build(net: Net, x: str) -> str:
        FORMS["qonnx"](net, x)  # declares the domain
        net.nodes.pop()
        function = bipolar_quant()
        function.name = operator
        net.functions.append(function)
        return net.node(operator, x, net.const(1.0), domain="qonnx.custom_op.general")

    with pytest.raises(bnncc.ModelError, match=f"E0201.*{operator}"):
        compiled(build)
