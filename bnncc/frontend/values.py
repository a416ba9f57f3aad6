"""What the importer knows of an ONNX value while it walks the graph."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.errors import Diagnostic
from bnncc.frontend.load import Source
from bnncc.frontend.source.text import label
from bnncc.ops import Map, Pad, Reshape, Transpose
from bnncc.scalar import Floats, Step, apply_steps, step
from bnncc.tensor import Elem, Op, Shape, Tensor, integer


class Refusal(Exception):
    """A node that cannot be imported; the importer turns it into a Diagnostic and goes on to find the others."""

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.remedy = code, message, remedy


@dataclass(frozen=True)
class Value:
    """An ONNX value: a tensor, seen in the ONNX shape, perhaps inside a border that a Pad node put around it.

    The axes are [1, C, H, W], [1, C, L] or [1, N]; with `last` [1, H, W, C], [1, L, C] or [1, N] flattened from these.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    last: bool = False
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    pad_value: float = 0.0
    inner: str = ""  # the ONNX name inside of the border

    @property
    def padded(self) -> bool:
        return any(self.pads)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axis of the tensor (0: channels, 1: height, 2: width) behind each ONNX axis but the first, of an image."""
        if len(self.shape) not in (3, 4):
            raise Refusal(
                "E0201", f"an image is expected, not shape {list(self.shape)}", "use [1, C, H, W] or [1, C, L]"
            )
        spatial = (1, 2) if len(self.shape) == 4 else (2,) if self.tensor.shape[1] == 1 else (1,)
        return (*spatial, 0) if self.last else (0, *spatial)


def within(axis: int, rank: int) -> int:
    """An axis counted from 0. Raises Refusal E0105 where the tensor does not have it."""
    if not -rank <= axis < rank:
        raise Refusal("E0105", f"axis {axis} of a tensor with {rank} axes", "export the model again")
    return axis % rank


@dataclass(frozen=True)
class Condition:
    """The boolean value > 0 (or >= 0), negated if asked, of a comparison with a constant."""

    value: Value
    strict: bool
    negate: bool


@dataclass(frozen=True)
class Moment:
    """A stage of a layer normalisation that is written in single nodes: "mean", "centred", "squared", "variance", "spread"."""

    stage: str
    given: Value  # what is normalised
    value: Value  # the same with its channels where the mean is taken
    features: bool
    epsilon: float = 0.0
    inverse: bool = False  # of the spread

    @property
    def shape(self) -> tuple[int, ...]:
        """The ONNX shape with which a mean or a variance broadcasts to the value."""
        rank = len(self.value.shape)
        over = range(1, rank) if self.features else [rank - 1 if self.value.last else 1]
        return tuple(1 if a in over else n for a, n in enumerate(self.value.shape))


@dataclass(frozen=True)
class Zero:
    """The boolean value == 0, of which torch writes a sign that is not 0."""

    value: Value


@dataclass(frozen=True)
class Swapped:
    """The value with its batch and its channels exchanged, [C, 1, H, W]: so torch reaches the channels that it writes to."""

    value: Value


Known = Value | Condition | Moment | Zero | Swapped


@dataclass
class Edits:
    """How the reference model differs from the file: nodes put in place of others, by the first output they make."""

    replaced: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    reasons: list[tuple[str, str]] = field(default_factory=list)  # (node, why the reference is the canonical form)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants[name] = value
        return name

    def __bool__(self) -> bool:
        return bool(self.replaced)


@dataclass
class Context:
    """The state of one import: what is known by ONNX name, the ops so far, and the problems."""

    source: Source
    values: dict[str, Known] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)  # outputs of refused nodes: whatever reads them is skipped
    ops: list[Op] = field(default_factory=list)
    makers: dict[str, Op] = field(default_factory=dict)
    position: dict[str, int] = field(default_factory=dict)  # of each tensor's op among the ops
    problems: list[Diagnostic] = field(default_factory=list)
    images: dict[str, tuple[Tensor, Floats]] = field(default_factory=dict)  # Maps over bits: what -1 and +1 become
    twins: dict[str, str] = field(default_factory=dict)  # tensor name -> ONNX value, where known only later
    differences: dict[str, tuple[Value, str]] = field(default_factory=dict)  # sign - other, by output name
    edits: Edits = field(default_factory=Edits)

    real_weights: str = "f32"  # how float weights are stored
    mark: str = "#"  # separates an ONNX name from what the importer adds to it; in no ONNX name

    @cached_property
    def stored(self) -> set[str]:
        """The values that the file holds, and does not compute."""
        graph = self.source.model.graph
        return {t.name for t in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}

    @cached_property
    def by_output(self) -> Mapping[str, onnx.NodeProto]:
        """The nodes, by each of their outputs."""
        return {name: node for node in self.source.nodes for name in node.output}

    @cached_property
    def readers(self) -> Mapping[str, list[onnx.NodeProto]]:
        """The nodes that read each value."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.source.nodes:
            for name in dict.fromkeys(node.input):
                readers.setdefault(name, []).append(node)
        return readers

    @property
    def opset(self) -> int:
        """The version of the default operator set."""
        return max((o.version for o in self.source.model.opset_import if o.domain in ("", "ai.onnx")), default=1)

    def name(self, base: str, part: str) -> str:
        """A name for an intermediate of the value `base`, unlike any name in the file."""
        return f"{base}{self.mark}{part}"

    def add(self, op: Op) -> Tensor:
        self.ops.append(op)
        self.makers[op.y.name] = op
        self.position[op.y.name] = len(self.ops)
        return op.y

    def constant(self, name: str) -> NDArray[Any] | None:
        return self.source.constants.get(name)

    def need_constant(self, node: onnx.NodeProto, index: int, what: str) -> NDArray[Any]:
        name = node.input[index] if index < len(node.input) else ""
        value = self.constant(name) if name else None
        if value is None:
            raise Refusal(
                "E0202", f"its {what} is not a constant", "export the model with its parameters as initializers"
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            bad = int((~np.isfinite(value)).sum())
            raise Refusal(
                "E0301", f"its {what} holds {bad} value(s) that are NaN or infinite", "train or export the model again"
            )
        return value

    def value(self, node: onnx.NodeProto, index: int = 0) -> Value:
        """Input `index` as a tensor; a border around it becomes part of it."""
        v = self.padded_value(node, index)
        return self.framed(node, v, node.input[index]) if v.padded else v

    def framed(self, node: onnx.NodeProto, v: Value, onnx_name: str) -> Value:
        """The value called `onnx_name`, its border included, as a tensor of its own."""
        t = v.tensor
        fits = t.elem is Elem.F32 or (
            v.pad_value in (-1, 1) if t.elem is Elem.BIN else v.pad_value == round(v.pad_value)
        )
        if not fits:
            t = self.real(node, v).tensor
        top, left, bottom, right = v.pads
        c, h, w = t.shape
        lo, hi = (min(t.lo, int(v.pad_value)), max(t.hi, int(v.pad_value))) if t.elem.is_integer else (0, 0)
        elem = integer(lo, hi) if t.elem.is_integer and t.elem is not Elem.BIN else t.elem
        stride = t.stride if t.elem is Elem.BIN else 1
        name = self.name(node.output[0], f"framed{len(self.ops)}")
        y = Tensor(name, elem, (c, h + top + bottom, w + left + right), lo, hi, stride, onnx_name, v.last)
        pad = Pad(x=t, y=y, before=(0, top, left), value=v.pad_value, origin=(label(node),))
        return Value(self.add(pad), v.shape, v.last)

    def real(self, node: onnx.NodeProto, v: Value) -> Value:
        """The value as float32."""
        if v.tensor.elem is Elem.F32:
            return v
        name = self.name(node.output[0], f"real{len(self.ops)}")
        y = Tensor(name, Elem.F32, v.tensor.shape, twin=v.tensor.twin, channels_last=v.tensor.channels_last)
        self.add(Map(x=v.tensor, y=y, steps=(scalar_step("mul", 1.0),), origin=(label(node),)))
        return replace(v, tensor=y)

    def padded_value(self, node: onnx.NodeProto, index: int = 0) -> Value:
        v = self.values.get(node.input[index])
        if isinstance(v, Value):
            return v
        if isinstance(v, Moment):
            raise Refusal(
                "E0201",
                f"{node.op_type} of a mean over channels is not supported outside of a layer normalisation",
                "use LayerNormalization, or a mean over height and width",
            )
        if isinstance(v, Swapped):
            raise Refusal(
                "E0201", f"{node.op_type} of channels before the batch is not supported", "keep the batch in front"
            )
        what = "a comparison" if isinstance(v, Condition | Zero) else "a constant"
        raise Refusal(
            "E0201", f"{node.op_type} of {what} is not supported", "rewrite this part with Sign or Where(x >= 0, 1, -1)"
        )

    def out_shape(self, node: onnx.NodeProto, index: int = 0) -> tuple[int, ...]:
        shape = self.source.shapes.get(node.output[index])
        if shape is None:
            raise Refusal(
                "E0105", "the shape of its output is not static", "export the model with fixed shapes and batch 1"
            )
        if min(shape, default=1) < 1:
            raise Refusal("E0105", f"its output of shape {list(shape)} holds no values", "export the model again")
        return shape

    def twin(self, output: str) -> str:
        """The ONNX value that a tensor named `output` equals; "" for a name that the importer made."""
        return "" if self.mark in output else output

    def map(self, node: onnx.NodeProto, value: Value, s: Step, output: str) -> Value:
        """Append one elementwise step. A chain that maps -1/+1 to itself is recognised as the identity."""
        x = value.tensor
        if x.elem is Elem.BIN and not _ternary(self.makers.get(x.name)):
            self.images[x.name] = x, np.array([-1, 1], np.float32).reshape(2, 1, 1, 1)
        twin = self.twin(output)
        y = Tensor(output, Elem.F32, x.shape, twin=twin, channels_last=value.last)
        if x.name in self.images:
            root, image = self.images[x.name]
            image = apply_steps(image, (s,))
            if (image[0] == -1).all() and (image[1] == 1).all():
                if twin and value.last == root.channels_last:
                    self.twins.setdefault(root.name, output)
                return replace(value, tensor=root)
            self.images[y.name] = root, image
        self.add(Map(x=x, y=y, steps=(s,), origin=(label(node),)))
        return replace(value, tensor=y)

    def is_small(self, value: Value) -> bool:
        """Whether the value is computed of bits, and every signed integer type holds what they become."""
        _, image = self.images.get(value.tensor.name, (None, None))
        if value.tensor.elem is Elem.BIN:
            return True
        return image is not None and bool((image == np.round(image)).all() and (np.abs(image) <= 127).all())

    def arranged(self, node: onnx.NodeProto, value: Value, like: Value) -> Value:
        """The value with its tensor in the shape and the order of axes of `like`, which has the same ONNX shape."""
        if value.last == like.last and value.tensor.shape == like.tensor.shape:
            return value
        flat = self.planar(node, value)
        wanted = like.tensor.shape
        if like.last:
            c, h, w = wanted
            flat = self.move(node, flat, Reshape, (h, w, c))
            flat = self.move(node, flat, Transpose, wanted, axes=(2, 0, 1))
        elif flat.shape != wanted:
            flat = self.move(node, flat, Reshape, wanted)
        return replace(like, tensor=flat)

    def planar(self, node: onnx.NodeProto, value: Value) -> Tensor:
        """A tensor whose [C, H, W] are in the order of the ONNX value."""
        t = value.tensor
        if not value.last or t.pixels == 1:
            return t
        return self.move(node, t, Transpose, (t.shape[1], t.shape[2], t.shape[0]), axes=(1, 2, 0))

    def vector(self, node: onnx.NodeProto, value: Value) -> Value:
        """A value of shape [1, N] whose tensor is [N, 1, 1]."""
        flat = self.planar(node, value)
        if flat.pixels > 1:
            flat = self.move(node, flat, Reshape, (flat.size, 1, 1))
        return Value(flat, value.shape)

    def last_axis(self, node: onnx.NodeProto, value: Value) -> Value:
        """An image with a tensor whose channels are its last ONNX axis."""
        order = (*value.axes[-1:], *value.axes[:-1]) if len(value.shape) == 4 else (2, 1, 0)
        if len(value.shape) == 3 and value.axes == (0, 1):
            order = (1, 2, 0)
        t = value.tensor
        axes = (order[0], order[1], order[2])
        moved = self.move(node, t, Transpose, (t.shape[axes[0]], t.shape[axes[1]], t.shape[axes[2]]), axes=axes)
        return Value(moved, value.shape, last=True)

    def move(self, node: onnx.NodeProto, x: Tensor, kind: type[Op], shape: Shape, **given: Any) -> Tensor:
        """Append an op that only moves values."""
        y = Tensor(self.name(node.output[0], f"moved{len(self.ops)}"), x.elem, shape, x.lo, x.hi, x.stride)
        return self.add(kind(x=x, y=y, origin=(label(node),), **given))

    def chain(self, tensor: Tensor) -> tuple[Tensor, list[Step]]:
        """The tensor that a run of Maps starts from, and their steps in order."""
        backwards = list(self.backwards(tensor))
        return backwards[-1][0] if backwards else tensor, [s for _, s in reversed(backwards)]

    def backwards(self, tensor: Tensor) -> Iterator[tuple[Tensor, Step]]:
        """The steps of a run of Maps from the last one on, each with what its Map is applied to."""
        while isinstance(op := self.makers.get(tensor.name), Map) and not op.others and op.y.elem is Elem.F32:
            tensor = op.x
            for s in reversed(op.steps):
                assert isinstance(s, Step)  # without others there are no Operands
                yield tensor, s


def _ternary(op: Op | None) -> bool:
    return getattr(op, "at_zero", 1) == 0


def broadcast(constant: NDArray[Any], value: Value) -> NDArray[np.float32]:
    """A constant operand in the form that Step wants: (1 or C, 1 or H, 1 or W). Raises Refusal."""
    c, h, w = value.tensor.shape
    a = np.asarray(constant, dtype=np.float32)
    if a.size == 1:
        return a.reshape(1, 1, 1)
    try:
        if np.broadcast_shapes(a.shape, value.shape) != value.shape or len(value.shape) > 4:
            raise ValueError
    except ValueError:
        raise Refusal(
            "E0205",
            f"its operand of shape {list(a.shape)} changes the shape {list(value.shape)} it is applied to",
            "use a constant per channel",
        ) from None
    a = a.reshape((1,) * (len(value.shape) - a.ndim) + a.shape)
    if len(value.shape) <= 2:  # one constant a feature
        full = np.broadcast_to(a, value.shape)
        a = full.reshape(h, w, c).transpose(2, 0, 1) if value.last else full.reshape(c, h, w)
    else:
        a = np.moveaxis(a[0], -1, 0) if value.last else a[0]  # channels first
        pixels = a.shape[1:]
        a = (
            a.reshape(-1, 1, 1)
            if max(pixels) == 1
            else np.broadcast_to(a, (a.shape[0], *spatial(value))).reshape(-1, h, w)
        )
    for axis in (0, 1, 2):  # an exporter may have expanded it
        first = a.take([0], axis)
        a = first if a.shape[axis] > 1 and np.array_equal(np.broadcast_to(first, a.shape), a) else a
    return (
        np.ascontiguousarray(a)
        if a.shape[1] == a.shape[2] == 1
        else np.ascontiguousarray(np.broadcast_to(a, (a.shape[0], h, w)))
    )


def spatial(value: Value) -> tuple[int, ...]:
    """The sizes of the ONNX axes that are not channels."""
    return value.shape[1:-1] if value.last else value.shape[2:]


def scalar_step(operation: str, constant: float) -> Step:
    return step(operation, np.float32(constant))
