"""The valid models that the fuzzer starts from: generated, small, and of every form that the compiler reads."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h

from tests.nets import FAMILIES, Net, finish, random_net, small_net

ROOT = Path(__file__).parents[2]
NETS = 3  # random ones of each family


@dataclass(frozen=True)
class Seed:
    """A model, serialized, and the options that it is compiled with."""

    name: str
    data: bytes
    options: dict[str, Any] = field(default_factory=dict)


def corpus(extra: Path | None = None) -> list[Seed]:
    """Generated networks and the examples; with `extra` also every .onnx file in that folder."""
    seeds = []
    for family in FAMILIES:
        for k in range(NETS):
            net = random_net(k, family=family, max_channels=12)
            seeds.append(Seed(f"{family}{k}", net.model().SerializeToString(), dict(net.options)))
    for made in (packed, exits, in_function, in_branch, constants):
        seeds.append(Seed(made.__name__, made().SerializeToString()))
    for path in sorted(ROOT.glob("examples/*/*.onnx")):
        seeds.append(Seed(path.stem, path.read_bytes()))
    for path in sorted(extra.glob("*.onnx")) if extra else ():
        seeds.append(Seed(path.name, path.read_bytes()))
    return seeds


def packed() -> onnx.ModelProto:
    """Weights as BitwiseAnd -> Cast -> Where -> Reshape of packed bytes."""
    net, x = small_net()
    w = net.rng.integers(0, 256, (5 * 144 // 8, 1)).astype(np.uint8)
    bits = net.node("BitwiseAnd", net.const(w, np.uint8), net.const([[1 << k for k in range(8)]], np.uint8))
    signs = net.node("Where", net.node("Cast", bits, to=T.BOOL), net.const(1.0), net.const(-1.0))
    weight = net.node("Reshape", signs, net.const([144, 5], np.int64))
    net.outputs.append(net.node("MatMul", net.node("Flatten", x), weight))
    return net.model()


def exits() -> onnx.ModelProto:
    net, x = small_net()
    net = finish(finish(net, x, 4), x, 4)
    net.metadata = {"bnncc.exits": json.dumps(net.outputs), "bnncc.exit_rule": "entropy", "bnncc.exit_threshold": "0.5"}
    return net.model()


def in_function() -> onnx.ModelProto:
    """Its normalisation and its sign are functions of the file's own, one calling the other."""
    net = Net(np.random.default_rng(1), (2, 5, 5))
    opset = [h.make_opsetid("", 18), h.make_opsetid("own", 1)]
    scale = [
        h.make_node("Constant", [], ["k"], value_float=128.0),
        h.make_node("Sub", ["a", "k"], ["b"]),
        h.make_node("Div", ["b", "k"], ["c"]),
    ]
    sign = [
        h.make_node("Scale", ["a"], ["b"], domain="own"),
        h.make_node("Constant", [], ["one"], value_float=1.0),
        h.make_node("Neg", ["one"], ["minus"]),
        h.make_node("Constant", [], ["zero"], value_float=0.0),
        h.make_node("GreaterOrEqual", ["b", "zero"], ["d"]),
        h.make_node("Where", ["d", "one", "minus"], ["c"]),
    ]
    for name, nodes in (("Scale", scale), ("ScaleSign", sign)):
        net.functions.append(h.make_function("own", name, ["a"], ["c"], nodes, opset))
    return finish(net, net.node("ScaleSign", net.node("Cast", "x", to=T.FLOAT), domain="own")).model()


def in_branch() -> onnx.ModelProto:
    """A constant made by an If over a constant condition."""
    net, x = small_net()
    branches = {}
    for name, value in (("then_branch", 1.0), ("else_branch", -1.0)):
        made = h.make_node("Constant", [], [name], value_float=value)
        out = [h.make_tensor_value_info(name, T.FLOAT, ())]
        branches[name] = h.make_graph([made], name, [], out)
    chosen = net.node("If", net.const(True, np.bool_), **branches)
    x = net.node("Mul", x, chosen)
    return finish(net, x).model()


def constants() -> onnx.ModelProto:
    """Parameters that are computed from others, in several ways."""
    net, x = small_net()
    ones = net.node("ConstantOfShape", net.const([1, 9, 1, 1], np.int64))
    ones = net.node("Expand", net.node("Add", ones, net.const(0.5)), net.const([1, 9, 4, 4], np.int64))
    x = net.node(
        "Add", net.node("Mul", x, ones), net.node("Tile", net.const([[[[0.25]]]]), net.const([1, 9, 1, 1], np.int64))
    )
    x = net.node(
        "Sub",
        x,
        net.node("Unsqueeze", net.node("Range", *(net.const(v) for v in (0.0, 4.0, 1.0))), net.const([0], np.int64)),
    )
    x = net.sign(x, "ge_where")
    return finish(net, x).model()
