"""First layers, four pixels at a time: every count of lookups, sums as large as 16 bits allow, tables in blocks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bnncc.kernels.quads import MOST_BYTES, Blocks, refuse
from bnncc.ops import Conv
from bnncc.scalar import Cut
from bnncc.sim.bench import SHAPES, layer
from bnncc.target import cores
from bnncc.tensor import Elem
from tests.kernels.bench import Case
from tests.kernels.ops import ranged, tensor
from tests.kernels.test_kernels import HOST_CORE, run_all

CORES = ("host", "cortex-m0plus", "cortex-m3", "cortex-m4")


def first_layer(
    rng: np.random.Generator,
    channels: int,
    out: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    *,
    most: int = 255,
    **given: object,
) -> Conv:
    """A convolution of 0..most to bits, with thresholds around its sums and some channels inverted."""
    g = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0), **given}
    span = [(k - 1) * d + 1 for k, d in zip(kernel, g["dilations"], strict=True)]
    shape = [(n + g["pads"][k] + g["pads"][k + 2] - span[k]) // g["strides"][k] + 1 for k, n in enumerate(size)]
    weight = rng.choice(np.array([-1, 1], np.int8), (out, channels, *kernel))
    spread = most * int(np.sqrt(weight[0].size)) + 1
    cut = Cut(rng.integers(-spread, spread + 1, (1, out)), rng.random((1, out)) < 0.3)
    y = tensor("y", Elem.BIN, (out, shape[0], shape[1]))
    return Conv(x=ranged("x", (channels, *size), 0, most), y=y, kernel=kernel, weight=weight, cut=cut, **g)


def case(rng: np.random.Generator, op: Conv) -> Case:
    """With random inputs, then the lowest and the highest everywhere."""
    x = rng.integers(op.x.lo, op.x.hi + 1, (3, *op.x.shape))
    x[1], x[2] = op.x.lo, op.x.hi
    return Case(op, "quad_conv", (x,))


def run(cases: list[Case], where: str, tmp_path: Path) -> None:
    run_all(cases, HOST_CORE if where == "host" else cores()[where], tmp_path, sim=where != "host")


@pytest.mark.parametrize("where", CORES)
def test_every_count_of_lookups(where: str, tmp_path: Path) -> None:
    """As many batches of loads, channels without a branch and bytes to skip as there are in assembly; all sizes of tables."""
    rng = np.random.default_rng(1)
    ops = [
        first_layer(rng, 1, 9, (7, 5), (kh, kw), most=3, pads=(kh // 2, kw // 2, kh // 2, 0))
        for kh, kw in ((3, 1), (2, 2), (1, 3), (4, 4), (5, 5), (6, 6), (7, 4), (3, 7))
    ]
    ops += [first_layer(rng, 3, 33, (5, 9), (3, kw), most=3) for kw in (2, 3, 4, 7)]
    ops += [
        first_layer(rng, 8, 20, (5, 6), (3, 3), most=7, strides=(2, 1)),
        first_layer(rng, 8, 40, (9, 8), (5, 5), most=3, strides=(5, 2), pads=(1, 1, 1, 1), pad_value=2),
        first_layer(rng, 10, 17, (4, 7), (4, 6), most=3, dilations=(1, 1)),
        first_layer(rng, 6, 128, (6, 6), (1, 1), most=100),
        first_layer(rng, 2, 3, (1, 23), (1, 5), pads=(0, 2, 0, 2), pad_value=-9),
        first_layer(rng, 2, 50, (9, 1), (3, 1), strides=(3, 1)),
        first_layer(rng, 2, 12, (6, 9), (2, 3), dilations=(1, 3)),
    ]
    blocks = [Blocks.of(op) for op in ops]
    assert {b.lookups for b in blocks} >= {1, 2, 3, 4, 5, 6, 7, 8}
    assert max(b.lookups for b in blocks) > 30
    assert {k for b in blocks for k in b.sizes} == {1, 2, 3, 4, 5, 6}
    assert not any(refuse(op) for op in ops)
    run([case(rng, op) for op in ops], where, tmp_path)


@pytest.mark.parametrize("where", CORES)
def test_sums_as_large_as_they_may_be(where: str, tmp_path: Path) -> None:
    """Both halves reach their ends: thresholds there, all weights alike, all inputs alike."""
    rng = np.random.default_rng(2)
    op = first_layer(rng, 1, 16, (6, 45), (3, 43), most=127)
    assert op.bound == 16383
    levels = np.array([[-op.bound, 1 - op.bound, 0, op.bound, op.bound + 1, 5, -5, 1] * 2])
    cases = []
    for value in (-1, 1):
        cut = Cut(levels, np.arange(16)[None] >= 8)
        cases.append(case(rng, replace(op, weight=np.full_like(op.weight, value), cut=cut)))
    run(cases, where, tmp_path)
    larger = first_layer(rng, 1, 16, (6, 45), (3, 43), most=128)
    assert "too much for 16-bit halves" in refuse(larger)


@pytest.mark.parametrize(
    "shape", [s for s in SHAPES if s.name.startswith("first-") and s.image[1] > 1], ids=lambda s: s.name
)
def test_blocks(shape) -> None:
    """Columns of tables serve several windows, within the memory that is given to them."""
    b = Blocks.of(layer(shape, None).ops[-1])
    assert b.bytes <= MOST_BYTES
    assert b.made < 0.75 * b.windows.out[1] * b.windows.span
