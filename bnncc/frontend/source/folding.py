"""Arithmetic on shapes, which is constant once the batch is: Shape, Gather, Concat and the like become constants."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.frontend.source.constants import GROWING, evaluate_sized
from bnncc.frontend.source.shapes import infer_shapes, shapes_of

T = onnx.TensorProto
INTEGERS = (T.INT64, T.INT32, T.BOOL)
ROUNDS = 16  # of one Shape behind another, or as many as WORK allows; deeper ones stay, and are refused
WORK = 200_000  # nodes seen in all rounds


def settle(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every shape computation that is constant replaced by its value, and the shapes that follow from it."""
    for _ in range(max(ROUNDS, WORK // (1 + len(model.graph.node)))):
        shapes, types = shapes_of(model), types_of(model)
        nodes = [resolved(node, shapes, types) for node in model.graph.node]
        values = constants(model, nodes)
        nodes = [as_constant(n, values[n.output[0]]) if n.output[0] in values else n for n in nodes]
        if all(a is b for a, b in zip(nodes, model.graph.node, strict=True)):
            break
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        del changed.graph.node[:], changed.graph.value_info[:]
        changed.graph.node.extend(nodes)
        model = infer_shapes(changed)
    return model


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.value_info, *graph.output]}
    return types | {t.name: t.data_type for t in graph.initializer}


def resolved(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, int]) -> onnx.NodeProto:
    """Shape and Size of a value of known shape as constants, CastLike as the Cast that it is."""
    if node.domain not in ("", "ai.onnx") or not node.input:
        return node
    if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        given = {a.name: a.i for a in node.attribute}
        shape = shapes[node.input[0]][given.get("start", 0) : given.get("end")]
        number = np.prod(shape, dtype=np.int64) if node.op_type == "Size" else np.array(shape, np.int64)
        return as_constant(node, np.asarray(number))
    if node.op_type == "CastLike" and types.get(node.input[1]):
        return onnx.helper.make_node("Cast", [node.input[0]], node.output, name=node.name, to=types[node.input[1]])
    return node


def as_constant(node: onnx.NodeProto, value: NDArray[Any]) -> onnx.NodeProto:
    tensor = onnx.numpy_helper.from_array(np.asarray(value))
    return onnx.helper.make_node("Constant", [], [node.output[0]], name=node.name, value=tensor)


def constants(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> dict[str, NDArray[Any]]:
    """The sizes that constant nodes compute: integers, but for integers that are computed from them; scales of a resizing."""
    known = {t.name for t in model.graph.initializer}
    types = types_of(model)
    fixed: list[onnx.NodeProto] = []
    wanted: set[str] = set()
    scales: set[str] = set()
    for node in nodes:
        is_fixed = set(node.input) - {""} <= known and not any(a.HasField("g") or a.graphs for a in node.attribute)
        if is_fixed:
            fixed.append(node)
            known.update(node.output)
        if not is_fixed or node.op_type in GROWING or types.get(node.output[0]) not in INTEGERS:
            wanted.update(node.input)
        if node.op_type in ("Resize", "Upsample"):
            scales.update(node.input)
    names = [
        n.output[0]
        for n in fixed
        if len(n.output) == 1
        and n.op_type != "Constant"
        and ((n.output[0] in wanted and types.get(n.output[0]) in INTEGERS) or n.output[0] in scales)
    ]
    needed = set(names)
    below = []
    for node in reversed(fixed):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            below.append(node)
    return evaluate_sized(model, below[::-1], names) if names else {}
