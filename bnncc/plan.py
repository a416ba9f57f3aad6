"""The memory plan: one arena, shared by lifetimes."""

from collections.abc import Sequence
from dataclasses import replace

from bnncc.program import Buffer


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """The largest sum of bytes alive at one step: no plan can be smaller."""
    last = max((b.last for b in buffers), default=-1)
    return max((sum(b.bytes for b in buffers if b.first <= s <= b.last) for s in range(last + 1)), default=0)


def place(buffers: Sequence[Buffer]) -> tuple[list[Buffer], int]:
    """Give each buffer, in the order given, the lowest free offset; returns them and the arena's bytes."""
    placed: list[Buffer] = []
    for b in buffers:
        alive = sorted((p for p in placed if p.first <= b.last and b.first <= p.last), key=lambda p: p.offset)
        offset = 0
        for p in alive:
            if p.offset - offset >= b.bytes:
                break
            offset = max(offset, p.offset + p.bytes)
        placed.append(replace(b, offset=offset))
    return placed, max((b.offset + b.bytes for b in placed), default=0)


def plan(buffers: Sequence[Buffer]) -> tuple[tuple[Buffer, ...], int, int]:
    """The best of several greedy orders: (buffers with offsets in the order given, arena bytes, lower bound)."""
    bound = lower_bound(buffers)
    orders = (
        sorted(buffers, key=lambda b: (-b.bytes, b.first)),
        sorted(buffers, key=lambda b: (-(b.last - b.first), -b.bytes)),
        sorted(buffers, key=lambda b: (b.first, -b.bytes)),
        sorted(buffers, key=lambda b: (-b.last, -b.bytes)),
    )
    best, size = min((place(order) for order in orders), key=lambda r: r[1])
    by_name = {b.name: b for b in best}
    return tuple(by_name[b.name] for b in buffers), size, bound
