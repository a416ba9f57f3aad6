"""The Program: how it is computed. Steps over buffers, with constants exactly as the C will read them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from bnncc.graph import Exits, Graph
from bnncc.layout import c_type, elements, storage_bytes, unit
from bnncc.tensor import Op, Tensor


@dataclass(frozen=True)
class Constant:
    """A const array of the generated C."""

    name: str
    c_type: str
    data: NDArray[Any]

    @property
    def bytes(self) -> int:
        return int(self.data.nbytes)


@dataclass(frozen=True)
class Buffer:
    """Words of the arena that hold a tensor or a step's scratch; `first`..`last` are the steps it lives through.

    `over` are the buffers that it may begin at the same place as: inputs that its step is the last to read.
    """

    name: str
    c_type: str
    elements: int
    first: int
    last: int
    tensor: Tensor | None = None
    over: tuple[str, ...] = ()
    offset: int = -1  # bytes into the arena, once planned

    @property
    def bytes(self) -> int:
        return storage_bytes(self.c_type, self.elements)


def tensor_buffer(tensor: Tensor, first: int, last: int) -> Buffer:
    return Buffer(tensor.name, c_type(tensor), elements(tensor), first, last, tensor)


@dataclass(frozen=True)
class Cost:
    """What a kernel will take: multiply-accumulates of the layer, and an estimate in `unit`: cycles at zero wait states, or
    instructions.

    `worst` is that for the worst data, None where the data do not matter. `bound` is `worst`, or else the estimate and by how much
    it fell short at most of the layers that it was fitted to. `waiting`: cycles more at the wait states of the flash.
    """

    macs: int
    estimate: float
    unit: str
    worst: float | None
    bound: float
    waiting: float


@dataclass(frozen=True)
class StepLine:
    """A float32 step of a template: its right side is a literal, an array [channels, pixels] or input 1 + other.

    `alone` says that the product must be rounded before what follows.
    """

    operation: str
    literal: str = ""
    array: str = ""
    shape: tuple[int, int] = (1, 1)
    other: int | None = None
    alone: bool = False


@dataclass(frozen=True)
class Parts:
    """What a kernel needs to run an op: constants, scratch as (name, C type, elements), and its template's parameters.

    `stack`: the most that its assembly pushes, in bytes, which no compiler sees.
    """

    constants: tuple[Constant, ...] = ()
    scratch: tuple[tuple[str, str, int], ...] = ()
    params: Mapping[str, object] = field(default_factory=dict)
    stack: int = 0

    @property
    def scratch_bytes(self) -> int:
        return sum(storage_bytes(kind, count) for _, kind, count in self.scratch)


@dataclass(frozen=True)
class Choice:
    """A kernel that was considered for a step: its estimate in the unit of the step's cost, or why it was refused."""

    kernel: str
    estimate: float | None
    refusal: str = ""
    waiting: float = 0.0  # cycles more for reading constants from flash


@dataclass(frozen=True)
class Step:
    """One call in NAME_run."""

    index: int
    op: Op
    kernel: str
    template: str
    parts: Parts
    cost: Cost
    considered: tuple[Choice, ...]
    then: "Step | None" = None  # what takes the rows of this convolution; its constants and scratch are here
    reason: str = ""  # why the layer works on real values; "" if it does not
    in_ram: bool = False  # its code

    @property
    def flash_bytes(self) -> int:
        return sum(c.bytes for c in self.parts.constants)

    @property
    def copied_bytes(self) -> int:
        """Scratch that holds a copy of weights, so that their reads do not wait for flash."""
        return sum(storage_bytes(kind, count) for part, kind, count in self.parts.scratch if part == "weights")


def exits_bytes(graph: Graph) -> int:
    """What a context holds beside the arena."""
    return 4 if graph.exits else 0


@dataclass(frozen=True)
class Program:
    """Steps in execution order, and the memory plan: buffers by name, arena size and its lower bound in bytes."""

    name: str
    graph: Graph
    steps: tuple[Step, ...]
    buffers: tuple[Buffer, ...]
    arena_bytes: int
    arena_bound: int
    nhwc: bool
    # Tensors, by name, that lie in another, from which of its words on.
    within: Mapping[str, tuple[Tensor, int]] = field(default_factory=dict)

    @property
    def exits(self) -> Exits | None:
        return self.graph.exits

    @cached_property
    def placed(self) -> Mapping[str, Buffer]:
        """The buffers by name."""
        return {b.name: b for b in self.buffers}

    def holder(self, name: str) -> str:
        """The name of the buffer that a tensor or scratch lies in."""
        return self.within[name][0].name if name in self.within else name

    def buffer(self, name: str) -> Buffer:
        """That buffer, from where the tensor or scratch begins."""
        b = self.placed[self.holder(name)]
        return replace(b, offset=b.offset + 4 * self.within[name][1]) if name in self.within else b

    def apart(self, tensor: Tensor) -> int:
        """The words between two pixels of a tensor that are not its own."""
        if tensor.name not in self.within:
            return 0
        return unit(self.within[tensor.name][0].shape[0]).words - unit(tensor.shape[0]).words

    def overwritten(self, step: Step) -> tuple[int, ...]:
        """The inputs of a step, by number, whose place its output takes: none or one, which may be given several times."""
        y = self.placed.get(step.op.y.name)
        if y is None:
            return ()
        names = [t.name for t in step.op.inputs]
        return tuple(k for k, name in enumerate(names) if name in y.over and self.buffer(name).offset == y.offset)

    @property
    def flash_bytes(self) -> int:
        return sum(s.flash_bytes for s in self.steps)

    @property
    def context_bytes(self) -> int:
        """sizeof(NAME_context): the arena, and the threshold of exits."""
        return max(self.arena_bytes, 4) + exits_bytes(self.graph)
