"""What a generated model costs in memory, as the cross compiler makes it: flash by symbol, library code, stack."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from bnncc.sim.build import cross_compile
from bnncc.sim.elf import symbols
from bnncc.target import Core

RAM_CODE = ".RamFunc"  # the section of code that runs in RAM


@dataclass(frozen=True)
class Footprint:
    """The memory of one C file, in bytes."""

    symbols: Mapping[str, int]  # each function (with its constants pool) and each constant that is left after inlining
    flash_bytes: int  # the file's code and constants
    ram_code_bytes: int  # of the code what runs in RAM
    library_bytes: int  # code and data linked for it from libm and libgcc, such as logf, with what these need
    stack_bytes: int  # the deepest chain of calls within the file
    library_calls: tuple[str, ...]  # called functions whose stack is not in `stack_bytes`


def footprint(source: Path, core: Core, entry: str, *, include: Sequence[Path] = ()) -> Footprint:
    """The memory of the C file `source` on `core`; the stack is that of the function `entry`, worst case, by gcc's call
    graph. Recursion counts once, a variable-length array as gcc bounds it.

    Raises what `cross_compile` does.
    """
    with tempfile.TemporaryDirectory(prefix="bnncc-") as scratch:
        unit, linked = Path(scratch) / "unit.o", Path(scratch) / "linked.elf"
        includes = [f"-I{path}" for path in include]
        cross_compile(core, ["-c", "-fcallgraph-info=su", *includes, str(source), "-o", str(unit)])
        # Everything in the file is kept, so the rest of what is linked is the library's.
        cross_compile(core, [str(unit), "-nostartfiles", f"-Wl,-e,{entry}", "-lm", "-o", str(linked)])
        stack, library = _stack(unit.with_suffix(".ci").read_text(encoding="utf-8"), entry)
        own = _memory(unit)
        sizes = {name: symbol.size for name, symbol in symbols(unit).items()}
        return Footprint(sizes, own, _memory(unit, RAM_CODE), _memory(linked) - own, stack, library)


def _memory(elf: Path, start: str = "") -> int:
    """The bytes of all sections that occupy memory, without unwinding tables; of those whose names begin so."""
    with elf.open("rb") as stream:
        sections = ELFFile(stream).iter_sections()
        return sum(
            section["sh_size"]
            for section in sections
            if section["sh_flags"] & SH_FLAGS.SHF_ALLOC
            and section.name.startswith(start)
            and not section.name.startswith(".ARM.ex")
        )


def _stack(graph: str, entry: str) -> tuple[int, tuple[str, ...]]:
    """The deepest stack below `entry` in gcc's call graph (-fcallgraph-info=su), and the functions it does not know."""
    frames = {
        title: int(size)
        for title, size in re.findall(
            r'^node: \{ title: "([^"]+)" label: "[^"]*\\n(\d+) bytes \([^"]*" \}', graph, re.M
        )
    }
    calls: dict[str, set[str]] = {}
    for caller, callee in re.findall(r'^edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', graph, re.M):
        calls.setdefault(caller, set()).add(callee)
    unknown: set[str] = set()

    def deepest(function: str, above: frozenset[str]) -> int:
        if function not in frames:
            unknown.add(function)
            return 0
        below = above | {function}
        return frames[function] + max((deepest(f, below) for f in calls.get(function, set()) - below), default=0)

    return deepest(entry, frozenset()), tuple(sorted(unknown))
