"""Fits the [cost.*] tables of targets/cores to the simulator's estimates: `python -m bnncc.sim.calibrate [--target CORE] [--write]`.

Each kernel runs on a few dozen layers of many shapes and on those of the benchmark; what its `work` counts is fitted to
the cycles of each layer (instructions, if the core's cycles are not modelled), by non-negative least squares on the relative error.
"""

import argparse
import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnncc.emit import adapter, emit, result_dtype
from bnncc.graph import Graph
from bnncc.kernels import KERNELS
from bnncc.layout import C_TYPES, DTYPES
from bnncc.lower import lacking, lower
from bnncc.resources import folder
from bnncc.sim.bench import DENSITIES, SHAPES, layer, plan_rows, run
from bnncc.sim.build import COMPILER, tool
from bnncc.sim.cycles import Timing
from bnncc.sim.layers import programs
from bnncc.sim.measure import measure
from bnncc.target import Core, cores

Floats = NDArray[np.float64]
NAME = "layers"  # of the generated programs
RUNS = 2  # random inputs of each program; the means count
FAMILIES = ({"binary_conv", "binary_dense"},)  # kernels with the same inner loops, fitted together
WEIGHT = 6  # of a layer of the benchmark, whose shapes are the common ones
LEAST = 100  # cycles or instructions: where less is spent, it does not matter how well that is predicted


@dataclass(frozen=True)
class Sample:
    """One layer: its kernel, what that kernel says of its work, what it took in the simulator, in the core's unit, and its weight."""

    kernel: str
    work: Mapping[str, float]
    spent: float
    weight: int = 1


@dataclass(frozen=True)
class Fit:
    """A kernel's coefficients, and the relative errors of the samples they were fitted to."""

    coefficients: Mapping[str, float]
    errors: Floats

    @property
    def margin(self) -> float:
        """By how much of the prediction a sample took more at most."""
        return float((1 / (1 + self.errors)).max(initial=1)) - 1


# measuring and fitting -----------------------------------------------------------------------------------------------


def measure_graph(
    graph: Graph, core: Core, forced: str | None, rng: np.random.Generator, only: Collection[str] = ()
) -> list[Sample]:
    """Every step of a graph, lowered with a kernel forced, in the simulator on random inputs; none if no step has costs of `only`."""
    unknown = {k.name: defaultdict[str, float](float) for k in KERNELS}
    kernels = {k.name: k for k in KERNELS}
    program = lower(graph, replace(core, cost=unknown), NAME, forced=forced)
    if only and not any(kernels[s.kernel].table in only for s in program.steps):
        return []
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
    return [
        Sample(kernels[s.kernel].table, kernels[s.kernel].work(s.op), float(measured.estimates[:, s.index].mean()))
        for s in program.steps
        if measured.estimates[:, s.index].mean() >= LEAST
    ]


def measure_core(core: Core, only: Collection[str] = ()) -> list[Sample]:
    """All samples of a core, or those from all layers that a few kernels do; always the same ones."""
    rng = np.random.default_rng(0)
    kernels = {k.name: k for k in KERNELS if not lacking(k, core)}
    wanted = [(g, forced) for g, forced in programs(rng) if forced in {None, *kernels}]
    varied = [s for graph, forced in wanted for s in measure_graph(graph, core, forced, np.random.default_rng(1), only)]
    for shape, kernel, density in plan_rows(SHAPES, (), core):
        if only and kernels[kernel].table not in only:
            continue
        weight = WEIGHT
        if density and not kernels[kernel].worst:  # one density tells of all
            if density != 0.5:
                continue
            weight *= len(DENSITIES)
        op = layer(shape, density).ops[-1]
        table, work = kernels[kernel].table, kernels[kernel].work(op)
        varied.append(Sample(table, work, float(run(shape, kernel, density, core).spent), weight))
    return varied


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


def family(kernel: str) -> set[str]:
    """The kernels that are fitted together with this one, itself included."""
    return next((f for f in FAMILIES if kernel in f), {kernel})


