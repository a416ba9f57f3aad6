"""The toy model's place, its firmware built without PlatformIO, and QEMU machines to run it."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bnncc.resources import folder

TOY = Path(__file__).parent
RESULT_BYTES = 44


@contextmanager
def qemu(machine: str, elf: Path, uart: int = 0) -> Iterator[str]:
    """A firmware on a QEMU machine that no board of targets/ names; gives the pty of its UART number `uart`."""
    serial = ["-serial", "null"] * uart + ["-serial", "pty"]
    command = [
        "qemu-system-arm",
        "-machine",
        machine,
        "-kernel",
        str(elf),
        "-display",
        "none",
        "-monitor",
        "none",
        *serial,
    ]
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
    compiler = ["arm-none-eabi-gcc", "-std=c99", "-O2", *warnings, *flags]
    include = [f"-I{where / 'model'}", f"-I{firmware / 'src'}"]
    link = ["-nostartfiles", "--specs=nano.specs", "-T", str(firmware / "link.ld"), "-o", str(elf)]
    link += [f"-Wl,--defsym={name}={value}" for name, value in symbols]
    subprocess.run([*compiler, *include, *map(str, sources), *link], check=True)
    return elf
