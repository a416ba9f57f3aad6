"""Fits the [cost.*] tables of targets/cores to the simulator's estimates: `python -m bnncc.sim.calibrate [--target CORE] [--write]`.

Each kernel runs on a few dozen layers of many shapes; what its `work` counts is fitted to the cycles of each layer, by
non-negative least squares on the relative error.
"""

import argparse
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnncc.emit import adapter, emit, result_dtype
from bnncc.graph import Conv, Elem, Exits, Graph, Map, MaxPool, Op, Output, Sum, Tensor, Threshold
from bnncc.kernels import KERNELS
from bnncc.layout import C_TYPES, DTYPES
from bnncc.lower import lower
from bnncc.resources import folder
from bnncc.scalar import Cut, step
from bnncc.sim.build import COMPILER, tool
from bnncc.sim.cycles import Timing
from bnncc.sim.measure import measure
from bnncc.target import Core, cores

Floats = NDArray[np.float64]
NAME = "layers"  # of the generated programs
RUNS = 2  # random inputs of each program; the means count
ELEMS = {Elem.U8: (0, 255), Elem.I8: (-128, 127), Elem.F32: (0, 0)}
FAMILIES = ({"binary_conv", "binary_dense"},)  # kernels with the same inner loops, fitted together
LEAST = 100  # cycles: where less is spent, it does not matter how well that is predicted


@dataclass(frozen=True)
class Sample:
    """One layer: its kernel, what that kernel says of its work, and the simulator's estimate in cycles."""

    kernel: str
    work: Mapping[str, float]
    cycles: float


@dataclass(frozen=True)
class Fit:
    """A kernel's coefficients in cycles, and the relative errors of the samples they were fitted to."""

    coefficients: Mapping[str, float]
    errors: Floats


# programs ------------------------------------------------------------------------------------------------------------


