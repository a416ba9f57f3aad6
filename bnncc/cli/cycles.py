"""bnncc cycles: any program, in the simulator."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bnncc.cli.options import Json, Target, WaitStates
from bnncc.cli.show import NOT_MODELLED, console, print_json, print_table
from bnncc.sim.profile import Profile, Row, profile
from bnncc.target import find_target


def cycles_command(
    program: Annotated[
        Path, typer.Argument(metavar="PROGRAM.elf", help="A linked bare-metal program.", show_default=False)
    ],
    target: Target = "cortex-m4",
    symbol: Annotated[
        str | None, typer.Option("--symbol", "-s", help="Count only while this function runs, with all it calls.")
    ] = None,
    wait_states: WaitStates = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds until the program is stopped.")] = 60,
    json: Json = False,
) -> None:
    """Count the instructions of any bare-metal program and estimate its cycles, function by function.

    Example: bnncc cycles firmware.elf --target cortex-m4 --symbol aes_encrypt
    """
    place = find_target(target)
    flash = place.flash(wait_states)
    found = profile(program, place.core, symbol=symbol, flash=flash, cwd=Path.cwd(), timeout=timeout)
    if json:
        print_json(as_dict(found, program, target, symbol))
    else:
        show(found, program, symbol)


def as_dict(found: Profile, program: Path, target: str, symbol: str | None) -> dict[str, Any]:
    """Everything that was counted."""

    def figures(part: Row | Profile, *, per_call: bool = False) -> dict[str, float]:
        out: dict[str, float] = {"instructions": part.instructions}
        if found.model:
            out["cycles"] = part.cycles
        if found.waiting:
            out["waiting_cycles"] = part.cycles + part.waited
        if per_call and found.calls:
            out |= {f"{key}_per_call": value / found.calls for key, value in out.items()}
        return out

    out: dict[str, Any] = {
        "ok": True,
        "program": str(program),
        "target": target,
        "machine": machine(found),
        "cycle_model": found.model,
        **({"waiting_cycle_model": found.waiting} if found.waiting else {}),
        **figures(found),
        "functions": [{"name": r.name, "address": r.address, "calls": r.calls, **figures(r)} for r in found.rows],
        "output": found.output,
    }
    if symbol:
        own = next((r for r in found.rows if r.name == symbol), Row(symbol, None))
        out["symbol"] = {
            "name": symbol,
            "calls": found.calls,
            "self": figures(own, per_call=True),
            "inclusive": figures(found, per_call=True),
        }
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
    waiting = found.waiting

    def share(part: Row | Profile) -> int:
        return part.cycles + part.waited if found.model else part.instructions

    rows = [
        (
            r.name,
            r.calls,
            r.instructions,
            *([r.cycles] if found.model else []),
            *([r.cycles + r.waited] if waiting else []),
            f"{100 * share(r) / max(share(found), 1):.1f}",
        )
        for r in found.rows
    ]
    cycle_headings = ["cycles"] * bool(found.model) + ["with waits"] * bool(waiting)
    headings = ["calls", "instructions", *cycle_headings, "%"]
    what = f"{symbol} and what it calls, in {program.name}" if symbol else program.name
    caption = "each function without what it calls" + (f"; cycles {found.model}" if found.model else "")
    caption += f"; with waits: {waiting}" if waiting else ""
    print_table(what, [("function", "left"), *((h, "right") for h in headings)], rows, caption)
    figures = [(key, label) for key, label in (("cycles", found.model), ("waiting_cycles", waiting)) if label]
    summary = as_dict(found, program, "", symbol)
    if symbol:
        line(
            f"{symbol}: {found.calls:,} call{'s' * (found.calls != 1)} from outside; a call takes with all that it calls"
        )
        own, all_ = summary["symbol"]["self"], summary["symbol"]["inclusive"]
        line(
            f"  {all_['instructions_per_call']:,.1f} instructions, {own['instructions_per_call']:,.1f} of them its own"
        )
        for key, label in figures:
            line(f"  {all_[f'{key}_per_call']:,.1f} cycles, {own[f'{key}_per_call']:,.1f} of them its own, {label}")
    line(f"instructions {found.instructions:,}, counted exactly on {machine(found)}")
    for key, label in figures:
        line(f"cycles {summary[key]:,}, {label}")
    if not found.model:
        line(NOT_MODELLED)
