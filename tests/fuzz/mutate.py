"""Mutations of a model: of its bytes, of any field of the protobuf message, and of what the fields mean together.

A mutation is a function of a Draft, listed by `@mutation(weight)`; it raises Unfit where the model has nothing for it.
"""

import math
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

INTS = (
    0, 1, -1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 1000, 65535, 65536, 1 << 20, 10**9,
    2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**62, 2**63 - 1, -(2**63),
)  # fmt: skip
SMALL = (0, 1, -1, 2, 3, 4, 1, 2)
FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 0.1, 1e-45, -1e-45, 1e-38, 1e-7, 1e-5, 16777216.0, 1e30, 3.4e38, -3.4e38,
    math.inf, -math.inf, math.nan,
)  # fmt: skip
NAMES = (
    "", " ", "x", "int", "class", "NULL", "main", "step", "exit", "input", "INPUT", "class_index", "entropy", "logits", "9", "a.b",
    "a/b", 'a "quoted" name', "'", "new\nline\r", "*/ int x; /*", "*\\", "back \\", "??/ ??'", "// \\", "#include",
    "{{ jinja }} {% endraw %}", "%s%n", "ünïcödé 網", "\U0001f600", "\u202e right to left", "\x07\x1b[31m", "\x00", "x" * 3000, "a#acc",
    "a#step0", "t1@unpooled", "__proto__", "\u2028", "_", "t2", "c0",
)  # fmt: skip
DOMAINS = (
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "com.microsoft",
    "qonnx.custom_op.general",
    "own",
    "ai.onnx.preview.training",
    "\n",
)
TYPES = [t for t in T.DataType.values() if t != T.UNDEFINED]
LIMIT = 1 << 20  # bytes of one draft: a duplication of everything may not grow for ever


class Unfit(Exception):
    """The model has nothing that this mutation could change."""


@dataclass
class Draft:
    """A model under mutation, the other files of its folder, and what was done."""

    rng: random.Random
    model: onnx.ModelProto
    options: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)  # beside the model
    links: dict[str, str] = field(default_factory=dict)  # symbolic links beside the model
    history: list[str] = field(default_factory=list)

    @property
    def graph(self) -> onnx.GraphProto:
        return self.model.graph

    def pick(self, options: Any) -> Any:
        options = list(options)
        if not options:
            raise Unfit
        return self.rng.choice(options)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def node(self) -> onnx.NodeProto:
        return self.pick(self.graph.node)

    def values(self) -> list[str]:
        """The names of all values of the graph, in order."""
        made = [o for n in self.graph.node for o in n.output]
        return [*(i.name for i in self.graph.input), *(t.name for t in self.graph.initializer), *made]

    def fresh(self) -> str:
        return f"m{self.rng.randrange(1 << 30)}"

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = self.fresh()
        with np.errstate(all="ignore"):
            self.graph.initializer.append(nh.from_array(np.asarray(value, dtype), name))
        return name

    def integer(self) -> int:
        return self.rng.choice(INTS) if self.chance(0.8) else self.rng.randrange(-(1 << 40), 1 << 40)

    def real(self) -> float:
        return self.rng.choice(FLOATS) if self.chance(0.7) else self.rng.uniform(-300, 300)


Mutation = Callable[[Draft], None]
MUTATIONS: dict[str, tuple[Mutation, int]] = {}


def mutation(weight: int) -> Callable[[Mutation], Mutation]:
    def add(f: Mutation) -> Mutation:
        MUTATIONS[f.__name__] = f, weight
        return f

    return add


def mutate(draft: Draft) -> None:
    """One to a few mutations, most often one: what is otherwise valid goes furthest."""
    names = list(MUTATIONS)
    weights = [w for _, w in MUTATIONS.values()]
    wanted = draft.rng.choice((1, 1, 1, 1, 1, 2, 2, 4))
    for _ in range(40):
        name = draft.rng.choices(names, weights)[0]
        try:
            MUTATIONS[name][0](draft)
            draft.history.append(name)
        except (
            Unfit,
            DecodeError,
            ValueError,
            TypeError,
            OverflowError,
            LookupError,
        ):  # protobuf refuses some values by itself
            continue
        if len(draft.history) >= wanted or draft.model.ByteSize() > LIMIT:
            return