@dataclass
class Layers:
    """A graph under construction: layers that all read one input (or its signs), each stored as an output."""

    rng: np.random.Generator
    elem: Elem
    shape: tuple[int, int, int]
    ops: list[Op] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.input = Tensor("x", self.elem, self.shape, *ELEMS[self.elem])

    def new(self, elem: Elem, shape: tuple[int, int, int]) -> Tensor:
        return Tensor(f"t{len(self.ops)}", elem, shape, -1, 1)

    def cut(self, channels: int, middle: int = 0) -> Cut:
        kind = np.float32 if self.elem is Elem.F32 else np.int64
        return Cut(middle + self.rng.integers(-4, 5, (1, channels)).astype(kind), np.zeros((1, channels), bool))

    def add(self, op: Op, *, output: bool = True) -> Tensor:
        self.ops.append(op)
        if output:
            self.outputs.append(Output(op.y.name, (1, *op.y.shape), op.y))
        return op.y

    def binary(self) -> Tensor:
        """The input's signs, about half of them +1."""
        cut = self.cut(self.shape[0], 128 if self.elem is Elem.U8 else 0)
        return self.add(Threshold(x=self.input, y=self.new(Elem.BIN, self.shape), cut=cut), output=False)

    def conv(
        self, x: Tensor, out: int, kernel: int, *, pad: int = 0, stride: int = 1, pad_value: int = 0, bits: bool = True
    ) -> Tensor:
        """A convolution with a square kernel; kernel 0: one that covers all of x."""
        k = (kernel, kernel) if kernel else x.shape[1:]
        size = [(n + 2 * pad - s) // stride + 1 for n, s in zip(x.shape[1:], k, strict=True)]
        real = x.elem is Elem.F32
        y = self.new(Elem.BIN if bits else Elem.F32 if real else Elem.I32, (out, size[0], size[1]))
        return self.add(
            Conv(
                x=x,
                y=y,
                kernel=k,
                strides=(stride, stride),
                pads=(pad, pad, pad, pad),
                weight=self.rng.choice(np.array([-1, 1], np.int8), (out, x.shape[0], *k)),
                pad_value=pad_value,
                zero=(128,) * x.shape[0] if x.elem is Elem.U8 else (),
                cut=self.cut(out) if bits else None,
            )
        )

    def pool(self, x: Tensor, kernel: int, stride: int, pad: int = 0) -> None:
        size = [(n + 2 * pad - kernel) // stride + 1 for n in x.shape[1:]]
        y = self.new(x.elem, (x.shape[0], size[0], size[1]))
        self.add(MaxPool(x=x, y=y, kernel=(kernel, kernel), strides=(stride, stride), pads=(pad,) * 4))

    def sum(self, x: Tensor) -> None:
        self.add(Sum(x=x, y=self.new(Elem.F32 if x.elem is Elem.F32 else Elem.I32, (x.shape[0], 1, 1))))

    def map(self, x: Tensor, operations: Sequence[str]) -> None:
        steps = tuple(step(o, self.rng.uniform(0.5, 2, x.shape[0])) for o in operations)
        self.add(Map(x=x, y=self.new(Elem.F32, x.shape), steps=steps))

    def store(self, x: Tensor, operations: Sequence[str]) -> None:
        """Another output of x, after some arithmetic."""
        steps = tuple(step(o, self.rng.uniform(0.5, 2, x.shape[0])) for o in operations)
        self.outputs.append(Output(f"{x.name}_{len(self.outputs)}", (1, *x.shape), x, steps))

    def graph(self, exits: Exits | None = None) -> Graph:
        return Graph(self.input, tuple(self.ops), tuple(self.outputs), exits)


def programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    """The layers to measure, many to a program, with the kernel to force."""
    yield from binary_programs(rng)
    yield from value_programs(rng)
    yield from output_programs(rng)


def binary_programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    sizes = ((4, 6, 7), (8, 8, 8), (12, 9, 5), (16, 8, 8), (24, 6, 6), (32, 8, 8), (50, 6, 7), (64, 6, 6), (96, 8, 8))
    for shape in (*sizes, (128, 6, 6), (200, 4, 5), (256, 5, 5)):
        g = Layers(rng, Elem.U8, shape)
        x = g.binary()
        g.conv(x, 32, 3, pad=1)
        g.conv(x, 40, 3, bits=False)
        g.conv(x, 16, 3, pad=1, stride=2)
        g.conv(g.conv(x, 100, 1), 20, 3)  # long patches in every program, or gcc leaves out the code for them
        g.conv(x, 64, 2)
        g.conv(x, 10, 3, pad=1, pad_value=-1)
        if shape[0] < 100:
            g.conv(x, 24, 5, pad=2)
            g.conv(x, 32, 4)
        g.pool(x, 2, 2)
        g.pool(x, 3, 2, 1)
        g.pool(x, 3, 1)
        g.sum(x)
        yield g.graph(), "binary_conv"
    for shape in ((64, 1, 1), (96, 1, 1), (224, 1, 1), (256, 1, 1), (500, 1, 1), (1024, 1, 1), (64, 3, 3), (32, 5, 5)):
        g = Layers(rng, Elem.I8, shape)
        x = g.binary()
        for out, bits in ((10, False), (32, True), (100, True), (128, False)):
            g.conv(x, out, 0, bits=bits)
        g.conv(g.conv(g.conv(x, 300, 0), 40, 0), 20, 0)  # long and short rows in each program, as gcc omits the rest
        yield g.graph(), "binary_dense"


def value_programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    images = (
        (Elem.U8, (1, 12, 12)),
        (Elem.U8, (3, 8, 8)),
        (Elem.I8, (2, 9, 8)),
        (Elem.I8, (40, 1, 1)),
        (Elem.U8, (6, 7, 7)),
    )
    for elem, shape in (
        *images,
        (Elem.F32, (1, 9, 9)),
        (Elem.F32, (3, 7, 7)),
        (Elem.F32, (30, 1, 1)),
        (Elem.F32, (8, 6, 6)),
    ):
        wide = shape[1] > 1
        for forced in ("value_conv",) if elem is Elem.F32 else ("table_conv", "value_conv"):
            g = Layers(rng, elem, shape)
            for out, kernel, bits in ((16, 3, True), (32, 3, False), (50, 5, True), (8, 4, True), (10, 1, False)):
                if kernel > 1 if wide else kernel == 1:
                    g.conv(g.input, out, kernel, pad=kernel // 2, bits=bits)
                    g.conv(g.input, 12, kernel, stride=2 if wide else 1)
            g.conv(g.input, 20, 0)
            if forced == "value_conv":
                g.binary()
                if wide:
                    g.sum(g.input)
                    g.pool(g.input, 2, 2)
                    g.pool(g.input, 3, 1, 1)
                    g.pool(g.input, 3, 2)
            yield g.graph(), forced
    for elem, shape in ((Elem.I8, (3, 7, 7)), (Elem.U8, (20, 4, 4)), (Elem.F32, (8, 6, 6)), (Elem.F32, (50, 1, 1))):
        g = Layers(rng, elem, shape)
        g.map(g.input, ("mul", "add"))
        g.map(g.input, ("sub", "div", "max", "min"))
        g.map(g.input, ("rsub",))
        x = g.binary()
        g.map(x, ("mul", "add"))
        g.add(
            Threshold(
                x=x,
                y=g.new(Elem.BIN, shape),
                cut=Cut(g.rng.integers(-1, 2, (1, shape[0])), np.zeros((1, shape[0]), bool)),
            )
        )
        yield g.graph(), None


def output_programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    for elem, shape in ((Elem.I8, (10, 1, 1)), (Elem.F32, (40, 1, 1)), (Elem.U8, (100, 1, 1)), (Elem.F32, (16, 1, 1))):
        g = Layers(rng, elem, shape)
        g.store(g.binary(), ())
        for operations in ((), ("mul", "add"), ("add", "max"), ("div",), ("mul", "sub", "min")):
            g.store(g.input, operations)
        yield g.graph(), None
    for classes in (2, 5, 10, 20, 100):
        for bits in (Elem.I8, Elem.F32):
            g = Layers(rng, bits, (classes, 1, 1))
            g.outputs.append(Output("logits", (1, classes), g.input))
            yield g.graph(), None
    g = Layers(rng, Elem.I8, (16, 1, 1))
    for classes in (2, 3, 5, 10, 20, 40, 100):
        y = g.conv(g.input, classes, 1, bits=False)
        g.outputs[-1] = Output(y.name, (1, classes), y, (step("mul", 0.01),))  # logits of a usual size
    yield g.graph(Exits(tuple(range(len(g.outputs))), 0.0)), None


# measuring and fitting -----------------------------------------------------------------------------------------------


def measure_graph(graph: Graph, core: Core, forced: str | None, rng: np.random.Generator) -> list[Sample]:
    """Every step of a graph, lowered with a kernel forced, in the simulator on random inputs."""
    unknown = {k.name: defaultdict[str, float](float) for k in KERNELS}
    program = lower(graph, replace(core, cost=unknown), NAME, forced=forced)
    lo, hi = (graph.input.lo, graph.input.hi) if graph.input.elem.is_integer else (-100, 100)
    x = rng.uniform(lo, hi, (RUNS, graph.input.size))
    with tempfile.TemporaryDirectory(prefix="bnncc-") as scratch:
        for name, text in {**emit(program, NAME, core.name), "model.h": adapter(NAME)}.items():
            (Path(scratch) / name).write_text(text, encoding="utf-8")
        measured = measure(
            Path(scratch),
            NAME,
            core,
            x.astype(DTYPES[C_TYPES[graph.input.elem]]),
            step_count=len(program.steps),
            result_bytes=result_dtype(program).itemsize,
        )
    kernels = {k.name: k for k in KERNELS}
    return [
        Sample(s.kernel, kernels[s.kernel].work(s.op), float(measured.cycles[:, s.index].mean()))
        for s in program.steps
        if measured.cycles[:, s.index].mean() >= LEAST
    ]


def measure_core(core: Core) -> list[Sample]:
    """All samples of a core; always the same ones."""
    rng = np.random.default_rng(0)
    return [s for graph, forced in programs(rng) for s in measure_graph(graph, core, forced, rng)]


def non_negative_least_squares(a: Floats, b: Floats) -> Floats:
    """The x >= 0 that minimises |a x - b|, for a [M, N] and b [M].

    Lawson and Hanson, Solving Least Squares Problems (1974), algorithm NNLS in chapter 23.
    """
    x = np.zeros(a.shape[1])
    free = np.zeros(a.shape[1], bool)
    tolerance = 1e-9 * float(np.abs(a.T @ b).max())
    while True:
        gradient = np.where(free, -np.inf, a.T @ (b - a @ x))
        if free.all() or gradient.max() <= tolerance:
            return x
        free[int(gradient.argmax())] = True
        while True:
            trial = np.zeros_like(x)
            trial[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
            stuck = free & (trial <= 0)
            if not stuck.any():
                break
            alpha = float((x[stuck] / (x[stuck] - trial[stuck])).min())
            x = x + alpha * (trial - x)
            free &= x > 1e-12
            x[~free] = 0
        x = trial


def fit(all_samples: Sequence[Sample], kernel: str) -> Fit:
    """The coefficients of one kernel."""
    family = next((f for f in FAMILIES if kernel in f), {kernel})
    samples = [s for s in all_samples if s.kernel in family]
    parts = list(dict.fromkeys(part for s in samples for part in s.work))
    work = np.array([[s.work.get(part, 0) for part in parts] for s in samples], np.float64)
    cycles = np.array([s.cycles for s in samples])
    scale = np.maximum((work / cycles[:, None]).max(axis=0), 1e-12)  # columns of like size
    values = non_negative_least_squares(work / cycles[:, None] / scale, np.ones(len(samples))) / scale
    rounded = [float(f"{v:.3g}") for v in values]
    own = np.array([s.kernel == kernel for s in samples])
    used = {part for s in samples if s.kernel == kernel for part in s.work}
    coefficients = {part: value for part, value in zip(parts, rounded, strict=True) if part in used}
    return Fit(coefficients, (work @ np.array(rounded) / cycles - 1)[own])


def fit_core(core: Core) -> dict[str, Fit]:
    """A fit for every kernel, in the order of `KERNELS`."""
    samples = measure_core(core)
    return {k.name: fit(samples, k.name) for k in KERNELS}


# files ---------------------------------------------------------------------------------------------------------------

HEADING = "# Cycles of each kernel's loops"


def cost_tables(fits: Mapping[str, Fit], core: Core, gcc: str) -> str:
    """The [cost.*] tables as TOML, with what the numbers are."""
    lines = [
        f"{HEADING}, which the compiler predicts with. Fitted by `python -m bnncc.sim.calibrate --write`",
        f"# to code by arm-none-eabi-gcc {gcc} -O2 in the simulator, whose cycles are estimates, zero wait states:",
        f"# {Timing.of(core).name}.",
    ]
    for name, f in fits.items():
        lines += [
            "",
            f"# {len(f.errors)} layers: error {np.abs(f.errors).mean():.1%} on average, {np.abs(f.errors).max():.0%} at most",
            f"[cost.{name}]",
            *(f"{part} = {value:g}" for part, value in f.coefficients.items()),
        ]
    return "\n".join(lines) + "\n"


def replace_costs(text: str, tables: str) -> str:
    """A core's file with other [cost.*] tables; all else stays as it is."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(HEADING))
    last = max(i for i, line in enumerate(lines) if line.startswith("[cost."))
    while last + 1 < len(lines) and "=" in lines[last + 1] and not lines[last + 1].startswith(("#", "[")):
        last += 1
    return "\n".join([*lines[:first], *tables.splitlines(), *lines[last + 1 :]]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bnncc.sim.calibrate", description="Fit the cores' [cost.*] tables."
    )
    parser.add_argument("--target", choices=list(cores()), help="one core (default: all)")
    parser.add_argument("--write", action="store_true", help="rewrite the tables in targets/cores")
    options = parser.parse_args(arguments)
    version = subprocess.run([tool(COMPILER), "-dumpfullversion"], capture_output=True, text=True, check=True)
    for core in [cores()[options.target]] if options.target else cores().values():
        fits = fit_core(core)
        print(f"{core.name:16} layers  mean error  worst")
        for name, f in fits.items():
            e = np.abs(f.errors)
            print(f"  {name:14} {len(e):6}      {e.mean():6.1%} {e.max():6.1%}", flush=True)
        if options.write:
            path = folder("targets") / "cores" / f"{core.name}.toml"
            tables = cost_tables(fits, core, version.stdout.strip())
            path.write_text(replace_costs(path.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
