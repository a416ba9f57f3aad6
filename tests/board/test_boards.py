"""Boards as data."""

import json

import pytest
from typer.testing import CliRunner

import bnncc
from bnncc.cli.app import app
from bnncc.cli.board import need_board
from bnncc.errors import UsageError
from bnncc.resources import folder
from bnncc.target import boards, cores

DOCS = folder("targets").parent / "docs"


@pytest.mark.parametrize("name", boards())
def test_each_board_names_a_core_and_plausible_sizes(name: str) -> None:
    board = boards()[name]
    assert board.core in cores()
    for size in (board.flash_bytes, board.ram_bytes):
        assert 2**13 <= size <= 2**23
        assert size % 1024 == 0
    assert 10**7 <= board.clock_hz <= 10**9
    assert bool(board.usb) == (bool(board.environment) and not board.simulated)


@pytest.mark.parametrize("name", boards())
def test_each_board_is_in_the_documentation(name: str) -> None:
    assert f"| `{name}` |" in (DOCS / "boards.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["flash", "measure"])
def test_a_board_without_firmware_is_refused(command: str) -> None:
    model = str(DOCS.parent / "examples" / "digits" / "digits.onnx")
    done = CliRunner().invoke(app, [command, model, "--board", "nucleo_h743zi"])
    assert isinstance(done.exception, UsageError)
    with pytest.raises(UsageError, match=r"E0409.*no firmware") as error:
        need_board("nucleo_h743zi")
    assert "nucleo_f446re" in str(error.value)


def test_a_board_without_firmware_has_sizes_to_compile_for() -> None:
    compiled = bnncc.compile(DOCS.parent / "examples" / "digits" / "digits.onnx", "nucleo_g071rb")
    assert compiled.report["board"]["too_large_for"] == []
    listed = json.loads(CliRunner().invoke(app, ["targets", "--json"]).stdout)["boards"]
    assert {b["name"] for b in listed} == {*boards()}
