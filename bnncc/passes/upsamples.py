"""Values are repeated last: what works on each by itself goes before an upsampling."""

from dataclasses import replace

from bnncc.graph import Graph
from bnncc.ops import Sign, Upsample
from bnncc.passes.maps import constant_steps, names, unused
from bnncc.tensor import Op


def sink_upsamples(graph: Graph) -> Graph:
    """f(upsample(x)) becomes upsample(f(x)) for signs, and for arithmetic that is alike in all pixels: bits are repeated."""
    made: dict[str, Op] = {}
    taken = names(graph)
    for op in graph.ops:
        before = made.get(op.x.name)
        if isinstance(before, Upsample) and is_alike(op) and graph.sole_user(op.x) is op:
            del made[op.x.name]
            small = replace(op.y, name=unused(f"{op.y.name}@small", taken), shape=before.x.shape, twin="")
            made[small.name] = replace(op, x=before.x, y=small)
            made[op.y.name] = replace(before, x=small, y=op.y)
        else:
            made[op.y.name] = op
    return graph.with_ops(made.values())


def is_alike(op: Op) -> bool:
    """Whether the op does the same to a channel's value in whatever pixel."""
    steps = constant_steps(op)
    return isinstance(op, Sign) or (steps is not None and all(s.value.shape[1:] == (1, 1) for s in steps))
