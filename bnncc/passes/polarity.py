"""Polarity: where the bits of a channel are mostly +1, the channel is negated, so that set bits are rare.

It is negated where it is made and where it is read, by other weights, so no sum changes. What it is good for: some kernels take
time in proportion to the bits that are set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bnncc.graph import Graph, check
from bnncc.ops import MOVES, Conv, MaxPool, NormSign, Pad, Threshold
from bnncc.scalar import Cut
from bnncc.tensor import Array, Elem, Op, Tensor

BATCH_VALUES = 1 << 24  # numbers in memory at a time
FIXED = 0  # the bundle of channels that stay as they are

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Calibration:
    """The share of +1 in each input channel of each convolution of bits, by the name of its output, before any is negated.

    It is taken over the windows of so many samples: what a window counts several times counts so here.
    """

    samples: int
    densities: Mapping[str, NDArray[np.float64]]


def measure_densities(graph: Graph, x: Array) -> Calibration:
    """Run the samples x [N, C, H, W], a batch at a time."""
    convs = [op for op in graph.ops if isinstance(op, Conv)]
    largest = max((op.x.shape[0] * op.taps_per_channel * op.y.pixels for op in convs), default=0)
    batch = max(1, BATCH_VALUES // (largest + sum(op.y.size for op in graph.ops)))
    counted = [op for op in convs if op.of_bits]
    ones = {op.y.name: np.zeros(op.x.shape[0], np.int64) for op in counted}
    for begin in range(0, len(x), batch):
        values = graph.run(x[begin : begin + batch])
        for op in counted:
            ones[op.y.name] += in_windows(op, values[op.x.name] > 0)
    every = {op.y.name: len(x) * in_windows(op, np.ones((1, *op.x.shape), bool)) for op in counted}
    return Calibration(len(x), {name: n / np.maximum(every[name], 1) for name, n in ones.items()})


def in_windows(op: Conv, x: Bits) -> NDArray[np.int64]:
    """How often each channel of x [N, C, H, W] is true in the windows of a convolution."""
    return np.asarray(op.slide(op.spread(x, 0)).sum(axis=(0, 2, 3, 4, 5)))


def make_ones_rare(graph: Graph, calibration: Calibration) -> Graph:
    """Negates channels whose bits are mostly +1, weighted by the work of the convolutions that read them; sets their densities."""
    bundles = bundle(graph)
    gain = np.zeros(1 + max((int(b.max()) for b in bundles.values()), default=0))
    for op in graph.ops:
        if isinstance(op, Conv) and op.of_bits:
            np.add.at(gain, bundles[op.x.name], op.macs * (calibration.densities[op.y.name] - 0.5))
    gain[FIXED] = 0
    negated = {name: gain[b] > 0 for name, b in bundles.items()}
    graph = graph.with_ops(rewritten(op, negated, calibration) for op in graph.ops)
    check(graph)
    return graph


class Bundles:
    """Numbers of channels; those that are joined are one bundle, known by its least number."""

    def __init__(self) -> None:
        self.of = np.zeros(1, np.int64)

    def new(self, count: int) -> NDArray[np.int64]:
        numbers = np.arange(len(self.of), len(self.of) + count)
        self.of = np.concatenate([self.of, numbers])
        return numbers

    def join(self, *numbers: int) -> None:
        several = self.of[list(numbers)]
        self.of[np.isin(self.of, several)] = several.min()


def bundle(graph: Graph) -> dict[str, NDArray[np.int64]]:
    """The bundle of each channel of each binary tensor: all its channels are negated, or none; those of FIXED never."""
    bundles = Bundles()
    numbers: dict[str, NDArray[np.int64]] = {}
    for op in graph.ops:
        for t in op.inputs:
            if t.elem is Elem.BIN and not compensates(op, t):
                bundles.join(FIXED, *numbers[t.name])
        if op.y.elem is not Elem.BIN:
            continue
        if isinstance(op, Conv | Threshold | NormSign):
            numbers[op.y.name] = bundles.new(op.y.shape[0])
        elif isinstance(op, MaxPool):
            numbers[op.y.name] = numbers[op.x.name]
        else:
            assert isinstance(op, MOVES)
            numbers[op.y.name] = moved(op, numbers, bundles)
    for o in graph.outputs:
        bundles.join(FIXED, *numbers.get(o.tensor.name, ()))
    return {name: bundles.of[n] for name, n in numbers.items()}


def compensates(op: Op, t: Tensor) -> bool:
    """Whether the op can take channels of its binary input negated."""
    if isinstance(op, Conv):  # kernels of groups pad all channels alike
        return all(o.name != t.name for o in op.others) and not (op.pad_value and op.padded and op.groups > 1)
    return isinstance(op, (MaxPool, *MOVES)) and op.y.elem is Elem.BIN


def moved(op: Op, numbers: Mapping[str, NDArray[np.int64]], bundles: Bundles) -> NDArray[np.int64]:
    """The numbers of y's channels; those that meet in one channel are joined."""
    grids = [np.broadcast_to(numbers[t.name][:, None, None], (1, *t.shape)) for t in op.inputs]
    y = (replace(op, value=FIXED) if isinstance(op, Pad) else op).evaluate(*grids).reshape(op.y.shape[0], -1)
    for channel in y[(y != y[:, :1]).any(axis=1)]:
        bundles.join(*channel)
    return np.asarray(y[:, 0], np.int64)


def rewritten(op: Op, negated: Mapping[str, Bits], calibration: Calibration) -> Op:
    """The op with channels of what it reads and of what it makes negated."""

    def tensor(t: Tensor) -> Tensor:
        return replace(t, negated=tuple(np.flatnonzero(negated[t.name]).tolist())) if t.name in negated else t

    op = replace(op, x=tensor(op.x), y=tensor(op.y), others=tuple(map(tensor, op.others)))
    if isinstance(op, Conv) and op.x.negated:
        signs = np.where(negated[op.x.name], -1, 1).reshape(op.groups, -1)
        of_weights = signs.repeat(op.weight.shape[0] // op.groups, axis=0)[:, :, None, None]
        op = replace(op, weight=op.weight * of_weights.astype(op.weight.dtype))
    if isinstance(op, Conv) and op.of_bits:
        before = calibration.densities[op.y.name]
        op = replace(op, density=float(np.where(negated[op.x.name], 1 - before, before).mean()))
    if not op.y.negated:
        return op
    flips = negated[op.y.name]
    match op:
        case Conv(cut=Cut() as cut) | Threshold(cut=cut):
            return replace(op, cut=replace(cut, inverts=cut.inverts ^ flips))
        case MaxPool():
            return replace(op, minimum=tuple((flips ^ np.array(op.minimum or False)).tolist()))
        case NormSign():
            return replace(op, inverts=tuple((flips ^ np.array(op.inverts or False)).tolist()))
        case _:
            return op
