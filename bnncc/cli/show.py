"""What the commands print: tables on a terminal, JSON for scripts, diagnostics on standard error."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from bnncc.errors import Diagnostic

console = Console()
errors = Console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_diagnostics(diagnostics: Sequence[Diagnostic]) -> None:
    """Diagnostics on standard error, coloured by severity on a terminal."""
    for d in diagnostics:
        colour = "yellow" if d.severity == "warning" else "red"
        text = Text()
        text.append(f"{d.severity}[{d.code}]", style=f"bold {colour}")
        text.append(str(d).removeprefix(f"{d.severity}[{d.code}]"))
        errors.print(text, soft_wrap=True)


def diagnostics_json(diagnostics: Sequence[Diagnostic]) -> list[dict[str, str]]:
    return [
        {"severity": d.severity, "code": d.code, "message": d.message, "where": d.where, "remedy": d.remedy}
        for d in diagnostics
    ]


def table(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[object]], caption: str = "") -> Table:
    """A table; columns are (heading, "left" or "right")."""
    t = Table(title=title, title_justify="left", title_style="bold", caption=caption or None, caption_justify="left")
    for heading, justify in columns:
        t.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for r in rows:
        t.add_row(*(Text(number(v)) for v in r))
    return t


def number(v: object) -> str:
    """Integers with thin groups, floats with six digits, None as a dash."""
    if v is None:
        return "-"
    if isinstance(v, bool):
        return "yes" if v else "no"
    if isinstance(v, int):
        return f"{v:,}"
    return f"{v:.6g}" if isinstance(v, float) else str(v)


@contextmanager
def progress(what: str, total: int, *, quiet: bool) -> Iterator[Any]:
    """A bar on standard error; yields a function that takes how many are done since the last call."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=quiet or not errors.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)
