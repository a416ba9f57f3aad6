"""Pooling sinks below the sign: bits are pooled, not values. What is pooled otherwise is pooled before arithmetic."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bnncc.graph import Graph
from bnncc.ops import Map, MaxPool, Sign
from bnncc.passes.maps import constant_steps, names, unused
from bnncc.scalar import ROUGH, Step
from bnncc.tensor import Elem, Op, Shape, Tensor


def sink_pools(graph: Graph) -> Graph:
    """sign(g(max(f(x)))) becomes OR over sign(g(f(x))), or AND for the channels in which g falls.

    Nothing real or wide is then pooled, only bits. Steps after the pool that differ between pixels, or that are not
    monotone, stay where they are.
    """
    while found := {sign.y.name: (pools, maps, sign) for pools, maps, sign in _sinkable(graph)}:
        gone = {id(op) for pools, maps, _ in found.values() for op in (*pools, maps)}
        taken = names(graph)
        ops: list[Op] = []
        for op in graph.ops:
            if op.y.name in found:
                ops.extend(_sunk(*found[op.y.name], taken))
            elif id(op) not in gone:
                ops.append(op)
        graph = graph.with_ops(ops)
    return graph


def _sunk(pools: Sequence[MaxPool], maps: Map | None, sign: Sign, taken: set[str]) -> Iterator[Op]:
    """The ops in the place of pools, maps and sign: the pools come last."""

    def named(t: Tensor, elem: Elem, shape: Shape, lo: int = 0, hi: int = 0, stride: int = 1) -> Tensor:
        return Tensor(unused(f"{t.name}@unpooled", taken), elem, shape, lo, hi, stride)

    x = pools[0].x
    falls = falling(constant_steps(maps) or (), x.shape[0]) ^ sign.negate
    if maps:
        x = named(maps.y, Elem.F32, x.shape)
        yield replace(maps, x=pools[0].x, y=x)
    bits = named(sign.y, Elem.BIN, x.shape, -1, 1, 2)
    yield replace(sign, x=x, y=bits)
    minimum = tuple(falls.tolist()) if falls.any() else ()
    for pool in pools:
        y = sign.y if pool is pools[-1] else named(pool.y, Elem.BIN, pool.y.shape, -1, 1, 2)
        yield replace(pool, x=bits, y=y, minimum=minimum)
        bits = y


def _sinkable(graph: Graph) -> Iterator[tuple[list[MaxPool], Map | None, Sign]]:
    """Each sign with the pools before it, in their order, and what lies between."""
    for pool in graph.ops:
        if not isinstance(pool, MaxPool) or pool.x.elem is Elem.BIN:
            continue
        user = graph.sole_user(pool.y)
        maps = user if isinstance(user, Map) else None
        sign = graph.sole_user(maps.y) if maps else user
        steps = constant_steps(maps) if maps else ()
        if isinstance(sign, Sign) and steps is not None and keep_order(steps) and not pool.minimum:
            pools = [pool]
            while isinstance(before := graph.producer(pools[0].x), MaxPool) and graph.sole_user(before.y) is pools[0]:
                pools.insert(0, before)
            yield pools, maps, sign


def lift_pools(graph: Graph) -> Graph:
    """max(f(x)) becomes f(max(x)), or f(min(x)) for the channels in which f falls: less arithmetic, and no larger values."""
    made: dict[str, Op] = {}
    taken = names(graph)
    for op in graph.ops:
        maps = made.get(op.x.name)
        steps = constant_steps(maps)
        lifts = isinstance(op, MaxPool) and not op.minimum and graph.sole_user(op.x) is op
        if isinstance(op, MaxPool) and maps and lifts and steps is not None and keep_order(steps, exactly=True):
            del made[maps.y.name]
            falls = falling(steps, op.x.shape[0])
            x = replace(maps.x, name=unused(f"{op.y.name}@unscaled", taken), shape=op.y.shape, twin="")
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
