"""The walk over the ONNX graph: one importer a node type, every problem collected before any is raised."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx

from bnncc.errors import Diagnostic, raise_all
from bnncc.frontend import elementwise, linear, norms, pooling, quantizing, shaping
from bnncc.frontend.advice import warnings
from bnncc.frontend.elementwise import WHOLE
from bnncc.frontend.ends import model_exits, model_input, model_outputs
from bnncc.frontend.load import Source, load
from bnncc.frontend.reference import decided_at_zero, reference_model
from bnncc.frontend.source.text import first_line, label, printable
from bnncc.frontend.values import Context, Known, Moment, Refusal, Swapped, Value
from bnncc.graph import Exits, Graph, Output, check, needed
from bnncc.tensor import Elem, Tensor

T = onnx.TensorProto

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
    "DequantizeLinear": quantizing.dequantize,
    "Div": elementwise.arithmetic,
    "Dropout": elementwise.identity,
    "Equal": elementwise.equal,
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
    "InstanceNormalization": norms.instance_normalization,
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
    "QuantizeLinear": quantizing.quantize,
    "ReduceMax": pooling.reduction,
    "ReduceMean": pooling.reduction,
    "ReduceSum": pooling.reduction,
    "Relu": elementwise.clip,
    "Reshape": shaping.reshape,
    "Resize": shaping.resize,
    "Round": elementwise.unary,
    "ScatterND": shaping.scatter,
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
OPERATORS = "see docs/operators.md for what is"
INSTEAD = {"ArgMax": "output the logits; the C gives their arg-max as class_index"}
ANY_TYPE = {  # they move or compare values; everything else must compute in float32
    "Cast", "CastLike", "Clip", "Concat", "Dropout", "Equal", "Expand", "Flatten", "Gather", "GlobalMaxPool", "Greater",
    "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "MaxPool", "Not", "Pad", "QuantizeLinear", "ReduceMax", "Reshape",
    "Resize", "ScatterND", "Sign", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Upsample", "Where",
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
    name, shape, elem = model_input(ctx, input_type)
    for node in source.nodes:
        _import_node(ctx, node)
    outputs = model_outputs(ctx)
    exits = model_exits(ctx, outputs)
    raise_all(ctx.problems)
    graph = _finish(ctx, name, outputs, exits)
    if sign_at_zero:
        graph = decided_at_zero(ctx, graph, sign_at_zero)
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


def _import_node(ctx: Context, node: onnx.NodeProto) -> None:
    importer = IMPORTERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if importer and any(name in ctx.unknown for name in node.input):
        ctx.unknown.update(node.output)
        return
    try:
        if importer is None:
            operator = f"{node.domain}::{node.op_type}".removeprefix("::")
            raise Refusal(
                "E0201", f"the operator {printable(operator)} is not supported", INSTEAD.get(node.op_type, OPERATORS)
            )
        if any(name and name not in ctx.values and ctx.constant(name) is None for name in node.input):
            raise Refusal("E0105", "it reads a value that nothing makes", "export the model again")
        known = importer(ctx, node)
        _agree(ctx, node, known)
        ctx.values[node.output[0]] = known
    except Refusal as r:
        ctx.problems.append(Diagnostic(r.code, r.message, label(node), r.remedy))
        ctx.unknown.update(node.output)
        if importer is None or r.code == "E0301":
            _assume(ctx, node)
    except (ArithmeticError, LookupError, TypeError, ValueError) as e:  # parameters that fit neither it nor each other
        problem = f"its parameters and shapes do not fit together ({first_line(e)})"
        ctx.problems.append(
            Diagnostic("E0105", problem, label(node), "export the model again; if onnxruntime runs it, report this")
        )
        ctx.unknown.update(node.output)


def _assume(ctx: Context, node: onnx.NodeProto) -> None:
    """Real values in place of what an unsupported operator or bad parameters make, so that the problems behind are found too."""
    for name in node.output:
        shape, kind = ctx.source.shapes.get(name, ()), ctx.source.types.get(name)
        if kind == T.FLOAT and 2 <= len(shape) <= 4 and shape[0] == 1 and min(shape) > 0:
            sizes = shape[1:] if len(shape) == 4 else (shape[1], 1, shape[-1] if len(shape) == 3 else 1)
            ctx.values[name] = Value(Tensor(name, Elem.F32, (sizes[0], sizes[1], sizes[2])), shape)
            ctx.unknown.discard(name)


def _agree(ctx: Context, node: onnx.NodeProto, known: Known) -> None:
    """Refuse what an importer cannot see of a node: a constant that widens its output, arithmetic that wraps around."""
    shape, kind = ctx.out_shape(node), ctx.source.types.get(node.output[0], T.FLOAT)
    value = known if isinstance(known, Value) else known.value
    if shape != value.shape and not isinstance(known, Moment | Swapped):
        raise Refusal(
            "E0205",
            f"it turns shape {list(value.shape)} into {list(shape)}",
            "use constants that broadcast to their tensor",
        )
    if kind != T.FLOAT and node.op_type not in ANY_TYPE and not (kind in WHOLE and ctx.is_small(value)):
        raise Refusal(
            "E0201",
            f"it computes in {T.DataType.Name(kind).lower()}",
            "cast the input to float32 before any arithmetic",
        )


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
