"""Build and upload the firmware with a generated model, through PlatformIO.

`flash` copies the project of firmware/ to a build folder, adds the model and runs `pio` from this Python environment.
For a simulated board nothing comes from PlatformIO's registry: the platform is firmware/platform, and the one package
that PlatformIO itself insists on, tool-scons, is laid down as a stub around the SCons of PyPI.
"""

import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnncc.emit import adapter
from bnncc.errors import ModelError, ToolError, UsageError
from bnncc.resources import folder as resource_folder
from bnncc.target import Board

_LOG_LINES = 15


@dataclass(frozen=True)
class Flashed:
    """A board that now runs the model. Sizes in bytes of the whole firmware; `ram_bytes` is without the stack."""

    port: str
    elf: Path
    flash_bytes: int
    ram_bytes: int
    fingerprint: int


def cache_folder() -> Path:
    """Where builds and simulated boards live: $BNNCC_CACHE, else bnncc in $XDG_CACHE_HOME, else ~/.cache/bnncc."""
    if own := os.environ.get("BNNCC_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "bnncc"


def fingerprint(folder: Path, name: str) -> int:
    """CRC-32 of the generated header and source, which the firmware tells: old weights are noticed. Raises E0610."""
    crc = 0
    for path in _sources(folder, name):
        crc = zlib.crc32(path.read_bytes(), crc)
    return crc


def flash(folder: Path, name: str, board: Board, *, workdir: Path | None = None, port: str | None = None) -> Flashed:
    """Build the firmware with the model `name` generated in `folder`, upload it, and return where it answers.

    `workdir` is the build folder, one for each board and model in the cache unless given; `port` is the serial port
    (for a simulated board the path that becomes one), found unless given.

    Raises ModelError E0601 if the model is too large for the board: exit code 1, since the board is there and works,
    and no repair of the environment helps; UsageError E0610; ToolError E0602 to E0605 and E0611.
    """
    crc = fingerprint(folder, name)
    _require_tools(board)
    project = (workdir or cache_folder() / "boards" / board.name / name).absolute()
    try:
        _copy_firmware(project)
        add_model(project, folder, name)
        if board.simulated:
            _seed_scons(project / "core")
            simulated_port(board, port).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError.of(
            "E0611",
            f"cannot write the build folder: {error}",
            where=str(project),
            remedy="free space, or set BNNCC_CACHE",
        ) from error

    elf = project / ".pio" / "build" / board.environment / "firmware.elf"
    elf.unlink(missing_ok=True)  # PlatformIO does not relink for a new linker script
    status, log = _pio(project, board, [])
    if status != 0 or not elf.is_file():
        raise _build_error(log, board, project)
    flash_bytes, ram_bytes = _sizes(elf)
    for kind, used, limit in (("flash", flash_bytes, board.flash_bytes), ("RAM", ram_bytes, board.ram_bytes)):
        if used > limit:
            raise _too_large(board, f"the firmware takes {used} bytes of {kind}, the board has {limit}")

    arguments = ["-t", "nobuild", "-t", "upload"]
    if board.simulated:
        arguments += ["--upload-port", str(simulated_port(board, port))]
    status, log = _pio(project, board, arguments)
    if status != 0:
        raise ToolError.of(
            "E0604", f"the upload failed; PlatformIO says:\n{_tail(log)}", where=board.name, remedy="connect the board"
        )
    return Flashed(find_port(board, port), elf, flash_bytes, ram_bytes, crc)


def find_port(board: Board, port: str | None = None) -> str:
    """The serial port at which `board` answers: `port` if given, else the one with the board's USB id.

    A simulated board must be running. Raises ToolError E0605.
    """
    if board.simulated:
        path = simulated_port(board, port)
        if _simboard("status", path) != 0:
            raise ToolError.of(
                "E0605", f"the simulated board {board.name} is not running", where=str(path), remedy="run `bnncc flash`"
            )
        return str(path)
    if port is not None:
        return port
    _require_tools(board)
    list_ports: Any = importlib.import_module("serial.tools.list_ports")
    found = [p.device for p in list_ports.comports() if p.vid is not None and f"{p.vid:04x}:{p.pid:04x}" == board.usb]
    if len(found) == 1:
        return str(found[0])
    remedy = "connect the board" if not found else f"name one with --port: {', '.join(sorted(found))}"
    raise ToolError.of("E0605", f"{len(found) or 'no'} serial ports of a {board.title} found", remedy=remedy)


def stop(board: Board, *, port: str | None = None) -> bool:
    """End a simulated board, as if it were unplugged. True if it was running; a real board is left alone."""
    return board.simulated and _simboard("stop", simulated_port(board, port)) == 0


def simulated_port(board: Board, port: str | None = None) -> Path:
    """The path at which a simulated board has its serial port: `port`, else the board's own in the cache."""
    return Path(port).absolute() if port else cache_folder() / "boards" / f"{board.name}.port"


def _sources(folder: Path, name: str) -> tuple[Path, ...]:
    """NAME.h, NAME.c and, where the constants have a file of their own, NAME_weights.h."""
    sources = (folder / f"{name}.h", folder / f"{name}.c")
    for path in sources:
        if not path.is_file():
            raise UsageError.of("E0610", "no generated model here", where=str(path), remedy="run `bnncc compile` first")
    weights = folder / f"{name}_weights.h"
    return (*sources, weights) if weights.is_file() else sources


def _require_tools(board: Board) -> None:
    for module in ("platformio", "SCons", "serial"):
        if importlib.util.find_spec(module) is None:
            raise ToolError.of("E0602", f"{module} is not installed", remedy="pip install 'bnncc[board]'")
    packages = {"arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi", "qemu-system-arm": "qemu-system-arm"}
    for tool, package in packages.items() if board.simulated else ():
        if shutil.which(tool) is None:
            raise ToolError.of("E0602", f"{tool} is not installed", remedy=f"sudo apt-get install {package}")


def _copy_firmware(project: Path) -> None:
    """The PlatformIO project of firmware/; what an earlier build left of objects stays, to be reused."""
    for stale in ("src", "model", "platform"):
        shutil.rmtree(project / stale, ignore_errors=True)
    ignore = shutil.ignore_patterns("sim", ".pio", "__pycache__")
    shutil.copytree(resource_folder("firmware"), project, ignore=ignore, dirs_exist_ok=True)


def add_model(project: Path, folder: Path, name: str) -> None:
    """Write model/ and src/model.c into a copy of the firmware: the model `name` of `folder`, its steps profiled."""
    model = project / "model"
    model.mkdir(exist_ok=True)
    (project / "src").mkdir(exist_ok=True)
    for path in _sources(folder, name):
        shutil.copy(path, model)
    (model / "model.h").write_text(adapter(name), encoding="utf-8")
    (project / "src" / "model.c").write_text(
        f"""/* Written by bnncc: the model, compiled with its steps profiled. */
#include "identity.h"
#include "profile.h"

#define {name.upper()}_STEP(step) profile_step(step)
#include "{name}.c"

const char model_name[] = "{name}";
const uint32_t model_fingerprint = 0x{fingerprint(folder, name):08x}u;
""",
        encoding="utf-8",
    )


def _seed_scons(core: Path) -> None:
    """Lay down PlatformIO's package tool-scons as a stub that runs the installed SCons.

    package.json satisfies PlatformIO's test of the version (such as ~4.41101.0, its encoding of SCons 4.11.1), .piopm
    that of the owner; without them PlatformIO would go to its registry.
    """
    dependencies: Any = importlib.import_module("platformio.dependencies")
    version = dependencies.get_core_dependencies()["tool-scons"].lstrip("~^>=")
    package = core / "packages" / "tool-scons"
    package.mkdir(parents=True, exist_ok=True)
    spec = {"owner": "platformio", "id": None, "name": "tool-scons", "requirements": None, "uri": None}
    found = importlib.util.find_spec("SCons")
    assert found is not None  # _require_tools has looked
    assert found.origin is not None
    contents = {
        "package.json": json.dumps({"name": "tool-scons", "version": version, "description": "runs the SCons of PyPI"}),
        ".piopm": json.dumps({"type": "tool", "name": "tool-scons", "version": version, "spec": spec}),
        "scons.py": f"import sys\nsys.path.insert(0, {str(Path(found.origin).parent.parent)!r})\n"
        "from SCons.Script.Main import main\nmain()\n",
    }
    for file, text in contents.items():
        (package / file).write_text(text, encoding="utf-8")


def _pio(project: Path, board: Board, arguments: list[str]) -> tuple[int, str]:
    """Run `pio run` in `project`; its exit status and everything that it printed."""
    environment = dict(os.environ, PLATFORMIO_SETTING_ENABLE_TELEMETRY="no", PLATFORMIO_DISABLE_UPGRADE_CHECK="true")
    if board.simulated:
        # Of its own: PlatformIO remembers a local platform by name, and another project's copy may be gone by now.
        environment["PLATFORMIO_CORE_DIR"] = str(project / "core")
    command = [sys.executable, "-m", "platformio", "run", "-d", str(project), "-e", board.environment, *arguments]
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def _build_error(log: str, board: Board, project: Path) -> ModelError | ToolError:
    """Why the build failed: the linker found no room, or anything else."""
    overflows = re.findall(r"region `(\w+)' overflowed by (\d+) bytes", log)
    if overflows:
        return _too_large(board, "; ".join(f"{region}: {count} bytes too many" for region, count in overflows))
    if size := re.search(r"The (?:program|data) size .*", log):
        return _too_large(board, size[0])
    return ToolError.of(
        "E0603",
        f"the firmware does not build; PlatformIO says:\n{_tail(log)}",
        where=str(project),
        remedy=f"for the whole log run `pio run -e {board.environment}` there",
    )


def _too_large(board: Board, what: str) -> ModelError:
    return ModelError.of(
        "E0601",
        f"too large for {board.title}: {what}",
        remedy="use a smaller model or a larger board",
    )


def _tail(log: str) -> str:
    return "\n".join(line.rstrip() for line in log.strip().splitlines()[-_LOG_LINES:])


def _sizes(elf: Path) -> tuple[int, int]:
    """(flash, RAM) in bytes that a linked firmware takes: what is loaded, and .data and .bss."""
    from elftools.elf.constants import SH_FLAGS
    from elftools.elf.elffile import ELFFile

    flash_bytes = ram_bytes = 0
    with elf.open("rb") as stream:
        for section in ELFFile(stream).iter_sections():
            if not section["sh_flags"] & SH_FLAGS.SHF_ALLOC or section.name == ".stack":
                continue
            if section["sh_type"] != "SHT_NOBITS":
                flash_bytes += section["sh_size"]
            if section["sh_flags"] & SH_FLAGS.SHF_WRITE:
                ram_bytes += section["sh_size"]
    return flash_bytes, ram_bytes


def _simboard(command: str, port: Path) -> int:
    script = resource_folder("firmware") / "platform" / "simboard.py"
    return subprocess.run(
        [sys.executable, str(script), command, "--port", str(port)], capture_output=True, check=False
    ).returncode
