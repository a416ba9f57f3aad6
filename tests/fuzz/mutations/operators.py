"""Mutations of what nodes do: operators, attributes, nodes inserted."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h

from tests.fuzz.mutations.draft import DOMAINS, INTS, SMALL, Draft, Unfit, mutation
from tests.fuzz.mutations.shapes import forget_shapes


@mutation(5)
def another_operator(d: Draft) -> None:
    n = d.node()
    if d.chance(0.2):
        n.domain = d.pick(DOMAINS)
        if d.chance(0.5):
            d.model.opset_import.append(h.make_opsetid(n.domain, 1))
    elif d.chance(0.7):
        n.op_type = d.pick([kind for family in FAMILIES if n.op_type in family for kind in family])
    else:
        n.op_type = d.pick(d.graph.node).op_type if d.chance(0.5) else d.pick(OPERATORS)


FAMILIES = (
    ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Mod", "PRelu"),
    ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"),
    (
        "Sign",
        "Relu",
        "Neg",
        "Abs",
        "Identity",
        "Floor",
        "Ceil",
        "Sqrt",
        "Not",
        "Sigmoid",
        "HardSwish",
        "Softsign",
        "Dropout",
        "Clip",
    ),
    ("MaxPool", "AveragePool", "LpPool"),
    ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "Softmax", "Hardmax"),
    ("Gemm", "MatMul", "Conv", "ConvTranspose"),
    ("Flatten", "Squeeze", "Identity", "Transpose"),
)
OPERATORS = sorted({s.name for s in onnx.defs.get_all_schemas() if s.domain == ""})


@mutation(10)
def attribute(d: Draft) -> None:
    """An attribute of the operator's schema with a plausible value, or one that is there with an implausible one."""
    n = d.node()
    try:
        known = onnx.defs.get_schema(n.op_type, domain=n.domain).attributes
    except Exception:
        known = {}
    lists = [a for a in n.attribute if a.ints]
    if lists and d.chance(0.4):
        ints = d.pick(lists).ints
        k = d.rng.randrange(len(ints))
        ints[k] = d.pick((ints[k] + 1, ints[k] - 1, 2 * ints[k], *SMALL))
        forget_shapes(d)
        return
    if known and d.chance(0.7):
        name = d.pick(sorted(known))
        value = plausible(d, str(known[name].type).rsplit(".", 1)[-1])
    else:
        name = d.pick([a.name for a in n.attribute] or ["strange"])
        value = d.pick((d.integer(), d.real(), "text", [d.integer()] * 4, [d.real()], b"\xff", [], ["a", "b"]))
    kept = [a for a in n.attribute if a.name != name]
    if d.chance(0.9):
        del n.attribute[:]
        n.attribute.extend(kept)
    if d.chance(0.9):
        n.attribute.append(
            h.make_attribute(name, value) if value != [] else onnx.AttributeProto(name=name, type="INTS")
        )


def plausible(d: Draft, kind: str) -> Any:
    small = lambda: d.pick(SMALL if d.chance(0.8) else INTS)  # noqa: E731
    real = lambda: d.pick((0.0, 1.0, -1.0, 0.5, 1e-5, 2.0)) if d.chance(0.8) else d.real()  # noqa: E731
    if kind == "INT":
        return small()
    if kind == "INTS":
        return [small() for _ in range(d.pick((2, 4, 1, 2, 4, 8)))]
    if kind == "FLOAT":
        return real()
    if kind == "FLOATS":
        return [real() for _ in range(3)]
    if kind == "STRING":
        return d.pick(
            ("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET", "reflect", "edge", "linear", "nearest", "x", "DCR")
        )
    raise Unfit


