"""Every kernel on fixed layers, in the simulator, its outputs checked: instructions, estimated cycles, memory."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnncc.emit import adapter, emit, result_dtype
from bnncc.graph import Graph, Output
from bnncc.kernels import KERNELS
from bnncc.lower import Ram, lacking, lower
from bnncc.ops import Conv, Threshold
from bnncc.scalar import Cut
from bnncc.sim.footprint import footprint
from bnncc.sim.measure import measure
from bnncc.target import Core
from bnncc.tensor import Elem, Tensor

DENSITIES = (0.25, 0.35, 0.5, 1.0)
NAME = "bench"
RUNS = 2
ANY = Ram(for_speed=1 << 32)


@dataclass(frozen=True)
class Shape:
    """A layer: image [C, H, W] of bits or bytes, outputs, kernel, padding, stride, groups."""

    name: str
    image: tuple[int, int, int]
    out: int
    kernel: int
    pad: int = 0
    stride: int = 1
    groups: int = 1
    elem: Elem = Elem.BIN


SHAPES = (
    Shape("c128", (128, 16, 16), 128, 3, 1),
    Shape("c256", (256, 8, 8), 256, 3, 1),
    Shape("fc", (1024, 1, 1), 1024, 1),
    Shape("fc10", (1024, 1, 1), 10, 1),
    Shape("64-64", (64, 16, 16), 64, 3, 1),
    Shape("32-32", (32, 16, 16), 32, 3, 1),
    Shape("pointwise", (64, 16, 16), 128, 1),
    Shape("64-3", (64, 16, 16), 3, 3, 1),
    Shape("grouped-4", (128, 16, 16), 128, 3, 1, groups=4),
    Shape("grouped-16", (128, 16, 16), 128, 3, 1, groups=16),
    Shape("depthwise", (128, 16, 16), 128, 3, 1, groups=128),
    Shape("first-16x16x3-128", (3, 16, 16), 128, 3, 1, elem=Elem.U8),
    Shape("first-28x28x1-32", (1, 28, 28), 32, 3, 1, elem=Elem.U8),
    Shape("first-96x96x3-16", (3, 96, 96), 16, 3, 1, 2, elem=Elem.U8),
    Shape("first-784-128", (784, 1, 1), 128, 1, elem=Elem.U8),
)


@dataclass(frozen=True)
class Row:
    """One kernel on one layer. `density`: the share of set input bits, None for bytes. Cycles are estimates, zero wait states,
    None if the core's are not modelled; then the compiler predicts instructions."""

    shape: str
    kernel: str
    density: float | None
    macs: int  # nominal: padded taps count
    instructions: int
    cycles: int | None
    waiting_cycles: int | None  # with those waited for flash, None if nothing waits
    predicted: int  # what the compiler expects at this density
    worst: int | None  # the compiler's bound for any data, None where the data do not matter
    scratch_bytes: int
    stack_bytes: int  # that assembly pushes at most
    flash_bytes: int  # constants of the layer
    code_bytes: int  # of the whole program: the layer, the threshold before it, the output

    @property
    def spent(self) -> int:
        """Cycles, or instructions if cycles are not modelled."""
        return self.instructions if self.cycles is None else self.cycles

    @property
    def error(self) -> float:
        """The prediction's, relative to what was spent."""
        return self.predicted / self.spent - 1


