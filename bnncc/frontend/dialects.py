"""Operators of QONNX, Brevitas and FINN, rewritten to standard ONNX before anything else looks at the graph.

Stock onnxruntime cannot run such files; the reference then is the rewritten model: each operator's own meaning, as qonnx
executes it, in float32 and in the same order. A file may carry ONNX functions of these names. onnxruntime runs those, so a
function that computes something else than the operator is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.errors import Diagnostic, ModelError, raise_all
from bnncc.frontend.load import QUANTIZER_DOMAINS, first_line, label, printable, session

CHANNELS_LAST = "qonnx.custom_op.channels_last"
DOMAINS = (*QUANTIZER_DOMAINS, CHANNELS_LAST)
MAX_BITS = 32
MAX_THRESHOLDS = 255  # of one MultiThreshold: 8 bits
MAX_PARAMETERS = 1 << 20  # elements of any tensor that is computed only to know a scale or a bit width
RANK_LAYOUTS = {2: "NC", 3: "NWC", 4: "NCHW"}  # where MultiThreshold finds the channels if it is not told
GREATER_OR_EQUAL, ROUND = 12, 11  # the opsets that brought them

Array = NDArray[Any]


def declare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the opset imports of the dialects, which files often leave out though ONNX demands them."""
    imported = {o.domain for o in model.opset_import}
    missing = {d for d in DOMAINS if d not in imported and any(n.domain == d for n in model.graph.node)}
    if not missing:
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    out.opset_import.extend(onnx.helper.make_opsetid(d, 1) for d in sorted(missing))
    return out


