"""The ends of a model: its input, its outputs, and which of these are early exits."""

import json
from collections.abc import Sequence

import onnx

from bnncc.errors import Diagnostic, ModelError, UsageError
from bnncc.frontend.geometry import attributes
from bnncc.frontend.source.text import printable
from bnncc.frontend.values import Condition, Context, Known, Moment, Value, Zero
from bnncc.graph import Exits, Output
from bnncc.tensor import Elem, Tensor

T = onnx.TensorProto
INPUT_TYPES = {T.UINT8: Elem.U8, T.INT8: Elem.I8, T.FLOAT: Elem.F32}
RANGES = {Elem.U8: (0, 255), Elem.I8: (-128, 127), Elem.F32: (0, 0)}
POINTWISE = {"Add", "Cast", "Clip", "Div", "Identity", "Max", "Min", "Mul", "Neg", "Relu", "Sub"}


def model_input(ctx: Context, input_type: str | None) -> tuple[str, tuple[int, ...], Elem]:
    """Make the model's one input known; its name, ONNX shape and type in the file. Raises ModelError E0207, UsageError E0402."""
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


def model_outputs(ctx: Context) -> list[Output]:
    """The outputs that could be imported; why others are none goes to the problems. Raises ModelError E0208."""
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
    elif isinstance(known, Condition | Zero):
        what, remedy = "a comparison, which is no number", "cast it to float32, or output what is compared"
    return Diagnostic("E0208", f"output {printable(name)} is {what}", printable(name), remedy)


def planar_output(ctx: Context, name: str, value: Value) -> Tensor:
    """The tensor of an output, in the order of the ONNX value."""
    itself = onnx.helper.make_node("Identity", [name], [name])  # of an output that is the input
    node = ctx.by_output.get(name, itself)
    return ctx.planar(node, ctx.framed(node, value, name) if value.padded else value)


def model_exits(ctx: Context, outputs: list[Output]) -> Exits | None:
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
