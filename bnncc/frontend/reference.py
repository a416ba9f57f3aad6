"""The model that the C is judged against: the file, with the canonical form of some of its nodes in their place."""

from dataclasses import replace

import numpy as np
import onnx

from bnncc.frontend.source.text import label
from bnncc.frontend.values import Context, Edits
from bnncc.graph import Graph
from bnncc.ops import Sign


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


def decided_at_zero(ctx: Context, graph: Graph, at_zero: int) -> Graph:
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
