"""Pooling sinks below the sign: bits are pooled, not values. What is pooled otherwise is pooled before arithmetic."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bnncc.graph import Graph
from bnncc.ops import Map, MaxPool, Sign
from bnncc.passes.maps import constant_steps
from bnncc.scalar import ROUGH, Step
from bnncc.tensor import Elem, Op, Tensor


def sink_pools(graph: Graph) -> Graph:
    """sign(g(max(f(x)))) becomes OR over sign(g(f(x))), or AND for the channels in which g falls.

    Nothing real or wide is then pooled, only bits. Steps after the pool that differ between pixels, or that are not
    monotone, stay where they are.
    """
    while found := {sign.y.name: (pool, maps, sign) for pool, maps, sign in _sinkable(graph)}:
        gone = {id(op) for pool, maps, _ in found.values() for op in (pool, maps)}
        taken = {graph.input.name, *(op.y.name for op in graph.ops)}
        ops: list[Op] = []
        for op in graph.ops:
            if op.y.name in found:
                ops.extend(_sunk(*found[op.y.name], taken))
            elif id(op) not in gone:
                ops.append(op)
        graph = graph.with_ops(ops)
    return graph


def _sunk(pool: MaxPool, maps: Map | None, sign: Sign, taken: set[str]) -> Iterator[Op]:
    """The ops in the place of pool, maps and sign: the pool comes last."""

    def unpooled(t: Tensor, elem: Elem, lo: int = 0, hi: int = 0, stride: int = 1) -> Tensor:
        name = t.name + "@unpooled"
        while name in taken:
            name += "'"
        taken.add(name)
        return Tensor(name, elem, pool.x.shape, lo, hi, stride)

    x = pool.x
    falls = falling(constant_steps(maps) or (), pool.y.shape[0]) ^ sign.negate
    if maps:
        x = unpooled(maps.y, Elem.F32)
        yield replace(maps, x=pool.x, y=x)
    bits = unpooled(sign.y, Elem.BIN, -1, 1, 2)
    yield replace(sign, x=x, y=bits)
    yield replace(pool, x=bits, y=sign.y, minimum=tuple(falls.tolist()) if falls.any() else ())


def _sinkable(graph: Graph) -> Iterator[tuple[MaxPool, Map | None, Sign]]:
    for pool in graph.ops:
        if not isinstance(pool, MaxPool) or pool.x.elem is Elem.BIN:
            continue
        user = graph.sole_user(pool.y)
        maps = user if isinstance(user, Map) else None
        sign = graph.sole_user(maps.y) if maps else user
        steps = constant_steps(maps) if maps else ()
        if isinstance(sign, Sign) and steps is not None and keep_order(steps) and not pool.minimum:
            yield pool, maps, sign


def lift_pools(graph: Graph) -> Graph:
    """max(f(x)) becomes f(max(x)), or f(min(x)) for the channels in which f falls: less arithmetic, and no larger values."""
    made: dict[str, Op] = {}
    for op in graph.ops:
        maps = made.get(op.x.name)
        steps = constant_steps(maps)
        lifts = isinstance(op, MaxPool) and not op.minimum and graph.sole_user(op.x) is op
        if isinstance(op, MaxPool) and maps and lifts and steps is not None and keep_order(steps, exactly=True):
            del made[maps.y.name]
            falls = falling(steps, op.x.shape[0])
            x = replace(maps.x, name=f"{op.y.name}@unscaled", shape=op.y.shape, twin="")
            made[x.name] = replace(op, x=maps.x, y=x, minimum=tuple(falls.tolist()) if falls.any() else ())
            made[op.y.name] = replace(maps, x=x, y=op.y)
        else:
            made[op.y.name] = op
    return graph.with_ops(made.values())


def keep_order(steps: tuple[Step, ...], *, exactly: bool = False) -> bool:
    """Whether steps keep the order of values, or reverse it, in all pixels of a channel; `exactly`: also their C does."""
    return all(s.value.shape[1:] == (1, 1) and s.monotone and not (exactly and s.operation in ROUGH) for s in steps)


def falling(steps: tuple[Step, ...], channels: int) -> NDArray[np.bool_]:
    """Per channel, whether the composed monotone steps decrease."""
    falls = np.zeros(channels, bool)
    for s in steps:
        if s.operation in ("mul", "div"):
            falls ^= s.value[:, 0, 0] < 0
        elif s.operation == "rsub":
            falls ^= True
    return falls
