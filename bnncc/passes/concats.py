"""Elementwise ops and pooling go before a concatenation, slices take its parts: a growing tensor is never copied whole.

In a densely connected network each part stays as it was made, in integers, and only the bits are concatenated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bnncc.graph import Graph, needed
from bnncc.ops import Concat, Map, MaxPool, Sign, Slice, SumPool, Upsample
from bnncc.passes.maps import constant_steps
from bnncc.scalar import Step
from bnncc.tensor import Op, Tensor, integer

PARTWISE = (Map, MaxPool, Sign, SumPool, Upsample)


def split_concats(graph: Graph) -> Graph:
    """f(concat(a, b)) becomes concat(f(a), f(b)), slices and concatenations of concatenations take the parts."""
    parts: dict[str, tuple[Tensor, ...]] = {}  # of each concatenated tensor
    instead: dict[str, Tensor] = {}  # what stands for a slice that is one part
    ops: list[Op] = []
    for given in graph.ops:
        op = redirected(given, instead)
        pieces = parts.get(op.x.name)
        if isinstance(op, Concat):
            flat = tuple(p for t in op.inputs for p in parts.get(t.name, (t,)))
            op = replace(op, x=flat[0], others=flat[1:])
            parts[op.y.name] = flat
            ops.append(op)
        elif pieces and isinstance(op, Slice) and op.y.shape[1:] == op.x.shape[1:] and op.step[0] == 1:
            made = list(cut_out(op, pieces))
            ops += [m for m in made if isinstance(m, Op)]
            tensors = [m.y if isinstance(m, Op) else m for m in made]
            if len(tensors) == 1:
                instead[op.y.name] = tensors[0]
            else:
                ops.append(together(op, tensors))
                parts[op.y.name] = tuple(tensors)
        elif pieces and is_partwise(op):
            each = [of_part(op, k, begin, p) for k, begin, p in numbered(pieces)]
            ops += each
            ops.append(together(op, [e.y for e in each]))
            parts[op.y.name] = tuple(e.y for e in each)
        else:
            ops.append(op)
    outputs = tuple(replace(o, tensor=instead.get(o.tensor.name, o.tensor)) for o in graph.outputs)
    graph = replace(graph, ops=tuple(ops), outputs=outputs)
    return graph.with_ops(needed(graph, [o.tensor for o in outputs]))


def redirected(op: Op, instead: dict[str, Tensor]) -> Op:
    x, *others = (instead.get(t.name, t) for t in op.inputs)
    return op if op.inputs == (x, *others) else replace(op, x=x, others=tuple(others))


def is_partwise(op: Op) -> bool:
    """Whether the op works on each channel by itself, and on the concatenation alone."""
    return isinstance(op, PARTWISE) and not op.others and (not isinstance(op, Map) or constant_steps(op) is not None)


def numbered(pieces: Sequence[Tensor]) -> Iterator[tuple[int, int, Tensor]]:
    """(number, first channel, part)."""
    begin = 0
    for k, p in enumerate(pieces):
        yield k, begin, p
        begin += p.shape[0]


def of_part(op: Op, k: int, begin: int, x: Tensor) -> Op:
    """The op on part k of its input, which holds the channels from `begin`."""
    elem, lo, hi, stride = op.y.elem, op.y.lo, op.y.hi, op.y.stride
    if isinstance(op, MaxPool | Upsample):
        elem, lo, hi, stride = x.elem, x.lo, x.hi, x.stride
    elif isinstance(op, SumPool) and x.elem.is_integer:
        taps = op.taps_per_channel
        lo, hi, stride = min(0, x.lo) * taps, max(0, x.hi) * taps, 1
        elem = integer(lo, hi)
    y = Tensor(f"{op.y.name}@{k}", elem, (x.shape[0], *op.y.shape[1:]), lo, hi, stride)
    if isinstance(op, Map):
        return replace(op, x=x, y=y, steps=tuple(of_channels(s, begin, x.shape[0]) for s in constant_steps(op) or ()))
    return replace(op, x=x, y=y)


def of_channels(s: Step, begin: int, count: int) -> Step:
    return s if s.value.shape[0] == 1 else replace(s, value=s.value[begin : begin + count])


def cut_out(op: Slice, pieces: Sequence[Tensor]) -> Iterator[Tensor | Op]:
    """The parts that a slice of channels takes: whole tensors, or slices of them."""
    first, last = op.start[0], op.start[0] + op.y.shape[0]
    for k, begin, p in numbered(pieces):
        low, high = max(first, begin), min(last, begin + p.shape[0])
        if low < high and high - low == p.shape[0]:
            yield p
        elif low < high:
            y = replace(p, name=f"{op.y.name}@{k}", shape=(high - low, *p.shape[1:]), twin="")
            yield replace(op, x=p, y=y, start=(low - begin, 0, 0))


def together(op: Op, tensors: Sequence[Tensor]) -> Concat:
    """The concatenation that stands where `op` stood."""
    return Concat(x=tensors[0], others=tuple(tensors[1:]), y=op.y, origin=op.origin)
