"""A toy model, the firmware with it, and the simulated boards that run it; every board is stopped at the end."""

import ctypes
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bnncc.board import pio
from bnncc.resources import folder
from bnncc.target import Board, boards

TOY = Path(__file__).parent
RESULT_BYTES = 44


@pytest.fixture(scope="session")
def board() -> Board:
    return boards()["sim-cortex-m4"]


@pytest.fixture(scope="session")
def flashed(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pio.Flashed]:
    """The simulated board with the toy model on it, uploaded by PlatformIO."""
    base = tmp_path_factory.mktemp("flashed")
    port = str(base / "port")
    yield pio.flash(TOY, "toy", board, workdir=base / "build", port=port)
    assert pio.stop(board, port=port)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes, float], bytes]:
    """The toy model on the host: (input, entropy threshold) -> the bytes of its result."""
    library = tmp_path_factory.mktemp("toy") / "toy.so"
    subprocess.run(["gcc", "-O2", "-ffp-contract=off", "-shared", "-fPIC", TOY / "toy.c", "-o", library], check=True)
    functions = ctypes.CDLL(str(library))

    def run(data: bytes, threshold: float) -> bytes:
        context = ctypes.create_string_buffer(20)
        result = ctypes.create_string_buffer(RESULT_BYTES)
        functions.toy_init(context)
        ctypes.c_float.from_buffer(context).value = threshold
        functions.toy_run(context, data, result)
        return result.raw

    return run


@contextmanager
def qemu(machine: str, elf: Path, uart: int = 0) -> Iterator[str]:
    """A firmware on a QEMU machine that no board of targets/ names; gives the pty of its UART number `uart`."""
    serial = ["-serial", "null"] * uart + ["-serial", "pty"]
    command = ["qemu-system-arm", "-machine", machine, "-kernel", elf, "-display", "none", "-monitor", "none", *serial]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"/dev/pts/\d+", process.stdout.readline())
            assert found
            yield found[0]
        finally:
            process.terminate()


def build_firmware(where: Path, flags: list[str], board_file: str, memory: tuple[str, str, str, str]) -> Path:
    """The runner with the toy model, by arm-none-eabi-gcc alone and without any warning; `memory` is as in link.ld."""
    firmware = folder("firmware")
    sources = [*(firmware / "src").glob("[!b]*.c"), firmware / "src" / board_file, *(where / "src").glob("*.c")]
    symbols = zip(("FLASH_ORIGIN", "FLASH_BYTES", "RAM_ORIGIN", "RAM_BYTES"), memory, strict=True)
    elf = where / f"{board_file}{'-'.join(flags)}.elf"
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
    subprocess.run(
        ["arm-none-eabi-gcc", "-std=c99", "-O2", *warnings, *flags, f"-I{where / 'model'}", f"-I{firmware / 'src'}"]
        + [*sources, "-nostartfiles", "--specs=nano.specs", "-T", firmware / "link.ld", "-o", elf]
        + [f"-Wl,--defsym={name}={value}" for name, value in symbols],
        check=True,
    )
    return elf
