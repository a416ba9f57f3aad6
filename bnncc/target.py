"""Targets as data: cores (instruction set, compiler flags, timing, simulator) and boards (flash, RAM, clock).

One TOML file each in targets/cores and targets/boards; adding one needs no Python.
"""

import tomllib
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from bnncc.errors import UsageError
from bnncc.resources import folder


@dataclass(frozen=True)
class Machine:
    """A QEMU machine: its name and where code and RAM lie, as (origin, bytes)."""

    qemu: str
    flash: tuple[int, int]
    ram: tuple[int, int]
    note: str = ""


@dataclass(frozen=True)
class Flash:
    """How a board's flash is read at the board's clock; docs/cycles.md has the model. Lines are aligned."""

    wait_states: int
    line_bytes: int
    prefetch: bool = False  # of the line behind the one that is executed
    instruction_lines: int = 0  # lines that a cache keeps, 0 without one
    data_lines: int = 0

    def __str__(self) -> str:
        parts = [
            "no prefetch" if not self.prefetch else "prefetch",
            f"{self.instruction_lines} instruction and {self.data_lines} data lines of {self.line_bytes} bytes cached"
            if self.instruction_lines or self.data_lines
            else f"lines of {self.line_bytes} bytes, no cache",
        ]
        return f"{self.wait_states} wait state{'s' * (self.wait_states != 1)}, {', '.join(parts)}"


@dataclass(frozen=True)
class Core:
    """A processor core. `flags` go to gcc; `cost` holds the coefficients of each kernel's estimate, in `unit`.

    `fetch`: bytes of code that kernels run through in a cycle, on average. `flash`: what the core waits for, None if it does not.
    """

    name: str
    title: str
    flags: tuple[str, ...]
    fpu: bool
    thumb2: bool
    machines: tuple[Machine, ...]  # tried in order: the first one large enough runs the program
    timing: dict[str, Any] = field(hash=False)
    cost: dict[str, Any] = field(hash=False)
    mve: bool = False  # the vector extension, Helium
    dsp: bool = False  # the DSP extension
    fetch: float = 0.0
    flash: Flash | None = None

    @property
    def unit(self) -> str:
        """What is estimated: cycles, or instructions on a core whose cycles are not modelled."""
        return "cycles" if self.timing else "instructions"


# What --wait-states means for a target whose flash is not described: 64 bits at a time, nothing read ahead or kept.
PLAIN_FLASH_LINE = 8


@dataclass(frozen=True)
class Board:
    """A board: what a core alone lacks. Sizes in bytes, RAM in one piece, the clock in Hz.

    `environment` is that of the firmware, empty where there is none: then nothing but the sizes is known.
    `usb` is "vendor:product" of the board's serial port in hexadecimal, empty for a simulated board.
    """

    name: str
    title: str
    core: str
    flash_bytes: int
    ram_bytes: int
    clock_hz: int
    simulated: bool
    environment: str = ""
    usb: str = ""
    flash: Flash | None = None


@dataclass(frozen=True)
class Target:
    """What --target named: a core, and the board if it was one."""

    core: Core
    board: Board | None = None

    @property
    def name(self) -> str:
        return self.board.name if self.board else self.core.name

    def flash(self, wait_states: int | None) -> Flash | None:
        """The board's flash, or one with as many wait states as given; None if there are none to count.

        Raises UsageError E0413 if wait states are given and the core's cycles are not modelled.
        """
        if wait_states and not self.core.timing:
            raise UsageError.of(
                "E0413",
                f"the cycles of {self.core.name} are not modelled, so neither is waiting for flash",
                remedy="leave --wait-states out: instructions are counted",
            )
        flash = self.board.flash if self.board else None
        if wait_states is not None:
            flash = replace(flash or Flash(0, PLAIN_FLASH_LINE), wait_states=wait_states)
        return flash if flash and flash.wait_states else None


def _load(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


@cache
def cores() -> dict[str, Core]:
    """Every core of targets/cores, by name."""
    found = {}
    for path in sorted((folder("targets") / "cores").glob("*.toml")):
        d = _load(path)
        machines = tuple(
            Machine(m["qemu"], tuple(m["flash"]), tuple(m["ram"]), m.get("note", "")) for m in d.pop("machines")
        )
        found[path.stem] = Core(
            name=path.stem,
            title=d["title"],
            flags=tuple(d["flags"]),
            fpu=d["fpu"],
            thumb2=d["thumb2"],
            machines=machines,
            timing=d.get("timing", {}),
            cost=d.get("cost", {}),
            mve=d.get("mve", False),
            dsp=d.get("dsp", False),
            fetch=d.get("fetch", 0.0),
        )
    return found


@cache
def boards() -> dict[str, Board]:
    """Every board of targets/boards, by id."""
    found = {}
    for path in sorted((folder("targets") / "boards").glob("*.toml")):
        d = _load(path)
        flash = Flash(**d.pop("flash")) if "flash" in d else None
        found[path.stem] = Board(name=path.stem, flash=flash, **d)
    return found


def find_target(name: str) -> Target:
    """The core or board called `name`. Raises UsageError E0401."""
    if name in cores():
        return Target(cores()[name])
    if name in boards():
        board = boards()[name]
        return Target(cores()[board.core], board)
    raise UsageError.of(
        "E0401",
        f"there is no core or board called {name!r}",
        remedy=f"use one of: {', '.join([*cores(), *boards()])}",
    )
