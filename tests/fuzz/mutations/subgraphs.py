"""Mutations that move values into nodes of constants, subgraphs, functions, or very long chains."""

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h

from tests.fuzz.mutations.draft import Draft, mutation
from tests.fuzz.mutations.shapes import forget_shapes


@mutation(3)
def constant_node(d: Draft) -> None:
    """A parameter made by a node of its own: of its true size, of an absurd one, at random, or in a subgraph."""
    t = d.pick([t for t in d.graph.initializer if t.dims] or d.graph.initializer)
    name, dims = t.name, [k for k in t.dims if 0 < k < 10_000]
    how = d.pick(
        (
            "Constant",
            "Constant",
            "attribute",
            "ConstantOfShape",
            "Expand",
            "Tile",
            "Range",
            "Random",
            "If",
            "Loop",
            "EyeLike",
        )
    )
    add = lambda kind, inputs, outputs, **a: d.graph.node.insert(0, h.make_node(kind, inputs, outputs, **a))  # noqa: E731
    size = (
        dims
        if d.chance(0.5)
        else [d.pick((1, 1 << 12, 1 << 20, 1 << 27, 10**9, 2**62)) for _ in range(d.pick((1, 2, 4)))]
    )
    data = onnx.TensorProto.FromString(t.SerializeToString())
    d.graph.initializer.remove(t)
    if how == "Constant":
        add("Constant", [], [name], value=data)
    elif how == "attribute":
        key, value = d.pick(
            (
                ("value_float", 1.0),
                ("value_ints", [1, 2]),
                ("value_string", "x"),
                ("value_floats", [1.0] * 4),
                ("sparse_value", data),
            )
        )
        if key == "sparse_value":
            d.graph.node.insert(0, h.make_node("Constant", [], [name]))
            d.graph.node[0].attribute.add(
                name=key, type=onnx.AttributeProto.SPARSE_TENSOR
            ).sparse_tensor.values.CopyFrom(data)
        else:
            add("Constant", [], [name], **{key: value})
    elif how == "ConstantOfShape":
        add("ConstantOfShape", [d.constant(size, np.int64)], [name])
    elif how in ("Expand", "Tile"):
        add(how, [d.constant(np.ones([1] * len(size))), d.constant(size, np.int64)], [name])
    elif how == "Range":
        add(
            "Range",
            [
                d.constant(0.0),
                d.constant(float(np.prod(size, dtype=float))),
                d.constant(d.pick((1.0, 0.0, -1.0, 1e-9))),
            ],
            [name],
        )
    elif how == "Random":
        add("RandomUniform", [], [name], shape=size)
    elif how == "EyeLike":
        add("EyeLike", [d.constant(np.ones(size[:2] if np.prod(size[:2], dtype=float) < 1e5 else (3, 3)))], [name])
    else:
        body = [h.make_node("Constant", [], ["inner"], value=data)]
        if how == "If":
            branch = h.make_graph(body, "branch", [], [onnx.ValueInfoProto(name="inner")])
            add("If", [d.constant(d.chance(0.5), np.bool_)], [name], then_branch=branch, else_branch=branch)
        else:
            trips = d.pick((0, 1, 3, 10**9, -1, 2**62))
            inputs = [h.make_tensor_value_info("i", T.INT64, []), h.make_tensor_value_info("go", T.BOOL, [])]
            body.append(h.make_node("Identity", ["go"], ["on"]))
            loop = h.make_graph(
                body, "body", inputs, [onnx.ValueInfoProto(name="on"), onnx.ValueInfoProto(name="inner")]
            )
            add("Loop", [d.constant(trips, np.int64), d.constant(True, np.bool_)], [name], body=loop)


