"""Any bare-metal program in the simulator: calls, instructions and estimated cycles of each function."""

import difflib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from bnncc.errors import BnnccError, UsageError
from bnncc.sim.count import IDLE, Counts, count_elf
from bnncc.sim.cycles import Timing
from bnncc.sim.decode import executed
from bnncc.sim.elf import Function, architecture, functions, segments, word
from bnncc.target import Core, Flash, Machine

NO_FUNCTION = "(none)"  # code that no symbol covers
LINK = "give a linked bare-metal program for an Arm Cortex-M: docs/cycles.md shows how to build one"
_ARMV6M = (0, 11, 12)  # Tag_CPU_arch
_CALLS = ("bl", "blx")


@dataclass
class Row:
    """What one function executed, without what it calls. A call is an entry from elsewhere, or its call of itself."""

    name: str
    address: int | None
    calls: int = 0
    instructions: int = 0
    cycles: int = 0  # zero wait states
    waited: int = 0  # cycles more, waiting for flash


@dataclass(frozen=True)
class Profile:
    """What a program executed, or one of its functions with all that it calls: then `calls` is how often, from outside."""

    machine: str
    note: str  # what is special about the machine, or ""
    model: str | None  # the label that every figure in cycles must carry; None if they are not modelled, and 0 then
    waiting: str | None  # that of figures with the cycles waited for flash, None if none was given
    output: str  # what the program printed
    rows: list[Row]  # of all functions that ran, the most cycles (else instructions) first
    calls: int

    @property
    def instructions(self) -> int:
        return sum(row.instructions for row in self.rows)

    @property
    def cycles(self) -> int:
        return sum(row.cycles for row in self.rows)

    @property
    def waited(self) -> int:
        return sum(row.waited for row in self.rows)


def profile(
    elf: Path, core: Core, *, symbol: str | None = None, flash: Flash | None = None, cwd: Path, timeout: float
) -> Profile:
    """Run the program `elf` on the core's machine that has memory where the program lies, and count.

    With `symbol`, only while that function runs; with `flash`, waiting for it is simulated. The program opens files
    relative to `cwd` and ends by semihosting; `timeout` is in seconds. Raises UsageError E0410 (not for this core),
    E0411 (no such function), and what `count_elf` does.
    """
    machine, table = read(elf, core)
    function = find_function(table, symbol, elf) if symbol else None
    timing = Timing.of(core)
    try:
        run, counts = count_elf(
            elf, machine, function=function.address if function else None, flash=flash, cwd=cwd, timeout=timeout
        )
    except BnnccError as error:
        raise for_a_program(error, core) from None
    if function:
        table = [function, *(f for f in table if f.address != function.address)]
    starts = [node.region == IDLE for node in counts.nodes]
    return Profile(
        machine=run.machine,
        note=run.note,
        model=timing.statement if timing else None,
        waiting=timing.waiting(flash) if timing and flash else None,
        output=run.output,
        rows=attribute(counts, timing, table),
        calls=int(sum(edge["count"] for edge in counts.edges if starts[edge["from"]])),
    )


def attribute(counts: Counts, timing: Timing | None, table: Sequence[Function]) -> list[Row]:
    """One run's instructions and cycles by function. A taken branch's cost falls to the branch."""
    unique = {f.address: f for f in reversed(table)}
    by_address = sorted(unique.values(), key=lambda f: f.address)
    addresses = [f.address for f in by_address]
    rows = {f: Row(f.name, f.address) for f in by_address}
    other = Row(NO_FUNCTION, None)

    def row_at(address: int) -> Row:
        k = bisect_right(addresses, address) - 1
        return rows[by_address[k]] if k >= 0 and address < by_address[k].end else other

    for edge in counts.edges:
        count = int(edge["count"])
        before, node = counts.nodes[edge["from"]], counts.nodes[edge["to"]]
        last = executed(before)[-1] if before.code else None
        source = row_at(last.address) if last else other
        if timing and before.region != IDLE:
            source.cycles += count * timing.leaving(before, node)
        if node.region != IDLE:
            insns = executed(node)
            spent = timing.entering(before, node) if timing else [0] * len(insns)
            for insn, cycles in zip(insns, spent, strict=True):
                row = row_at(insn.address)
                row.instructions += count
                row.cycles += count * cycles
            target = row_at(node.address)
            target.waited += int(edge["waited"])
            if node.address == target.address and (source is not target or (last and last.name in _CALLS)):
                target.calls += count
    ran = [r for r in (*rows.values(), other) if r.instructions]
    return sorted(ran, key=lambda r: -(r.cycles + r.waited) if timing else -r.instructions)