def layer(shape: Shape, density: float | None) -> Graph:
    """The layer behind a threshold that makes the input's bits, with random weights and levels."""
    rng = np.random.default_rng(list(shape.name.encode()))
    c, h, w = shape.image
    side = [(n + 2 * shape.pad - shape.kernel) // shape.stride + 1 for n in (h, w)]
    x = Tensor("x", Elem.U8, shape.image, 0, 255)
    ops: list[Threshold | Conv] = []
    source = x
    if shape.elem is Elem.BIN:
        source = Tensor("bits", Elem.BIN, shape.image, -1, 1, 2)
        ops.append(Threshold(x=x, y=source, cut=Cut(np.full((1, c), 128), np.zeros((1, c), bool))))
    weight = rng.choice(np.array([-1, 1], np.int8), (shape.out, c // shape.groups, shape.kernel, shape.kernel))
    taps = weight[0].size
    spread = 1 + int(np.sqrt(taps) * (1 if shape.elem is Elem.BIN else 64))
    y = Tensor("y", Elem.BIN, (shape.out, side[0], side[1]), -1, 1, 2)
    conv = Conv(
        x=source,
        y=y,
        kernel=(shape.kernel, shape.kernel),
        strides=(shape.stride, shape.stride),
        pads=(shape.pad,) * 4,
        weight=weight,
        groups=shape.groups,
        cut=Cut(rng.integers(-spread, spread + 1, (1, shape.out)), np.zeros((1, shape.out), bool)),
        density=0.5 if density is None else density,
    )
    return Graph(x, (*ops, conv), (Output("y", (1, *y.shape), y),))


def inputs(shape: Shape, density: float | None) -> NDArray[np.uint8]:
    """[RUNS, C, H, W] of bytes, this share of them 128 or more."""
    rng = np.random.default_rng(1)
    values = rng.integers(0, 128, (RUNS, *shape.image), np.uint8)
    high = rng.random(values.shape) < (0.5 if density is None else density)
    return np.where(high, values + 128, values).astype(np.uint8)


def run(shape: Shape, kernel: str, density: float | None, core: Core) -> Row:
    """One row. Raises AssertionError where the C gives other bits than the layer means."""
    graph = layer(shape, density)
    costs = {k.name: defaultdict[str, float](float, core.cost.get(k.name, {})) for k in KERNELS}
    program = lower(graph, replace(core, cost=costs), NAME, forced=kernel, ram=ANY)
    step = next(s for s in program.steps if isinstance(s.op, Conv))
    x = inputs(shape, density)
    with tempfile.TemporaryDirectory(prefix="bnncc-") as scratch:
        for name, text in {**emit(program, NAME, core.name), "model.h": adapter(NAME)}.items():
            (Path(scratch) / name).write_text(text, encoding="utf-8")
        code = code_bytes(Path(scratch), core)
        dtype = result_dtype(program)
        flat = x.reshape(RUNS, -1)
        m = measure(
            Path(scratch),
            NAME,
            core,
            flat,
            step_count=len(program.steps),
            result_bytes=dtype.itemsize,
            flash=core.flash,
        )
    got = np.ascontiguousarray(m.results).view(dtype)["y"].reshape(RUNS, -1)
    want = graph.run(x)["output:y"].reshape(RUNS, -1)
    assert np.array_equal(got, want), f"{kernel} on {shape.name}: {(got != want).sum()} of {want.size} bits differ"
    return Row(
        shape.name,
        kernel,
        density,
        step.cost.macs,
        round(float(m.instructions[:, step.index].mean())),
        None if m.cycles is None else round(float(m.cycles[:, step.index].mean())),
        None if m.cycles is None or not core.flash else round(float((m.cycles + m.waited)[:, step.index].mean())),
        round(step.cost.estimate),
        None if step.cost.worst is None else round(step.cost.worst),
        step.parts.scratch_bytes,
        step.parts.stack,
        step.flash_bytes,
        code,
    )


def code_bytes(folder: Path, core: Core) -> int:
    """The functions of the program, without constants."""
    found = footprint(folder / f"{NAME}.c", core, f"{NAME}_run", include=[folder])
    constants = (folder / f"{NAME}_weights.h").read_text(encoding="utf-8")
    return sum(size for name, size in found.symbols.items() if name.startswith(NAME) and f"{name}[" not in constants)


def kernels_for(shape: Shape, core: Core) -> list[str]:
    """The kernels that can do the layer on the core."""
    op = layer(shape, None).ops[-1]
    able = [k for k in KERNELS if type(op) in k.ops and not lacking(k, core) and not k.refuses(op)]
    return [k.name for k in able if core.flash or not k.copies]


def plan_rows(shapes: Sequence[Shape], kernels: Sequence[str], core: Core) -> Iterator[tuple[Shape, str, float | None]]:
    """What to measure; no kernels named: all that apply."""
    for shape in shapes:
        for kernel in kernels_for(shape, core):
            if not kernels or kernel in kernels:
                for density in DENSITIES if shape.elem is Elem.BIN else (None,):
                    yield shape, kernel, density
