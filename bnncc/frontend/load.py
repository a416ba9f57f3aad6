"""Read an ONNX file, check it, and evaluate what is constant in it.

Files are untrusted. The native code of onnx and onnxruntime is given nothing that it cannot take: functions that end,
constants whose sizes are known, operators of constants that are deterministic and linear in their size.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from bnncc.errors import Diagnostic, ModelError, UsageError, raise_all

QUANTIZER_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
MAX_ELEMENTS = 1 << 27  # of any one tensor, and of all constants together: 512 MiB in float32
MAX_VALUES = 1 << 23  # of any one tensor that the input decides: as bits, the memory of the largest microcontrollers
MAX_FILE = 1 << 31  # bytes; protobuf can hold no more
MAX_CALLS = 100_000  # nodes that the functions of a file may become
MAX_NESTING = 50  # of functions that call functions
MIN_OPSET = 9
LARGE = 1 << 11  # elements; the data of a larger parameter are not shown to the checker and to shape inference
WHERE_IN_ORT = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+ [^)]*\)(?: const)? ")
PLAIN = {
    "dims",
    "data_type",
    "name",
    "raw_data",
}  # the fields of a parameter about which the checker has nothing to say

# Evaluated where their inputs are constant. Nothing random, nothing whose time is not linear in what it reads and makes.
FOLDED = frozenset(
    (  # noqa: SIM905  (a list of a hundred strings reads worse)
        "Abs Add And ArgMax ArgMin BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip Concat "
        "Constant ConstantOfShape CumSum DepthToSpace DequantizeLinear Div Equal Erf Exp Expand EyeLike Flatten Floor Gather "
        "GatherElements GatherND Greater GreaterOrEqual HardSigmoid Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min "
        "Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceMax ReduceMean "
        "ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round ScatterElements ScatterND Shape Sigmoid Sign Size Slice "
        "SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Trilu Unsqueeze Where Xor"
    ).split()
)
GROWING = frozenset(("ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Tile"))  # by the values of their inputs


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
    """The model in `source`, checked; a ModelProto is left as it is. Raises ModelError E01xx, UsageError E0101."""
    from bnncc.frontend import dialects, folding  # which is written with what this module offers

    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
    else:
        model = _read(Path(source))
    model = dialects.declare(model)
    _check(model)
    _static_batch(model)
    _distinct_names(model)
    model = dialects.standard(_inline(model))
    model = _infer_shapes(model)
    found = _fold(folding.settle(model, _infer_shapes, _shapes, _evaluate_sized))
    found.model = model
    return found


def _read(path: Path) -> onnx.ModelProto:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for, and some devices never end
            raise UsageError.of("E0101", f"{path} is no file", remedy="give the path to the model's .onnx file")
        if about.st_size >= MAX_FILE:
            raise ModelError.of(
                "E0102", f"{path} is larger than an ONNX file can be", remedy="check the path to the model"
            )
        model = onnx.ModelProto()
        model.ParseFromString(path.read_bytes())
    except FileNotFoundError:
        raise UsageError.of(
            "E0101", f"cannot read {path}: no such file", remedy="check the path to the model"
        ) from None
    except OSError as e:
        raise UsageError.of(
            "E0101", f"cannot read {path}: {e.strerror or e}", remedy="check the file and its rights"
        ) from None
    except ValueError as e:  # the path itself: a NUL
        raise UsageError.of("E0101", f"cannot read {str(path)!r}: {e}", remedy="check the path to the model") from None
    except DecodeError as e:
        raise ModelError.of(
            "E0102", f"{path} is not a readable ONNX file ({first_line(e)})", remedy="export the model again"
        ) from None
    _read_external(model, path)
    return model


def _read_external(model: onnx.ModelProto, path: Path) -> None:
    """Replace every reference to another file by what is there. Only files below the model's own folder are read."""
    room = 4 * MAX_ELEMENTS
    for tensor in _messages(model):
        if not isinstance(tensor, onnx.TensorProto) or tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        given = {e.key: e.value for e in tensor.external_data}
        location = given.get("location", "")
        try:
            data = _slice_of_file(path.parent, location, given.get("offset", "0"), given.get("length"), room)
        except (OSError, ValueError, RuntimeError) as e:  # RuntimeError: links in a circle
            reason = e.strerror if isinstance(e, OSError) and e.strerror else e
            raise ModelError.of(
                "E0106",
                f"tensor {printable(tensor.name)} keeps its data in the file {printable(location)!r}, which cannot be read: {reason}",
                where=path.name,
                remedy="keep the model and its data in one folder",
            ) from None
        room -= len(data)
        tensor.raw_data = data
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def _slice_of_file(folder: Path, location: str, offset: str, length: str | None, room: int) -> bytes:
    """Bytes of the file `location` in or below `folder`. Raises OSError, ValueError with the reason."""
    relative = PurePosixPath(location)
    if not location or relative.is_absolute() or ".." in relative.parts or "\\" in location:
        raise ValueError("it must be a path within the model's folder")
    target = folder / relative
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ValueError("it leads out of the model's folder")
    about = target.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is no file")
    begin = _number(offset)
    size = about.st_size - begin if length is None else _number(length)
    if size < 0 or begin + size > about.st_size:
        raise ValueError(f"bytes {begin} to {begin + size} are wanted and it has {about.st_size}")
    if size > room:
        raise ValueError(f"the model's data exceed {4 * MAX_ELEMENTS} bytes")
    with target.open("rb") as file:
        file.seek(begin)
        return file.read(size)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(f"{printable(text)!r} is no offset or length")
    return int(text)