@mutation(2)
def nested(d: Draft) -> None:
    """A value through an If in an If in an If, or through a Loop."""
    at = d.rng.randrange(len(d.graph.node))
    node = d.graph.node[at]
    k = d.pick(range(len(node.input)))
    x, depth = node.input[k], d.pick((1, 1, 2, 10, 20, 30, 90))
    condition = d.constant(d.chance(0.5), np.bool_) if d.chance(0.9) else d.pick(d.values())
    name = d.fresh()
    if d.chance(0.3):
        trips = d.constant(d.pick((0, 1, 2, 10**9, -1)), np.int64)
        inputs = [onnx.ValueInfoProto(name=n) for n in ("i", "go", "v")]
        body = [h.make_node("Identity", ["go"], ["on"]), h.make_node("Neg", ["v"], ["w"])]
        outputs = [onnx.ValueInfoProto(name=n) for n in ("on", "w")]
        inner = h.make_node("Loop", [trips, condition, x], [name], body=h.make_graph(body, "body", inputs, outputs))
    else:
        inner = h.make_node("Identity", [x], [f"{name}0"])
        for level in range(depth):
            g = h.make_graph([inner], f"g{level}", [], [onnx.ValueInfoProto(name=inner.output[0])])
            other = (
                g
                if depth < 8
                else h.make_graph([h.make_node("Neg", [x], ["n"])], "e", [], [onnx.ValueInfoProto(name="n")])
            )
            inner = h.make_node("If", [condition], [f"{name}{level + 1}"], then_branch=g, else_branch=other)
    d.graph.node.insert(at, inner)
    d.graph.node[at + 1].input[k] = inner.output[0]
    forget_shapes(d)


@mutation(2)
def functions(d: Draft) -> None:
    """Functions that call themselves, each other, or so many others that their expansion never ends; or a shadowed operator."""
    how = d.pick(("self", "pair", "exponential", "deep", "shadow", "repeat", "unused", "wrap"))
    opset = [h.make_opsetid("", 18), h.make_opsetid("own", 1)]
    add = lambda name, nodes: d.model.functions.append(h.make_function("own", name, ["a"], ["b"], nodes, opset))  # noqa: E731
    call = lambda name, x="a", y="b": h.make_node(name, [x], [y], domain="own")  # noqa: E731
    depth = d.pick((3, 10, 30, 1000))
    if how == "self":
        add("F0", [call("F0")])
    elif how == "pair":
        add("F0", [call("F1")])
        add("F1", [call("F0")])
    elif how in ("exponential", "deep"):
        for k in range(depth):
            add(
                f"F{k}",
                [call(f"F{k + 1}", "a", "c"), call(f"F{k + 1}", "c")] if how == "exponential" else [call(f"F{k + 1}")],
            )
        add(f"F{depth}", [h.make_node("Identity", ["a"], ["b"])])
    elif how == "shadow":
        n = d.node()
        body = [h.make_node("Neg", ["a"], ["b"])]
        d.model.functions.append(h.make_function(n.domain, n.op_type, ["a"], ["b"], body, opset[:1]))
    elif how == "repeat":
        d.model.functions.append(d.pick(d.model.functions))
    else:
        body = [h.make_node(d.pick(("Identity", "Neg", "Sign", "Missing")), ["a"], ["b"])]
        add("F0", body)
    if not any(o.domain == "own" for o in d.model.opset_import) and d.chance(0.9):
        d.model.opset_import.append(opset[1])
    if how not in ("shadow", "unused", "repeat"):
        at = d.rng.randrange(len(d.graph.node))
        node = d.graph.node[at]
        k = d.pick(range(len(node.input)))
        d.graph.node.insert(at, call("F0", node.input[k], made := d.fresh()))
        d.graph.node[at + 1].input[k] = made


@mutation(1)
def many_nodes(d: Draft) -> None:
    count = d.pick((100, 1000, 3000))
    n = d.node()
    kind = d.pick(("Identity", "Neg", "Relu", "Sign", "Abs"))
    x = d.pick([v for v in n.input if v])
    names = [f"{d.fresh()}" for _ in range(count)]
    at = list(d.graph.node).index(n)
    made = [h.make_node(kind, [a], [b]) for a, b in zip([x, *names], names, strict=False)]
    rest = [onnx.NodeProto.FromString(m.SerializeToString()) for m in d.graph.node[at:]]
    del d.graph.node[at:]
    d.graph.node.extend(made)
    rest[0].input[:] = [names[-1] if v == x else v for v in rest[0].input]
    d.graph.node.extend(rest)
