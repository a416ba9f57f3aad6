"""Graph -> Graph: small rewrites, each one exact; PASSES is the table of contents."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from bnncc.errors import ModelError
from bnncc.graph import Conv, Elem, Graph, Map, MaxPool, Op, Output, Sign, Tensor, Threshold, check, needed
from bnncc.scalar import Cut, Step, find_cut, near_channels


def merge_maps(graph: Graph) -> Graph:
    """Map(Map(x)) becomes one Map, and a Map that only feeds an output becomes the output's steps."""
    runs: dict[str, list[Op]] = {}  # ops that become one, by the tensor that the last of them makes
    for op in graph.ops:
        before = runs.get(op.x.name)
        if isinstance(op, Map) and before and isinstance(before[-1], Map) and graph.sole_user(op.x) is op:
            del runs[op.x.name]
            before.append(op)
            runs[op.y.name] = before
        else:
            runs[op.y.name] = [op]
    graph = graph.with_ops(run[0] if len(run) == 1 else _merged(run) for run in runs.values())
    outputs = []
    for o in graph.outputs:
        f_or_none = graph.producer(o.tensor)
        if isinstance(f_or_none, Map):
            outputs.append(Output(o.name, o.shape, f_or_none.x, f_or_none.steps + o.steps, f_or_none.origin))
        else:
            outputs.append(o)
    graph = replace(graph, outputs=tuple(outputs))
    return graph.with_ops(needed(graph, [o.tensor for o in outputs]))


def _merged(maps: list[Op]) -> Map:
    steps = [s for m in maps if isinstance(m, Map) for s in m.steps]
    return Map(x=maps[0].x, y=maps[-1].y, origin=joined(*maps), steps=tuple(steps))


def joined(*ops: Op) -> tuple[str, ...]:
    """The origins of fused ops, each once, in order."""
    return tuple(dict.fromkeys(name for op in ops for name in op.origin))


def sink_pools(graph: Graph) -> Graph:
    """sign(g(max(f(x)))) becomes OR over sign(g(f(x))), or AND for the channels in which g falls.

    Nothing real or wide is then pooled, only bits. Steps after the pool that differ between pixels stay where they are.
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
    falls = falling(maps.steps if maps else (), pool.y.shape[0]) ^ sign.negate
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
        uniform = maps is None or all(s.value.shape[1:] == (1, 1) for s in maps.steps)
        if isinstance(sign, Sign) and uniform and not pool.minimum:
            yield pool, maps, sign


def falling(steps: tuple[Step, ...], channels: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Per channel, whether the composed steps decrease."""
    falls = np.zeros(channels, bool)
    for s in steps:
        if s.operation in ("mul", "div"):
            falls ^= s.value[:, 0, 0] < 0
        elif s.operation == "rsub":
            falls ^= True
    return falls


def find_thresholds(graph: Graph) -> Graph:
    """sign(steps(x)) becomes x >= T, found by evaluating the steps. Refuses a ternary Sign that can meet zero (E0304)."""
    out: list[Op] = []
    for op in graph.ops:
        if not isinstance(op, Sign):
            out.append(op)
            continue
        maps = graph.producer(op.x)
        steps = maps.steps if isinstance(maps, Map) else ()
        x = maps.x if isinstance(maps, Map) else op.x
        origin = joined(maps, op) if isinstance(maps, Map) else op.origin
        bounds = (x.lo, x.hi) if x.elem.is_integer else None
        cut = find_cut(steps, x.shape, bounds, strict=op.at_zero <= 0, negate=op.negate)
        if op.at_zero == 0:
            refuse_reachable_zero(op, x, cut, find_cut(steps, x.shape, bounds, strict=False, negate=op.negate))
        maker = graph.producer(x)
        if isinstance(maker, Conv) and maker.file_error and bounds:
            cut = replace(cut, near=near_channels(cut, steps, x.shape, bounds, maker.file_error))
        out.append(Threshold(x=x, y=op.y, origin=origin, cut=cut))
    return graph.with_ops(needed(graph.with_ops(out), [o.tensor for o in graph.outputs]))


def refuse_reachable_zero(op: Sign, x: Tensor, above: Cut, at: Cut) -> None:
    """`above` cuts at > 0 and `at` at >= 0; an integer between the two makes the reference's Sign give 0, which is no bit."""
    if not x.elem.is_integer:
        return  # a real value that is exactly zero: see docs/exactness.md
    if above.levels.shape != at.levels.shape:
        ambiguous = np.array([True])
    else:
        low, high = np.minimum(above.levels, at.levels), np.maximum(above.levels, at.levels)
        first = low + (x.lo - low) % x.stride  # the first reachable value at or above low
        ambiguous = ((first < high) & (first <= x.hi) & (first >= x.lo)).any(axis=0) | (
            above.inverts != at.inverts
        ).any(axis=0)
    if ambiguous.any():
        raise ModelError.of(
            "E0304",
            f"Sign can meet zero in {int(ambiguous.sum())} of {op.y.shape[0]} channels, and ONNX Sign(0) is 0, neither -1 nor +1",
            where=", ".join(op.origin),
            remedy="export sign as Where(x >= 0, 1, -1), or put a BatchNorm before it",
        )


def fuse_thresholds(graph: Graph) -> Graph:
    """A convolution whose accumulators only meet one threshold gives bits at once."""
    out: list[Op] = []
    fused: set[str] = set()
    for op in graph.ops:
        if isinstance(op, Conv) and isinstance(user := graph.sole_user(op.y), Threshold):
            out.append(replace(op, y=user.y, cut=user.cut, origin=joined(op, user)))
            fused.add(user.y.name)
        elif op.y.name not in fused:
            out.append(op)
    return graph.with_ops(out)


PASSES: tuple[Callable[[Graph], Graph], ...] = (merge_maps, sink_pools, merge_maps, find_thresholds, fuse_thresholds)


def run_passes(graph: Graph, observe: Callable[[str, Graph], None] | None = None) -> Graph:
    """Every pass in order, the invariants checked after each; `observe(name, graph)` sees every stage."""
    if observe:
        observe("import", graph)
    for one in PASSES:
        graph = one(graph)
        check(graph)
        if observe:
            observe(one.__name__, graph)
    return graph