def _messages(message: Message) -> Iterator[Message]:
    """The message and everything below it that may hold text."""
    yield message
    if isinstance(message, onnx.TensorProto):  # ListFields would copy its data
        yield from message.external_data
        return
    for kind, value in message.ListFields():
        if kind.type == kind.TYPE_MESSAGE:
            for m in [value] if isinstance(value, Message) else value:
                yield from _messages(m)


def _texts(message: Message) -> Iterator[str | bytes]:
    """Every string of the message itself; one that is no UTF-8 comes as bytes."""
    if isinstance(message, onnx.TensorProto):
        yield from (message.name, message.doc_string)
        return
    for kind, value in message.ListFields():
        if kind.type == kind.TYPE_STRING:
            yield from [value] if isinstance(value, str | bytes) else value


def first_line(e: BaseException) -> str:
    """What an exception of onnx or onnxruntime says, fit for a message."""
    lines = WHERE_IN_ORT.sub("", str(e).strip()).splitlines()
    return printable(lines[0], 240) if lines else type(e).__name__


def _check(model: onnx.ModelProto) -> None:
    if not model.graph.node:
        raise ModelError.of("E0102", "the file holds no graph", remedy="export the model again")
    inner = list(_messages(model))
    if any(isinstance(text, bytes) for m in inner for text in _texts(m)):
        raise _invalid("the file holds text that is not UTF-8")
    if any(isinstance(m, onnx.AttributeProto) and m.ref_attr_name for m in _messages(model.graph)):
        raise _invalid("an attribute outside of a function refers to an attribute of a function")
    if any(isinstance(m, onnx.AttributeProto) and m.name == "saturate" and m.i not in (0, 1) for m in inner):
        raise _invalid(
            "the attribute saturate is neither 0 nor 1"
        )  # for which onnxruntime's Cast leaves its output unwritten
    repeated = [name for name, count in Counter(o.name for o in model.graph.output).items() if count > 1]
    if repeated:
        raise ModelError.of(
            "E0208",
            f"the output {printable(repeated[0])} is listed twice",
            remedy="export the model with each output once",
        )
    opsets = {o.domain: o.version for o in model.opset_import}
    version = opsets.get("", opsets.get("ai.onnx", 0))
    if not MIN_OPSET <= version <= onnx.defs.onnx_opset_version():
        raise ModelError.of(
            "E0103",
            f"the model uses ONNX opset {version}; {MIN_OPSET} to {onnx.defs.onnx_opset_version()} are understood",
            remedy="export it with opset 18",
        )
    for t in (m for m in inner if isinstance(m, onnx.TensorProto)):
        if t.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError.of(
                "E0106",
                f"tensor {printable(t.name)} keeps its data in another file, and a model in memory has no folder",
                remedy="give the path of the model instead",
            )
        if any(d < 0 for d in t.dims) or elements(t.dims) > MAX_ELEMENTS:
            raise ModelError.of(
                "E0104",
                f"tensor {printable(t.name)} has absurd dimensions {shown(t.dims)}",
                remedy="export the model again",
            )
    try:
        onnx.checker.check_model(_without_data(model))
    except Exception as e:  # ValidationError, and what its C++ and protobuf throw
        raise _invalid(f"the model breaks the ONNX specification: {first_line(e)}") from None


def _invalid(message: str) -> ModelError:
    return ModelError.of("E0102", message, remedy="export the model again")


def elements(shape: Iterable[int]) -> int:
    """The number of elements, without overflow."""
    n = 1
    for d in shape:
        n *= int(d)
    return n


def shown(shape: Iterable[int]) -> str:
    """A shape for messages, however long."""
    return printable(str([int(d) for d in shape]))


