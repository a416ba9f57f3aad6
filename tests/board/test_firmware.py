"""The firmware project: PlatformIO's lint, agreement with targets/, warnings, and boards without a platform here."""

import ast
import configparser
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_board import TOY, build_firmware, qemu

from bnncc.board import pio
from bnncc.board.serial import Session
from bnncc.errors import ToolError
from bnncc.resources import folder
from bnncc.target import boards, cores

SMALL = ("0", "0x400000", "0x20000000", "0x400000")
NUCLEO = ("0x08000000", "0x80000", "0x20000000", "0x20000")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folders that bnncc adds to the firmware: src/model.c and model/."""
    pio.add_model(tmp_path, TOY, "toy")
    return tmp_path


def lint(project: Path, core: Path) -> dict[str, list[str]]:
    """What `pio project config --lint` finds; its exit status is 0 whatever that is."""
    environment = dict(os.environ, PLATFORMIO_CORE_DIR=str(core), PLATFORMIO_SETTING_ENABLE_TELEMETRY="no")
    command = [sys.executable, "-m", "platformio", "project", "config", "-d", str(project), "--lint", "--json-output"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    return found


def test_platformio_ini_is_free_of_lint(tmp_path: Path) -> None:
    assert lint(folder("firmware"), tmp_path / "core") == {"errors": [], "warnings": []}


def test_lint_would_notice(tmp_path: Path) -> None:
    text = (folder("firmware") / "platformio.ini").read_text(encoding="utf-8")
    (tmp_path / "platformio.ini").write_text(text.replace("monitor_speed", "monitor_sped"), encoding="utf-8")
    assert "monitor_sped" in lint(tmp_path, tmp_path / "core")["warnings"][0]


def test_each_board_has_an_environment_that_agrees_with_targets() -> None:
    config = configparser.ConfigParser()
    config.read(folder("firmware") / "platformio.ini", encoding="utf-8")
    with_firmware = [board for board in boards().values() if board.environment]
    assert {f"env:{board.environment}" for board in with_firmware} == {*config.sections()} - {"platformio", "env"}
    for board in with_firmware:
        environment = config[f"env:{board.environment}"]
        assert environment["custom_cpu_flags"].split() == list(cores()[board.core].flags)
        assert int(environment["custom_flash"].split()[1], 0) == board.flash_bytes
        assert int(environment["custom_ram"].split()[1], 0) == board.ram_bytes


def run_both(session: Session, toy: Callable[[bytes, float], bytes]) -> None:
    """One input that exits early and one that does not, on the board and on the host."""
    for data in (bytes(range(8)), bytes([200, 3, 5, 0, 0, 90, 7, 1])):
        assert session.run(data).result == toy(data, 0.5)


def test_nucleo_runs_on_its_sibling_in_qemu(project: Path, toy: Callable[[bytes, float], bytes]) -> None:
    # QEMU has no STM32F446 and no clock tree: the F405's USART2 is the same, and the clock must fall back to 16 MHz.
    elf = build_firmware(project, list(cores()["cortex-m4"].flags), "board_nucleo_f446re.c", NUCLEO)
    with qemu("netduinoplus2", elf, uart=1) as port, Session(port) as session:
        hello = session.hello()
        assert (hello.name, hello.clock_hz, hello.counter) == ("toy", 16_000_000, "none")
        run_both(session, toy)


def test_systick_counts_where_there_is_no_cycle_counter(project: Path, toy: Callable[[bytes, float], bytes]) -> None:
    # What SysTick counts in QEMU are no cycles; here only that the sums are right.
    elf = build_firmware(project, list(cores()["cortex-m0plus"].flags), "board_mps2.c", SMALL)
    with qemu("mps2-an385", elf) as port, Session(port) as session:
        assert session.hello().counter == "systick"
        run_both(session, toy)
        early, late = session.run(bytes(8)), session.run(bytes([200] * 8))
        for run, skipped in ((early, 1), (late, 0)):
            assert run.cycles is not None
            assert run.step_cycles is not None
            assert run.step_cycles.count(0) == skipped
            assert run.cycles >= sum(run.step_cycles) > 0
        assert early.step_cycles is not None
        assert early.step_cycles[2] == 0


def test_an_input_of_many_blocks(project: Path, toy: Callable[[bytes, float], bytes]) -> None:
    header = project / "model" / "toy.h"
    header.write_text(header.read_text(encoding="utf-8").replace("COUNT 8", "COUNT 12288"), encoding="utf-8")
    elf = build_firmware(project, list(cores()["cortex-m4"].flags), "board_mps2.c", SMALL)
    with qemu("mps2-an386", elf) as port, Session(port) as session:
        data = bytes(range(1, 255)) * 48 + bytes(96)
        assert session.run(data).result == toy(data[:8], 0.5)


def test_a_model_without_exits(project: Path) -> None:
    header = project / "model" / "toy.h"
    header.write_text(header.read_text(encoding="utf-8").replace("EXIT_COUNT 2", "EXIT_COUNT 0"), encoding="utf-8")
    elf = build_firmware(project, list(cores()["cortex-m4"].flags), "board_mps2.c", SMALL)
    with qemu("mps2-an386", elf) as port, Session(port) as session:
        assert session.hello().exit_count == 0
        with pytest.raises(ToolError, match=r"E0609.*\n?.*no early exits"):
            session.set_threshold(0.25)
        assert struct.unpack_from("<i", session.run(bytes([200] * 8)).result, 4) == (1,)
