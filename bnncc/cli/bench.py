"""bnncc bench: every kernel on fixed layers, in the simulator."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import typer

from bnncc.cli.options import Json, Target, WaitStates
from bnncc.cli.show import NOT_MODELLED, console, print_json, print_table, progress
from bnncc.errors import UsageError
from bnncc.kernels import KERNELS
from bnncc.sim.bench import SHAPES, Row, plan_rows, run
from bnncc.sim.cycles import Timing
from bnncc.target import Flash, find_target


def bench_command(
    target: Target = "cortex-m4",
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", help="Only this layer; may be given several times.", show_default="all"),
    ] = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option("--kernel", help="Only this kernel; may be given several times.", show_default="all that apply"),
    ] = None,
    wait_states: WaitStates = None,
    json: Json = False,
) -> None:
    """Run every kernel on fixed layers, check its outputs, count instructions and estimate cycles.

    Example: bnncc bench --target cortex-m4 --shape c128
    """
    found = find_target(target)
    core = replace(found.core, flash=found.flash(wait_states))
    shapes = [s for s in SHAPES if s.name in known(shape, [s.name for s in SHAPES], "--shape")]
    kernels = known(kernel, [k.name for k in KERNELS], "--kernel") if kernel else []
    wanted = list(plan_rows(shapes, kernels, core))
    if not wanted:
        raise UsageError.of(
            "E0412",
            "none of these kernels does any of these layers",
            remedy="leave --kernel out to see which do",
        )
    with progress("measuring", len(wanted), quiet=json) as advance:
        rows = []
        for part in wanted:
            rows.append(run(*part, core))
            advance(1)
    if json:
        print_json([as_dict(r, target) for r in rows])
    else:
        show(rows, target, Timing.of(core), core.flash)


def known(given: Sequence[str] | None, names: Sequence[str], option: str) -> Sequence[str]:
    """The names given, all of them if none is. Raises UsageError E0412 for one that there is not."""
    for name in given or ():
        if name not in names:
            raise UsageError.of("E0412", f"{option} {name} is not known", remedy=f"choose of {', '.join(names)}")
    return given or names


def as_dict(r: Row, target: str) -> dict[str, Any]:
    return {
        "target": target,
        "shape": r.shape,
        "kernel": r.kernel,
        "density": r.density,
        "macs": r.macs,
        "instructions": r.instructions,
        "cycles": r.cycles,
        "mac_per_cycle": r.cycles and round(r.macs / r.cycles, 3),
        "waiting_cycles": r.waiting_cycles,
        "predicted_cycles" if r.cycles else "predicted_instructions": r.predicted,
        "worst_cycles" if r.cycles else "worst_instructions": r.worst,
        "scratch_bytes": r.scratch_bytes,
        "stack_bytes": r.stack_bytes,
        "flash_bytes": r.flash_bytes,
        "code_bytes": r.code_bytes,
    }


def show(rows: Sequence[Row], target: str, timing: Timing | None, flash: Flash | None) -> None:
    spent = ("cycles", "MAC/cycle", *(["with waits"] if flash else [])) if timing else ("MAC/instruction",)
    columns = (
        "shape",
        "kernel",
        "density",
        "instructions",
        *spent,
        "predicted",
        "any data",
        "scratch",
        "stack",
        "flash",
        "code",
    )
    print_table(
        f"{target}: {f'cycles {timing.statement}' if timing else NOT_MODELLED}",
        [(c, "left" if c in ("shape", "kernel") else "right") for c in columns],
        [
            (
                r.shape,
                r.kernel,
                "" if r.density is None else f"{r.density:g}",
                f"{r.instructions:,}",
                *([f"{r.cycles:,}"] if r.cycles else []),
                f"{r.macs / r.spent:.2f}",
                *([f"{r.waiting_cycles:,}"] if r.waiting_cycles else []),
                f"{r.error:+.1%}",
                f"{r.macs / (r.worst or r.spent):.2f}",
                r.scratch_bytes,
                r.stack_bytes,
                r.flash_bytes,
                r.code_bytes,
            )
            for r in rows
        ],
        f"with waits: {timing.waiting(flash)}" if timing and flash else "",
    )
    errors = np.abs([r.error for r in rows])
    console.print(
        f"Outputs checked. Prediction's error: {errors.mean():.1%} on average, {errors.max():.1%} at most. MACs are nominal: "
        "padded ones count. any data: at least so many a cycle, by the compiler's bound. "
        "scratch, stack, flash (constants) and code in bytes."
    )