def _without_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large parameters are inputs of the same type: all that the checker and shape inference need."""
    light = onnx.ModelProto()
    _copy_fields(model, light, "graph")
    _copy_fields(model.graph, light.graph, "initializer")
    listed = {i.name for i in model.graph.input}
    for t in model.graph.initializer:
        if elements(t.dims) < LARGE or t.name in listed or {kind.name for kind, _ in t.ListFields()} != PLAIN:
            light.graph.initializer.append(t)
        else:
            light.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    return light


def _copy_fields(source: Message, target: Message, left_out: str) -> None:
    for kind, value in source.ListFields():
        if kind.name == left_out:
            continue
        if hasattr(value, "extend"):
            getattr(target, kind.name).extend(value)
        elif isinstance(value, Message):
            getattr(target, kind.name).CopyFrom(value)
        else:
            setattr(target, kind.name, value)


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


def _inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own, but for those of quantizers. Raises ModelError where they never end, or end too late."""
    if not model.functions:
        return model
    _check_calls(model)  # those of a quantizer too: onnxruntime inlines them
    functions = [(f.domain, f.name) for f in model.functions if f.domain not in QUANTIZER_DOMAINS]
    if not functions:
        return model
    try:
        inlined: onnx.ModelProto = onnx.inliner.inline_selected_functions(model, functions, exclude=False)
    except Exception as e:  # RuntimeError for a call that does not fit, DecodeError
        raise _invalid(f"the functions in the file cannot be inlined: {first_line(e)}") from None
    return inlined


def _check_calls(model: onnx.ModelProto) -> None:
    """Refuse functions that call themselves, are nested too deeply or become too many nodes."""
    bodies: dict[tuple[str, str], list[onnx.NodeProto]] = {}
    for f in model.functions:
        bodies.setdefault((f.domain, f.name), []).extend(m for m in _messages(f) if isinstance(m, onnx.NodeProto))
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto], callers: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            called = (node.domain, node.op_type)
            if called in callers or len(callers) > MAX_NESTING:
                raise _invalid(f"the function {printable(node.op_type)} calls itself, or others in too many levels")
            if called in bodies and called not in sizes:
                sizes[called] = size(bodies[called], (*callers, called))
            total += sizes.get(called, 1)
        return total

    total = size((m for m in _messages(model.graph) if isinstance(m, onnx.NodeProto)), ())
    if total > MAX_CALLS + len(model.graph.node):
        raise _invalid(f"the functions in the file become {total} nodes")


def _infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write every shape and type that ONNX can tell into the model. Returns the same.

    Without data_prop, which keeps a hundred bytes for each element of every vector of integers; folding does that work.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(_without_data(model), check_type=True, strict_mode=True).graph
    except Exception as e:  # onnx raises InferenceError, RuntimeError or TypeError for an inconsistent model
        raise ModelError.of(
            "E0105", f"the model's shapes do not fit together: {first_line(e)}", remedy="export the model again"
        ) from None
    del model.graph.value_info[:], model.graph.output[:]
    model.graph.value_info.extend(inferred.value_info)
    model.graph.output.extend(inferred.output)
    return model


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Every static shape known, by value name; unknown dimensions leave the value out. Raises ModelError E0104."""
    shapes = {}
    for v in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
        t = v.type.tensor_type
        if t.HasField("shape") and all(d.HasField("dim_value") for d in t.shape.dim):
            shapes[v.name] = tuple(int(d.dim_value) for d in t.shape.dim)
    for t in model.graph.initializer:
        shapes[t.name] = tuple(int(d) for d in t.dims)
    for name, shape in shapes.items():
        negative = min(shape, default=0) < 0
        if negative or elements(shape) > MAX_ELEMENTS:
            maker = next((n for n in model.graph.node if name in n.output), None)
            raise ModelError.of(
                "E0104",
                f"value {printable(name)} has absurd dimensions {shown(shape)}",
                where=label(maker) if maker else "",
                remedy="use a window that fits into its input" if negative else "export the model again",
            )
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
    _check_values([i.name for i in graph.input if i.name not in constants], None, shapes)
    for node in varying:
        _check_values(node.output, node, shapes)
    used = {n for node in varying for n in node.input} | {o.name for o in graph.output}
    constants |= _evaluate(model, fixed, [n for node in fixed for n in node.output if n in used])
    for name in used & constants.keys():
        _check_value(name, constants[name], shapes.get(name))
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.value_info, *graph.output]}
    return Source(model, constants, varying, shapes, types)


def _check_values(names: Iterable[str], maker: onnx.NodeProto | None, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors that no microcontroller has memory for."""
    for name in names:
        if elements(shapes.get(name, ())) > MAX_VALUES:
            raise ModelError.of(
                "E0104",
                f"{'value' if maker else 'input'} {printable(name)} of shape {shown(shapes[name])} has more than {MAX_VALUES} values",
                where=label(maker) if maker else "",
                remedy="use smaller images, or fewer channels",
            )


