"""One node of a dialect, and the arithmetic that its operators are written with."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from bnncc.errors import ModelError
from bnncc.frontend.dialects.draft import Array, Draft
from bnncc.frontend.source.text import label, printable

MAX_BITS = 32
GREATER_OR_EQUAL, ROUND = 12, 11  # the opsets that brought them
AWAY_FROM_ZERO = {"UP": ("Ceil", 0.0), "DOWN": ("Floor", 0.0), "HALF_UP": ("Floor", 0.5), "HALF_DOWN": ("Ceil", -0.5)}


@dataclass
class Call:
    """One node of a dialect, and the standard nodes that take its place."""

    model: Draft
    node: onnx.NodeProto
    nodes: list[onnx.NodeProto] = field(default_factory=list)

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


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for a in node.attribute:
        if a.name == name:
            value = onnx.helper.get_attribute_value(a)
            return value.decode(errors="replace") if isinstance(value, bytes) else value
    return default
