"""What the importer knows of an ONNX value while it walks the graph."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.errors import Diagnostic
from bnncc.frontend.load import Source, label
from bnncc.graph import Elem, Map, Op, Tensor
from bnncc.scalar import Floats, Step, apply_steps, step


class Refusal(Exception):
    """A node that cannot be imported; the importer turns it into a Diagnostic and goes on to find the others."""

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.remedy = code, message, remedy


@dataclass(frozen=True)
class Value:
    """An ONNX value: a tensor, seen in the ONNX shape, perhaps inside a border that a Pad node put around it."""

    tensor: Tensor
    shape: tuple[int, ...]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    pad_value: float = 0.0

    @property
    def padded(self) -> bool:
        return any(self.pads)


@dataclass(frozen=True)
class Condition:
    """The boolean value > 0 (or >= 0), negated if asked, of a comparison with a constant."""

    value: Value
    strict: bool
    negate: bool


@dataclass(frozen=True)
class Difference:
    """`sign - other`: half of the straight-through trick sign - x + x that detach() leaves in exported graphs."""

    sign: Value
    other: str


Known = Value | Condition | Difference


@dataclass
class Edits:
    """How the reference model differs from the file: nodes put in place of others, by the first output they make."""

    replaced: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    added: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)  # after the node that makes this value
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
    problems: list[Diagnostic] = field(default_factory=list)
    images: dict[str, tuple[Tensor, Floats]] = field(default_factory=dict)  # Maps over bits: what -1 and +1 become
    twins: dict[str, str] = field(default_factory=dict)  # tensor name -> ONNX value, where known only later
    edits: Edits = field(default_factory=Edits)

    mark: str = "#"  # separates an ONNX name from what the importer adds to it; in no ONNX name

    def name(self, base: str, part: str) -> str:
        """A name for an intermediate of the value `base`, unlike any name in the file."""
        return f"{base}{self.mark}{part}"

    def add(self, op: Op) -> Tensor:
        self.ops.append(op)
        self.makers[op.y.name] = op
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
        """Input `index` as a tensor without a border."""
        v = self.padded_value(node, index)
        if v.padded:
            raise Refusal(
                "E0206", "it reads a padded tensor, which only a convolution can", "pad inside the Conv node instead"
            )
        return v

    def padded_value(self, node: onnx.NodeProto, index: int = 0) -> Value:
        v = self.values.get(node.input[index])
        if not isinstance(v, Value):
            what = "a comparison" if isinstance(v, Condition) else "a difference of two tensors" if v else "a constant"
            raise Refusal(
                "E0201",
                f"{node.op_type} of {what} is not supported",
                "rewrite this part with Sign or Where(x >= 0, 1, -1)",
            )
        return v

    def out_shape(self, node: onnx.NodeProto, index: int = 0) -> tuple[int, ...]:
        shape = self.source.shapes.get(node.output[index])
        if shape is None or min(shape, default=1) < 1:
            raise Refusal(
                "E0105", "the shape of its output is not static", "export the model with fixed shapes and batch 1"
            )
        return shape

    def map(self, node: onnx.NodeProto, value: Value, s: Step, output: str) -> Value:
        """Append one elementwise step. A chain that maps -1/+1 to itself is recognised as the identity."""
        x = value.tensor
        if x.elem is Elem.BIN and not _ternary(self.makers.get(x.name)):
            self.images[x.name] = x, np.array([-1, 1], np.float32).reshape(2, 1, 1, 1)
        twin = "" if self.mark in output else output
        y = Tensor(output, Elem.F32, x.shape, twin=twin)
        if x.name in self.images:
            root, image = self.images[x.name]
            image = apply_steps(image, (s,))
            if (image[0] == -1).all() and (image[1] == 1).all():
                if self.mark not in output:
                    self.twins.setdefault(root.name, output)
                return Value(root, value.shape)
            self.images[y.name] = root, image
        self.add(Map(x=x, y=y, steps=(s,), origin=(label(node),)))
        return Value(y, value.shape)

    def chain(self, tensor: Tensor) -> tuple[Tensor, list[Step]]:
        """The tensor that a run of Maps starts from, and their steps in order."""
        steps: list[Step] = []
        while isinstance(op := self.makers.get(tensor.name), Map):
            steps = [*op.steps, *steps]
            tensor = op.x
        return tensor, steps


def _ternary(op: Op | None) -> bool:
    return getattr(op, "at_zero", 1) == 0


def broadcast(constant: NDArray[Any], value: Value) -> NDArray[np.float32]:
    """A constant operand in the form that Step wants: (1 or C, 1 or H, 1 or W). Raises Refusal."""
    c, h, w = value.tensor.shape
    a = np.asarray(constant, dtype=np.float32)
    if a.size == 1:
        return a.reshape(1, 1, 1)
    try:
        if np.broadcast_shapes(a.shape, value.shape) != value.shape:
            raise ValueError
        if len(value.shape) == 4:
            return a.reshape(a.shape[1:]) if a.ndim == 4 else a.reshape((1,) * (3 - a.ndim) + a.shape)
        full = np.broadcast_to(a, value.shape).reshape(c, h, w)
    except ValueError:
        raise Refusal(
            "E0205",
            f"its operand of shape {list(a.shape)} changes the shape {list(value.shape)} it is applied to",
            "use a constant per channel",
        ) from None
    return full[:, :1, :1] if h == w == 1 else full


def scalar_step(operation: str, constant: float) -> Step:
    return step(operation, np.float32(constant))
