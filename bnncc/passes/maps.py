"""Runs of elementwise arithmetic become one op, or part of the convolution before or the output behind it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from bnncc.graph import Graph, Output, needed
from bnncc.ops import Conv, Map, Threshold
from bnncc.scalar import Operand, Step
from bnncc.tensor import Elem, Op

AnyStep = TypeVar("AnyStep", bound=Step | Operand)
IDEMPOTENT = ("max", "min", "abs", "round", "floor", "ceil")


def joined(*ops: Op) -> tuple[str, ...]:
    """The origins of fused ops, each once, in order."""
    return tuple(dict.fromkeys(name for op in ops for name in op.origin))


def unused(name: str, taken: set[str]) -> str:
    """The name, or a longer one that no tensor has; it is then among those taken."""
    while name in taken:
        name += "'"
    taken.add(name)
    return name


def names(graph: Graph) -> set[str]:
    """The names of all tensors."""
    return {graph.input.name, *(op.y.name for op in graph.ops)}


def constant_steps(op: Op | None) -> tuple[Step, ...] | None:
    """The steps of a Map to float32 that has no operand but constants; None for any other op."""
    if not isinstance(op, Map) or op.others or op.y.elem is not Elem.F32:
        return None
    return tuple(s for s in op.steps if isinstance(s, Step))


def after(steps: Iterable[Step | Operand], others: int) -> tuple[Step | Operand, ...]:
    """Steps whose operands come after `others` earlier ones."""
    return tuple(replace(s, index=s.index + others) if isinstance(s, Operand) else s for s in steps)


def merge_maps(graph: Graph) -> Graph:
    """Map(Map(x)) becomes one Map, and a Map that only feeds an output becomes the output's steps."""
    runs: dict[str, list[Op]] = {}  # by what they make
    for op in graph.ops:
        before = runs.get(op.x.name)
        follows = before and isinstance(before[-1], Map) and op.x.elem is Elem.F32 and graph.sole_user(op.x) is op
        run = runs.pop(op.x.name) if follows and isinstance(op, Map) else []
        run.append(op)
        runs[op.y.name] = run
    graph = graph.with_ops(map(as_one, runs.values()))
    outputs = []
    for o in graph.outputs:
        producer = graph.producer(o.tensor)
        steps_or_none = constant_steps(producer)
        if producer is not None and steps_or_none is not None:
            steps = without_repeats(steps_or_none + o.steps)
            outputs.append(Output(o.name, o.shape, producer.x, steps, producer.origin))
        else:
            outputs.append(o)
    graph = replace(graph, outputs=tuple(outputs))
    return graph.with_ops(needed(graph, [o.tensor for o in outputs]))


def as_one(run: Sequence[Op]) -> Op:
    """A run of Maps, each on what the one before makes, as one Map; another op is a run of its own."""
    first, *rest = run
    if not rest or not isinstance(first, Map):
        return first
    steps, others = list(first.steps), list(first.others)
    for op in rest:
        assert isinstance(op, Map)
        steps += after(op.steps, len(others))
        others += op.others
    return replace(first, y=run[-1].y, steps=without_repeats(steps), others=tuple(others), origin=joined(*run))


def without_repeats(steps: Iterable[AnyStep]) -> tuple[AnyStep, ...]:
    """The steps without those that the one before has already done, such as a ReLU after a ReLU."""
    kept: list[AnyStep] = []
    for s in steps:
        last = kept[-1] if kept else None
        if not (isinstance(s, Step) and isinstance(last, Step) and done_by(s, last)):
            kept.append(s)
    return tuple(kept)


def done_by(s: Step, last: Step) -> bool:
    """Whether a step after that one changes nothing."""
    return s.operation == last.operation in IDEMPOTENT and np.array_equal(s.value, last.value)


def fuse_epilogues(graph: Graph) -> Graph:
    """A convolution whose accumulators only meet one threshold gives bits at once; one that only meets a Map, its float32."""
    fused: dict[str, Op] = {}
    for op in graph.ops:
        before = fused.get(op.x.name)
        alone = isinstance(before, Conv) and not before.cut and not before.steps and graph.sole_user(op.x) is op
        made = with_epilogue(before, op) if alone and isinstance(before, Conv) else None
        if made:
            del fused[op.x.name]
        fused[op.y.name] = made or op
    return graph.with_ops(fused.values())


def with_epilogue(conv: Conv, op: Op) -> Conv | None:
    """The convolution that does what follows it too; None for what it cannot."""
    if isinstance(op, Threshold):
        return replace(conv, y=op.y, cut=op.cut, origin=joined(conv, op))
    if isinstance(op, Map) and op.y.elem is Elem.F32:
        return replace(conv, y=op.y, steps=op.steps, others=op.others, origin=joined(conv, op))
    return None
