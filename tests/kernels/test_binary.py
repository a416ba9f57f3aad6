"""Rows of weights against patches: every length of a row, the longest that arises, all extremes, every class of windows."""

from pathlib import Path

import numpy as np
import pytest

from bnncc.kernels import KERNELS
from bnncc.kernels.binary import block
from bnncc.lower import lower
from bnncc.ops import Conv
from bnncc.sim.bench import SHAPES, layer
from bnncc.target import cores
from bnncc.tensor import Elem
from tests.kernels.bench import Case
from tests.kernels.ops import binary_conv, ranged, tensor
from tests.kernels.test_kernels import HOST_CORE, run_all

CORES = ("host", "cortex-m0", "cortex-m4", "cortex-m55")


def dense(rng: np.random.Generator, words: int, out: int) -> Case:
    """A dense layer of 32 * words bits; weights random but for the last two outputs, all -1 and +1; inputs random, all -1, all +1."""
    weight = rng.choice(np.array([-1, 1], np.int8), (out, 32 * words, 1, 1))
    weight[-2:] = np.array([-1, 1], np.int8)[-len(weight[-2:]) :, None, None, None]
    x = rng.choice(np.array([-1, 1]), (3, 32 * words, 1, 1))
    x[1], x[2] = -1, 1
    y = ranged("y", (out, 1, 1), -32 * words, 32 * words)
    op = Conv(x=tensor("x", Elem.BIN, (32 * words, 1, 1)), y=y, kernel=(1, 1), weight=weight)
    return Case(op, "binary_dense", (x,))


@pytest.mark.parametrize("where", CORES)
def test_every_length_of_a_row(where: str, tmp_path: Path) -> None:
    """All remainders of eight words with and without blocks, and more bits than the byte counts of a block could add up."""
    rng = np.random.default_rng(1)
    lengths = [*range(1, 26), 63, 300, 2100]
    cases = [dense(rng, words, 3 if words > 100 else int(rng.integers(1, 35))) for words in lengths]
    run_all(cases, HOST_CORE if where == "host" else cores()[where], tmp_path, sim=where != "host")


def test_rows_of_a_call_divide_the_outputs() -> None:
    assert [block(n) for n in (1, 3, 10, 13, 16, 17, 32, 34, 100, 128)] == [1, 3, 10, 13, 16, 1, 16, 2, 10, 16]


def test_padding_needs_neither_masks_nor_more_scratch() -> None:
    """A class of windows has its own levels: 9 of them for a 3x3 window, and a number for each row and column."""
    graph = layer(next(s for s in SHAPES if s.name == "64-3"), 0.5)
    step = next(s for s in lower(graph, HOST_CORE, "m", forced="binary_conv").steps if s.kernel == "binary_conv")
    arrays = {c.name.rpartition("_")[2]: c.data for c in step.parts.constants}
    assert arrays["levels"].shape == (9, 3)
    assert arrays["rows"].size == arrays["columns"].size == 16
    assert step.parts.scratch_bytes == 4 * 18


def test_float32_steps_begin_with_a_conversion_and_count_with_their_own_margin() -> None:
    """Without an FPU they take longer than the sums: what is known of their error belongs to the bound."""
    rng = np.random.default_rng(5)
    op = next(op for op in (binary_conv(rng) for _ in range(100)) if op.steps and op.groups == 1 and not op.others)
    kernel = next(k for k in KERNELS if k.name == "binary_conv")
    costs = cores()["cortex-m0plus"].cost
    work = kernel.work(op)
    assert work["map.integer"] == op.y.size
    steps = sum(costs["map"][part[4:]] * n for part, n in work.items() if part.startswith("map."))
    sums = kernel.estimate(op, costs) - steps
    expected = sums * (1 + costs["binary_conv"]["margin"]) + steps * (1 + costs["map"]["margin"])
    assert kernel.bound(op, costs) == pytest.approx(expected)
