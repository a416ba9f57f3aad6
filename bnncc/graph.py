"""The Graph: what is to be computed, as typed ops over tensors."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bnncc.ops import MOVES, Concat, Conv, MaxPool, NormSign, Sign, Threshold
from bnncc.scalar import Operand, Step, apply_steps
from bnncc.tensor import Array, Elem, Op, Tensor


@dataclass(frozen=True)
class Output:
    """A graph output: its ONNX name and shape, the tensor, and the float32 steps on the way out."""

    name: str
    shape: tuple[int, ...]
    tensor: Tensor
    steps: tuple[Step, ...] = ()
    origin: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exits:
    """Early exits: indices into the outputs in order of depth, and the entropy threshold in nats."""

    outputs: tuple[int, ...]
    threshold: float


@dataclass(frozen=True)
class Graph:
    """Ops in an order in which every input is made before it is used."""

    input: Tensor
    ops: tuple[Op, ...]
    outputs: tuple[Output, ...]
    exits: Exits | None = None

    @cached_property
    def _makers(self) -> Mapping[str, Op]:
        return {op.y.name: op for op in self.ops}

    @cached_property
    def _readers(self) -> Mapping[str, list[Op]]:
        readers: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in dict.fromkeys(t.name for t in op.inputs):
                readers.setdefault(name, []).append(op)
        return readers

    @cached_property
    def _given_out(self) -> set[str]:
        return {o.tensor.name for o in self.outputs}

    def producer(self, tensor: Tensor) -> Op | None:
        return self._makers.get(tensor.name)

    def users(self, tensor: Tensor) -> list[Op]:
        return self._readers.get(tensor.name, [])

    def is_output(self, tensor: Tensor) -> bool:
        return tensor.name in self._given_out

    def sole_user(self, tensor: Tensor) -> Op | None:
        """The one op that reads `tensor`, as its x, if nothing else does."""
        users = self.users(tensor)
        if len(users) != 1 or self.is_output(tensor):
            return None
        (user,) = users
        return user if user.x == tensor and all(t.name != tensor.name for t in user.others) else None

    def with_ops(self, ops: Iterable[Op]) -> "Graph":
        return replace(self, ops=tuple(ops))

    def run(self, x: Array) -> dict[str, Array]:
        """Every tensor by name, for a batch x [N, C, H, W]; outputs under "output:NAME" with their steps applied."""
        values: dict[str, Array] = {self.input.name: np.asarray(x, dtype=self.input.elem.dtype)}
        for op in self.ops:
            values[op.y.name] = op.evaluate(*(values[t.name] for t in op.inputs))
        for o in self.outputs:
            v = values[o.tensor.name]
            values[f"output:{o.name}"] = apply_steps(v, o.steps) if o.steps else v
        return values


def check(graph: Graph) -> None:
    """The invariants that hold after every pass; a violation is a bug in a pass (AssertionError)."""
    made = {graph.input.name: graph.input}
    for op in graph.ops:
        for t in op.inputs:
            assert made.get(t.name) == t, f"{op.y.name} reads {t.name} before it is made, or under another type"
        assert op.y.name not in made, f"{op.y.name} is made twice"
        assert min(op.y.shape) > 0, f"{op.y.name} is empty"
        widened = isinstance(op, Concat) and op.y.elem is not Elem.BIN
        assert widened or (op.y.elem is Elem.BIN) == is_binary_op(op), f"{op.y.name} has the wrong element type"
        if isinstance(op, Conv):
            check_conv(op)
        steps: tuple[Step | Operand, ...] = getattr(op, "steps", ())
        used = {s.index for s in steps if isinstance(s, Operand)}
        assert not hasattr(op, "steps") or used == set(range(len(op.others))), (
            f"{op.y.name} has operands it does not use"
        )
        made[op.y.name] = op.y
    for o in graph.outputs:
        assert made.get(o.tensor.name) == o.tensor, f"output {o.name} is never made"


def check_conv(op: Conv) -> None:
    assert op.weight.shape == (op.y.shape[0], op.x.shape[0] // op.groups, *op.kernel)
    assert op.x.shape[0] % op.groups == op.y.shape[0] % op.groups == 0
    assert not op.binary or (op.weight * op.weight == 1).all()
    assert op.integer or (op.mul == 1 and not op.zero and op.pad_value == 0)
    assert op.x.elem is not Elem.BIN or (op.mul == 1 and not op.zero)
    assert op.pad_value == 0 or not op.sparse
    assert not (op.cut and op.steps)
    assert op.order in ("conv", "packed", "rows", "columns")
    assert not op.start or (not op.integer and len(op.start) == op.y.shape[0])


def is_binary_op(op: Op) -> bool:
    """Whether the op's output is -1/+1."""
    if isinstance(op, (MaxPool, *MOVES)):
        return all(t.elem is Elem.BIN for t in op.inputs)
    return isinstance(op, Sign | Threshold | NormSign) or (isinstance(op, Conv) and op.cut is not None)


def needed(graph: Graph, tensors: Iterable[Tensor]) -> Iterator[Op]:
    """The ops that `tensors` depend on, in the graph's order."""
    wanted = {t.name for t in tensors}
    keep = []
    for op in reversed(graph.ops):
        if op.y.name in wanted:
            wanted.update(t.name for t in op.inputs)
            keep.append(op)
    return reversed(keep)
