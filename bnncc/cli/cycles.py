"""bnncc cycles: any program, in the simulator."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bnncc.cli.options import Json, Target
from bnncc.cli.show import console, print_json, print_table
from bnncc.sim.profile import Profile, profile
from bnncc.target import find_target


def cycles_command(
    program: Annotated[
        Path, typer.Argument(metavar="PROGRAM.elf", help="A linked bare-metal program.", show_default=False)
    ],
    target: Target = "cortex-m4",
    symbol: Annotated[
        str | None, typer.Option("--symbol", "-s", help="Count only while this function runs, with all it calls.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds until the program is stopped.")] = 60,
    json: Json = False,
) -> None:
    """Count the instructions of any bare-metal program and estimate its cycles, function by function.

    Example: bnncc cycles firmware.elf --target cortex-m4 --symbol aes_encrypt
    """
    core = find_target(target).core
    found = profile(program, core, symbol=symbol, cwd=Path.cwd(), timeout=timeout)
    if json:
        print_json(as_dict(found, program, target, symbol))
    else:
        show(found, program, symbol)


def as_dict(found: Profile, program: Path, target: str, symbol: str | None) -> dict[str, Any]:
    """Everything that was counted."""
    out: dict[str, Any] = {
        "ok": True,
        "program": str(program),
        "target": target,
        "machine": machine(found),
        "cycle_model": found.model,
        "instructions": found.instructions,
        "cycles": found.cycles,
        "functions": [
            {"name": r.name, "address": r.address, "calls": r.calls, "instructions": r.instructions, "cycles": r.cycles}
            for r in found.rows
        ],
        "output": found.output,
    }
    if symbol:
        own = next((r for r in found.rows if r.name == symbol), None)
        out["symbol"] = {
            "name": symbol,
            "calls": found.calls,
            "self": {"instructions": own.instructions if own else 0, "cycles": own.cycles if own else 0},
            "inclusive": {"instructions": found.instructions, "cycles": found.cycles},
        }
        if found.calls:
            for part in ("self", "inclusive"):
                figures = out["symbol"][part]
                figures |= {f"{key}_per_call": figures[key] / found.calls for key in ("instructions", "cycles")}
    return out


def machine(found: Profile) -> str:
    return f"QEMU {found.machine}" + (f" ({found.note})" if found.note else "")


def show(found: Profile, program: Path, symbol: str | None) -> None:
    """The table of functions and the totals."""

    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    if symbol and not found.calls:
        line(f"{symbol} was not called")
        return
    rows = [
        (r.name, r.calls, r.instructions, r.cycles, f"{100 * r.cycles / max(found.cycles, 1):.1f}") for r in found.rows
    ]
    columns = [("function", "left"), *((h, "right") for h in ("calls", "instructions", "cycles", "%"))]
    what = f"{symbol} and what it calls, in {program.name}" if symbol else program.name
    print_table(what, columns, rows, f"each function without what it calls; cycles {found.model}")
    if symbol:
        own = next(r for r in found.rows if r.name == symbol)
        line(
            f"{symbol}: {found.calls:,} calls from outside; a call takes {own.cycles / found.calls:,.1f} cycles itself, "
            f"{found.cycles / found.calls:,.1f} with what it calls ({found.instructions / found.calls:,.1f} instructions)"
        )
    line(f"instructions {found.instructions:,}, counted exactly on {machine(found)}")
    line(f"cycles {found.cycles:,}, {found.model}")
