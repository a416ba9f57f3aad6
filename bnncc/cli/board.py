"""bnncc flash, and what measure does on a board."""

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from numpy.typing import NDArray

from bnncc.board import pio
from bnncc.board.serial import Measured, measure_board
from bnncc.cli.build import size_warnings
from bnncc.cli.options import (
    Calibrate,
    Input,
    InputLayout,
    Json,
    Kernel,
    Model,
    Name,
    Port,
    RamBudget,
    RealWeights,
    SignAtZero,
    Storage,
    compiled,
)
from bnncc.cli.show import console, print_diagnostics, print_json, progress
from bnncc.compiler import Compiled
from bnncc.errors import ModelError, UsageError
from bnncc.target import Board, boards
from bnncc.verify.harness import input_bytes

BoardId = Annotated[str, typer.Option("--board", "-b", help="A board; `bnncc targets` lists them.")]


def flash_command(
    context: typer.Context,
    model: Model,
    board: BoardId,
    name: Name = None,
    input_type: Input = None,
    input_layout: InputLayout = None,
    sign_at_zero: SignAtZero = None,
    real_weights: RealWeights = Storage.f32,
    calibrate: Calibrate = None,
    ram_budget: RamBudget = None,
    kernel: Kernel = None,
    port: Port = None,
    json: Json = False,
) -> None:
    """Compile a model, build the firmware around it and upload it through PlatformIO.

    Example: bnncc flash digits.onnx --board sim-cortex-m4
    """
    found = need_board(board)
    done = compiled(
        model,
        found.name,
        name,
        input_type,
        input_layout,
        sign_at_zero,
        real_weights,
        calibrate=calibrate,
        ram_budget=ram_budget,
        kernel=kernel,
    )
    if too_large := size_warnings(done):
        raise ModelError(replace(too_large[0], code="E0601"))
    with tempfile.TemporaryDirectory(prefix="bnncc-") as scratch:
        done.write(scratch)
        flashed = pio.flash(Path(scratch), done.name, found, port=port)
    if json:
        print_json({"ok": True, **{k: str(v) if isinstance(v, Path) else v for k, v in asdict(flashed).items()}})
        return
    print_diagnostics(done.warnings)
    lines = [
        f"{done.name} runs on {found.title}, port {flashed.port}",
        f"firmware {flashed.flash_bytes:,} bytes of flash, {flashed.ram_bytes:,} bytes of RAM without the stack",
        f"next: bnncc measure {given(context)}",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def given(context: typer.Context) -> str:
    """The arguments of this command as they were given: `measure` compiles the model in the same way."""
    words = []
    for parameter in context.command.params:
        value = context.params[parameter.name or ""]
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            words += [parameter.opts[-1]] if parameter.param_type_name == "option" else []
            words.append(quote(str(getattr(value, "value", value))))
    return " ".join(words)


def need_board(name: str) -> Board:
    """The board called `name`, for which there is firmware. Raises UsageError E0409."""
    ready = [b.name for b in boards().values() if b.environment]
    if name not in ready:
        what = "has no firmware here, only its sizes are known" if name in boards() else "is not a board"
        raise UsageError.of("E0409", f"{name!r} {what}", remedy=f"use one of: {', '.join(ready)}")
    return boards()[name]


def run_on_board(done: Compiled, board: Board, inputs: NDArray[Any], port: str | None, *, quiet: bool) -> Measured:
    """Run samples [N, C, H, W] on the flashed board, whose firmware must hold just this model."""
    with tempfile.TemporaryDirectory(prefix="bnncc-") as scratch:
        done.write(scratch)
        mark = pio.fingerprint(Path(scratch), done.name)
    rows = input_bytes(done, inputs)
    place = pio.find_port(board, port)
    threshold = done.program.exits.threshold if done.program.exits else None
    with progress(f"running {done.name} on {board.name}", len(rows), quiet=quiet) as tick:
        return measure_board(
            place, done.name, mark, [r.tobytes() for r in rows], threshold=threshold, progress=lambda _: tick(1)
        )
