"""The docs are complete: every key of report.json, every option of the command line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import bnncc
from bnncc.cli.app import app

ROOT = Path(__file__).parents[2]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def keys(value: object) -> Iterator[str]:
    """All keys of a JSON document, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def test_every_key_of_the_report_is_documented() -> None:
    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    report = bnncc.compile(ROOT / "examples" / "digits" / "digits.onnx", "sim-cortex-m4").report
    missing = {key for key in keys(report) if f"`{key}`" not in text}
    assert not missing


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented(command: str) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    options = {max(p.opts, key=len) for p in COMMANDS[command].params if p.param_type_name == "option"}
    missing = {o for o in options - {"--help"} if o not in text}
    assert not missing
