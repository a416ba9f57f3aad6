"""What torch's exporter writes, brought into the form of bnncc's files: each function changes a model in place."""

from collections import Counter

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bnncc.train.layers import BIPOLAR_QUANT

OPSET = 18
"""The ONNX opset of the files: BitwiseAnd, which unpacks the weights, begins there."""


def drop_zero_biases(proto: ModelProto) -> None:
    """Take away the bias of zeros that the exporter gives to each convolution without a bias."""
    graph = proto.graph
    zero = {i.name for i in graph.initializer if not numpy_helper.to_array(i).any()}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2] in zero:
            del node.input[2]
    used = {name for node in graph.node for name in node.input}
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def name_after_layers(proto: ModelProto) -> None:
    """Name each node and its output after the layer's path in the model, as block1.conv/Conv: reports show these."""
    graph = proto.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    seen: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for node in graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "")
        layer = scopes.strip("[]").replace("'", "").split(", ")[-2:-1]
        name = "/".join((*filter(None, layer), node.op_type))
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        renamed |= {
            old: node.name if number == 0 else f"{node.name}:{number}"
            for number, old in enumerate(node.output)
            if old and old not in kept
        }
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


def pack_weights(proto: ModelProto) -> None:
    """Store each tensor of -1 and +1 at a bit a value, and unpack it in the graph.

    uint8 [n/k,1] & [1,2,4,...] -> bool [n/k,k] -> +1 or -1 -> the tensor's shape. A byte holds k values, k being the
    largest number up to 8 that divides n: 8 for nearly all layers, and never a remainder.
    """
    graph = proto.graph
    tensors = {"+1": np.ones(1, np.float32), "-1": -np.ones(1, np.float32)}
    kept: list[TensorProto] = []
    nodes: list[NodeProto] = []
    for tensor in graph.initializer:
        name, value = tensor.name, numpy_helper.to_array(tensor)
        if value.dtype != np.float32 or value.ndim < 2 or not (np.abs(value) == 1).all():
            kept.append(tensor)
            continue
        width = next(k for k in range(8, 0, -1) if value.size % k == 0)
        mask = tensors[f"mask/{width}"] = np.left_shift(1, np.arange(width)).astype(np.uint8)
        bits = value.reshape(-1, width) > 0
        tensors[f"{name}/packed"] = (bits * mask).sum(1, keepdims=True).astype(np.uint8)
        tensors[f"{name}/shape"] = np.array(value.shape)
        packed, masked, positive, flat = (f"{name}/{stage}" for stage in ("packed", "masked", "positive", "flat"))
        nodes += [
            helper.make_node("BitwiseAnd", [packed, f"mask/{width}"], [masked], f"{name}/BitwiseAnd"),
            helper.make_node("Cast", [masked], [positive], f"{name}/Cast", to=TensorProto.BOOL),
            helper.make_node("Where", [positive, "+1", "-1"], [flat], f"{name}/Where"),
            helper.make_node("Reshape", [flat, f"{name}/shape"], [name], f"{name}/Reshape"),
        ]
    if nodes:
        kept += [numpy_helper.from_array(value, name) for name, value in tensors.items()]
        nodes += graph.node
        del graph.initializer[:], graph.node[:]
        graph.initializer.extend(kept)
        graph.node.extend(nodes)


def strip(proto: ModelProto) -> None:
    """Take away what is no part of the model: source paths, stack traces, intermediate types, torch's version."""
    graph = proto.graph
    for item in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    del graph.value_info[:]
    proto.producer_name, proto.producer_version = "bnncc", ""


def define_bipolar_quant(proto: ModelProto) -> None:
    """Add the function that BipolarQuant stands for: x >= 0 ? scale : -scale."""
    domain, name = BIPOLAR_QUANT.split("::")
    body = [
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("GreaterOrEqual", ["x", "zero"], ["positive"]),
        helper.make_node("Neg", ["scale"], ["minus"]),
        helper.make_node("Where", ["positive", "scale", "minus"], ["y"]),
    ]
    opset = helper.make_opsetid("", OPSET)
    proto.functions.append(helper.make_function(domain, name, ["x", "scale"], ["y"], body, [opset]))
    if domain not in {imported.domain for imported in proto.opset_import}:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