def standard(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in operators of ONNX alone, its parameters no longer listed as inputs. Raises ModelError with all that it refuses."""
    parameters = {t.name for t in model.graph.initializer}
    listed = any(i.name in parameters for i in model.graph.input)
    if not listed and not any(n.domain in DOMAINS for n in model.graph.node):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    if (
        listed
    ):  # ONNX before IR version 4 demands it; from then on such a parameter is a default that a caller may change
        inputs = [i for i in out.graph.input if i.name not in parameters]
        del out.graph.input[:]
        out.graph.input.extend(inputs)
        out.ir_version = max(out.ir_version, 4)
    Rewriter(out).rewrite()
    return out


@dataclass
class Rewriter:
    """Rewrites one model in place, node by node in execution order, so what is made before a node is standard already."""

    model: onnx.ModelProto
    names: set[str] = field(default_factory=set)
    values: dict[str, Array | None] = field(default_factory=dict)  # what is constant, as far as it was asked for
    makers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    shared: dict[tuple[tuple[int, ...], bytes], str] = field(default_factory=dict)  # initializers added, by content
    agreeing: set[bytes] = field(default_factory=set)  # calls of functions that were found to compute the operator

    def rewrite(self) -> None:
        graph = self.model.graph
        given = list(graph.node)
        functions = {(f.domain, f.name): f for f in self.model.functions}
        self.names |= {n for node in given for n in (*node.input, *node.output)}
        self.names |= {n.name for n in given if n.domain not in DOMAINS}
        self.names |= {v.name for v in (*graph.initializer, *graph.input)}
        del graph.node[:]
        self.know_ranks(self.model)
        problems: list[Diagnostic] = []
        for node in given:
            nodes = [node]
            if node.domain in DOMAINS:
                try:
                    nodes = Call(self, node).rewritten()
                    if (node.domain, node.op_type) in functions:
                        self.compare(node)
                except ModelError as e:
                    problems += e.diagnostics
            graph.node.extend(nodes)
            self.makers.update((name, n) for n in nodes for name in n.output if name)
        raise_all(problems)
        kept = [f for f in self.model.functions if f.domain not in DOMAINS]
        del self.model.functions[:]
        self.model.functions.extend(kept)
        imports = [o for o in self.model.opset_import if o.domain not in DOMAINS]
        del self.model.opset_import[:]
        self.model.opset_import.extend(imports)

    @property
    def opset(self) -> int:
        return max(int(o.version) for o in self.model.opset_import if o.domain in ("", "ai.onnx"))

    def name(self, base: str) -> str:
        """A name that the model does not have yet."""
        name, count = base, 1
        while name in self.names:
            count += 1
            name = f"{base}.{count}"
        self.names.add(name)
        return name

    def initializer(self, value: object) -> str:
        array = np.asarray(value, np.float32)
        key = (array.shape, array.tobytes())
        if key not in self.shared:
            base = f"constant.{array.item():g}" if array.size == 1 else "constant"
            self.shared[key] = self.name(base)
            self.model.graph.initializer.append(onnx.numpy_helper.from_array(array, self.shared[key]))
        return self.shared[key]

    def constant(self, name: str) -> Array | None:
        """The value called `name` if it does not depend on the model's input."""
        if name not in self.values:
            self.values[name] = self.evaluate(name)
        return self.values[name]

    def evaluate(self, name: str) -> Array | None:
        parameters = {t.name: t for t in self.model.graph.initializer}
        if name in parameters:
            return tensor(parameters[name])
        nodes: list[onnx.NodeProto] = []
        leaves: set[str] = set()
        waiting, seen = [name], set()
        while waiting:
            wanted = waiting.pop()
            if wanted in seen or not wanted:
                continue
            seen.add(wanted)
            if wanted in parameters:
                leaves.add(wanted)
            elif wanted in self.makers:
                node = self.makers[wanted]
                nodes += [] if node in nodes else [node]
                waiting += node.input
            else:
                return None
        order = {id(n): k for k, n in enumerate(self.makers.values())}
        nodes.sort(key=lambda n: order[id(n)])
        part = self.part(nodes, [parameters[n] for n in leaves], name)
        return self.run(part) if part is not None else None

    def part(
        self, nodes: list[onnx.NodeProto], parameters: list[onnx.TensorProto], name: str
    ) -> onnx.ModelProto | None:
        """A model of the constant `nodes` alone, unless it would compute a large tensor."""
        graph = onnx.helper.make_graph(nodes, "constant", [], [onnx.ValueInfoProto(name=name)], parameters)
        part = self.small(graph)
        inferred = with_shapes(part)
        known = {v.name: v.type.tensor_type for v in (*inferred.graph.value_info, *inferred.graph.output)}
        for n in (n for node in nodes for n in node.output if n):
            if n not in known or not known[n].HasField("shape"):
                return None
            dims = [d.dim_value if d.HasField("dim_value") else MAX_PARAMETERS + 1 for d in known[n].shape.dim]
            if int(np.prod(dims, dtype=object)) > MAX_PARAMETERS:
                return None
        return part

    def small(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        """A model of another graph, with the operator sets and functions of this one."""
        given = self.model
        return onnx.helper.make_model(
            graph, opset_imports=given.opset_import, ir_version=given.ir_version, functions=given.functions
        )

    @staticmethod
    def run(part: onnx.ModelProto) -> Array | None:
        try:
            return np.asarray(session(part).run(None, {})[0])
        except Exception:  # onnxruntime has one exception class a status code, under a private module
            return None

    def know_ranks(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        for v in (*graph.input, *graph.output, *graph.value_info):
            if v.type.tensor_type.HasField("shape"):
                self.ranks[v.name] = len(v.type.tensor_type.shape.dim)
        self.ranks.update((t.name, len(t.dims)) for t in graph.initializer)

    def rank(self, name: str) -> int | None:
        """The number of dimensions, as the file says or else as shape inference over what is rewritten finds."""
        if name not in self.ranks:
            part = onnx.ModelProto()
            part.CopyFrom(self.model)
            del part.graph.output[:]
            self.know_ranks(with_shapes(part))
        return self.ranks.get(name)

    def compare(self, node: onnx.NodeProto) -> None:
        """Raise ModelError E0210 if the file's own function of this operator's name computes something else than it."""
        given = [self.constant(n) for n in node.input[1:]]
        parameters = [np.array(0.5, np.float32) if v is None else v for v in given]
        call = onnx.NodeProto()
        call.CopyFrom(node)
        call.name = ""
        names = [f"p{k}" for k in range(len(parameters))]
        del call.input[:], call.output[:]
        call.input.extend(["x", *names])
        call.output.append("y")
        key = call.SerializeToString() + b"".join(p.tobytes() + repr(p.shape).encode() for p in parameters)
        if key in self.agreeing:
            return
        x = probe(node, parameters)
        graph = onnx.helper.make_graph(
            [call],
            "call",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
            [onnx.ValueInfoProto(name="y")],
            [onnx.numpy_helper.from_array(np.asarray(p), n) for p, n in zip(parameters, names, strict=True)],
        )
        own, meant = self.small(graph), self.small(graph)
        del meant.functions[:]
        remedy = "correct the function, leave it out, or give it a domain of its own"
        try:
            expected = session(standard(meant)).run(None, {"x": x})[0]
            found = session(own).run(None, {"x": x})[0]
        except ModelError:
            raise
        except Exception as e:  # see run
            raise ModelError.of(
                "E0210",
                f"onnxruntime cannot run the file's own function: {first_line(e)}",
                where=label(node),
                remedy=remedy,
            ) from None
        if not np.array_equal(found, expected, equal_nan=True):
            what = "another shape"
            if found.shape == expected.shape:
                at = tuple(np.argwhere(found != expected)[0])
                what = f"{found[at]:g} instead of {expected[at]:g} where x is {np.broadcast_to(x, found.shape)[at]:g}"
            raise ModelError.of(
                "E0210",
                f"the file's own function of this name computes something else than the operator: {what}",
                where=label(node),
                remedy=remedy,
            )
        self.agreeing.add(key)


def tensor(t: onnx.TensorProto) -> Array:
    try:
        return np.asarray(onnx.numpy_helper.to_array(t))
    except Exception as e:  # numpy and onnx raise what they like for data that do not fit the dimensions
        raise ModelError.of(
            "E0106", f"initializer {printable(t.name)} cannot be read: {first_line(e)}", remedy="export the model again"
        ) from None


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes that can be inferred; of one that is inconsistent, none."""
    try:
        return onnx.shape_inference.infer_shapes(model)  # data_prop takes a hundred bytes an integer
    except Exception:  # onnx raises InferenceError, RuntimeError or TypeError; load() says what is wrong
        return model


def probe(node: onnx.NodeProto, parameters: list[Array]) -> NDArray[np.float32]:
    """Values for x at which operators that mean different things differ: around zero, halves, and the parameters themselves."""
    halves = np.concatenate([np.arange(-9, 9.5, 0.25), [-1000, 1000, 1e-6, -1e-6, 0.1, -0.1]])
    scales = np.unique([v for p in parameters for v in np.asarray(p, np.float64).ravel()[:32]])
    near = np.concatenate([scales, scales - 1e-3, scales + 1e-3])
    points = np.concatenate([halves, near, np.outer(scales, halves).ravel()])
    points = np.unique(np.clip(points, -1e30, 1e30).astype(np.float32))
    if node.op_type == "MultiThreshold":
        layout = attribute(node, "data_layout", "") or "NC"
        shape = tuple(parameters[0].shape[0] if d == "C" else 1 for d in layout[1:])
    else:
        shape = np.broadcast_shapes(*(p.shape for p in parameters))
    return np.broadcast_to(points.reshape(-1, *[1] * len(shape)), (len(points), *shape))


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for a in node.attribute:
        if a.name == name:
            value = onnx.helper.get_attribute_value(a)
            return value.decode(errors="replace") if isinstance(value, bytes) else value
    return default


@dataclass
class Call:
    """One node of a dialect, and the standard nodes that take its place."""

    model: Rewriter
    node: onnx.NodeProto
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def rewritten(self) -> list[onnx.NodeProto]:
        node = self.node
        table = CHANNELS_LAST_OPERATORS if node.domain == CHANNELS_LAST else OPERATORS
        if node.op_type not in table:
            self.refuse(
                "E0201",
                f"the operator {printable(f'{node.domain}::{node.op_type}')} is not supported",
                "see docs/operators.md for what is; export before FINN's own transformations",
            )
        counts, write = table[node.op_type]
        if len(node.input) not in counts or not all(node.input) or len(node.output) != 1:
            self.refuse(
                "E0102", f"it has {len(node.input)} inputs and {len(node.output)} outputs", "export the model again"
            )
        y = write(self)
        if not self.nodes or y != self.nodes[-1].output[0]:
            self.add("Identity", y)
        self.nodes[-1].output[0] = node.output[0]
        return self.nodes

    def refuse(self, code: str, message: str, remedy: str) -> None:
        raise ModelError.of(code, message, where=label(self.node), remedy=remedy)

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        """Append a node; the name of what it makes."""
        base, kind = self.node.name or self.node.output[0], self.node.op_type
        y = self.model.name(f"{self.node.output[0]}/{operator}")
        node = onnx.helper.make_node(operator, inputs, [y])
        node.name = self.model.name(
            base if base.endswith(kind) else f"{base}/{kind}"
        )  # onnxruntime wants each name once
        node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(node)
        return y

    def const(self, value: object) -> str:
        return self.model.initializer(value)

    def rank(self) -> int:
        rank = self.model.rank(self.node.input[0])
        if rank is None or rank < 2:
            self.refuse("E0105", "the shape of its input is not known", "export the model with its shapes")
        assert rank is not None
        return rank

    def parameter(self, index: int, what: str) -> Array:
        value = self.model.constant(self.node.input[index])
        if value is None:
            self.refuse(
                "E0202", f"its {what} is not a constant", "export the model with its parameters as initializers"
            )
        assert value is not None
        if value.dtype.kind not in "fiu" or not value.size or not np.isfinite(value).all():
            self.refuse("E0301", f"its {what} is not a finite number", "train or export the model again")
        return value

    def parameters(self, *names: str) -> list[Array]:
        """All the parameters, in the order of the inputs behind the first, if they broadcast to one shape."""
        values = [self.parameter(k + 1, name) for k, name in enumerate(names)]
        try:
            np.broadcast_shapes(*(v.shape for v in values))
        except ValueError:
            self.refuse("E0105", "its parameters do not fit each other", "export the model again")
        return values

    def number(self, name: str, default: float) -> np.float32:
        value = attribute(self.node, name, default)
        if not isinstance(value, int | float):
            self.refuse("E0102", f"its attribute {name} is no number", "export the model again")
        return np.float32(value)

    def apply(self, operator: str, x: str, parameter: str, neutral: float) -> str:
        """Arithmetic with a parameter, left out where it changes nothing."""
        value = self.model.constant(parameter)
        if value is not None and value.size == 1 and value.ndim < 2 and value.item() == neutral:
            return x
        if value is not None and value.dtype != np.float32:
            parameter = self.const(value)
        return self.add(operator, x, parameter)

    def at_least(self, x: str, threshold: str) -> str:
        if self.model.opset >= GREATER_OR_EQUAL:
            return self.add("GreaterOrEqual", x, threshold)
        return self.add("Not", self.add("Less", x, threshold))

    def sign(self, x: str) -> str:
        return self.add("Where", self.at_least(x, self.const(0)), self.const(1), self.const(-1))

    def bits(self, value: Array, what: str) -> Array:
        """A bit width, or one for each channel, as integers."""
        wrong = value[(value != np.round(value)) | (value < 1) | (value > MAX_BITS)]
        if wrong.size:
            self.refuse("E0201", f"its {what} is {wrong[0]:g}", f"use an integer from 1 to {MAX_BITS}")
        return value.astype(np.int64)

    def positive(self, value: Array) -> Array:
        if (value <= 0).any():
            self.refuse("E0301", f"its scale is {value.min():g}", "train or export the model again")
        return value

    def flag(self, name: str, default: int | None = None) -> bool:
        value = attribute(self.node, name, default)
        if not isinstance(value, int):
            self.refuse("E0102", f"it lacks the attribute {name}", "export the model again")
        return bool(value)

    def clamp(self, x: str, lo: Array, hi: Array) -> str:
        """x between lo and hi; these are scalars or broadcast."""
        if lo.size == hi.size == 1 and lo.ndim < 2:
            return self.add("Clip", x, self.const(lo.reshape(())), self.const(hi.reshape(())))
        return self.add("Max", self.add("Min", x, self.const(hi)), self.const(lo))

    def rounded(self, x: str, mode: str, *, signed: bool) -> str:
        """x as an integer; from zero up unless `signed`."""
        if self.model.opset < ROUND:
            self.refuse(
                "E0103",
                f"rounding needs ONNX opset {ROUND}, the model uses {self.model.opset}",
                "export it with opset 18",
            )
        if mode in ("ROUND", "HALF_EVEN"):
            return self.add("Round", x)
        if mode in ("CEIL", "FLOOR"):
            return self.add(mode.capitalize(), x)
        if mode not in AWAY_FROM_ZERO:
            self.refuse("E0201", f"the rounding mode {printable(mode)} is not known", "round half to even (ROUND)")
        operator, shift = AWAY_FROM_ZERO[mode]
        size = self.add("Abs", x) if signed else x
        if shift:
            size = self.add("Add", size, self.const(shift))
        size = self.add(operator, size)
        return self.add("Mul", self.add("Sign", x), size) if signed else size


AWAY_FROM_ZERO = {"UP": ("Ceil", 0.0), "DOWN": ("Floor", 0.0), "HALF_UP": ("Floor", 0.5), "HALF_DOWN": ("Ceil", -0.5)}


def limits(bits: Array, *, signed: bool, narrow: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The smallest and the largest integer of `bits` bits; a narrow range leaves out one value at the end."""
    if signed:
        half = 2.0 ** (bits - 1)
        lo, hi = -half + narrow, half - 1
    else:
        lo, hi = 0.0 * bits, 2.0**bits - 1 - narrow
    return lo.astype(np.float32), hi.astype(np.float32)


def bipolar_quant(c: Call) -> str:
    x, scale = c.node.input
    if c.model.constant(scale) is not None:
        c.parameters("scale")
    return c.apply("Mul", c.sign(x), scale, 1)


def quant(c: Call) -> str:
    """x / scale + zero point, clamped and rounded, then back."""
    x, scale, zero, _ = c.node.input
    signed, narrow = c.flag("signed"), c.flag("narrow")
    step, _, width = c.parameters("scale", "zero point", "bit width")
    c.positive(step)
    bits = c.bits(width, "bit width")
    binary = signed & (bits == 1)
    y = c.apply("Add", c.apply("Div", x, scale, 1), zero, 0)
    if binary.all():
        y = c.sign(y)
    elif binary.any():
        c.refuse("E0201", "its bit width is 1 for some channels and larger for others", "use one bit width")
    else:
        y = c.clamp(y, *limits(bits, signed=signed, narrow=narrow))
        y = c.rounded(y, str(attribute(c.node, "rounding_mode", "ROUND")).upper(), signed=signed)
    return c.apply("Mul", c.apply("Sub", y, zero, 0), scale, 1)


def trunc(c: Call) -> str:
    """Integers made less precise: by the difference of two bit widths, or by the quotient of two scales."""
    x, scale, zero = c.node.input[:3]
    mode = str(attribute(c.node, "rounding_mode", "FLOOR")).upper()
    y = c.rounded(c.apply("Add", c.apply("Div", x, scale, 1), zero, 0), "ROUND", signed=True)
    if len(c.node.input) == 5:
        step, _, wide, narrow = c.parameters("scale", "zero point", "input bit width", "output bit width")
        c.positive(step)
        shift = c.bits(wide, "input bit width") - c.bits(narrow, "output bit width")
        y = c.rounded(c.apply("Div", y, c.const(2.0**shift), 1), mode, signed=True)
        return c.apply("Mul", c.apply("Sub", y, zero, 0), scale, 1)
    what = ("scale", "zero point", "input bit width", "output scale", "output bit width")
    step, origin, _, out, width = c.parameters(*what)
    divisor = 2 ** np.round(np.log2(c.positive(out).astype(np.float32) / c.positive(step).astype(np.float32)))
    signed = c.flag("signed", 1)
    y = c.apply("Div", y, c.const(divisor), 1)
    y = c.clamp(y, *limits(c.bits(width, "output bit width"), signed=signed, narrow=c.flag("narrow", 0)))
    y = c.rounded(y, mode, signed=signed)
    return c.apply("Mul", c.apply("Sub", y, c.const(origin / divisor), 0), c.node.input[4], 1)


def multi_threshold(c: Call) -> str:
    """How many of its channel's thresholds x reaches, times out_scale plus out_bias."""
    x = c.node.input[0]
    thresholds = c.parameter(1, "table of thresholds")
    if thresholds.ndim != 2 or thresholds.shape[1] > MAX_THRESHOLDS:
        c.refuse(
            "E0201",
            f"its thresholds have shape {list(thresholds.shape)}",
            f"use [channels, 1 to {MAX_THRESHOLDS}] thresholds",
        )
    scale, bias = c.number("out_scale", 1.0), c.number("out_bias", 0.0)
    layout = str(attribute(c.node, "data_layout", "")) or RANK_LAYOUTS.get(c.rank(), "NC")
    channel = layout.index("C") if "C" in layout else 1
    shape = (-1,) + (1,) * (len(layout) - channel - 1) if len(thresholds) > 1 else ()
    columns = [column.reshape(shape) for column in thresholds.T]
    reached = [c.at_least(x, c.const(column)) for column in columns]
    if len(reached) == 1:
        return c.add("Where", reached[0], c.const(scale + bias), c.const(bias))
    count = c.add("Cast", reached[0], to=onnx.TensorProto.FLOAT)
    for r in reached[1:]:
        count = c.add("Add", count, c.add("Cast", r, to=onnx.TensorProto.FLOAT))
    return c.apply("Add", c.apply("Mul", count, c.const(scale), 1), c.const(bias), 0)


def debug_marker(c: Call) -> str:
    return str(c.node.input[0])


def channels_last(c: Call) -> str:
    """The standard operator of the same name between two transpositions; a convolution's weights are transposed too."""
    inputs = list(c.node.input)
    rank = c.rank()
    first, last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    for k in range(2 if c.node.op_type == "Conv" else 1):
        inputs[k] = c.add("Transpose", inputs[k], perm=first)
    given = {a.name: onnx.helper.get_attribute_value(a) for a in c.node.attribute}
    return c.add("Transpose", c.add(c.node.op_type, *inputs, **given), perm=last)


Write = Callable[[Call], str]
OPERATORS: Mapping[str, tuple[tuple[int, ...], Write]] = {  # the numbers of inputs that it can have
    "BipolarQuant": ((2,), bipolar_quant),
    "DebugMarker": ((1,), debug_marker),
    "IntQuant": ((4,), quant),
    "MultiThreshold": ((2,), multi_threshold),
    "Quant": ((4,), quant),
    "Trunc": ((5, 6), trunc),
}
CHANNELS_LAST_OPERATORS: Mapping[str, tuple[tuple[int, ...], Write]] = {
    "BatchNormalization": ((5,), channels_last),
    "Conv": ((2, 3), channels_last),
    "MaxPool": ((1,), channels_last),
}