def read(elf: Path, core: Core) -> tuple[Machine, list[Function]]:
    """The machine for a program, and its functions. Raises UsageError E0410."""
    try:
        return machine_for(elf, core), functions(elf)
    except ELFError as error:
        raise UsageError.of("E0410", f"this is no ELF file, or damaged: {error}", where=str(elf), remedy=LINK) from None


def machine_for(elf: Path, core: Core) -> Machine:
    """The first of the core's machines with memory where the program lies, and its stack too if there is one.

    Raises UsageError E0410, and ELFError.
    """

    def refused(why: str, remedy: str) -> UsageError:
        return UsageError.of("E0410", why, where=str(elf), remedy=remedy)

    try:
        with elf.open("rb") as stream:
            header = ELFFile(stream).header
    except FileNotFoundError:
        raise refused("there is no such file", LINK) from None
    except IsADirectoryError:
        raise refused("this is a folder", LINK) from None
    if header["e_machine"] != "EM_ARM":
        raise refused(f"the program is for another processor ({header['e_machine']})", LINK)
    if header["e_type"] != "ET_EXEC":
        raise refused("the file is not a linked program", LINK)
    arch, kind = architecture(elf)
    if kind in "AR":
        raise refused(f"the program is for a Cortex-{kind}", LINK)
    if not core.thumb2 and arch not in _ARMV6M:
        raise refused(
            f"the program was built for an architecture with Thumb-2; the {core.title} runs Armv6-M and would fault",
            f"build it with -mcpu={core.name}, or choose another --target",
        )
    wanted = segments(elf)
    fitting = [
        m
        for m in core.machines
        if all(any(o <= a and a + n <= o + size for o, size in (m.flash, m.ram)) for a, n in wanted)
    ]
    if fitting:
        origin = fitting[0].flash[0]
        stack = word(elf, origin)
        if stack is None:
            raise refused(f"the program has no vector table at {origin:#x}, where the core starts", LINK)
        return next((m for m in fitting if m.ram[0] < stack <= sum(m.ram)), fitting[0])
    where = ", ".join(
        f"{m.qemu}: {m.flash[1]:#x} bytes at {m.flash[0]:#x} and {m.ram[1]:#x} at {m.ram[0]:#x}" for m in core.machines
    )
    raise refused(
        "the program does not lie in the memory of any machine that simulates the core: "
        + ", ".join(f"{n:#x} bytes at {a:#x}" for a, n in dict(wanted).items()),
        f"link it for one of these: {where}",
    )


def find_function(table: Sequence[Function], name: str, elf: Path) -> Function:
    """The function called `name`. Raises UsageError E0411."""
    for function in table:
        if function.name == name:
            return function
    names = [f.name for f in table]
    near = (
        difflib.get_close_matches(name, names, n=5, cutoff=0.5) or [n for n in names if name.lower() in n.lower()][:5]
    )
    if not names:
        remedy = "link the program without -s: it has no symbols"
    elif near:
        remedy = f"did you mean {', '.join(near)}?"
    else:
        remedy = "leave out --symbol to see all functions that run"
    raise UsageError.of("E0411", f"the program has no function called {name!r}", where=str(elf), remedy=remedy)


def for_a_program(error: BnnccError, core: Core) -> BnnccError:
    """The same error with a remedy that fits a program of the user's."""
    remedies = {
        "E0504": "either it faulted on an instruction or on memory that the machine does not have"
        + ("" if core.thumb2 else " (the Cortex-M0 faults on Thumb-2 and on unaligned access)")
        + ", or it says itself that it failed: a program to be counted ends with status 0",
        "E0505": "end it by semihosting (SYS_EXIT); it may also have faulted into a handler that loops, or wait for a "
        "peripheral or an interrupt. --timeout allows more time",
    }
    diagnostic = error.diagnostics[0]
    return type(error)(replace(diagnostic, remedy=remedies.get(diagnostic.code, diagnostic.remedy)))