def fit(all_samples: Sequence[Sample], kernel: str) -> Fit:
    """The coefficients of one kernel."""
    samples = [s for s in all_samples if s.kernel in family(kernel)]
    parts = list(dict.fromkeys(part for s in samples for part in s.work))
    work = np.array([[s.work.get(part, 0) for part in parts] for s in samples], np.float64)
    spent = np.array([s.spent for s in samples])
    scale = np.maximum((work / spent[:, None]).max(axis=0), 1e-12)  # columns of like size
    weight = np.sqrt([s.weight for s in samples])
    values = non_negative_least_squares(work * (weight / spent)[:, None] / scale, weight) / scale
    rounded = [float(f"{v:.3g}") for v in values]
    own = np.array([s.kernel == kernel for s in samples])
    used = {
        part for s in samples if s.kernel == kernel for part in s.work if "." not in part
    }  # those are another kernel's
    coefficients = {part: value for part, value in zip(parts, rounded, strict=True) if part in used}
    return Fit(coefficients, (work @ np.array(rounded) / spent - 1)[own])


def fit_core(core: Core, only: Sequence[str] = ()) -> dict[str, Fit]:
    """A fit for every kernel, or for a few, in the order of `KERNELS`."""
    own = [k.name for k in KERNELS if not lacking(k, core) and not k.like and (not only or k.name in only)]
    samples = measure_core(core, {name for k in own for name in family(k)})
    return {k: fit(samples, k) for k in own}


# files ---------------------------------------------------------------------------------------------------------------

HEADING = " of each kernel's loops"


def cost_tables(fits: Mapping[str, Fit], core: Core, gcc: str) -> list[str]:
    """What the numbers are, and a [cost.*] table for each fit, as TOML."""
    timing = Timing.of(core)
    unbounded = {k.name for k in KERNELS if not k.worst}
    heading = [
        f"# {core.unit.capitalize()}{HEADING}, which the compiler predicts with. Fitted by `python -m bnncc.sim.calibrate --write`",
        f"# to code by arm-none-eabi-gcc {gcc} -O2 in the simulator, "
        + ("whose cycles are estimates, zero wait states:" if timing else "which models no cycles of this core."),
        *([f"# {timing.name}."] if timing else []),
    ]
    tables = [
        [
            f"# {len(f.errors)} layers: error {np.abs(f.errors).mean():.1%} on average, {np.abs(f.errors).max():.0%} at most",
            f"[cost.{name}]",
            *(f"{part} = {value:g}" for part, value in f.coefficients.items()),
            *([f"margin = {f.margin:.3f}"] if name in unbounded else []),
        ]
        for name, f in fits.items()
    ]
    return ["\n".join(lines) for lines in (heading, *tables)]


def replace_costs(text: str, tables: Sequence[str]) -> str:
    """A core's file with these [cost.*] tables in the place of those of the same kernels; all else stays as it is."""
    new = {re.findall(r"^\[.*\]$", table, re.M)[0]: table for table in tables[1:]}
    blocks = text.rstrip("\n").split("\n\n")
    first = next(i for i, block in enumerate(blocks) if HEADING in block)
    old = {header: block for block in blocks if (header := next(iter(re.findall(r"^\[cost\..*\]$", block, re.M)), ""))}
    rest = [b for b in blocks[first + 1 :] if b not in old.values()]
    costs = [{**old, **new}.get(f"[cost.{k.name}]", "") for k in KERNELS]
    return "\n\n".join([*blocks[:first], tables[0], *filter(None, costs), *rest]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bnncc.sim.calibrate", description="Fit the cores' [cost.*] tables."
    )
    parser.add_argument("--target", choices=list(cores()), help="one core (default: all)")
    parser.add_argument(
        "--kernel",
        action="append",
        default=[],
        choices=[k.name for k in KERNELS if not k.like],
        help="only this kernel; may be given several times",
    )
    parser.add_argument("--write", action="store_true", help="rewrite the tables in targets/cores")
    options = parser.parse_args(arguments)
    version = subprocess.run([tool(COMPILER), "-dumpfullversion"], capture_output=True, text=True, check=True)
    for core in [cores()[options.target]] if options.target else cores().values():
        fits = fit_core(core, options.kernel)
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