# What a layer may be given to do, as (operator, attributes, further inputs): "f" a real, "c" one a channel, lists integers.
INSERTED: tuple[tuple[str, dict[str, Any], tuple[Any, ...]], ...] = (
    ("Identity", {}, ()), ("Neg", {}, ()), ("Relu", {}, ()), ("Abs", {}, ()), ("Sign", {}, ()), ("Not", {}, ()), ("Floor", {}, ()),
    ("Sqrt", {}, ()), ("Exp", {}, ()), ("Softmax", {"axis": 1}, ()), ("Dropout", {}, ()), ("Dropout", {}, (0.5, True)),
    ("LeakyRelu", {"alpha": 0.1}, ()), ("HardSigmoid", {}, ()), ("Round", {}, ()), ("Reciprocal", {}, ()), ("Sigmoid", {}, ()),
    ("Tanh", {}, ()), ("Add", {}, ("f",)), ("Add", {}, ("c",)), ("Mul", {}, ("f",)), ("Mul", {}, ("c",)), ("Sub", {}, ("c",)),
    ("Div", {}, ("c",)), ("Max", {}, ("f",)), ("Min", {}, ("c",)), ("Max", {}, ("f", "f")), ("Pow", {}, (2.0,)),
    ("Mod", {"fmod": 1}, ("f",)), ("PRelu", {}, ("c",)), ("Clip", {}, (-1.0, 1.0)), ("Clip", {}, (1.0, -1.0)), ("Clip", {}, ("f",)),
    ("Clip", {}, (None, "f")), ("Where", {}, ("f", "f")), ("Greater", {}, ("f",)), ("GreaterOrEqual", {}, ("c",)), ("Less", {}, ("f",)),
    ("Equal", {}, ("f",)), ("Sum", {}, ("f", "c")), ("Transpose", {}, ()), ("Transpose", {"perm": [0, 2, 3, 1]}, ()),
    ("Transpose", {"perm": [0, 1, 3, 2]}, ()), ("Flatten", {"axis": 1}, ()), ("Flatten", {"axis": 2}, ()), ("Flatten", {"axis": -1}, ()),
    ("Reshape", {}, ([0, -1],)), ("Reshape", {"allowzero": 1}, ([0, -1],)), ("Reshape", {}, ([1, -1, 1, 1],)), ("Reshape", {}, ([-1],)),
    ("Squeeze", {}, ()), ("Unsqueeze", {}, ([0],)), ("Unsqueeze", {}, ([2],)), ("Slice", {}, ([0], [1 << 40], [2])),
    ("Slice", {}, ([-1], [-99], [1], [-1])), ("Concat", {"axis": 1}, ("self",)), ("Concat", {"axis": -1}, ("self",)),
    ("Add", {}, ("self",)), ("Mul", {}, ("self",)), ("Sub", {}, ("self",)), ("Max", {}, ("self",)), ("GreaterOrEqual", {}, ("self",)),
    ("Pad", {}, ([0, 0, 1, 1, 0, 0, 1, 1],)), ("Pad", {}, ([0, 0, 1, 0, 0, 0, 0, 1], -1.0)),
    ("Pad", {"mode": "reflect"}, ([0, 0, 1, 1, 0, 0, 1, 1],)), ("Pad", {}, ([0, 0, -1, 0, 0, 0, 0, 0],)),
    ("Pad", {}, ([1, 1], None, [2])), ("Pad", {}, ([1, 1, 0, 0], 0.0, [-1, -1])), ("MaxPool", {"kernel_shape": [2, 2]}, ()),
    ("MaxPool", {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "strides": [2, 2]}, ()),
    ("MaxPool", {"kernel_shape": [1, 2], "ceil_mode": 1, "strides": [1, 2]}, ()),
    ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 1]}, ()), ("AveragePool", {"kernel_shape": [2, 2]}, ()),
    ("AveragePool", {"kernel_shape": [2, 2], "count_include_pad": 1, "pads": [0, 0, 1, 1]}, ()), ("GlobalAveragePool", {}, ()),
    ("GlobalMaxPool", {}, ()), ("ReduceMean", {}, ([2, 3],)), ("ReduceMean", {"keepdims": 0}, ([-1, -2],)), ("ReduceMean", {}, ()),
    ("ReduceMean", {}, ([1],)), ("ReduceMax", {}, ([2, 3],)), ("ReduceSum", {}, ([2, 3],)), ("CumSum", {}, ([2],)),
    ("Cast", {"to": T.FLOAT}, ()), ("Cast", {"to": T.BOOL}, ()), ("Cast", {"to": T.INT32}, ()), ("Cast", {"to": T.UINT8}, ()),
    ("Cast", {"to": T.FLOAT16}, ()), ("Cast", {"to": T.DOUBLE}, ()), ("Cast", {"to": 99}, ()),
    ("BatchNormalization", {}, ("c", "c", "c", "c")), ("BatchNormalization", {"training_mode": 1}, ("c", "c", "c", "c")),
    ("InstanceNormalization", {}, ("c", "c")), ("LRN", {"size": 1}, ()), ("TopK", {"axis": 1}, ([1],)), ("ArgMax", {"axis": 1}, ()),
    ("Gather", {"axis": 1}, ([0],)), ("Split", {"axis": 1, "num_outputs": 1}, ()), ("DepthToSpace", {"blocksize": 1}, ()),
    ("DepthToSpace", {"blocksize": 0}, ()), ("SpaceToDepth", {"blocksize": 2}, ()), ("Resize", {}, (None, [1.0, 1.0, 2.0, 2.0])),
    ("Tile", {}, ([1, 1, 1, 1],)), ("Expand", {}, ([1, 1, 1, 1],)), ("Expand", {}, ([1, 1, 1 << 20, 1 << 20],)),
    ("Upsample", {}, ([1.0, 1.0, 2.0, 2.0],)), ("Shape", {}, ()), ("Size", {}, ()), ("NonZero", {}, ()), ("RandomNormalLike", {}, ()),
    ("Bernoulli", {}, ()), ("Multinomial", {}, ()), ("DequantizeLinear", {}, ("f",)), ("QuantizeLinear", {}, ("f",)), ("IsNaN", {}, ()),
    ("Erf", {}, ()), ("Einsum", {"equation": "...->..."}, ()), ("BipolarQuant", {}, (1.0,)), ("BipolarQuant", {}, (-1.0,)),
    ("BipolarQuant", {}, ("c",)),
)  # fmt: skip


