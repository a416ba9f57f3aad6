"""bnncc measure: in the simulator, or on a board."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from bnncc.board.serial import Measured
from bnncc.cli.board import need_board, run_on_board
from bnncc.cli.options import (
    Calibrate,
    Input,
    InputLayout,
    Inputs,
    Json,
    Kernel,
    Model,
    Name,
    Port,
    RamBudget,
    RealWeights,
    SignAtZero,
    Storage,
    WaitStates,
    compiled,
)
from bnncc.cli.show import NOT_MODELLED, console, print_diagnostics, print_json, print_table, shortened
from bnncc.compiler import Compiled
from bnncc.errors import UsageError
from bnncc.sim.measure import Measurement, measure
from bnncc.target import Flash, boards
from bnncc.verify.inputs import check_inputs, load_inputs, random_inputs
from bnncc.verify.runs import RunsVerdict, judge_runs


def measure_command(
    model: Model,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="A core or a board, in the simulator.", show_default="cortex-m4"),
    ] = None,
    board: Annotated[
        str | None, typer.Option("--board", "-b", help="A board that `bnncc flash` has prepared, over its serial port.")
    ] = None,
    name: Name = None,
    input_type: Input = None,
    input_layout: InputLayout = None,
    sign_at_zero: SignAtZero = None,
    real_weights: RealWeights = Storage.f32,
    calibrate: Calibrate = None,
    inputs: Inputs = None,
    samples: Annotated[
        int, typer.Option("--samples", "-n", min=1, help="How many samples: random ones, or the first of --inputs.")
    ] = 8,
    port: Port = None,
    wait_states: WaitStates = None,
    ram_budget: RamBudget = None,
    kernel: Kernel = None,
    json: Json = False,
) -> None:
    """Count instructions of each layer exactly and estimate cycles; or measure on a board and compare with onnxruntime.

    Example: bnncc measure digits.onnx --target cortex-m4 --inputs digits_test.npz --samples 100
    """
    if target and board:
        raise UsageError.of(
            "E0407", "--target and --board were both given", remedy="give --target to simulate, --board to use a board"
        )
    place = need_board(board).name if board else target or "cortex-m4"
    done = compiled(
        model,
        place,
        name,
        input_type,
        input_layout,
        sign_at_zero,
        real_weights,
        calibrate=calibrate,
        kernel=kernel,
        ram_budget=ram_budget,
        wait_states=None if board else wait_states,  # what was flashed is for the board's own
    )
    imported, elem = done.imported, done.program.graph.input.elem
    if inputs is None:
        x = random_inputs(imported, elem, samples, 0)
    else:
        x = check_inputs(imported, elem, load_inputs(inputs, imported.input_name))[:samples]
    first = done.program.graph.input
    values = first.from_reference({first.twin: x})
    if not json:
        print_diagnostics(done.warnings)
    on_board = run_on_board(done, boards()[place], values, port, quiet=json) if board else None
    measured = None
    if on_board is None or on_board.hello.counter == "none":
        measured = simulate(done, values, done.target.flash(wait_states))
    raw = [r.result for r in on_board.runs] if on_board else [r.tobytes() for r in measured.results] if measured else []
    results = np.frombuffer(b"".join(raw), done.result_dtype)
    verdict = judge_runs(done, x, results)
    summary = as_dict(done, measured, on_board, verdict)
    if json:
        print_json(summary)
    else:
        show(done, summary, measured, on_board, verdict)
    raise typer.Exit(0 if verdict.mismatched_samples == 0 else 1)


def simulate(done: Compiled, values: NDArray[Any], flash: Flash | None = None) -> Measurement:
    """Run samples [N, C, H, W] in the simulator with every instruction counted, and what is waited for `flash`."""
    order = np.moveaxis(values, 1, -1) if done.program.nhwc else values
    flat = np.ascontiguousarray(order.reshape(len(values), -1).astype(done.input_dtype))
    with tempfile.TemporaryDirectory(prefix="bnncc-") as scratch:
        done.write(scratch)
        return measure(
            Path(scratch),
            done.name,
            done.target.core,
            flat,
            step_count=len(done.program.steps),
            result_bytes=done.result_dtype.itemsize,
            flash=flash,
        )


def as_dict(
    done: Compiled, measured: Measurement | None, on_board: Measured | None, verdict: RunsVerdict
) -> dict[str, Any]:
    """Everything that was measured, for --json and for the tables."""
    out: dict[str, Any] = {
        "ok": verdict.mismatched_samples == 0,
        "name": done.name,
        "target": done.target.name,
        "samples": verdict.samples,
        "mismatched_samples": verdict.mismatched_samples,
        "judged": verdict.judged,
    }
    predicted = f"predicted_{done.target.core.unit}"
    steps: list[dict[str, Any]] = [
        {"step": s.index, "origin": list(s.op.origin), "kernel": s.kernel, predicted: round(s.cost.estimate)}
        for s in done.program.steps
    ]
    if measured:
        for k, s in enumerate(steps):
            i, c, w = measured.instructions[:, k], measured.estimates[:, k], measured.waited[:, k]
            ran = i > 0
            s["runs"] = int(ran.sum())
            s["instructions"] = int(i[ran].mean()) if ran.any() else 0
            s["instructions_max"] = int(i.max())
            if measured.model:
                s["cycles"] = int(c[ran].mean()) if ran.any() else 0
                s["cycles_max"] = int(c.max())
            if measured.waiting:
                s["waiting_cycles"] = int((c + w)[ran].mean()) if ran.any() else 0
        out |= {
            "machine": f"QEMU {measured.machine}" + (f" ({measured.note})" if measured.note else ""),
            "cycle_model": measured.model,
            "instructions": spread(measured.run_instructions),
            "stack_bytes": measured.stack_bytes,
        }
        if measured.run_cycles is not None:
            out["cycles"] = spread(measured.run_cycles)
            if measured.waiting:
                waiting = measured.run_cycles + measured.waited.sum(axis=1)
                out["waiting"] = {"cycle_model": measured.waiting, "cycles": spread(waiting)}
    if on_board:
        out["board"] = {
            "name": on_board.hello.name,
            "counter": on_board.hello.counter,
            "clock_hz": on_board.hello.clock_hz,
        }
        if on_board.hello.counter != "none":
            out["board"]["cycles"] = spread(np.array([r.cycles or 0 for r in on_board.runs]))
            for k, s in enumerate(steps):
                s["board_cycles"] = int(np.mean([r.step_cycles[k] for r in on_board.runs if r.step_cycles]))
    out["steps"] = steps
    return out


def spread(values: NDArray[np.int64]) -> dict[str, float]:
    return {"mean": float(values.mean()), "min": int(values.min()), "max": int(values.max())}


def show(
    done: Compiled,
    summary: dict[str, Any],
    measured: Measurement | None,
    on_board: Measured | None,
    verdict: RunsVerdict,
) -> None:
    """The table of steps and the totals."""
    lines = []
    board = done.target.board
    if measured:
        rows = [
            (
                s["step"],
                shortened(s["origin"]),
                s["kernel"],
                s["runs"],
                s["instructions"],
                *([s["cycles"], s["cycles_max"]] if measured.model else [s["instructions_max"]]),
                *([s["waiting_cycles"]] if measured.waiting else []),
                s[f"predicted_{done.target.core.unit}"],
            )
            for s in summary["steps"]
        ]
        columns = [
            ("step", "right"),
            ("from", "left"),
            ("kernel", "left"),
            ("runs", "right"),
            ("instructions", "right"),
            *([("cycles", "right")] if measured.model else []),
            ("worst", "right"),
            *([("with waits", "right")] if measured.waiting else []),
            ("predicted", "right"),
        ]
        print_table(
            f"{done.name} in the simulator",
            columns,
            rows,
            "means over the runs in which a step ran"
            + (f"; cycles {measured.model}" if measured.model else "")
            + (f"; with waits: {measured.waiting}" if measured.waiting else ""),
        )
        i = summary["instructions"]
        lines.append(
            f"instructions {i['mean']:,.0f} a run (least {i['min']:,}, most {i['max']:,}), counted exactly on {summary['machine']}"
        )
        if not measured.model:
            lines.append(NOT_MODELLED)
        figures = [(summary["cycles"], measured.model)] if measured.model else []
        if measured.waiting:
            figures.append((summary["waiting"]["cycles"], measured.waiting))
        for c, label in figures:
            time = (
                f"; {1e3 * c['mean'] / board.clock_hz:.3g} ms mean, "
                f"{1e3 * c['max'] / board.clock_hz:.3g} ms worst at {board.clock_hz / 1e6:g} MHz"
                if board
                else ""
            )
            lines.append(f"cycles {c['mean']:,.0f} a run (least {c['min']:,}, most {c['max']:,}), {label}{time}")
        lines.append(f"stack {measured.stack_bytes:,} bytes used by {done.name}_run and below")
    if on_board:
        hello = on_board.hello
        if hello.counter == "none":
            lines.append(
                "the board has no cycle counter that counts (a simulated board): the figures above are the simulator's estimate"
            )
        else:
            cycles = summary["board"]["cycles"]
            lines.append(
                f"cycles on the board, counted by {hello.counter.upper()}: {cycles['mean']:,.0f} a run "
                f"(most {cycles['max']:,}), {1e3 * cycles['mean'] / hello.clock_hz:.3g} ms at {hello.clock_hz / 1e6:g} MHz"
            )
    where = f"board {done.target.name}" if on_board else "simulator"
    judged = "" if verdict.judged else " (printed, not judged: the model has real-valued layers; use bnncc verify)"
    lines.append(
        f"{where} against onnxruntime: {verdict.differing_samples} of {verdict.samples} samples mismatched, "
        f"largest error {verdict.largest_error:.3g}{judged}"
    )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