def mutate_bytes(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, str]:
    """Flipped, cut, repeated, moved or foreign bytes; `other` is another model to take some from."""
    b = bytearray(data)
    how = rng.choice(
        ("flip", "flip", "flip", "set", "set", "cut", "truncate", "repeat", "splice", "noise", "varint", "random")
    )
    for _ in range(rng.choice((1, 1, 2, 4, 30))):
        at = rng.randrange(len(b) + 1) if rng.random() < 0.7 else rng.randrange(min(400, len(b) + 1))
        size = rng.choice((1, 2, 4, 8, 50, 400))
        if how == "flip" and at < len(b):
            b[at] ^= 1 << rng.randrange(8)
        elif how == "set" and at < len(b):
            b[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif how == "cut":
            del b[at : at + size]
        elif how == "truncate":
            del b[at:]
        elif how == "repeat":
            b[at:at] = b[at : at + size] * rng.choice((1, 2, 50))
        elif how == "splice":
            start = rng.randrange(len(other) + 1)
            b[at : at + size] = other[start : start + size]
        elif how == "noise":
            b[at : at + size] = rng.randbytes(size)
        elif how == "varint":
            b[at : at + 1] = rng.choice((b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x07", b"\x80" * 11, b"\xff\xff\x03"))
        elif how == "random":
            b = bytearray(rng.randbytes(rng.choice((0, 1, 10, 1000, 100_000))))
            break
        if len(b) > LIMIT:
            break
    return bytes(b), f"bytes: {how}"


# any field -------------------------------------------------------------------------------------------------------------


def messages(message: Message) -> Iterator[Message]:
    """The message and all below it."""
    yield message
    for kind, value in message.ListFields():
        if kind.type == kind.TYPE_MESSAGE:
            for m in [value] if isinstance(value, Message) else value:
                yield from messages(m)


def some(d: Draft, kind: str, number: int) -> Any:
    """A value for a field of a protobuf type."""
    if kind == "string":
        return d.pick(NAMES) if d.chance(0.6) else d.pick(d.values())
    if kind == "bytes":
        return d.rng.randbytes(d.pick((0, 1, 3, 4, 8, 100)))
    if kind in ("float", "double"):
        return d.real()
    if kind == "enum":
        return d.pick(range(number + 8))
    return d.integer()


KINDS = {1: "double", 2: "float", 9: "string", 12: "bytes", 14: "enum"}  # FieldDescriptor.type


@mutation(10)
def any_field(d: Draft) -> None:
    """Change, add, drop, repeat or reorder whatever a random message of the file holds."""
    every = list(messages(d.model))
    message = d.pick(every)
    set_fields = [f for f, _ in message.ListFields()]
    f = d.pick(set_fields) if set_fields and d.chance(0.8) else d.pick(message.DESCRIPTOR.fields)
    if f.is_repeated:
        items = getattr(message, f.name)
        how = d.pick(("change", "change", "drop", "repeat", "swap", "add", "clear"))
        at = d.rng.randrange(len(items)) if len(items) else 0
        if how == "clear":
            message.ClearField(f.name)
        elif f.type == f.TYPE_MESSAGE:
            if how == "drop" and items:
                del items[at]
            elif how == "repeat" and items:
                items.append(items[at])
            elif how == "swap" and len(items) > 1:
                keep = [type(m).FromString(m.SerializeToString()) for m in items]
                d.rng.shuffle(keep)
                del items[:]
                items.extend(keep)
            else:
                alike = [m for m in every if m.DESCRIPTOR is f.message_type]
                items.append(d.pick(alike)) if alike else items.add()
        else:
            value = some(d, KINDS.get(f.type, "int"), 20)
            if how == "change" and items:
                items[at] = value
            elif how == "drop" and items:
                del items[at]
            elif how == "repeat" and items:
                items.extend(list(items) * d.pick((1, 3)))
            elif how == "swap" and len(items) > 1:
                keep = list(items)
                d.rng.shuffle(keep)
                items[:] = keep
            else:
                items.append(value)
    elif f.type == f.TYPE_MESSAGE:
        alike = [m for m in every if m.DESCRIPTOR is f.message_type]
        if alike and d.chance(0.6):
            copy = type(alike[0]).FromString(d.pick(alike).SerializeToString())
            getattr(message, f.name).CopyFrom(copy)
        elif d.chance(0.5):
            message.ClearField(f.name)
        else:
            getattr(message, f.name).SetInParent()
    elif d.chance(0.2):
        message.ClearField(f.name)
    elif f.type == f.TYPE_STRING and d.chance(0.3):
        old = getattr(message, f.name)
        setattr(message, f.name, old + d.pick(NAMES))
    else:
        number = 1 << 31 if KINDS.get(f.type) != "enum" else 20
        setattr(message, f.name, some(d, KINDS.get(f.type, "int"), number))


# shapes and types ------------------------------------------------------------------------------------------------------


@mutation(4)
def dimension_of_a_parameter(d: Draft) -> None:
    t = d.pick(d.graph.initializer)
    how = d.pick(("set", "set", "permute", "split", "drop", "add"))
    dims = list(t.dims)
    if how == "permute" and len(dims) > 1:
        d.rng.shuffle(dims)
    elif how == "split" and dims and dims[0] % 2 == 0:
        dims[:1] = [2, dims[0] // 2]
    elif how == "drop" and dims:
        del dims[d.rng.randrange(len(dims))]
    elif how == "add":
        dims.insert(d.rng.randrange(len(dims) + 1), d.pick((1, 1, 0, 2, 10**9)))
    elif dims:
        dims[d.rng.randrange(len(dims))] = d.integer()
    t.dims[:] = dims


@mutation(4)
def dimension_of_a_value(d: Draft) -> None:
    v = d.pick([*d.graph.input, *d.graph.output, *d.graph.value_info])
    dims = v.type.tensor_type.shape.dim
    how = d.pick(("set", "set", "set", "symbol", "add", "drop", "clear"))
    if how == "clear":
        v.type.tensor_type.ClearField("shape")
    elif how == "add" or not dims:
        dims.add().dim_value = d.integer()
    elif how == "drop":
        del dims[d.rng.randrange(len(dims))]
    elif how == "symbol":
        d.pick(dims).dim_param = d.pick(("N", "batch", *NAMES))
    else:
        d.pick(dims).dim_value = d.integer()


def forget_shapes(d: Draft) -> None:
    """Leave the shapes behind the inputs to inference; the checker wants outputs to state at least their rank."""
    del d.graph.value_info[:]
    for o in d.graph.output:
        for k, dim in enumerate(o.type.tensor_type.shape.dim):
            dim.dim_param = f"{o.name}{k}"


@mutation(3)
def larger_input(d: Draft) -> None:
    """Another size of the image, which is valid as long as nothing is flattened."""
    v = d.pick(d.graph.input)
    dims = v.type.tensor_type.shape.dim
    if not dims:
        raise Unfit
    size = d.pick((1, 2, 5, 6, 7, 31, 32, 33, 300, 5000, 1 << 15, 1 << 20))
    for dim in dims[2:] if d.chance(0.7) else dims[1:]:
        dim.dim_value = size
    forget_shapes(d)


@mutation(3)
def type_of_a_value(d: Draft) -> None:
    v = d.pick([*d.graph.input, *d.graph.output, *d.graph.value_info])
    how = d.pick(("elem", "elem", "elem", "sequence", "optional", "sparse", "map", "clear"))
    old = v.type.tensor_type.elem_type
    if how == "elem":
        v.type.tensor_type.elem_type = d.pick(TYPES) if d.chance(0.8) else d.integer() & 0xFFFF
    elif how == "sequence":
        v.type.sequence_type.elem_type.tensor_type.elem_type = old
    elif how == "optional":
        v.type.optional_type.elem_type.tensor_type.elem_type = old
    elif how == "sparse":
        v.type.sparse_tensor_type.elem_type = old
    elif how == "map":
        v.type.map_type.key_type = T.INT64
        v.type.map_type.value_type.tensor_type.elem_type = old
    else:
        v.ClearField("type")


@mutation(3)
def type_of_a_parameter(d: Draft) -> None:
    """The type alone, or the data with it."""
    t = d.pick(d.graph.initializer)
    kind = d.pick(TYPES)
    if d.chance(0.5):
        t.data_type = kind if d.chance(0.8) else d.integer() & 0xFFFF
        return
    a = array(t)
    try:
        with np.errstate(all="ignore"):
            t.CopyFrom(nh.from_array(a.astype(h.tensor_dtype_to_np_dtype(kind)), t.name))
    except Exception:  # strings, and numbers that become none
        raise Unfit from None


# parameters ------------------------------------------------------------------------------------------------------------


def array(t: onnx.TensorProto) -> np.ndarray:
    """A copy of the values, if there are any to be read in the file itself."""
    if t.data_location == T.EXTERNAL:
        raise Unfit
    try:
        return nh.to_array(t).copy()
    except Exception:  # whatever an earlier mutation has left
        raise Unfit from None


@mutation(11)
def numbers_of_a_parameter(d: Draft) -> None:
    t = d.pick(d.graph.initializer)
    a = array(t)
    if not a.size or a.dtype.kind not in "fiub":
        raise Unfit
    flat = a.reshape(-1)
    how = d.pick(("one", "one", "all", "scale", "scale", "shift", "negate", "repeat"))
    value = d.real() if a.dtype.kind == "f" else d.pick((*SMALL, d.integer()))
    with np.errstate(all="ignore"):
        if a.dtype.kind != "f":
            value = int(np.array(value).astype(np.int64).astype(a.dtype))
        if how == "one":
            flat[d.rng.randrange(a.size)] = value
        elif how == "all":
            flat[:] = value
        elif how == "scale":
            rows = a if a.ndim < 2 or d.chance(0.5) else a[d.rng.randrange(len(a))]
            rows *= np.asarray(value, a.dtype) if a.dtype.kind != "b" else True
        elif how == "shift" and a.dtype.kind != "b":
            flat += np.asarray(value, a.dtype)
        elif how == "negate" and a.dtype.kind == "f":
            flat[:] = -flat
        else:
            flat[:] = flat[0]
    t.CopyFrom(nh.from_array(a, t.name))


@mutation(3)
def data_of_a_parameter(d: Draft) -> None:
    t = d.pick(d.graph.initializer)
    how = d.pick(("cut", "grow", "clear", "typed", "both", "wrong", "reverse"))
    if how == "cut":
        t.raw_data = t.raw_data[: d.rng.randrange(len(t.raw_data) + 1)]
    elif how == "grow":
        t.raw_data = t.raw_data + d.rng.randbytes(d.pick((1, 4, 1000)))
    elif how == "clear":
        t.ClearField("raw_data")
    elif how == "reverse":
        t.raw_data = t.raw_data[::-1]
    else:
        n = len(t.raw_data) // 4
        numbers = struct.unpack(f"<{n}f", t.raw_data[: 4 * n])
        if how != "both":
            t.ClearField("raw_data")
        {"wrong": t.double_data}.get(how, t.float_data).extend(numbers)


@mutation(1)
def no_parameter(d: Draft) -> None:
    del d.graph.initializer[d.rng.randrange(len(d.graph.initializer))]


@mutation(2)
def parameter_is_an_input(d: Draft) -> None:
    """As in files before IR version 4; sometimes with another shape, sometimes without its data."""
    t = d.pick(d.graph.initializer)
    dims = list(t.dims) if d.chance(0.7) else [d.integer()]
    d.graph.input.append(h.make_tensor_value_info(t.name, t.data_type, dims))
    if d.chance(0.3):
        d.graph.initializer.remove(t)
    if d.chance(0.3):
        d.model.ir_version = 3


# the graph -------------------------------------------------------------------------------------------------------------


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


# the file --------------------------------------------------------------------------------------------------------------


@mutation(3)
def versions(d: Draft) -> None:
    if d.chance(0.2):
        d.model.ir_version = d.pick((0, 1, 3, 4, 7, 8, 9, 10, 11, 99, 2**40))
        return
    how = d.pick(("set", "set", "set", "repeat", "clear", "domain"))
    if how == "clear":
        del d.model.opset_import[:]
    elif how == "repeat":
        d.model.opset_import.append(h.make_opsetid("", d.pick((1, 9, 13, 18, 9999))))
    elif how == "domain":
        d.model.opset_import.append(h.make_opsetid(d.pick(DOMAINS), d.integer()))
    else:
        d.pick(d.model.opset_import).version = d.pick(
            (0, 1, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19, 20, 21, 22, 23, 9999, 2**62, -1)
        )


@mutation(2)
def metadata(d: Draft) -> None:
    outputs = [o.name for o in d.graph.output]
    meta = {p.key: p.value for p in d.model.metadata_props} or {
        "bnncc.exits": str(outputs).replace("'", '"'), "bnncc.exit_rule": "entropy", "bnncc.exit_threshold": "0.5"
    }  # fmt: skip
    key = d.pick(sorted(meta))
    exits = (
        "[]",
        "{}",
        "null",
        "[[]]",
        "[1, 2]",
        "[" * 50_000,
        '["x"]',
        str(outputs[::-1]).replace("'", '"'),
        "NaN",
        '["\\ud800"]',
    )
    meta[key] = d.pick(
        exits
        if key == "bnncc.exits"
        else ("entropy", "margin", "0", "-1", "nan", "inf", "1e-40", "1e38", "1_0", "٣", "0x1", " 1 ", "")
    )
    h.set_model_props(d.model, meta)


@mutation(4)
def external_data(d: Draft) -> None:
    """A parameter in another file: rightly so, too short, outside of the folder, at absurd offsets, or no file at all."""
    tensors = [*d.graph.initializer, *(a.t for n in d.graph.node for a in n.attribute if a.HasField("t"))]
    t = d.pick(tensors)
    data = t.raw_data
    where = d.pick(
        (
            "w",
            "w",
            "w",
            "w",
            "sub/w",
            "../w",
            "../../../../etc/passwd",
            "/etc/passwd",
            "/dev/zero",
            "/dev/stdin",
            "link",
            "fifo",
            "",
            ".",
            "w\n",
            "C:\\w",
            "x" * 300,
            "w\x00",
            "loop",
        )
    )
    t.ClearField("raw_data")
    t.data_location = T.EXTERNAL
    del t.external_data[:]
    t.external_data.add(key="location", value=where)
    d.files["w"] = data + b"\x00" * d.pick((0, 0, 0, 8)) if d.chance(0.8) else data[:-1]
    d.links["link"] = d.pick(("/dev/zero", "/etc/passwd", "w", "missing"))
    d.links["loop"] = "loop"
    if d.chance(0.4):
        t.external_data.add(
            key="offset", value=d.pick(("0", "1", "4096", "-1", str(2**62), str(2**70), "x", "", "0x0", "1.5", "٣"))
        )
    if d.chance(0.5):
        t.external_data.add(
            key="length", value=d.pick((str(len(data)), str(len(data)), "0", "1", "-1", str(2**40), str(2**70), "x"))
        )
    if d.chance(0.1):
        t.external_data.add(key=d.pick(("checksum", "basepath", "location", "\n")), value="..")


@mutation(1)
def options(d: Draft) -> None:
    d.options.update(input=d.pick(("u8", "i8", "f32")), input_layout=d.pick(("nchw", "nhwc")))
