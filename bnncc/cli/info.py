"""bnncc targets, explain and doctor."""

import importlib.metadata
import shutil
import subprocess
from typing import Annotated

import typer

from bnncc.cli.options import Json
from bnncc.cli.show import console, print_json, print_table
from bnncc.codes import CODES
from bnncc.errors import UsageError
from bnncc.target import boards, cores

TOOLS = (
    ("gcc", "verify on the host", "sudo apt-get install gcc"),
    ("clang", "verify on the host, if gcc is missing", "sudo apt-get install clang"),
    (
        "arm-none-eabi-gcc",
        "code size and stack in reports; verify and measure in the simulator; flash",
        "sudo apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi",
    ),
    (
        "qemu-system-arm",
        "verify, measure and cycles in the simulator; simulated boards",
        "sudo apt-get install qemu-system-arm",
    ),
)
PACKAGES = (
    ("onnxruntime", "the reference of every verification", "pip install onnxruntime"),
    ("platformio", "flash", "pip install 'bnncc[board]'"),
    ("scons", "flash, for simulated boards", "pip install 'bnncc[board]'"),
    ("pyserial", "measure on a board", "pip install 'bnncc[board]'"),
    ("torch", "bnncc.train", "pip install 'bnncc[train]'"),
)


def targets_command(json: Json = False) -> None:
    """List the cores and boards that --target takes.

    Example: bnncc targets
    """
    if json:
        print_json(
            {
                "cores": [
                    {"name": c.name, "title": c.title, "fpu": c.fpu, "simulator": [m.qemu for m in c.machines]}
                    for c in cores().values()
                ],
                "boards": [
                    {
                        "name": b.name,
                        "title": b.title,
                        "core": b.core,
                        "flash_bytes": b.flash_bytes,
                        "ram_bytes": b.ram_bytes,
                        "clock_hz": b.clock_hz,
                        "wait_states": b.flash.wait_states if b.flash else None,
                        "simulated": b.simulated,
                    }
                    for b in boards().values()
                ],
            }
        )
        return
    rows = [(c.name, c.title, c.fpu, ", then ".join(m.qemu for m in c.machines)) for c in cores().values()]
    print_table("cores", [("core", "left"), ("", "left"), ("FPU", "left"), ("simulator (QEMU)", "left")], rows)
    board_rows = [
        (
            b.name,
            b.title,
            b.core,
            b.flash_bytes // 1024,
            b.ram_bytes // 1024,
            f"{b.clock_hz / 1e6:g}",
            b.flash.wait_states if b.flash else None,
        )
        for b in boards().values()
    ]
    columns = [
        ("board", "left"),
        ("", "left"),
        ("core", "left"),
        ("flash KiB", "right"),
        ("RAM KiB", "right"),
        ("MHz", "right"),
        ("wait states", "right"),
    ]
    print_table("boards", columns, board_rows)


def explain_command(
    code: Annotated[str, typer.Argument(help="A diagnostic's code, such as E0203.")], json: Json = False
) -> None:
    """Say more about a diagnostic.

    Example: bnncc explain E0203
    """
    key = code.strip().upper()
    if key not in CODES:
        raise UsageError.of(
            "E0408", f"there is no diagnostic {code[:40]!r}", remedy=f"codes run from {min(CODES)} to {max(CODES)}"
        )
    title, text = CODES[key]
    if json:
        print_json({"code": key, "title": title, "text": text})
    else:
        console.print(f"{key}: {title}\n\n{text}", highlight=False, markup=False)


def doctor_command(json: Json = False) -> None:
    """Say what is installed, what is missing, and which command installs it. Exit code 3 if something is missing.

    Example: bnncc doctor
    """
    rows = []
    for tool, use, remedy in TOOLS:
        found = shutil.which(tool)
        rows.append({"what": tool, "for": use, "found": tool_version(tool) if found else None, "install": remedy})
    for package, use, remedy in PACKAGES:
        rows.append({"what": package, "for": use, "found": package_version(package), "install": remedy})
    missing = [r for r in rows if r["found"] is None]
    if json:
        print_json({"ok": not missing, "checks": rows})
    else:
        shown = [(r["what"], r["found"] or "missing", r["for"], "" if r["found"] else r["install"]) for r in rows]
        print_table(
            "what bnncc uses", [("", "left"), ("version", "left"), ("for", "left"), ("install with", "left")], shown
        )
        console.print(
            "everything is there" if not missing else f"{len(missing)} missing: the commands above install them",
            highlight=False,
        )
    raise typer.Exit(3 if missing else 0)


def tool_version(tool: str) -> str:
    try:
        done = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "found, but it does not run"
    line = (done.stdout or done.stderr).strip().splitlines()
    return line[0][:60] if line else "found"


def package_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
