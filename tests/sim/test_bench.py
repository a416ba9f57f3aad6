"""bnncc.sim.bench: rows on small layers; outputs are checked inside."""

from dataclasses import replace

import pytest

from bnncc.kernels import KERNELS
from bnncc.lower import NO_LIMIT, Ram, lower
from bnncc.ops import Conv
from bnncc.sim.bench import ANY, DENSITIES, SHAPES, Shape, inputs, kernels_for, layer, plan_rows, run
from bnncc.target import Flash, cores
from bnncc.tensor import Elem

SMALL = (
    Shape("image", (33, 4, 5), 40, 3, 1),
    Shape("dense", (50, 1, 1), 10, 1),
    Shape("groups", (64, 4, 4), 64, 3, 1, groups=2),
    Shape("depth", (40, 4, 4), 40, 3, 1, groups=40),
    Shape("bytes", (2, 5, 6), 20, 3, 1, elem=Elem.U8),
)


@pytest.mark.parametrize("shape", SMALL, ids=lambda s: s.name)
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m0plus"])
def test_every_kernel_that_applies(shape: Shape, core: str) -> None:
    for kernel in kernels_for(shape, cores()[core]):
        row = run(shape, kernel, 0.5 if shape.elem is Elem.BIN else None, cores()[core])
        assert row.kernel == kernel
        assert 0 < row.instructions <= row.cycles
        assert row.macs == shape.out * row_taps(shape)
        assert row.flash_bytes > 0
        assert row.code_bytes > 0


def row_taps(shape: Shape) -> int:
    side = [(n + 2 * shape.pad - shape.kernel) // shape.stride + 1 for n in shape.image[1:]]
    return side[0] * side[1] * shape.image[0] // shape.groups * shape.kernel**2


@pytest.mark.parametrize("density", DENSITIES)
def test_the_inputs_have_the_density(density: float) -> None:
    x = inputs(SHAPES[0], density)
    assert abs((x >= 128).mean() - density) < 0.01


def test_the_time_of_sparse_counting_follows_the_density_but_is_bounded() -> None:
    core = cores()["cortex-m4"]
    cycles = [run(SMALL[0], "sbs_conv", d, core).cycles for d in (0.1, 0.3, 0.5)]
    assert cycles == sorted(cycles)
    assert run(SMALL[0], "sbs_conv", 1.0, core).cycles < 1.3 * cycles[-1]


def test_the_benchmark_has_the_layers_that_it_names() -> None:
    assert {s.name for s in SHAPES} >= {"c128", "c256", "fc", "64-64", "32-32"}
    bits = [s for s in SHAPES if s.elem is Elem.BIN]
    rows = list(plan_rows(SHAPES, (), cores()["cortex-m4"]))
    assert all({d for s, _, d in rows if s == shape} == set(DENSITIES) for shape in bits)


ALONE = {"value_conv": "real inputs", "real_conv": "real weights"}  # kernels that do what no other one does


def test_every_kernel_of_convolutions_wins_somewhere() -> None:
    """By the compiler's prediction; those that take RAM for speed where it is known to be there, copies of weights where flash has
    wait states."""
    m4, m55 = cores()["cortex-m4"], cores()["cortex-m55"]
    slow = replace(m4, flash=Flash(5, 8))
    ways = ((m4, NO_LIMIT), (m4, Ram(1 << 17, 1 << 16)), (m55, NO_LIMIT), (slow, ANY), (slow, Ram(1 << 17, 1 << 16)))
    programs = (
        lower(layer(shape, density), core, "m", ram=ram)
        for core, ram in ways
        for shape in SHAPES
        for density in (0.25, 0.5)
    )
    chosen = {s.kernel for p in programs for s in p.steps if isinstance(s.op, Conv)}
    assert chosen | set(ALONE) >= {k.name for k in KERNELS if Conv in k.ops}
