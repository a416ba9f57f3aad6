"""What the tests of refusals share: small networks with one node that is not compiled, and what is said of them."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h

import bnncc
from tests.nets import Net, small_net

Build = Callable[[Net, str], str]
ONE = (9, 9, 1, 1)
BORDER = [0, 0, 1, 1, 0, 0, 1, 1]


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


def real(net: Net, x: str) -> str:
    """A layer with real weights."""
    return conv(net, x, net.const(net.rng.normal(size=ONE)))


def integers(net: Net, values: object) -> str:
    return net.const(values, np.int64)


def pad(net: Net, x: str, widths: list[int], **given: object) -> str:
    return net.node("Pad", x, integers(net, widths), **given)


def resize(net: Net, x: str, scales: list[float], **given: object) -> str:
    return net.node("Resize", x, "", net.const(scales), **given)


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