def _check_constants(model: onnx.ModelProto, nodes: list[onnx.NodeProto], names: list[str]) -> None:
    """Refuse what must not be evaluated, and what would take too much memory; the values `names` stay until the end."""
    raise_all(
        Diagnostic(
            "E0107",
            "it reads only constants, and this operator is not evaluated",
            label(n),
            "fold constants at export (onnxscript.optimizer.fold_constants)",
        )
        for n in nodes
        if n.op_type not in FOLDED or n.domain not in ("", "ai.onnx")
    )
    shapes = _shapes(model)
    sizes = {t.name: elements(t.dims) for t in model.graph.initializer}
    kept = {*sizes, *names}
    last = {name: k for k, node in enumerate(nodes) for name in node.input if name and name not in kept}
    total = 0  # elements alive at once
    for k, node in enumerate(nodes):
        read = [max(1, sizes[n]) for n in node.input if n]
        for name in filter(None, node.output):
            if name not in shapes and node.op_type in GROWING:
                raise ModelError.of(
                    "E0104",
                    f"the size of constant {printable(name)} cannot be told before evaluating it",
                    where=label(node),
                    remedy="fold constants at export (onnxscript.optimizer.fold_constants)",
                )
            if name in shapes:
                sizes[name] = elements(shapes[name])
            else:  # at most: what broadcasting and gathering can make of the inputs
                sizes[name] = sum(read) if node.op_type == "Concat" else elements(read)
            total += sizes[name]
            if total > MAX_ELEMENTS:
                raise ModelError.of(
                    "E0104",
                    f"the constants up to {printable(name)} take more than {MAX_ELEMENTS} elements",
                    where=label(node),
                    remedy="export the model again",
                )
        total -= sum(sizes[n] for n in set(node.input) if last.get(n) == k)


def _check_value(name: str, value: NDArray[Any], shape: tuple[int, ...] | None) -> None:
    if value.dtype.kind not in "fiub":
        raise ModelError.of(
            "E0106",
            f"constant {printable(name)} holds {'text' if value.dtype.kind == 'O' else value.dtype.name}",
            remedy="use float32, or integers of 8 bits and more",
        )
    if shape is not None and value.shape != shape:
        raise ModelError.of(
            "E0105",
            f"constant {printable(name)} has shape {shown(value.shape)} where {shown(shape)} was expected",
            remedy="export the model again",
        )


def _evaluate_sized(model: onnx.ModelProto, nodes: list[onnx.NodeProto], names: list[str]) -> dict[str, NDArray[Any]]:
    """The same for those of the names whose size the shapes known so far tell."""
    shapes = _shapes(model)
    unknown: set[str] = set()
    for node in nodes:
        if not unknown.isdisjoint(node.input) or (node.op_type in GROWING and not shapes.keys() >= set(node.output)):
            unknown.update(node.output)
    return _evaluate(model, nodes, [n for n in names if n not in unknown])


def _needed(nodes: list[onnx.NodeProto], names: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of the nodes, in execution order, that the values called `names` depend on."""
    wanted = set(names)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _tensor(t: onnx.TensorProto) -> NDArray[Any]:
    try:
        return np.asarray(onnx.numpy_helper.to_array(t))
    except Exception as e:
        raise ModelError.of(
            "E0106", f"initializer {printable(t.name)} cannot be read: {first_line(e)}", remedy="export the model again"
        ) from None


def _evaluate(model: onnx.ModelProto, nodes: list[onnx.NodeProto], names: list[str]) -> dict[str, NDArray[Any]]:
    """The values called `names` that the constant `nodes` compute, evaluated by onnxruntime itself."""
    nodes = _needed(nodes, names)
    if not nodes:
        return {}
    _check_constants(model, nodes, names)
    used = {n for node in nodes for n in node.input}
    part = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            "constants",
            [],
            [onnx.ValueInfoProto(name=n) for n in names],
            [t for t in model.graph.initializer if t.name in used],
        ),
        ir_version=model.ir_version,
        opset_imports=model.opset_import,
        functions=model.functions,
    )
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
    return f"{printable(name)} ({printable(node.op_type)})"


def printable(name: str, length: int = 80) -> str:
    """Text from a file for people: one line, no control characters, `length` characters at most."""
    shown = "".join(c if c.isprintable() else "?" for c in name[: length + 1])
    return shown if len(shown) <= length else shown[: length - 3] + "..."
