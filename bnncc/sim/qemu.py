"""Programs in QEMU: no board, no operating system, files through semihosting."""

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bnncc.errors import BnnccError, ModelError, ToolError
from bnncc.sim.build import build_elf, last_lines, tool
from bnncc.target import Core, Machine

EMULATOR = "qemu-system-arm"


@dataclass(frozen=True)
class Run:
    """A program that ran to its end: the machine that ran it, what is special about that, what it printed."""

    machine: str
    note: str
    output: str


def run_elf(
    elf: Path, machine: Machine, *, cwd: Path, plugin_args: Sequence[str] | None = None, timeout: float = 600
) -> Run:
    """Run `elf` on `machine`; it opens files relative to `cwd`. `timeout` is in seconds.

    `plugin_args` are a TCG plugin's path and its options ("name=value").
    Raises ToolError E0501 (no QEMU), E0505 (timeout), E0506 (QEMU itself refused) and ModelError E0504 (the program
    faulted, overflowed its stack or ended with a status other than 0).
    """
    command = [
        tool(EMULATOR),
        *("-M", machine.qemu, "-display", "none", "-monitor", "none", "-serial", "none", "-parallel", "none"),
        *("-chardev", "stdio,id=console", "-semihosting-config", "enable=on,target=native,chardev=console"),
        *("-kernel", str(elf.resolve())),
    ]
    if plugin_args is not None:
        command += ["-plugin", ",".join(arg.replace(",", ",,") for arg in plugin_args)]
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ToolError.of(
            "E0505",
            f"the program did not end within {timeout:g} s on {machine.qemu}",
            where=elf.name,
            remedy="run fewer samples, or on the host",
        ) from None
    if done.returncode == 0:
        return Run(machine.qemu, machine.note, done.stdout)
    said = last_lines(f"{done.stdout}\n{without_registers(done.stderr)}")
    if done.stderr.startswith(f"{EMULATOR}:"):
        raise ToolError.of("E0506", f"QEMU did not start:\n{said}", remedy="`bnncc doctor` says what is installed")
    how = "crashed" if done.returncode < 0 else f"ended with status {done.returncode}"
    raise ModelError.of(
        "E0504",
        f"the program {how} on {machine.qemu}" + (f":\n{said}" if said else ""),
        where=elf.name,
        remedy="report this as a defect of bnncc, with the model",
    )


def without_registers(stderr: str) -> str:
    """What QEMU says before it prints the registers, as it does where a core locks up."""
    return stderr.partition("\nR00=")[0]


def build_for_first_machine(
    sources: Sequence[Path],
    core: Core,
    out: Path,
    *,
    include: Sequence[Path] = (),
    defines: Mapping[str, str | None] | None = None,
) -> Machine:
    """Build `out` for the first of the core's machines whose memory holds the program, and return that machine.

    Raises what `build_elf` does; E0503 only if the program is too large for every machine.
    """
    for machine in core.machines:
        try:
            build_elf(sources, core, machine, out, include=include, defines=defines)
        except BnnccError as error:
            if error.diagnostics[0].code != "E0503" or machine is core.machines[-1]:
                raise
        else:
            return machine
    raise AssertionError(f"{core.name} has no machines")


def run_program(
    sources: Sequence[Path],
    core: Core,
    *,
    cwd: Path,
    include: Sequence[Path] = (),
    defines: Mapping[str, str | None] | None = None,
    timeout: float = 600,
) -> Run:
    """Build `sources` for the first of the core's machines that is large enough, and run the program in `cwd`.

    Raises what `build_elf` and `run_elf` do.
    """
    with tempfile.TemporaryDirectory(prefix="bnncc-") as scratch:
        elf = Path(scratch) / "program.elf"
        machine = build_for_first_machine(sources, core, elf, include=include, defines=defines)
        return run_elf(elf, machine, cwd=cwd, timeout=timeout)
