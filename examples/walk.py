"""The whole path for a trained classifier: compile, verify on the host and in QEMU, flash, measure, one table at the end.

Before each step stands the command that does the same. Cycles are the simulator's estimates, never a measurement.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import bnncc
from bnncc.board import pio
from bnncc.cli.board import run_on_board
from bnncc.cli.build import print_report
from bnncc.cli.measure import simulate
from bnncc.outputs import entropy
from bnncc.report import CYCLE_MODEL
from bnncc.target import boards
from bnncc.verify.runs import judge_runs
from bnncc.verify.verdicts import Verification

BOARD = "sim-cortex-m4"
Logits = list[NDArray[np.float32]]  # of each exit in order of depth, [N, classes]
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Samples:
    """Test images in the ONNX layout [N, C, H, W], their classes [N], and the .npz that holds them as x and y."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    file: Path

    def first(self, count: int | None) -> "Samples":
        return Samples(self.x[:count], self.y[:count], self.file)


@dataclass(frozen=True)
class Row:
    """What one machine made of the images: logits where they are known, the class it decided for, mismatched samples."""

    machine: str
    y: NDArray[np.int64]
    logits: Logits
    classes: NDArray[np.integer]
    mismatches: int | None = None

    @property
    def accuracy(self) -> float:
        return float((self.classes == self.y).mean())


def section(title: str, *commands: str) -> None:
    console.rule(f"[bold]{title}", align="left")
    for command in commands:
        console.print(f"$ {command}", style="cyan", markup=False)


def walk(
    model: Path,
    test: Samples,
    out: Path,
    *,
    wanted: float,
    torch_logits: Logits | None = None,
    simulated: int | None = None,
    on_board: int | None = None,
) -> bool:
    """Run every step on the images of `test`, print what came of it, and return whether all is as it should be.

    `wanted` is the accuracy (0..1) that the last exit must reach; `simulated` and `on_board` limit the number of images
    for the simulator and the board. Results go to the folder `out`.
    """
    data, board = f"--inputs {test.file}", boards()[BOARD]
    sim_test, board_test = test.first(simulated), test.first(on_board)

    section("compile", f"bnncc compile {model} --target {BOARD} -o {out / 'c'}")
    compiled = bnncc.compile(model, BOARD)
    files = compiled.write(out / "c")
    print_report(compiled.report)
    console.print(f"written to {out / 'c'}: {', '.join(f.name for f in files)}")
    threshold = compiled.program.exits.threshold if compiled.program.exits else None

    section("verify on the host", f"bnncc verify {model} {data}")
    host = verify(compiled, test, "host")
    section("verify in the simulator", f"bnncc verify {model} {data} --samples {len(sim_test.y)} --on sim")
    simulator = verify(compiled, sim_test, "sim")

    section("flash", f"bnncc flash {model} --board {BOARD}")
    try:
        flashed = pio.flash(out / "c", compiled.name, board)
        sizes = f"{flashed.flash_bytes:,} bytes of flash, {flashed.ram_bytes:,} bytes of RAM without the stack"
        console.print(f"{compiled.name} runs on {board.title}, port {flashed.port}\nthe firmware takes {sizes}")
        section("measure on the board", f"bnncc measure {model} --board {BOARD} {data} --samples {len(board_test.y)}")
        runs = run_on_board(compiled, board, board_test.x, None, quiet=False).runs
    finally:
        pio.stop(board)
    from_board = np.frombuffer(b"".join(r.result for r in runs), compiled.result_dtype)
    board_verdict = judge_runs(compiled, board_test.x[:, None], from_board)
    console.print(f"{board_verdict.mismatched_samples} of {len(from_board)} samples mismatched over the serial port")
    console.print("a simulated board has no clock: cycles come from the simulator")

    section("measure", f"bnncc measure {model} --target {BOARD} {data} --samples {len(sim_test.y)}")
    measured = simulate(compiled, sim_test.x)
    from_sim = np.frombuffer(measured.results.tobytes(), compiled.result_dtype)
    sim_verdict = judge_runs(compiled, sim_test.x[:, None], from_sim)
    instructions, cycles = measured.run_instructions, measured.run_cycles
    assert cycles is not None, "the board's core has a timing model"
    console.print(f"{instructions.mean():,.0f} instructions a run, counted exactly; {cycles.mean():,.0f} cycles")
    console.print(f"cycles are {measured.model}")

    section(f"{compiled.name}: the result")
    logits = [*host.outputs_c]
    reference = onnxruntime_logits(model, test.x, logits)
    rows = [Row("torch", test.y, torch_logits, decide(torch_logits, threshold))] if torch_logits else []
    rows += [
        Row("onnxruntime", test.y, reference, decide(reference, threshold)),
        # verify has compared the C's own decisions with this rule
        Row("C, host", test.y, flat(host), decide(flat(host), threshold), mismatched(host)),
        Row("C, sim", sim_test.y, flat(simulator), from_sim["class_index"], mismatched(simulator)),
        Row("C, board", board_test.y, [], from_board["class_index"], board_verdict.mismatched_samples),
    ]
    console.print(accuracies(rows, logits))

    clock, totals = board.clock_hz, compiled.report["totals"]
    table = Table(show_header=False, title=f"cost on a Cortex-M4, cycles {measured.model}", title_justify="left")
    if host.exits:
        shares = [f"{name} {count / len(test.y):.1%}" for name, count in zip(logits, host.exits.taken, strict=True)]
        table.add_row(f"left at (entropy < {threshold:g} nats)", ", ".join(shares))
    table.add_row("flash", f"{totals['flash_bytes']:,} bytes, {totals['constant_bytes']:,} of them constants")
    table.add_row("RAM", f"{totals['ram_bytes']:,} bytes, and {measured.stack_bytes:,} bytes of stack")
    for label, value in (("mean", cycles.mean()), ("worst image", cycles.max())):
        time = f"{1e3 * value / clock:.2f} ms at {clock / 1e6:g} MHz"
        table.add_row(f"cycles, {label} ({CYCLE_MODEL})", f"{value:,.0f}, {time}")
    console.print(table)

    problems = [f"{r.machine}: {r.mismatches} samples mismatched" for r in rows if r.mismatches]
    if sim_verdict.mismatched_samples:
        problems.append(f"C, sim: {sim_verdict.mismatched_samples} samples mismatched while it was measured")
    problems += [
        f"{r.machine} decides otherwise than onnxruntime"
        for r in rows
        if differs(r.classes, decide(reference, threshold))
    ]
    if (share := last_exit(rows[0])) < wanted:
        problems.append(f"the last exit reaches {share:.2%}; {wanted:.2%} was expected")
    for problem in problems:
        console.print(problem, style="bold red")
    if not problems:
        console.print("all machines agree on every image", style="bold green")
    return not problems


