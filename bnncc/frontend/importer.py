"""The walk over the ONNX graph: one importer a node type, every problem collected before any is raised."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from bnncc.errors import Diagnostic, ModelError, UsageError, raise_all
from bnncc.frontend import elementwise, linear, norms, pooling, shaping
from bnncc.frontend.advice import warnings
from bnncc.frontend.geometry import attributes
from bnncc.frontend.load import Source, first_line, label, load, printable
from bnncc.frontend.values import Condition, Context, Edits, Known, Moment, Refusal, Value
from bnncc.graph import Exits, Graph, Output, check, needed
from bnncc.ops import Sign
from bnncc.tensor import Elem, Tensor

T = onnx.TensorProto
INPUT_TYPES = {T.UINT8: Elem.U8, T.INT8: Elem.I8, T.FLOAT: Elem.F32}
RANGES = {Elem.U8: (0, 255), Elem.I8: (-128, 127), Elem.F32: (0, 0)}

IMPORTERS: dict[str, Callable[[Context, onnx.NodeProto], Known]] = {
    "Abs": elementwise.unary,
    "Add": elementwise.arithmetic,
    "AveragePool": pooling.average_pool,
    "BatchNormalization": elementwise.batch_normalization,
    "Cast": elementwise.cast,
    "CastLike": elementwise.cast,
    "Ceil": elementwise.unary,
    "Clip": elementwise.clip,
    "Concat": shaping.concat,
    "Conv": linear.conv,
    "ConvTranspose": linear.conv_transpose,
    "Div": elementwise.arithmetic,
    "Dropout": elementwise.identity,
    "Expand": elementwise.expand,
    "Flatten": shaping.reshape,
    "Floor": elementwise.unary,
    "Gather": shaping.gather,
    "Gemm": linear.gemm,
    "GlobalAveragePool": pooling.average_pool,
    "GlobalMaxPool": pooling.max_pool,
    "Greater": elementwise.comparison,
    "GreaterOrEqual": elementwise.comparison,
    "HardSigmoid": elementwise.activation,
    "Identity": elementwise.identity,
    "LayerNormalization": norms.layer_normalization,
    "LeakyRelu": elementwise.activation,
    "Less": elementwise.comparison,
    "LessOrEqual": elementwise.comparison,
    "LogSoftmax": norms.softmax,
    "MatMul": linear.gemm,
    "Max": elementwise.arithmetic,
    "MaxPool": pooling.max_pool,
    "Min": elementwise.arithmetic,
    "Mul": elementwise.arithmetic,
    "Neg": elementwise.negative,
    "Not": elementwise.negation,
    "PRelu": elementwise.activation,
    "Pad": shaping.pad,
    "Pow": elementwise.power,
    "Reciprocal": elementwise.root,
    "ReduceMax": pooling.reduction,
    "ReduceMean": pooling.reduction,
    "ReduceSum": pooling.reduction,
    "Relu": elementwise.clip,
    "Reshape": shaping.reshape,
    "Resize": shaping.resize,
    "Round": elementwise.unary,
    "Sigmoid": elementwise.unary,
    "Sign": elementwise.sign,
    "Slice": shaping.sliced,
    "Softmax": norms.softmax,
    "Split": shaping.split,
    "Sqrt": elementwise.root,
    "Squeeze": shaping.reshape,
    "Sub": elementwise.arithmetic,
    "Sum": elementwise.arithmetic,
    "Tanh": elementwise.unary,
    "Transpose": shaping.transpose,
    "Unsqueeze": shaping.reshape,
    "Upsample": shaping.resize,
    "Where": elementwise.where,
}

ANY_TYPE = {  # they move or compare values; everything else must compute in float32
    "Cast", "CastLike", "Concat", "Dropout", "Expand", "Flatten", "Gather", "GlobalMaxPool", "Greater", "GreaterOrEqual",
    "Identity", "Less", "LessOrEqual", "MaxPool", "Not", "Pad", "ReduceMax", "Reshape", "Resize", "Sign", "Slice", "Split",
    "Squeeze", "Transpose", "Unsqueeze", "Upsample", "Where",
}  # fmt: skip


POINTWISE = {"Add", "Cast", "Clip", "Div", "Identity", "Max", "Min", "Mul", "Neg", "Relu", "Sub"}


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


def import_model(
    model: "str | os.PathLike[str] | onnx.ModelProto",
    input_type: str | None = None,
    *,
    sign_at_zero: int = 0,
    real_weights: str = "f32",
) -> Imported:
    """Import a model. Raises ModelError, UsageError.

    input_type ("u8", "i8", "f32"): what the C is to take for a float input. sign_at_zero (+1, -1): what a ternary Sign gives
    there; 0 keeps it ternary. real_weights ("f32", "f16", "i8"): how float weights are stored.
    """
    source = load(model)
    ctx = Context(source, mark=_mark(source), real_weights=real_weights)
    name, shape, elem = _input(ctx, input_type)
    for node in source.nodes:
        _import_node(ctx, node)
    outputs = _outputs(ctx)
    exits = _exits(ctx, outputs)
    raise_all(ctx.problems)
    graph = _finish(ctx, name, outputs, exits)
    if sign_at_zero:
        graph = _decided_at_zero(ctx, graph, sign_at_zero)
    check(graph)
    return Imported(
        graph,
        reference_model(source.model, ctx.edits),
        source.model,
        tuple(ctx.edits.reasons),
        name,
        shape,
        elem,
        tuple(warnings(graph)),
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
    if len(shape) not in (2, 3, 4) or shape[0] != 1 or min(shape) < 1:
        raise ModelError.of(
            "E0207",
            f"input {printable(given.name)} has shape {list(shape) or 'unknown'}; [1, C, H, W], [1, C, L] or [1, N] is expected",
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
    last = is_channels_last(ctx.source.nodes, given.name, len(shape))
    channels, *sizes = (shape[-1], *shape[1:-1]) if last else shape[1:]
    height, width = (*(1,) * (2 - len(sizes)), *sizes)
    tensor = Tensor(given.name, c_elem, (channels, height, width), lo, hi, 1, given.name, last)
    ctx.values[given.name] = Value(tensor, shape, last)
    return given.name, shape, elem


def is_channels_last(nodes: Sequence[onnx.NodeProto], name: str, rank: int) -> bool:
    """Whether the input is an image [1, H, W, C] or [1, L, C]: the first node that cares turns it to channels first."""
    turned = [0, rank - 1, *range(1, rank - 1)]
    names = {name}
    for node in nodes:
        if rank > 2 and names & set(node.input):
            if node.op_type == "Transpose":
                return list(attributes(node).get("perm", ())) == turned
            if node.op_type not in POINTWISE:
                return False
            names |= set(node.output)
    return False


def _import_node(ctx: Context, node: onnx.NodeProto) -> None:
    if any(name in ctx.unknown for name in node.input):
        ctx.unknown.update(node.output)
        return
    importer = IMPORTERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
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
    except (ArithmeticError, LookupError, TypeError, ValueError) as e:  # parameters that fit neither it nor each other
        problem = f"its parameters and shapes do not fit together ({first_line(e)})"
        ctx.problems.append(
            Diagnostic("E0105", problem, label(node), "export the model again; if onnxruntime runs it, report this")
        )
        ctx.unknown.update(node.output)


def _agree(ctx: Context, node: onnx.NodeProto, known: Known) -> None:
    """Refuse what an importer cannot see of a node: a constant that widens its output, arithmetic that wraps around."""
    shape, kind = ctx.out_shape(node), ctx.source.types.get(node.output[0], T.FLOAT)
    value = known if isinstance(known, Value) else known.value
    if shape != value.shape and not isinstance(known, Moment):
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
        if not isinstance(known, Value):
            ctx.problems.append(no_tensor(o.name, known))
            continue
        outputs.append(Output(o.name, known.shape, planar_output(ctx, o.name, known)))
    return outputs


def no_tensor(name: str, known: Known | None) -> Diagnostic:
    """That an output is not what the C could give."""
    what, remedy = "no tensor computed from the input", "output the logits"
    if isinstance(known, Moment):
        what = "only a part of a layer normalisation"
    elif isinstance(known, Condition):
        what, remedy = "a comparison, which is no number", "cast it to float32, or output what is compared"
    return Diagnostic("E0208", f"output {printable(name)} is {what}", printable(name), remedy)


def planar_output(ctx: Context, name: str, value: Value) -> Tensor:
    """The tensor of an output, in the order of the ONNX value."""
    itself = onnx.helper.make_node("Identity", [name], [name])  # of an output that is the input
    node = ctx.by_output.get(name, itself)
    return ctx.planar(node, ctx.framed(node, value, name) if value.padded else value)


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

    ops = tuple(replace(op, x=named(op.x), others=tuple(map(named, op.others)), y=named(op.y)) for op in ctx.ops)
    outs = tuple(replace(o, tensor=named(o.tensor)) for o in outputs)
    graph = Graph(named(first.tensor), ops, outs, exits)
    return graph.with_ops(needed(graph, [o.tensor for o in outs]))


def _decided_at_zero(ctx: Context, graph: Graph, at_zero: int) -> Graph:
    """Every ternary Sign with a value at zero, in the reference model too."""
    ops = []
    for op in graph.ops:
        if isinstance(op, Sign) and op.at_zero == 0:
            node = ctx.by_output[op.y.name]
            ctx.edits.replaced[op.y.name] = binary_sign(ctx, node, at_zero)
            ctx.edits.reasons.append((label(node), f"--sign-at-zero: its value at zero is {at_zero:+d} instead of 0"))
            op = replace(op, at_zero=-at_zero if op.negate else at_zero)  # noqa: PLW2901
        ops.append(op)
    return graph.with_ops(ops)


def binary_sign(ctx: Context, node: onnx.NodeProto, at_zero: int) -> list[onnx.NodeProto]:
    """Sign as a comparison and a choice between -1 and +1."""
    out, make = node.output[0], onnx.helper.make_node
    zero, one, minus = (
        ctx.edits.constant(ctx.name(out, n), np.array(v, np.float32))
        for n, v in (("zero", 0), ("one", 1), ("minus", -1))
    )
    below, above = ctx.name(out, "below"), ctx.name(out, "above")
    if at_zero > 0:
        test = [make("Less", [node.input[0], zero], [below]), make("Not", [below], [above])]
    else:
        test = [make("Less", [zero, node.input[0]], [above])]
    return [*test, make("Where", [above, one, minus], [out])]


def reference_model(model: onnx.ModelProto, edits: Edits) -> onnx.ModelProto:
    """The model with the edited nodes in the place of the file's own."""
    if not edits:
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.graph.node[:], out.graph.value_info[:]
    for node in model.graph.node:
        out.graph.node.extend(edits.replaced.get(node.output[0], [node]))
    out.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in edits.constants.items())
    return out
