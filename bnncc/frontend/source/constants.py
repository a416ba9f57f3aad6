"""What does not depend on the input, evaluated by onnxruntime itself, within limits."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.errors import Diagnostic, ModelError, raise_all
from bnncc.frontend.source.limits import MAX_ELEMENTS, elements
from bnncc.frontend.source.session import session
from bnncc.frontend.source.shapes import shapes_of
from bnncc.frontend.source.text import first_line, label, printable, shown

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


def check_constants(model: onnx.ModelProto, nodes: list[onnx.NodeProto], names: list[str]) -> None:
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
    shapes = shapes_of(model)
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


def check_value(name: str, value: NDArray[Any], shape: tuple[int, ...] | None) -> None:
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


def evaluate_sized(model: onnx.ModelProto, nodes: list[onnx.NodeProto], names: list[str]) -> dict[str, NDArray[Any]]:
    """The same for those of the names whose size the shapes known so far tell."""
    shapes = shapes_of(model)
    unknown: set[str] = set()
    for node in nodes:
        if not unknown.isdisjoint(node.input) or (node.op_type in GROWING and not shapes.keys() >= set(node.output)):
            unknown.update(node.output)
    return evaluate(model, nodes, [n for n in names if n not in unknown])


def needed(nodes: list[onnx.NodeProto], names: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of the nodes, in execution order, that the values called `names` depend on."""
    wanted = set(names)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def tensor(t: onnx.TensorProto) -> NDArray[Any]:
    try:
        return np.asarray(onnx.numpy_helper.to_array(t))
    except Exception as e:
        raise ModelError.of(
            "E0106", f"initializer {printable(t.name)} cannot be read: {first_line(e)}", remedy="export the model again"
        ) from None


def evaluate(model: onnx.ModelProto, nodes: list[onnx.NodeProto], names: list[str]) -> dict[str, NDArray[Any]]:
    """The values called `names` that the constant `nodes` compute, evaluated by onnxruntime itself."""
    nodes = needed(nodes, names)
    if not nodes:
        return {}
    check_constants(model, nodes, names)
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
