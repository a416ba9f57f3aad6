"""Mutations of the graph: the order of nodes, what goes where, names."""

import onnx
from onnx import TensorProto as T
from onnx import helper as h

from tests.fuzz.mutations.draft import NAMES, Draft, mutation
from tests.fuzz.mutations.shapes import forget_shapes


@mutation(2)
def nodes_in_another_order(d: Draft) -> None:
    nodes = d.graph.node
    a, b = d.rng.randrange(len(nodes)), d.rng.randrange(len(nodes))
    how = d.pick(("drop", "repeat", "move", "reverse", "prefix"))
    if how == "drop":
        del nodes[a]
    elif how == "repeat":
        nodes.append(nodes[a])
    elif how == "move":
        moved = onnx.NodeProto.FromString(nodes[a].SerializeToString())
        del nodes[a]
        nodes.insert(b, moved)
    elif how == "reverse":
        kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del nodes[:]
        nodes.extend(reversed(kept))
    else:
        del nodes[a + 1 :]


@mutation(6)
def another_input(d: Draft) -> None:
    n = d.node()
    how = d.pick(("replace", "replace", "replace", "swap", "add", "drop", "empty", "own"))
    k = d.rng.randrange(len(n.input)) if n.input else 0
    if how == "add" or not n.input:
        n.input.append(d.pick((*d.values(), "")))
    elif how == "drop":
        del n.input[k]
    elif how == "empty":
        n.input[k] = ""
    elif how == "swap":
        n.input[:] = list(n.input)[::-1]
    elif how == "own":
        n.input[k] = d.pick(n.output)
    elif d.chance(0.2):
        n.input[k] = d.pick(d.values())
    else:  # what is there before the node, so that the graph stays one
        before = list(d.graph.node)[: list(d.graph.node).index(n)]
        n.input[k] = d.pick(
            [*(v.name for v in (*d.graph.initializer, *d.graph.input)), *(o for m in before for o in m.output)]
        )


@mutation(8)
def without_node(d: Draft) -> None:
    """A node less, its first input in the place of its output."""
    at = d.rng.randrange(len(d.graph.node))
    node = d.graph.node[at]
    old, new = node.output[0], node.input[0]
    del d.graph.node[at]
    for n in d.graph.node:
        n.input[:] = [new if v == old else v for v in n.input]
    for o in d.graph.output:
        if o.name == old:
            o.name = new
    forget_shapes(d)


@mutation(1)
def another_output(d: Draft) -> None:
    n = d.node()
    how = d.pick(("replace", "add", "drop", "empty", "clear"))
    if how == "add" or not n.output:
        n.output.append(d.pick((d.fresh(), *d.values())))
    elif how == "clear":
        n.ClearField("output")
    elif how == "drop":
        del n.output[-1]
    else:
        n.output[0] = "" if how == "empty" else d.pick(d.values())


@mutation(3)
def outputs_of_the_graph(d: Draft) -> None:
    out = d.graph.output
    how = d.pick(("any", "any", "repeat", "drop", "input", "clear", "unknown"))
    if how == "any":
        out.append(onnx.ValueInfoProto(name=d.pick(d.values())))
        if d.chance(0.5):
            out[-1].type.tensor_type.elem_type = d.pick((T.FLOAT, T.FLOAT, T.BOOL, T.INT64))
    elif how == "repeat":
        out.append(d.pick(out))
    elif how == "drop":
        del out[d.rng.randrange(len(out))]
    elif how == "input":
        out.append(d.pick(d.graph.input))
    elif how == "clear":
        del out[:]
    else:
        d.pick(out).name = d.pick(NAMES)


@mutation(2)
def inputs_of_the_graph(d: Draft) -> None:
    how = d.pick(("repeat", "add", "drop", "value"))
    if how == "repeat":
        d.graph.input.append(d.pick(d.graph.input))
    elif how == "add":
        d.graph.input.append(h.make_tensor_value_info(d.pick((*NAMES, *d.values())), T.FLOAT, [1, 3]))
    elif how == "drop":
        del d.graph.input[d.rng.randrange(len(d.graph.input))]
    else:
        d.graph.input[0].name = d.pick(d.values())


@mutation(8)
def another_name(d: Draft) -> None:
    """A value or a node under a name that C, C comments, a shell or the compiler may take for something else."""
    how = d.pick(("value", "value", "value", "node", "once", "all"))
    new = d.pick(NAMES) if d.chance(0.8) else "".join(d.rng.choices("ab_#@'./ \\\n*\"é", k=6))
    if how == "node":
        d.node().name = new
    elif how == "all":
        for k, n in enumerate(d.graph.node):
            n.name = f"{k}{new}" if d.chance(0.9) else new
    elif how == "once":
        n = d.node()
        n.output[0] = new
    else:
        rename(d.graph, d.pick([v for v in d.values() if v]), new)


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """A value under a new name, everywhere: the model means what it meant, if the new name is free."""
    for n in graph.node:
        n.input[:] = [new if v == old else v for v in n.input]
        n.output[:] = [new if v == old else v for v in n.output]
    for v in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        if v.name == old:
            v.name = new
