"""Activations and quantisers, against onnxruntime."""

import numpy as np
import pytest
from onnx import helper as h
from onnx import numpy_helper as nh

from bnncc.ops import (
    Conv,
    Map,
)
from bnncc.tensor import Elem
from tests.frontend.forms import Forms, binary, checked, ops, real, verified
from tests.nets import Net, small_net


def column(net: Net, low: float, high: float) -> str:
    return net.const(net.rng.uniform(low, high, (7, 1, 1)))


ACTIVATIONS: Forms = {
    "Relu": lambda n, x: n.node("Relu", x),
    "LeakyRelu": lambda n, x: n.node("LeakyRelu", x, alpha=0.1),
    "PRelu": lambda n, x: n.node("PRelu", x, n.const(0.25)),
    "PRelu by channel": lambda n, x: n.node("PRelu", x, column(n, 0, 0.5)),
    "PRelu that turns round": lambda n, x: n.node("PRelu", x, column(n, -0.5, 0.5)),
    "RPRelu": lambda n, x: n.node(
        "Add", n.node("PRelu", n.node("Sub", x, column(n, -1, 1)), column(n, 0, 0.5)), column(n, -1, 1)
    ),
    "Relu6": lambda n, x: n.clip(x, 0.0, 6.0),
    "Clip by vectors": lambda n, x: n.node("Clip", x, n.const([-1.5]), n.const([2.5])),
    "Clip from below": lambda n, x: n.clip(x, -1.5, None),
    "Clip from above": lambda n, x: n.clip(x, None, 2.5),
    "Hardtanh": lambda n, x: n.clip(x, -1.0, 1.0),
    "HardSigmoid": lambda n, x: n.node("HardSigmoid", x, alpha=0.1, beta=0.4),
    "Round": lambda n, x: n.node("Round", n.node("Mul", x, n.const(0.5))),
    "Floor": lambda n, x: n.node("Floor", n.node("Mul", x, n.const(0.3))),
    "Ceil": lambda n, x: n.node("Ceil", n.node("Mul", x, n.const(0.3))),
    "Abs": lambda n, x: n.node("Abs", x),
    "Neg": lambda n, x: n.node("Neg", x),
}


@pytest.mark.parametrize("of", ["sums", "real values"])
def test_activations(of: str) -> None:
    net, x = small_net()
    c, _ = checked(net, binary(net, x) if of == "sums" else real(net, x), ACTIVATIONS)
    assert all(op.exact for op in ops(c, Map))


@pytest.mark.parametrize("of", ["sums", "real values"])
def test_signs_of_activations(of: str) -> None:
    """They become thresholds; what is not monotone is computed before it is compared."""
    net, x = small_net()
    x = binary(net, x) if of == "sums" else real(net, x)
    for build in ACTIVATIONS.values():
        shifted = net.batch_norm(build(net, x))
        net.outputs.append(
            net.node("Where", net.node("Less", shifted, net.const(0.0)), net.const(-1.0), net.const(1.0))
        )
    c = verified(net)
    assert 1 <= len(ops(c, Map)) <= 3, "Abs, and PReLU in two forms where a slope is negative"


OUTPUTS: Forms = {
    "Sigmoid": lambda n, x: n.node("Sigmoid", x),
    "Tanh": lambda n, x: n.node("Tanh", x),
    "Softmax": lambda n, x: n.node("Softmax", n.node("Flatten", n.node("GlobalMaxPool", x))),
    "Softmax over features": lambda n, x: n.node("Softmax", n.node("Flatten", x), axis=1),
    "LogSoftmax": lambda n, x: n.node("LogSoftmax", n.node("Flatten", n.node("GlobalAveragePool", x)), axis=-1),
    "Softmax over channels": lambda n, x: n.node("Softmax", x, axis=1),
    "Softmax over the width": lambda n, x: n.node("Softmax", x),
    "Softmax over channels between swaps": lambda n, x: n.node(
        "Transpose", n.node("Softmax", n.node("Transpose", x, perm=[0, 3, 2, 1]), axis=3), perm=[0, 3, 2, 1]
    ),
    "Softmax over last channels": lambda n, x: n.node("Softmax", n.node("Transpose", x, perm=[0, 2, 3, 1])),
}


@pytest.mark.parametrize("of", ["sums", "real values"])
def test_outputs_with_exponentials(of: str) -> None:
    net, x = small_net()
    checked(net, binary(net, x) if of == "sums" else real(net, x), OUTPUTS)


@pytest.mark.parametrize("scale", [0.25, 0.3])
@pytest.mark.parametrize("signed", [0, 1])
def test_quantised_activations_are_integers(signed: int, scale: float) -> None:
    """QONNX Quant: the next binary layer sums integers of few bits."""
    net, x = small_net()
    y = net.node("Identity", net.batch_norm(binary(net, x, 8)))
    net.outputs.append(net.node("Conv", y, net.weight((5, 8, 2, 2)), pads=[1, 0, 0, 1]))
    model = net.model()
    quant = next(n for n in model.graph.node if n.op_type == "Identity")
    quant.op_type, quant.domain = "Quant", "qonnx.custom_op.general"
    quant.input.extend(["scale", "zero", "bits"])
    given = {"signed": signed, "narrow": 0, "rounding_mode": "ROUND"}
    quant.attribute.extend(h.make_attribute(k, v) for k, v in given.items())
    values = (("scale", scale), ("zero", 0), ("bits", 4))
    model.graph.initializer.extend(nh.from_array(np.array(v, np.float32), k) for k, v in values)
    model.opset_import.append(h.make_opsetid(quant.domain, 1))
    c = verified(model, net.x)
    quantised = ops(c, Conv)[-1].x
    assert quantised.elem in (Elem.U8, Elem.I8)
    assert (quantised.lo, quantised.hi) == ((-8, 7) if signed else (0, 15))
    assert all(s.op.exact for s in c.program.steps)


@pytest.mark.parametrize(
    ("kind", "zero", "per_channel"), [(np.int8, 0, False), (np.uint8, 3, False), (np.int8, -5, True)]
)
def test_quantize_and_dequantize(kind: type, zero: int, per_channel: bool) -> None:
    """Brevitas' QCDQ: fewer bits by a Clip between the two."""
    net, x = small_net()
    y = net.batch_norm(binary(net, x, 8))
    scale = net.const(net.rng.uniform(0.2, 0.6, 8) if per_channel else 0.3)
    zeros = net.const(np.full(8, zero) if per_channel else zero, kind)
    y = net.node("QuantizeLinear", y, scale, zeros, axis=1)
    if not zero:
        y = net.node("Clip", y, net.const(-4, kind), net.const(3, kind))
    y = net.node("DequantizeLinear", y, scale, zeros, axis=1)
    net.outputs = [y, net.node("Conv", y, net.weight((5, 8, 2, 2)), pads=[1, 0, 0, 1])]
    c = verified(net)
    last = ops(c, Conv)[-1].x
    assert last.elem.is_integer != per_channel, "one scale for all channels keeps integers"
    if not zero:
        assert (last.lo, last.hi) == (-4, 3)