@mutation(16)
def insert_node(d: Draft) -> None:
    """A node between two others."""
    kind, attributes, more = d.pick(INSERTED)
    at = d.rng.randrange(len(d.graph.node))
    node = d.graph.node[at]
    k = d.pick(range(len(node.input)))
    x = node.input[k]
    channels = channels_of(d, x) if d.chance(0.9) else d.pick((1, 2, 8, 9))
    inputs = [x]
    for m in more:
        if m is None:
            inputs.append("")
        elif m == "self":
            inputs.append(x)
        elif m == "f":
            inputs.append(d.constant(d.pick((0.0, 1.0, -1.0, 0.5, d.real()))))
        elif m == "c":
            v = np.array([d.rng.uniform(-2, 2) for _ in range(channels)])
            inputs.append(d.constant(v if kind in NORMS else v.reshape(-1, 1, 1)))
        elif isinstance(m, list):
            inputs.append(d.constant(m, np.int64 if isinstance(m[0], int) else np.float32))
        else:
            inputs.append(d.constant(m, np.bool_ if m is True else np.float32))
    if kind == "Where":
        inputs[0] = d.pick(d.values())
    if kind in SYMMETRIC and d.chance(0.4):
        inputs.reverse()
    made = d.fresh()
    domain = "qonnx.custom_op.general" if kind == "BipolarQuant" else ""
    d.graph.node.insert(at, h.make_node(kind, inputs, [made], domain=domain, **attributes))
    d.graph.node[at + 1].input[k] = made
    forget_shapes(d)


def channels_of(d: Draft, x: str) -> int:
    """How many channels a value probably has: as the convolution or normalisation before it says."""
    makers = {o: n for n in d.graph.node for o in n.output}
    parameters = {t.name: t for t in d.graph.initializer}
    for _ in range(10):
        n = makers.get(x)
        if n is None or not n.input:
            break
        if n.op_type in ("Conv", "BatchNormalization") and len(n.input) > 1 and n.input[1] in parameters:
            return min([d for d in parameters[n.input[1]].dims if 0 < d < 10_000][:1] or [1])
        x = n.input[0]
    dims = d.graph.input[0].type.tensor_type.shape.dim
    return dims[1].dim_value if len(dims) > 1 and 0 < dims[1].dim_value < 10_000 else 1


NORMS = ("BatchNormalization", "InstanceNormalization")
SYMMETRIC = (
    "Add",
    "Mul",
    "Sub",
    "Div",
    "Max",
    "Min",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "Equal",
    "Pow",
    "Concat",
    "Where",
)