def verify(compiled: bnncc.Compiled, test: Samples, on: str) -> Verification:
    with console.status(f"{len(test.y):,} images"):
        verdict = compiled.verify(test.x, on=on)
    state = "verified" if verdict.ok else "FAILED"
    console.print(f"{state}: {mismatched(verdict)} of {verdict.samples:,} samples mismatched; ran on {verdict.machine}")
    return verdict


def mismatched(verdict: Verification) -> int:
    """Samples with a wrong output or decision; at least 1 if anything else was wrong."""
    worst = max(o.mismatched_samples for o in verdict.outputs)
    if verdict.exits:
        worst = max(worst, verdict.exits.mismatched_samples)
    return worst if verdict.ok else max(worst, 1)


def flat(verdict: Verification) -> Logits:
    return [z.reshape(verdict.samples, -1) for z in verdict.outputs_c.values()]


def onnxruntime_logits(model: Path, x: NDArray[np.uint8], names: list[str]) -> Logits:
    """The reference: onnxruntime without graph optimisation, image by image."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = [session.run(names, {session.get_inputs()[0].name: image[None]}) for image in x]
    return [np.concatenate(z) for z in zip(*rows, strict=True)]


def decide(logits: Logits, threshold: float | None) -> NDArray[np.integer]:
    """The class that each image gets: at the first exit whose entropy is below `threshold`, else at the last one."""
    classes = np.stack([z.argmax(axis=1) for z in logits])
    if threshold is None:
        return np.asarray(classes[-1])
    sure = np.stack([entropy(z) < threshold for z in logits])
    sure[-1] = True
    return np.asarray(classes[sure.argmax(axis=0), np.arange(classes.shape[1])])


def differs(classes: NDArray[np.integer], reference: NDArray[np.integer]) -> bool:
    return not np.array_equal(classes, reference[: len(classes)])


def last_exit(row: Row) -> float:
    return float((row.logits[-1].argmax(axis=1) == row.y).mean())


def accuracies(rows: list[Row], names: list[str]) -> Table:
    table = Table(title="accuracy", title_justify="left")
    headings = ["images", *names, *(["with early exit"] if len(names) > 1 else []), "mismatched samples"]
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right")
    for r in rows:
        if len(names) > 1:
            shares = [f"{(z.argmax(axis=1) == r.y).mean():.2%}" for z in r.logits] or ["-"] * len(names)
            shares.append(f"{r.accuracy:.2%}")
        else:
            shares = [f"{r.accuracy:.2%}"]
        table.add_row(r.machine, f"{len(r.y):,}", *shares, "-" if r.mismatches is None else str(r.mismatches))
    return table
