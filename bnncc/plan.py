"""The memory plan: one arena, shared by lifetimes and by outputs that take an input's place.

This is dynamic storage allocation, NP-hard in general and easy for most networks: greedy orders come first. Where they miss
the lower bound, buffers that reach beyond it are placed again, before the others; then a bounded search places buffers from
the bottom of the arena upwards until it meets the bound, or has shown that nothing smaller exists, or has done its work.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bnncc.program import Buffer

GREEDY_WORK = 200_000  # buffers placed (for eight) and neighbours looked at, for each order: a quarter of a second
SEARCH_WORK = 500_000  # placements tried times buffers: less than a second


class Problem:
    """Buffers by index: `clashes[i]` are those alive at a step of i's, `mates[i]` those of them whose offset i may have."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self.buffers = buffers
        self.bytes = [b.bytes for b in buffers]
        self.clashes = list_clashes(buffers)
        index = {b.name: i for i, b in enumerate(buffers)}
        self.mates: list[set[int]] = [set() for _ in buffers]
        for i, b in enumerate(buffers):
            for j in (index[name] for name in b.over):
                assert self.bytes[i] <= self.bytes[j], "an output has room in the input that it overwrites"
                self.mates[i].add(j)
                self.mates[j].add(i)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First and last half step of each buffer: an output that may overwrite an input needs no room beside it."""
        spans = []
        for b in self.buffers:
            begin = 2 * b.first + bool(b.over)
            spans.append((begin, max(begin, 2 * b.last)))
        return spans

    def loads(self) -> NDArray[np.int64]:
        """The bytes alive at each half step."""
        spans = self.spans
        change = np.zeros(max((last for _, last in spans), default=-1) + 2, np.int64)
        for (first, last), size in zip(spans, self.bytes, strict=True):
            change[first] += size
            change[last + 1] -= size
        return change.cumsum()[:-1]


def list_clashes(buffers: Sequence[Buffer]) -> list[list[int]]:
    """For each buffer those that are alive at one of its steps."""
    clashes: list[list[int]] = [[] for _ in buffers]
    alive: list[int] = []
    for i in sorted(range(len(buffers)), key=lambda i: buffers[i].first):
        alive = [j for j in alive if buffers[j].last >= buffers[i].first]
        for j in alive:
            clashes[i].append(j)
            clashes[j].append(i)
        alive.append(i)
    return clashes


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """The largest sum of bytes that one step needs side by side: no plan can be smaller."""
    return int(Problem(buffers).loads().max(initial=0))


def plan(buffers: Sequence[Buffer]) -> tuple[tuple[Buffer, ...], int, int]:
    """Offsets for all buffers: (buffers in the order given, arena bytes, lower bound)."""
    problem = Problem(buffers)
    bound = int(problem.loads().max(initial=0))
    best: list[int] = []
    for order in orders(buffers):
        for offsets in attempts(problem, order, bound):
            if not best or arena(problem, offsets) < arena(problem, best):
                best = offsets
        if arena(problem, best) == bound:
            break
    else:
        best = improved(problem, best, bound)
    return tuple(replace(b, offset=o) for b, o in zip(buffers, best, strict=True)), arena(problem, best), bound


def arena(problem: Problem, offsets: Sequence[int]) -> int:
    return max((o + n for o, n in zip(offsets, problem.bytes, strict=True)), default=0)


def orders(buffers: Sequence[Buffer]) -> list[list[int]]:
    """Orders that suit most networks: by size, length of life, first and last step."""
    keys: tuple[Callable[[Buffer], tuple[int, int]], ...] = (
        lambda b: (-b.bytes, b.first),
        lambda b: (b.first - b.last, -b.bytes),
        lambda b: (b.first, -b.bytes),
        lambda b: (-b.last, -b.bytes),
    )
    every = list(range(len(buffers)))
    return [sorted(every, key=lambda i, key=key: key(buffers[i])) for key in keys]  # type: ignore[misc]


def attempts(problem: Problem, order: list[int], bound: int) -> Iterator[list[int]]:
    """Offsets by placing buffers in this order, and again with one first that reached beyond the bound, some times over."""
    once = 8 * len(order) + sum(map(len, problem.clashes))
    for _ in range(1 + GREEDY_WORK // (once + 1)):
        offsets = place(problem, order)
        yield offsets
        beyond = [i for i in order if offsets[i] + problem.bytes[i] > bound]
        if not beyond:
            break
        order = [beyond[-1], *(i for i in order if i != beyond[-1])]


def place(problem: Problem, order: Iterable[int]) -> list[int]:
    """Gives each buffer, in this order, the lowest offset that is free; offsets by index."""
    offsets = [-1] * len(problem.bytes)
    for i in order:
        placed = [j for j in problem.clashes[i] if offsets[j] >= 0]
        taken = sorted((offsets[j], offsets[j] + problem.bytes[j]) for j in placed)
        offset = first_gap(taken, problem.bytes[i])
        for j in problem.mates[i]:
            if 0 <= offsets[j] < offset:
                others = [(offsets[k], offsets[k] + problem.bytes[k]) for k in placed if k != j]
                if all(end <= offsets[j] or begin >= offsets[j] + problem.bytes[i] for begin, end in others):
                    offset = offsets[j]
        offsets[i] = offset
    return offsets


def first_gap(taken: Iterable[tuple[int, int]], size: int) -> int:
    """The lowest place for `size` bytes beside ranges given in ascending order."""
    offset = 0
    for begin, end in taken:
        if begin - offset >= size:
            break
        offset = max(offset, end)
    return offset


def improved(problem: Problem, offsets: list[int], bound: int) -> list[int]:
    """The best offsets that the search finds: those given, or better ones."""
    search = Search(problem, SEARCH_WORK // len(offsets))
    if found := search.run(bound):
        return found
    while found := search.run(arena(problem, offsets) - 4):
        offsets = found
    return offsets


class Search:
    """Branch and bound over placements in ascending order of offsets.

    In a plan whose buffers cannot be moved down, each buffer lies on the highest one below it, or at a mate's offset. So a
    buffer's offset follows from what lies below, and only the order is searched. A branch ends where some half step's
    remaining buffers no longer fit under the limit. After Moffitt, MiniMalloc (ASPLOS 2023), without its inference rules.
    """

    def __init__(self, problem: Problem, nodes: int) -> None:
        self.problem = problem
        self.nodes = nodes
        self.spans = problem.spans
        self.bytes = np.array(problem.bytes, np.int64)

    def run(self, limit: int) -> list[int] | None:
        """Offsets with an arena of at most `limit` bytes; None if there are none, or the nodes are used up."""
        n = len(self.bytes)
        self.limit = limit
        self.offsets = np.full(n, -1, np.int64)
        self.floor = np.zeros(n, np.int64)  # the highest end below each buffer
        self.rest = self.problem.loads()  # bytes still to be placed at each half step
        self.height = np.zeros_like(self.rest)
        path = [self.choices(0, -1)]  # of each buffer placed: what else could have been
        undo: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]] = []
        while path:
            if len(undo) == len(path):
                self.take_back(*undo.pop())
            choice = next(path[-1], None)
            if choice is None:
                path.pop()
                continue
            if self.nodes <= 0:
                return None
            self.nodes -= 1
            i, offset, last = choice
            undo.append(self.put(i, offset))
            if len(undo) == n:
                return self.offsets.tolist()
            path.append(self.choices(offset, last))
        return None

    def put(self, i: int, offset: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        first, last = self.spans[i]
        clashes = self.problem.clashes[i]
        before = (i, self.floor[clashes], self.height[first : last + 1].copy())
        end = offset + self.problem.bytes[i]
        self.offsets[i] = offset
        self.floor[clashes] = np.maximum(self.floor[clashes], end)
        self.height[first : last + 1] = end
        self.rest[first : last + 1] -= self.problem.bytes[i]
        return before

    def take_back(self, i: int, floor: NDArray[np.int64], height: NDArray[np.int64]) -> None:
        first, last = self.spans[i]
        self.offsets[i] = -1
        self.floor[self.problem.clashes[i]] = floor
        self.height[first : last + 1] = height
        self.rest[first : last + 1] += self.problem.bytes[i]

    def choices(self, low: int, last: int) -> Iterator[tuple[int, int, int]]:
        """(buffer, offset, the last buffer that was placed there in ascending order): none is below `low` any more."""
        if (np.maximum(self.height, low) + self.rest)[self.rest > 0].max(initial=0) > self.limit:
            return
        left = np.flatnonzero(self.offsets < 0)
        for i in left.tolist():
            if any(self.offsets[j] == low and self.fits(i, low, j) for j in self.problem.mates[i]):
                yield i, low, last
        # whoever would leave room for a whole buffer below could be moved: such plans need not be looked at
        least = (np.maximum(self.floor[left], low) + self.bytes[left]).min()
        rested = left[(self.floor[left] >= low) & (self.floor[left] < least)]
        for i in sorted(rested.tolist(), key=lambda i: (self.floor[i], -self.bytes[i])):
            offset = int(self.floor[i])
            # beside an output that could not take an input's place, no half step shows what the input clashes with
            if (offset > low or i > last) and offset + self.bytes[i] <= self.limit:
                yield i, offset, i

    def fits(self, i: int, offset: int, mate: int) -> bool:
        """Whether only `mate` is in the way of i at this offset, of those that lie lower or at the same offset."""
        ends = (self.offsets[j] + self.bytes[j] for j in self.problem.clashes[i] if j != mate and self.offsets[j] >= 0)
        return all(end <= offset for end in ends)
