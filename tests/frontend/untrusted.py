"""Models that onnxruntime would not run, and what compile() says of them."""

from collections.abc import Callable

import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

import bnncc
from tests.nets import Net


def shaped(net: Net, shape: tuple[int, ...] = (1, 9, 4, 4)) -> onnx.ModelProto:
    """The model of a net that onnxruntime cannot run, or would run for ever; its last output has this shape."""
    graph = h.make_graph(
        net.nodes,
        "net",
        [h.make_tensor_value_info("x", net.elem, (1, *net.shape))],
        [h.make_tensor_value_info(net.outputs[-1], T.FLOAT, shape)],
        [nh.from_array(v, k) for k, v in net.constants.items()],
    )
    opsets = [h.make_opsetid("", net.opset), *(h.make_opsetid(d, 1) for d in {f.domain for f in net.functions})]
    return h.make_model(graph, opset_imports=opsets, ir_version=net.ir, functions=net.functions)


def code_of(source: object) -> str:
    """The code that compile() refuses with, "" if it does not."""
    try:
        bnncc.compile(source, name="net")
    except bnncc.BnnccError as e:
        return e.diagnostics[0].code
    return ""


def changed(good: onnx.ModelProto, change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(good)
    change(model)
    return model
