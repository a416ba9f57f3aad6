"""bnncc study."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from bnncc.cli.options import Changes, Epochs, Json, Threads, Variants, Width
from bnncc.cli.show import console, print_json, print_table
from bnncc.cli.train import changed, need_training
from bnncc.errors import UsageError

if TYPE_CHECKING:
    from bnncc.train.study.file import Study
    from bnncc.train.study.report import Line
    from bnncc.train.study.trials import Trial


def study_command(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="One of --list, or a .toml file.", show_default=False)
    ] = "",
    variants: Variants = None,
    trials: Annotated[int | None, typer.Option("--trials", min=0, help="Run at most so many trials here.")] = None,
    epochs: Epochs = None,
    width: Width = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Trials of each point.")] = None,
    changes: Changes = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="For the results; build/study/STUDY if not given.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="FILE|URL",
            help="Where processes that share the study keep its trials: a journal file, or a database's URL; "
            "study.journal in --out if not given.",
        ),
    ] = None,
    threads: Threads = None,
    listing: Annotated[bool, typer.Option("--list", help="Show the studies that come with bnncc.")] = False,
    json: Json = False,
) -> None:
    """Run a grid of trainings of the papers, and write its table and figure beside the papers' numbers.

    The same command elsewhere, with the same --storage, helps; after an interruption it goes on.

    Example: bnncc study adam-decay reduced
    """
    need_training("optuna")
    from bnncc.train.study import file as studies

    if listing:
        _list(json=json)
        return
    if not study:
        raise UsageError.of("E0713", "no study", remedy=f"give a .toml file or one of: {', '.join(studies.names())}")
    loaded = studies.load(study, variants or (), {"seeds": seeds} if seeds else {})
    changes_of_all = changed(changes, epochs=epochs, width=width)
    folder = out or Path("build/study") / loaded.name
    from bnncc.train.study import report
    from bnncc.train.study.runner import run

    with Board(loaded, quiet=json) as board:
        done = run(
            loaded,
            folder,
            storage=storage,
            changes=changes_of_all,
            trials=trials,
            threads=threads,
            watch=board.show,
        )
    lines = report.lines(loaded, done)
    if json:
        print_json(
            {"ok": True, "study": loaded.name, "folder": str(folder), "points": [_as_dict(line) for line in lines]}
        )
        return
    _print(loaded, lines)
    counts = {state: sum(t.state == state for t in done) for state in dict.fromkeys(t.state for t in done)}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    console.print(f"trials: {summary}", highlight=False)
    console.print(f"wrote table.md, table.csv and figure.png to {folder}", highlight=False, soft_wrap=True)


class Board:
    """The table of points on standard error while trials run; a line a trial where that is no terminal."""

    def __init__(self, study: "Study", *, quiet: bool) -> None:
        self.study, self.quiet = study, quiet
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, transient=True, auto_refresh=False)
        self.shown = ""

    def __enter__(self) -> "Board":
        if not self.quiet and self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def show(self, trials: "list[Trial]", running: "Trial | None", row: dict[str, float]) -> None:
        if self.quiet:
            return
        if self.live.is_started:
            self.live.update(self._table(trials, running, row), refresh=True)
        elif running and not row:
            over = sum(trial.state in ("done", "diverged") for trial in trials)
            self.console.print(
                f"trial {over + 1} of {len(trials)}: {', '.join(running.key)}", highlight=False, soft_wrap=True
            )

    def _table(self, trials: "list[Trial]", running: "Trial | None", row: dict[str, float]) -> Table:
        from bnncc.train.study.report import lines

        over = sum(trial.state in ("done", "diverged") for trial in trials)
        table = Table(title=f"{self.study.title}: {over} of {len(trials)} trials", title_justify="left", box=None)
        for head in (*self.study.axis, self.study.measures[0], "seeds", ""):
            table.add_column(head)
        for line in lines(self.study, trials):
            here = running is not None and running.key in [trial.key for trial in line.trials]
            remark = f"{running.key[-1]}: {_epoch(row)}" if here and running else line.remark
            cell = line.cells[self.study.measures[0]]
            table.add_row(*line.point.labels.values(), str(cell), f"{cell.count} of {self.study.seeds}", remark)
        return table


def _epoch(row: dict[str, float]) -> str:
    if not row:
        return "begins"
    shares = [f"{key} {value:.4g}" for key, value in row.items() if key.startswith(("accuracy", "psnr", "loss"))]
    return f"epoch {row['epoch']:.0f}, {', '.join(shares)}"


def _print(study: "Study", lines: "list[Line]") -> None:
    from bnncc.train.study.report import number

    columns = [(axis, "left") for axis in study.axis]
    for measure in study.measures:
        columns += [(measure, "right"), *([("paper", "right")] if measure in study.compared else [])]
    rows = []
    for line in lines:
        row: list[object] = [*line.point.labels.values()]
        for measure in study.measures:
            row += [line.cells[measure], *([number(line.cells[measure].paper)] if measure in study.compared else [])]
        rows.append(row)
    caption = f"reduced: {study.reduced}" if study.reduced else ""
    print_table(study.title, columns, rows, caption)


def _as_dict(line: "Line") -> dict[str, Any]:
    measures = {
        name: {"mean": cell.mean, "deviation": cell.deviation, "seeds": cell.count, "paper": cell.paper}
        for name, cell in line.cells.items()
    }
    return {"labels": line.point.labels, "measures": measures, "states": [trial.state for trial in line.trials]}


def _list(*, json: bool) -> None:
    from bnncc.train.study import file as studies

    found = [(studies.load(name), studies.variants(name)) for name in studies.names()]
    if json:
        print_json([{"name": s.name, "title": s.title, "paper": s.paper, "variants": v} for s, v in found])
        return
    columns = [("study", "left"), ("variants", "left"), ("trials", "right"), ("title", "left")]
    print_table("studies", columns, [(s.name, " ".join(v), len(s.grid()), s.title) for s, v in found])
