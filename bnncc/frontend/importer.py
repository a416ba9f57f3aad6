"""The walk over the ONNX graph: one importer a node type, every problem collected before any is raised."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx

from bnncc.errors import Diagnostic, ModelError, UsageError, raise_all
from bnncc.frontend import elementwise, linear, shaping
from bnncc.frontend.load import QUANTIZER_DOMAINS, Source, label, load, printable
from bnncc.frontend.values import Condition, Context, Edits, Known, Refusal, Value
from bnncc.graph import Conv, Elem, Exits, Graph, Map, MaxPool, Output, Sign, Tensor, check, needed

T = onnx.TensorProto
INPUT_TYPES = {T.UINT8: Elem.U8, T.INT8: Elem.I8, T.FLOAT: Elem.F32}
RANGES = {Elem.U8: (0, 255), Elem.I8: (-128, 127), Elem.F32: (0, 0)}

IMPORTERS: dict[str, Callable[[Context, onnx.NodeProto], Known]] = {
    "Add": elementwise.arithmetic,
    "AveragePool": shaping.mean,
    "BatchNormalization": elementwise.batch_normalization,
    "BipolarQuant": elementwise.bipolar_quant,
    "Cast": elementwise.cast,
    "Clip": elementwise.clip,
    "Conv": linear.conv,
    "Div": elementwise.arithmetic,
    "Dropout": elementwise.identity,
    "Flatten": shaping.reshape,
    "Gemm": linear.gemm,
    "GlobalAveragePool": shaping.mean,
    "GlobalMaxPool": shaping.max_pool,
    "Greater": elementwise.comparison,
    "GreaterOrEqual": elementwise.comparison,
    "Identity": elementwise.identity,
    "Less": elementwise.comparison,
    "LessOrEqual": elementwise.comparison,
    "MatMul": linear.gemm,
    "Max": elementwise.arithmetic,
    "MaxPool": shaping.max_pool,
    "Min": elementwise.arithmetic,
    "Mul": elementwise.arithmetic,
    "Neg": elementwise.negative,
    "Not": elementwise.negation,
    "Pad": shaping.pad,
    "ReduceMean": shaping.mean,
    "Relu": elementwise.clip,
    "Reshape": shaping.reshape,
    "Sign": elementwise.sign,
    "Squeeze": shaping.reshape,
    "Sub": elementwise.arithmetic,
    "Unsqueeze": shaping.reshape,
    "Where": elementwise.where,
}

ANY_TYPE = {  # they move or compare values; everything else must compute in float32
    "Cast", "Dropout", "Flatten", "GlobalMaxPool", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "MaxPool",
    "Not", "Pad", "Reshape", "Sign", "Squeeze", "Unsqueeze", "Where",
}  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """A model as a Graph, and what the reference is.

    `reference` is the model that the C is judged against: the file, or its canonical form where `reasons` (node, why) says.
    """

    graph: Graph
    reference: onnx.ModelProto
    given: onnx.ModelProto
    reasons: tuple[tuple[str, str], ...]
    input_name: str
    input_shape: tuple[int, ...]
    input_elem: Elem  # as in the file
    warnings: tuple[Diagnostic, ...]


def import_model(model: "str | os.PathLike[str] | onnx.ModelProto", input_type: str | None = None) -> Imported:
    """Import a model. input_type ("u8", "i8", "f32") says what the C is to take for a float input. Raises ModelError, UsageError."""
    source = load(model)
    ctx = Context(source, mark=_mark(source))
    name, shape, elem = _input(ctx, input_type)
    for node in source.nodes:
        _import_node(ctx, node)
    outputs = _outputs(ctx)
    exits = _exits(ctx, outputs)
    raise_all(ctx.problems)
    graph = _finish(ctx, name, outputs, exits)
    check(graph)
    return Imported(
        graph,
        reference_model(source.model, ctx.edits),
        source.model,
        tuple(ctx.edits.reasons),
        name,
        shape,
        elem,
        tuple(_warnings(graph, name)),
    )


def _mark(source: Source) -> str:
    graph = source.model.graph
    names = [n for node in graph.node for n in (*node.input, *node.output)] + [t.name for t in graph.initializer]
    mark = "#"
    while any(mark in n for n in names):
        mark += "#"
    return mark


def _input(ctx: Context, input_type: str | None) -> tuple[str, tuple[int, ...], Elem]:
    graph = ctx.source.model.graph
    inputs = [i for i in graph.input if i.name not in ctx.source.constants]
    if len(inputs) != 1:
        raise ModelError.of(
            "E0207", f"the model has {len(inputs)} inputs; one is expected", remedy="export it with one input"
        )
    given = inputs[0]
    elem = INPUT_TYPES.get(given.type.tensor_type.elem_type)
    if elem is None:
        kind = T.DataType.Name(given.type.tensor_type.elem_type)
        raise ModelError.of(
            "E0207", f"input {printable(given.name)} is {kind}", remedy="use a float, uint8 or int8 input"
        )
    shape = ctx.source.shapes.get(given.name, ())
    if len(shape) not in (2, 4) or shape[0] != 1 or min(shape) < 1:
        raise ModelError.of(
            "E0207",
            f"input {printable(given.name)} has shape {list(shape) or 'unknown'}; [1, C, H, W] or [1, N] is expected",
            remedy="export the model with fixed sizes and batch 1",
        )
    c_elem = Elem(input_type) if input_type else elem
    if c_elem is not elem and elem is not Elem.F32:
        raise UsageError.of(
            "E0402",
            f"--input {input_type} does not fit: the model's input is {elem.value}",
            remedy=f"leave it out or use --input {elem.value}",
        )
    lo, hi = RANGES[c_elem]
    chw = (shape[1], 1, 1) if len(shape) == 2 else (shape[1], shape[2], shape[3])
    ctx.values[given.name] = Value(Tensor(given.name, c_elem, chw, lo, hi, 1, given.name), shape)
    return given.name, shape, elem


def _import_node(ctx: Context, node: onnx.NodeProto) -> None:
    if any(name in ctx.unknown for name in node.input):
        ctx.unknown.update(node.output)
        return
    domains = QUANTIZER_DOMAINS if node.op_type == "BipolarQuant" else ("", "ai.onnx")
    importer = IMPORTERS.get(node.op_type) if node.domain in domains else None
    try:
        if importer is None:
            operator = f"{node.domain}::{node.op_type}".removeprefix("::")
            raise Refusal(
                "E0201", f"the operator {printable(operator)} is not supported", "see docs/operators.md for what is"
            )
        if any(name and name not in ctx.values and ctx.constant(name) is None for name in node.input):
            raise Refusal("E0105", "it reads a value that nothing makes", "export the model again")
        known = importer(ctx, node)
        _agree(ctx, node, known)
        ctx.values[node.output[0]] = known
    except Refusal as r:
        ctx.problems.append(Diagnostic(r.code, r.message, label(node), r.remedy))
        ctx.unknown.update(node.output)


def _agree(ctx: Context, node: onnx.NodeProto, known: Known) -> None:
    """Refuse what an importer cannot see of a node: a constant that widens its output, arithmetic that wraps around."""
    shape, kind = ctx.out_shape(node), ctx.source.types.get(node.output[0], T.FLOAT)
    value = known if isinstance(known, Value) else known.value if isinstance(known, Condition) else known.sign
    if shape != value.shape and not value.padded:
        raise Refusal(
            "E0205",
            f"it turns shape {list(value.shape)} into {list(shape)}",
            "use constants that broadcast to their tensor",
        )
    if kind != T.FLOAT and node.op_type not in ANY_TYPE:
        raise Refusal(
            "E0201",
            f"it computes in {T.DataType.Name(kind).lower()}",
            "cast the input to float32 before any arithmetic",
        )


def _outputs(ctx: Context) -> list[Output]:
    if not ctx.source.model.graph.output:
        raise ModelError.of("E0208", "the model has no output", remedy="export it with its logits as output")
    outputs = []
    for o in ctx.source.model.graph.output:
        if o.name in ctx.unknown:
            continue
        known = ctx.values.get(o.name)
        if not isinstance(known, Value) or known.padded:
            ctx.problems.append(
                Diagnostic(
                    "E0208",
                    f"output {printable(o.name)} is not a tensor computed from the input",
                    o.name,
                    "output the logits",
                )
            )
            continue
        outputs.append(Output(o.name, known.shape, known.tensor))
    return outputs


def _exits(ctx: Context, outputs: list[Output]) -> Exits | None:
    """The early exits that the model's metadata names, in order of depth."""
    meta = {p.key: p.value for p in ctx.source.model.metadata_props}
    if "bnncc.exits" not in meta:
        return None
    names = [o.name for o in ctx.source.model.graph.output]

    def refuse(message: str) -> None:
        ctx.problems.append(
            Diagnostic(
                "E0209", message, "metadata_props", "export with bnncc.train.export_onnx, or see docs/early-exit.md"
            )
        )

    try:
        listed = json.loads(meta["bnncc.exits"])
        threshold = float(meta.get("bnncc.exit_threshold", "nan"))
    except (ValueError, RecursionError):
        refuse("bnncc.exits is not a JSON list of names, or bnncc.exit_threshold is not a number")
        return None
    if not isinstance(listed, list) or sorted(map(repr, listed)) != sorted(map(repr, names)) or len(listed) < 2:
        refuse(f"bnncc.exits must name every output once, in order of depth; it is {str(listed)[:80]}")
        return None
    if meta.get("bnncc.exit_rule", "entropy") != "entropy":
        refuse(f"bnncc.exit_rule is {meta['bnncc.exit_rule'][:40]!r}; only 'entropy' is known")
    if not abs(threshold) < 1e30:  # float32 in the C
        refuse("bnncc.exit_threshold is missing or not finite")
    by_name = {o.name: k for k, o in enumerate(outputs)}
    vectors = [o for o in outputs if len(o.shape) != 2 or o.shape[1] < 2]
    if vectors:
        refuse(f"exit {printable(vectors[0].name)} has shape {list(vectors[0].shape)}; logits [1, K] are expected")
    if len(by_name) != len(listed):
        return None  # an output was refused; that is already among the problems
    return Exits(tuple(by_name[n] for n in listed), threshold)


