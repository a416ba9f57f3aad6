"""Flashing through PlatformIO, and everything that can keep it from working."""

import importlib
import importlib.util
import os
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from toy_board import TOY

from bnncc.board import pio
from bnncc.board.serial import Session
from bnncc.errors import ModelError, ToolError, UsageError
from bnncc.target import Board, boards

NUCLEO = boards()["nucleo_f446re"]


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One build folder for all, so that PlatformIO compiles the runner once."""
    return tmp_path_factory.mktemp("build")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BNNCC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def model_with(folder: Path, *, header: tuple[str, str] = ("", ""), source: tuple[str, str] = ("", "")) -> Path:
    """The toy model with a text replaced."""
    for name, (old, new) in (("toy.h", header), ("toy.c", source)):
        text = (TOY / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new) if old else text, encoding="utf-8")
    return folder


def test_sizes_and_place(flashed: pio.Flashed, board: Board) -> None:
    assert flashed.elf.is_file()
    assert 1000 < flashed.flash_bytes < 8192  # the runner and the toy
    assert 100 < flashed.ram_bytes < 2048
    assert flashed.fingerprint == pio.fingerprint(TOY, "toy")
    assert flashed.port == pio.find_port(board, flashed.port)


def test_flashing_again_replaces_the_model_and_unplugging_is_noticed(
    board: Board, workdir: Path, tmp_path: Path
) -> None:
    try:
        first = pio.flash(TOY, "toy", board, workdir=workdir)
        changed = model_with(tmp_path, source=("{1, -1, 1,", "{1, 1, 1,"))
        second = pio.flash(changed, "toy", board, workdir=workdir)
        assert (second.port, second.fingerprint == first.fingerprint) == (first.port, False)
        with Session(second.port) as session:
            session.expect("toy", second.fingerprint)
            assert pio.stop(board)
            with pytest.raises(ToolError, match="E0607"):
                session.run(bytes(8))
        with pytest.raises(ToolError, match=r"E0605.*not running"):
            pio.find_port(board)
    finally:
        assert not pio.stop(board)  # it was ended above, and nothing is left of it
    assert list(Path(second.port).parent.glob("*.port*")) == []


def test_leftovers_of_a_dead_board_are_no_board(board: Board, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = pio.simulated_port(board)
    port.parent.mkdir(parents=True)
    os.symlink("/dev/pts/no-more", port)
    with socket.socket(socket.AF_UNIX) as dead:
        monkeypatch.chdir(port.parent)  # a socket's path is short; that of a temporary folder may not be
        dead.bind(f"{port.name}.qmp")
    with pytest.raises(ToolError, match="E0605"):
        pio.find_port(board)
    try:
        with Session(pio.flash(TOY, "toy", board, workdir=workdir).port) as session:
            assert session.hello().name == "toy"
    finally:
        assert pio.stop(board)


@pytest.mark.parametrize("kind", ["flash", "RAM"])
def test_too_large_for_the_board(board: Board, workdir: Path, kind: str) -> None:
    small = replace(board, flash_bytes=1000) if kind == "flash" else replace(board, ram_bytes=100)
    with pytest.raises(ModelError, match=f"E0601.*bytes of {kind}") as caught:
        pio.flash(TOY, "toy", small, workdir=workdir)
    assert caught.value.exit_code == 1
    with pytest.raises(ToolError, match="E0605"):  # and nothing was uploaded
        pio.find_port(board)


def test_too_large_for_the_linker(board: Board, workdir: Path, tmp_path: Path) -> None:
    folder = model_with(tmp_path, header=("bytes[16]", "bytes[0x400000]"))
    with pytest.raises(ModelError, match=r"E0601.*RAM: \d+ bytes too many"):
        pio.flash(folder, "toy", board, workdir=workdir)


def test_a_model_that_does_not_compile(board: Board, workdir: Path, tmp_path: Path) -> None:
    folder = model_with(tmp_path, source=("ctx->exit_threshold = 0.5f", "ctx->no_such_field = 0.5f"))
    with pytest.raises(ToolError, match=r"E0603[\s\S]*no_such_field"):
        pio.flash(folder, "toy", board, workdir=workdir)


def test_an_upload_that_fails(board: Board, workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "qemu-system-arm"
    broken.write_text("#!/bin/sh\necho this machine is broken; exit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ToolError, match=r"E0604[\s\S]*this machine is broken"):
        pio.flash(TOY, "toy", board, workdir=workdir)


@pytest.mark.parametrize("missing", ["platformio", "SCons"])
def test_packages_missing(board: Board, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(ToolError, match=rf"E0602.*{missing}[\s\S]*pip install 'bnncc\[board\]'"):
        pio.flash(TOY, "toy", board)


def test_tools_missing(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolError, match=r"E0602.*arm-none-eabi-gcc[\s\S]*apt-get install"):
        pio.flash(TOY, "toy", board)


def test_no_model(board: Board, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="E0610"):
        pio.flash(tmp_path, "toy", board)


def test_a_folder_that_cannot_be_written(board: Board, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ToolError, match="E0611"):
        pio.flash(TOY, "toy", board, workdir=tmp_path / "file" / "build")


def test_the_port_of_a_real_board(monkeypatch: pytest.MonkeyPatch) -> None:
    list_ports = importlib.import_module("serial.tools.list_ports")
    ports = [
        SimpleNamespace(device="/dev/ttyS0", vid=None, pid=None),
        SimpleNamespace(device="/dev/ttyACM0", vid=0x2341, pid=0x0043),
    ]
    monkeypatch.setattr(list_ports, "comports", lambda: ports)
    assert pio.find_port(NUCLEO, "/dev/ttyACM7") == "/dev/ttyACM7"
    with pytest.raises(ToolError, match=r"E0605.*no serial ports"):
        pio.find_port(NUCLEO)
    ports.append(SimpleNamespace(device="/dev/ttyACM1", vid=0x0483, pid=0x374B))
    assert pio.find_port(NUCLEO) == "/dev/ttyACM1"
    ports.append(SimpleNamespace(device="/dev/ttyACM2", vid=0x0483, pid=0x374B))
    with pytest.raises(ToolError, match=r"E0605[\s\S]*/dev/ttyACM1, /dev/ttyACM2"):
        pio.find_port(NUCLEO)
    assert not pio.stop(NUCLEO)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert pio.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("BNNCC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert pio.cache_folder() == tmp_path / "xdg" / "bnncc"
