"""Read an ONNX file, check it, and evaluate what is constant in it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from bnncc.errors import ModelError, UsageError

QUANTIZER_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
MAX_ELEMENTS = 1 << 27  # of any one tensor: 512 MiB in float32
MIN_OPSET = 9


@dataclass
class Source:
    """A checked model: opset-domain functions inlined, constants evaluated as onnxruntime evaluates them."""

    model: onnx.ModelProto
    constants: dict[str, NDArray[Any]]
    nodes: list[onnx.NodeProto]  # the nodes that are not constant, in execution order
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)  # TensorProto element types


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """onnxruntime as the contract has it: no graph optimisation, one thread, CPU."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def load(source: "str | os.PathLike[str] | onnx.ModelProto") -> Source:
    """The model in `source`, checked. Raises ModelError E01xx."""
    model = source if isinstance(source, onnx.ModelProto) else _read(Path(source))
    _check(model)
    model = _static_batch(model)
    functions = [(f.domain, f.name) for f in model.functions if f.domain not in QUANTIZER_DOMAINS]
    if functions:
        model = onnx.inliner.inline_selected_functions(model, functions, exclude=False)
    model = _infer_shapes(model)
    return _fold(model)


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError:
        raise UsageError.of(
            "E0101", f"cannot read {path}: no such file", remedy="check the path to the model"
        ) from None
    except OSError as e:
        raise UsageError.of(
            "E0101", f"cannot read {path}: {e.strerror or e}", remedy="check the file and its rights"
        ) from None
    except (DecodeError, ValueError) as e:
        raise ModelError.of(
            "E0102", f"{path} is not a readable ONNX file ({first_line(e)})", remedy="export the model again"
        ) from None
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as e:
        raise ModelError.of(
            "E0106",
            f"the data that {path.name} keeps in another file cannot be read: {first_line(e)}",
            remedy="keep the model and its data in one folder",
        ) from None
    return model


def _texts(message: Message) -> Iterator[str | bytes]:
    """Every string in a protobuf message; one that is no UTF-8 comes as bytes."""
    for kind, value in message.ListFields():
        if kind.type == kind.TYPE_MESSAGE:
            for m in [value] if isinstance(value, Message) else value:
                yield from _texts(m)
        elif kind.type == kind.TYPE_STRING:
            yield from [value] if isinstance(value, str | bytes) else value


def first_line(e: BaseException) -> str:
    text = str(e).strip()
    return text.splitlines()[0] if text else type(e).__name__


def _check(model: onnx.ModelProto) -> None:
    if not model.graph.node:
        raise ModelError.of("E0102", "the file holds no graph", remedy="export the model again")
    if any(isinstance(text, bytes) for text in _texts(model)):
        raise ModelError.of("E0102", "the file holds text that is not UTF-8", remedy="export the model again")
    opsets = {o.domain: o.version for o in model.opset_import}
    version = opsets.get("", opsets.get("ai.onnx", 0))
    if not MIN_OPSET <= version <= onnx.defs.onnx_opset_version():
        raise ModelError.of(
            "E0103",
            f"the model uses ONNX opset {version}; {MIN_OPSET} to {onnx.defs.onnx_opset_version()} are understood",
            remedy="export it with opset 18",
        )
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, UnicodeError, RuntimeError) as e:
        raise ModelError.of(
            "E0102", f"the model breaks the ONNX specification: {first_line(e)}", remedy="export the model again"
        ) from None
    for t in model.graph.initializer:
        if any(d < 0 for d in t.dims) or int(np.prod([int(d) for d in t.dims], dtype=object)) > MAX_ELEMENTS:
            raise ModelError.of("E0104", f"initializer {t.name!r} has absurd dimensions {list(t.dims)}")


def _static_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a symbolic batch dimension of its inputs set to one sample."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    constant = {t.name for t in model.graph.initializer}
    for i in fixed.graph.input:
        dims = i.type.tensor_type.shape.dim
        if i.name not in constant and dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
            for o in fixed.graph.output:
                if o.type.tensor_type.shape.dim:
                    o.type.tensor_type.shape.dim[0].ClearField("dim_param")
    return fixed


def _infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as e:  # onnx raises InferenceError, RuntimeError or TypeError for an inconsistent model
        raise ModelError.of(
            "E0105", f"the model's shapes do not fit together: {first_line(e)}", remedy="export the model again"
        ) from None
    return inferred


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Every static shape known, by value name; unknown dimensions leave the value out."""
    shapes = {}
    for v in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
        t = v.type.tensor_type
        if t.HasField("shape") and all(d.HasField("dim_value") for d in t.shape.dim):
            shapes[v.name] = tuple(int(d.dim_value) for d in t.shape.dim)
    for t in model.graph.initializer:
        shapes[t.name] = tuple(int(d) for d in t.dims)
    return shapes


def _fold(model: onnx.ModelProto) -> Source:
    """Split the graph into what depends on the input and what does not, and evaluate the latter once."""
    graph = model.graph
    shapes = _shapes(model)
    constants = {t.name: _tensor(t) for t in graph.initializer}
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
    for node in fixed:
        for name in node.output:
            if name and int(np.prod(shapes.get(name, (0,)), dtype=object)) > MAX_ELEMENTS:
                raise ModelError.of(
                    "E0104", f"constant {name!r} has absurd dimensions {list(shapes[name])}", where=label(node)
                )
            if (
                name
                and name not in shapes
                and node.op_type in ("ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize")
            ):
                raise ModelError.of(
                    "E0104",
                    f"the size of constant {name!r} cannot be told before evaluating it",
                    where=label(node),
                    remedy="fold constants at export (onnxscript.optimizer.fold_constants)",
                )
    used = {n for node in varying for n in node.input} | {o.name for o in graph.output}
    constants |= _evaluate(model, fixed, [n for node in fixed for n in node.output if n in used])
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.value_info, *graph.output]}
    return Source(model, constants, varying, shapes, types)


def _tensor(t: onnx.TensorProto) -> NDArray[Any]:
    try:
        return np.asarray(onnx.numpy_helper.to_array(t))
    except Exception as e:
        raise ModelError.of(
            "E0106", f"initializer {t.name!r} cannot be read: {first_line(e)}", remedy="export the model again"
        ) from None


def _evaluate(model: onnx.ModelProto, nodes: list[onnx.NodeProto], names: list[str]) -> dict[str, NDArray[Any]]:
    """The values called `names` that the constant `nodes` compute, evaluated by onnxruntime itself."""
    if not names:
        return {}
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.output[:], part.graph.input[:], part.graph.value_info[:], part.metadata_props[:]
    part.graph.node.extend(nodes)
    part.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    used = {n for node in nodes for n in node.input}
    kept = [t for t in part.graph.initializer if t.name in used]
    del part.graph.initializer[:]
    part.graph.initializer.extend(kept)
    try:
        values = session(part).run(names, {})
    except Exception as e:  # onnxruntime has one exception class a status code, under a private module
        raise ModelError.of(
            "E0107",
            f"onnxruntime cannot evaluate the model's constants: {first_line(e)}",
            remedy="export the model again",
        ) from None
    return dict(zip(names, values, strict=True))


def label(node: onnx.NodeProto) -> str:
    """How messages name a node: its name (or its first output) and its operator, on one line."""
    name = node.name or (node.output[0] if node.output else "")
    return f"{printable(name)} ({node.op_type})"


def printable(name: str) -> str:
    """An ONNX name for people: one line, no control characters, at most 80 characters."""
    shown = "".join(c if c.isprintable() else "?" for c in name)
    return shown if len(shown) <= 80 else shown[:77] + "..."
