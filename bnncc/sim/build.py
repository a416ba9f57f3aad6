"""C sources to a bare-metal program for one of QEMU's machines."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bnncc.errors import ModelError, ToolError
from bnncc.resources import folder
from bnncc.target import Core, Machine

COMPILER = "arm-none-eabi-gcc"
PACKAGES = {
    COMPILER: "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
    "gcc": "gcc",
}
STACK_SHARE = 8  # the stack takes 1/8 of RAM, which leaves 14 KiB of the smallest machine's 16 KiB,
STACK_MOST = 64 * 1024  # and no more than this


def tool(name: str) -> str:
    """The path of the command `name`, a key of `PACKAGES`. Raises ToolError E0501."""
    path = shutil.which(name)
    if path is None:
        raise ToolError.of(
            "E0501", f"the command {name} is not installed", remedy=f"sudo apt-get install {PACKAGES[name]}"
        )
    return path


def sim_folder() -> Path:
    """The folder with start-up code, linker script and drivers."""
    return folder("firmware") / "sim"


def last_lines(text: str, count: int = 12) -> str:
    """The last `count` lines of a tool's output."""
    return "\n".join(text.strip().splitlines()[-count:])


def define_flags(defines: Mapping[str, str | None]) -> list[str]:
    """`-DNAME` or `-DNAME=VALUE` for each macro."""
    return [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in defines.items()]


def build_elf(
    sources: Sequence[Path],
    core: Core,
    machine: Machine,
    out: Path,
    *,
    include: Sequence[Path] = (),
    defines: Mapping[str, str | None] | None = None,
) -> Path:
    """Compile and link `sources` with the start-up code into the ELF file `out`, and return `out`.

    C99, -O2, newlib nano with libm. `int main(void)` runs with data and bss set up and the FPU on; its result is the
    program's exit status. Cores without Thumb-2 run with unaligned access trapped on every machine.

    Raises ToolError E0501 (no compiler) and ModelError E0502 (does not compile) or E0503 (too large for `machine`).
    """
    layout = {
        "flash_origin": machine.flash[0],
        "flash_length": machine.flash[1],
        "ram_origin": machine.ram[0],
        "ram_length": machine.ram[1],
        "stack_length": min(machine.ram[1] // STACK_SHARE, STACK_MOST),
    }
    arguments = [
        *define_flags(defines or {}),
        *([] if core.thumb2 else ["-DTRAP_UNALIGNED"]),
        *(f"-I{path}" for path in (*include, sim_folder())),
        *map(str, (*sources, sim_folder() / "startup.c")),
        "-nostartfiles",
        *(f"-Wl,--defsym={name}={value:#x}" for name, value in layout.items()),
        "-Wl,--fatal-warnings",
        *("-T", str(sim_folder() / "link.ld")),
        "-lm",
        *("-o", str(out)),
    ]
    cross_compile(core, arguments)
    return out


def cross_compile(core: Core, arguments: Sequence[str]) -> None:
    """Run the cross compiler for `core` as everything here is compiled: C99, -O2, newlib nano.

    Raises ToolError E0501 (no compiler) and ModelError E0502 (does not compile) or E0503 (overflows the memory).
    """
    command = [tool(COMPILER), *core.flags, "-std=c99", "-O2", "--specs=nano.specs", *arguments]
    english = {**os.environ, "LC_ALL": "C"}  # messages are read below
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=english)
    if done.returncode == 0:
        return
    if "nano.specs" in done.stderr:
        raise ToolError.of("E0501", "newlib is not installed", remedy=f"sudo apt-get install {PACKAGES[COMPILER]}")
    if overflow := re.search(r"region `(\w+)' overflowed by (\d+) bytes", done.stderr):
        raise ModelError.of(
            "E0503",
            f"the program needs {overflow[2]} bytes more {overflow[1]} than the simulated machine has",
            remedy="use a smaller model, or a core whose machine has more memory",
        )
    raise ModelError.of(
        "E0502",
        f"{COMPILER} refused the program for {core.name}:\n{last_lines(done.stderr)}",
        remedy="report this as a defect of bnncc, with the model",
    )
