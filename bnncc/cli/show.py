"""What the commands print: tables on a terminal, JSON for scripts, diagnostics on standard error."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from bnncc.errors import Diagnostic

FLEXIBLE = ("from", "for", "version", "")  # columns that give way on a narrow terminal
NARROWEST = 16
PIPED_WIDTH = 120
NOT_MODELLED = "cycles are not modelled for this core"

console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH)
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


def print_table(
    title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[object]], caption: str = ""
) -> None:
    """Print a table; columns are (heading, "left" or "right"). On a narrow terminal names give way, numbers never do."""
    t = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    texts = [[number(v) for v in r] for r in rows]
    widths = [max(len(h), *(len(r[k]) for r in texts), 1) for k, (h, _) in enumerate(columns)]
    flexible = [k for k, (h, _) in enumerate(columns) if h in FLEXIBLE]
    excess = sum(widths) + 2 * len(widths) + 1 - console.width
    for k in sorted(flexible, key=lambda k: -widths[k]):  # the widest gives way first; numbers are always whole
        given = max(0, min(excess, widths[k] - NARROWEST))
        widths[k] -= given
        excess -= given
    for k, (heading, justify) in enumerate(columns):
        t.add_column(heading, justify=justify, width=widths[k], no_wrap=heading != "for", overflow="ellipsis")  # type: ignore[arg-type]
    for r in texts:
        t.add_row(*map(Text, r))
    wide = console if excess <= 0 else Console(width=console.width + excess)
    wide.print(t)


def shortened(origin: Sequence[str]) -> str:
    """The ONNX nodes that a step came from, in a few characters: the first one's name, and how many more."""
    first = origin[0].rsplit(" (", 1)[0] if origin else "-"
    more = f" +{len(origin) - 1}" if len(origin) > 1 else ""
    return (first if len(first) <= 26 else "..." + first[-23:]) + more


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