def _finish(ctx: Context, name: str, outputs: list[Output], exits: Exits | None) -> Graph:
    """The Graph, without what no output needs, and with the twins that became known late."""
    first = ctx.values[name]
    assert isinstance(first, Value)

    def named(t: Tensor) -> Tensor:
        return replace(t, twin=ctx.twins[t.name]) if t.name in ctx.twins else t

    ops = tuple(replace(op, x=named(op.x), y=named(op.y)) for op in ctx.ops)
    outs = tuple(replace(o, tensor=named(o.tensor)) for o in outputs)
    graph = Graph(named(first.tensor), ops, outs, exits)
    return graph.with_ops(needed(graph, [o.tensor for o in outs]))


def reference_model(model: onnx.ModelProto, edits: Edits) -> onnx.ModelProto:
    """The model with the edited nodes in the place of the file's own."""
    if not edits:
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.graph.node[:], out.graph.value_info[:]
    for node in model.graph.node:
        out.graph.node.extend(edits.replaced.get(node.output[0], [node]))
        out.graph.node.extend(edits.added.get(node.output[0], []))
    out.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in edits.constants.items())
    return out


def _warnings(graph: Graph, name: str) -> list[Diagnostic]:
    """What the user should know: a float input that feeds a layer, a ternary Sign over real values."""
    found = []
    real = {graph.input.name} if graph.input.elem is Elem.F32 else set()  # the input, rescaled or pooled
    sums = set(real)  # real values, whatever was computed of them
    fed = None
    for op in graph.ops:
        if op.x.name in real and isinstance(op, Map | MaxPool):
            real.add(op.y.name)
        if op.x.name in sums and op.y.elem is Elem.F32:
            sums.add(op.y.name)
        if isinstance(op, Conv) and op.x.elem is Elem.F32:
            sums.add(op.y.name)
            fed = fed or (op if op.x.name in real else None)
        if isinstance(op, Sign) and op.at_zero == 0 and op.x.name in sums:
            found.append(
                Diagnostic(
                    "W0301",
                    f"Sign meets real values in {op.y.shape[0]} channels: where one is exactly zero, ONNX Sign gives 0, the C -1",
                    ", ".join(op.origin),
                    "export sign as Where(x >= 0, 1, -1), which has a value at zero",
                )
            )
    if fed:
        found.append(
            Diagnostic(
                "W0401",
                f"the float input {printable(name)} feeds a layer with binary weights: its sums are float32, slower and only close",
                ", ".join(fed.origin),
                "if the input holds integers, use --input u8 or --input i8: then the layer is exact",
            )
        )
    return found
