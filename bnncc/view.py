"""A step as its template sees it, and how the C reads a tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from bnncc.layout import Unit, c_type, elements, unit
from bnncc.ops import Streamed
from bnncc.program import Program, Step, StepLine
from bnncc.tensor import Elem, Op, Tensor


@dataclass(frozen=True)
class Access:
    """A tensor under the name of a C variable; `planar` is an input in the order channels x height x width."""

    tensor: Tensor
    name: str
    planar: bool

    @property
    def type(self) -> str:
        return c_type(self.tensor)

    @property
    def unit(self) -> Unit:
        return unit(self.tensor.shape[0])

    @property
    def binary(self) -> bool:
        return self.tensor.elem is Elem.BIN

    @property
    def channel_step(self) -> int:
        """How far the values of two channels of a pixel are from each other."""
        return self.tensor.pixels if self.planar else 1

    @property
    def pixel_step(self) -> int:
        return 1 if self.planar else self.tensor.shape[0]

    def at(self, c: str, p: str) -> str:
        """The index of channel c, pixel p."""
        channels = self.tensor.shape[0]
        if channels == 1:
            return p
        if self.tensor.pixels == 1:
            return c
        if self.planar:
            return f"{factor(c)} * {self.tensor.pixels} + {p}"
        return f"{factor(p)} * {channels} + {c}"

    def word(self, p: str, k: str) -> str:
        """The index of word k of pixel p of a binary tensor."""
        words = self.unit.words
        if words == 1:
            return p
        return k if p == "0" else f"{factor(p)} * {words} + {k}"

    def bit(self, c: str, p: str) -> str:
        """The bit of channel c, pixel p of a binary tensor."""
        if self.unit.words == 1:
            return f"((uint32_t){self.name}[{p}] >> {factor(c)} & 1u)"
        return f"((uint32_t){self.name}[{self.word(p, f'{factor(c)} / 32')}] >> ({factor(c)} % 32) & 1u)"

    def bits(self, c: str, p: str, count: int) -> str:
        """`count` bits from channel c of pixel p of a binary tensor on; both divide 32, so they are of one word."""
        if self.unit.words == 1 and self.tensor.shape[0] <= count:
            return f"(uint32_t){self.name}[{p}]"
        word = f"(uint32_t){self.name}[{self.word(p, f'{factor(c)} / 32')}]"
        return word if count == 32 else f"{word} >> ({factor(c)} % 32) & {(1 << count) - 1}u"

    def value(self, c: str, p: str) -> str:
        """Channel c of pixel p as a number: an int32_t, or a float."""
        return f"({self.bit(c, p)} != 0 ? 1 : -1)" if self.binary else f"{self.name}[{self.at(c, p)}]"

    def as_float(self, c: str, p: str) -> str:
        if self.binary:
            return f"({self.bit(c, p)} != 0 ? 1.0f : -1.0f)"
        return f"{'' if self.tensor.elem is Elem.F32 else '(float)'}{self.name}[{self.at(c, p)}]"


def factor(expression: str) -> str:
    """An index expression that can stand beside a multiplication."""
    return expression if expression.isidentifier() or expression.isdecimal() else f"({expression})"


@dataclass(frozen=True)
class StepView:
    """A step as its template sees it: `s`."""

    program: Program
    step: Step
    fn: str
    field: str
    parameters: str
    comment: str
    then: "StepView | None" = None  # what takes the rows of this convolution

    @property
    def op(self) -> Op:
        """The step's op; where another takes the rows of a convolution, the convolution."""
        return self.step.op.conv if isinstance(self.step.op, Streamed) else self.step.op

    @property
    def ring(self) -> int:
        """How many rows of a convolution's output are kept."""
        assert isinstance(self.step.op, Streamed)
        return self.step.op.ring

    @property
    def span(self) -> int:
        """How many rows of it a window of what takes them spans."""
        assert isinstance(self.step.op, Streamed)
        return self.step.op.span

    @property
    def weights(self) -> str:
        """The C array of the weights, which may be a copy in RAM."""
        return "weights" if self.step.copied_bytes else f"{self.fn}_weights"

    @property
    def copy_weights(self) -> str:
        """The C statement that makes the copy, if there is one."""
        if "copied" not in self.p:
            return ""
        return f"{self.program.name}_copy(weights, {self.fn}_weights, {self.p['copied']});"

    @property
    def p(self) -> Mapping[str, object]:
        return self.step.parts.params

    def access(self, tensor: Tensor, name: str) -> Access:
        return Access(tensor, name, tensor.name == self.program.graph.input.name and not self.program.nhwc)

    @cached_property
    def inputs(self) -> list[Access]:
        """x and the others, as the parameters of the step's function."""
        return [self.access(t, n) for t, n in zip(self.op.inputs, input_names(self.op), strict=True)]

    @property
    def x(self) -> Tensor:
        return self.op.x

    @property
    def y(self) -> Tensor:
        return self.op.y

    @property
    def apart(self) -> int:
        """The words between two pixels of y that are not its own."""
        return self.program.apart(self.y)

    @property
    def row_elements(self) -> int:
        """How many values of y's C type a row of it takes."""
        return elements(self.y) // self.y.shape[1]

    @property
    def x_type(self) -> str:
        return c_type(self.x)

    @property
    def y_type(self) -> str:
        return c_type(self.y)

    @property
    def x_unit(self) -> Unit:
        return unit(self.x.shape[0])

    @property
    def y_unit(self) -> Unit:
        return unit(self.y.shape[0])

    def at(self, c: str, p: str) -> str:
        return self.inputs[0].at(c, p)

    def word(self, p: str, k: str) -> str:
        return self.inputs[0].word(p, k)

    def bit(self, c: str, p: str) -> str:
        return self.inputs[0].bit(c, p)

    def as_float(self, c: str, p: str) -> str:
        return self.inputs[0].as_float(c, p)

    def operand(self, line: StepLine, c: str, p: str) -> str:
        """The right side of a step at channel c, pixel p."""
        if line.literal:
            return line.literal
        if line.other is not None:  # one value a channel where it has one pixel
            other = self.inputs[1 + line.other]
            return other.as_float(c, p if other.tensor.pixels > 1 else "0")
        channels, pixels = line.shape
        index = c if pixels == 1 else p if channels == 1 else f"{factor(c)} * {pixels} + {p}"
        return f"{line.array}[{index}]"

    def stored(self, value: str) -> str:
        """An int32_t or float value as y's type."""
        return value if self.y_type in ("int32_t", "float") else f"({self.y_type}){factor(value)}"


def input_names(op: Op) -> list[str]:
    """The C parameters that hold the inputs of an op."""
    return ["x", *(f"x{k + 1}" for k in range(len(op.others)))]
