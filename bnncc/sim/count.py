"""Exact counts of what a program executed in QEMU, region by region and run by run, by the plugin in plugin.c."""

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.errors import ToolError
from bnncc.sim.build import last_lines, tool
from bnncc.sim.qemu import EMULATOR, Run, run_elf
from bnncc.target import Flash, Machine

IDLE = 0xFFFFFFFF  # BNNCC_MARK_IDLE of mark.h
SOURCE = Path(__file__).with_name("plugin.c")
FLASH, OTHER = 1, 2  # of Node.accessed
_RECORD = np.dtype([("run", "<u4"), ("from", "<u4"), ("to", "<u4"), ("count", "<u8"), ("waited", "<u8")])


@dataclass(frozen=True)
class Node:
    """A straight piece of code, as executed in one region and with certain accesses to memory."""

    region: int
    address: int
    code: bytes
    accesses: int  # two bits for each instruction

    def accessed(self, index: int) -> int:
        """Which memory instruction `index` accessed: FLASH, OTHER or both, 0 if none or if it was skipped."""
        return self.accesses >> 2 * index & 3

    @property
    def end(self) -> int:
        return self.address + len(self.code)


@dataclass(frozen=True)
class Counts:
    """How often the program went from node to node.

    `edges` is a structured array [E] with the fields run, from, to (indices into `nodes`), count, and waited (cycles).
    In every run the first edge comes from a node of the region IDLE and the last one goes to one, unless the program
    ended before; nothing else in IDLE is counted.
    """

    nodes: tuple[Node, ...]
    edges: NDArray[Any]
    runs: int

    def per_run(self, totals: NDArray[Any], side: str, regions: int) -> NDArray[np.int64]:
        """[runs, regions]: the sum of `totals` [E] over the edges.

        An edge belongs to the region of its node at `side`: "to" (entered) or "from" (left); IDLE is left out.
        """
        region_of = np.array([node.region for node in self.nodes], np.int64)
        region = region_of[self.edges[side]]
        counted = region != IDLE
        cells = self.edges["run"].astype(np.int64)[counted] * regions + region[counted]
        total = np.zeros(self.runs * regions, np.int64)
        np.add.at(total, cells, totals.astype(np.int64)[counted])
        return total.reshape(self.runs, regions)

    def waited(self, regions: int) -> NDArray[np.int64]:
        """[runs, regions]: cycles spent waiting for flash."""
        return self.per_run(self.edges["waited"], "to", regions)

    def instructions(self, regions: int) -> NDArray[np.int64]:
        """[runs, regions]: instructions executed, exact. A skipped instruction of an IT block counts."""
        length = np.array([_instructions(node.code) for node in self.nodes], np.int64)
        return self.per_run(self.edges["count"].astype(np.int64) * length[self.edges["to"]], "to", regions)


def _instructions(code: bytes) -> int:
    """The number of Thumb instructions in `code`."""
    count = at = 0
    while at < len(code):
        at += insn_size(code, at)
        count += 1
    return count


def insn_size(code: bytes, at: int) -> int:
    """The bytes, 2 or 4, of the Thumb instruction at offset `at` (Armv7-M ARM, A5.1)."""
    return 4 if code[at + 1] >> 3 in (0b11101, 0b11110, 0b11111) else 2


def plugin_api(version: str) -> int:
    """The plugin API to build for, by what `qemu-system-arm --version` says: 1 before QEMU 9, 3 from there on.

    Source: include/qemu/qemu-plugin.h of QEMU; 9.0 alone has neither, and refuses the plugin.
    """
    found = re.search(r"version (\d+)", version)
    return 3 if found and int(found[1]) >= 9 else 1


@cache
def plugin(source: Path = SOURCE) -> Path:
    """The plugin as a shared library, compiled on first use. Raises ToolError E0501 (no gcc, no QEMU) or E0507."""
    says = subprocess.run([tool(EMULATOR), "--version"], capture_output=True, text=True, check=False).stdout
    api = plugin_api(says)
    code = b"".join(path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h"))))
    name = f"plugin-{hashlib.sha256(code).hexdigest()[:16]}-{api}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bnncc"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        folder = Path(tempfile.mkdtemp(prefix="bnncc-"))
    library = folder / name
    if library.is_file():
        return library
    unfinished = folder / f"{name}.{os.getpid()}"
    command = [tool("gcc"), f"-DPLUGIN_API={api}", "-O2", "-shared", "-fPIC", "-o", str(unfinished), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolError.of(
            "E0507",
            f"gcc refused the counting plugin:\n{last_lines(done.stderr)}",
            where=str(source),
            remedy="check that the host's gcc and libc6-dev are installed",
        )
    unfinished.replace(library)  # at once: another process may be doing the same
    return library


def count_elf(
    elf: Path,
    machine: Machine,
    marks: Sequence[tuple[int, int]] | None = None,
    *,
    function: int | None = None,
    flash: Flash | None = None,
    cwd: Path,
    timeout: float = 600,
) -> tuple[Run, Counts]:
    """Run `elf` as `run_elf` does, and count.

    `marks` are (address, region): executing the instruction there enters the region; of several marks at one address
    the last one holds. A run begins where IDLE is left and ends where it is entered. Without marks there is one run and
    the region 0: all calls of the function at the address `function` with all that they call, or the whole program.
    With `flash` the cycles spent waiting for it are simulated; without it they are 0.
    """
    with tempfile.TemporaryDirectory(prefix="bnncc-") as scratch:
        nodes_file, edges_file, marks_file = (Path(scratch) / name for name in ("nodes", "edges", "marks"))
        options = [f"nodes={nodes_file}", f"edges={edges_file}", "flash={:x}:{:x}".format(*machine.flash)]
        if marks is not None:
            marks_file.write_text("".join(f"{address:x} {region:x}\n" for address, region in dict(marks).items()))
            options.append(f"marks={marks_file}")
        elif function is not None:
            options.append(f"function={function:x}")
        if flash is not None:
            options += [
                f"wait={flash.wait_states}",
                f"line={flash.line_bytes}",
                f"prefetch={flash.prefetch:d}",
                f"instruction_lines={flash.instruction_lines}",
                f"data_lines={flash.data_lines}",
            ]
        run = run_elf(elf, machine, cwd=cwd, plugin_args=[str(plugin()), *options], timeout=timeout)
        nodes = []
        for line in nodes_file.read_text().splitlines():
            region, address, accesses, code = line.split(" ")
            nodes.append(Node(int(region, 16), int(address, 16), bytes.fromhex(code), int(accesses, 16)))
        edges = np.fromfile(edges_file, _RECORD)
    return run, Counts(tuple(nodes), edges, int(edges["run"].max()) + 1 if len(edges) else 0)
