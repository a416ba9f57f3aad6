"""Read an ONNX file, check it, and evaluate what is constant in it.

Files are untrusted. The native code of onnx and onnxruntime is given nothing that it cannot take: functions that end,
constants whose sizes are known, operators of constants that are deterministic and linear in their size.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from bnncc.frontend.dialects import declare, standard
from bnncc.frontend.source.check import check
from bnncc.frontend.source.constants import check_value, evaluate, tensor
from bnncc.frontend.source.folding import settle
from bnncc.frontend.source.functions import inline
from bnncc.frontend.source.read import read
from bnncc.frontend.source.sequences import sliced
from bnncc.frontend.source.shapes import check_values, infer_shapes, shapes_of


@dataclass
class Source:
    """A checked model: opset-domain functions inlined, constants evaluated as onnxruntime evaluates them."""

    model: onnx.ModelProto
    constants: dict[str, NDArray[Any]]
    nodes: list[onnx.NodeProto]  # the nodes that are not constant, in execution order
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)  # TensorProto element types


def load(source: "str | os.PathLike[str] | onnx.ModelProto") -> Source:
    """The model in `source`, checked; a ModelProto is left as it is. Raises ModelError E01xx, UsageError E0101."""
    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
    else:
        model = read(Path(source))
    model = declare(model)
    check(model)
    _static_batch(model)
    _distinct_names(model)
    model = sliced(standard(inline(model)))
    model = infer_shapes(model)
    found = _fold(settle(model))
    found.model = model
    return found


def _static_batch(model: onnx.ModelProto) -> None:
    """Set a symbolic batch dimension of the inputs to one sample."""
    constant = {t.name for t in model.graph.initializer}
    for i in model.graph.input:
        dims = i.type.tensor_type.shape.dim
        if i.name not in constant and dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
            for o in model.graph.output:
                if o.type.tensor_type.shape.dim:
                    o.type.tensor_type.shape.dim[0].ClearField("dim_param")


def _distinct_names(model: onnx.ModelProto) -> None:
    """Give nodes that share a name distinct ones, which onnxruntime demands and ONNX does not."""
    names = Counter(n.name for n in model.graph.node)
    if all(count == 1 for name, count in names.items() if name):
        return
    for k, node in enumerate(model.graph.node):
        if names[node.name] > 1 and node.name:
            fresh = f"{node.name}_{k}"
            while fresh in names:
                fresh += "_"
            node.name = fresh
            names[fresh] = 1


def _fold(model: onnx.ModelProto) -> Source:
    """Split the graph into what depends on the input and what does not, and evaluate the latter once."""
    graph = model.graph
    shapes = shapes_of(model)
    constants = {t.name: tensor(t) for t in graph.initializer}
    known = set(constants)
    fixed: list[onnx.NodeProto] = []
    varying: list[onnx.NodeProto] = []
    for node in graph.node:
        here = set(node.input) - {""}
        if here <= known and not any(a.HasField("g") or a.graphs for a in node.attribute):
            fixed.append(node)
            known.update(node.output)
        else:
            varying.append(node)
    check_values([i.name for i in graph.input if i.name not in constants], None, shapes)
    for node in varying:
        check_values(node.output, node, shapes)
    used = {n for node in varying for n in node.input} | {o.name for o in graph.output}
    constants |= evaluate(model, fixed, [n for node in fixed for n in node.output if n in used])
    for name in used & constants.keys():
        check_value(name, constants[name], shapes.get(name))
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.value_info, *graph.output]}
    return Source(model, constants, varying, shapes, types)
