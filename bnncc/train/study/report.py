"""The results of a study: a table beside the paper's numbers, as Markdown and CSV, and a figure."""

import csv
import io
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bnncc.files import write_all, write_whole
from bnncc.train.study.file import Point, Study
from bnncc.train.study.trials import Trial


@dataclass(frozen=True)
class Cell:
    """A measure at a point: mean and standard deviation over the seeds that are done, and the paper's number."""

    mean: float | None
    deviation: float | None
    count: int
    paper: Any = None

    def __str__(self) -> str:
        if self.mean is None:
            return ""
        return number(self.mean if self.deviation is None else [self.mean, self.deviation])


@dataclass(frozen=True)
class Line:
    """A point with its trials and a cell for each measure."""

    point: Point
    trials: list[Trial]
    cells: dict[str, Cell]

    @property
    def remark(self) -> str:
        """What is missing or went wrong, in words."""
        states = [
            f"{trial.state} ({trial.reason})" if trial.reason else trial.state
            for trial in self.trials
            if trial.state != "done"
        ]
        return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def lines(study: Study, trials: Sequence[Trial]) -> list[Line]:
    """The table: all points in order."""
    by_key = {trial.key: trial for trial in trials}
    found = []
    for point in study.points():
        own = [by_key[study.key(point, seed)] for seed in range(study.seeds)]
        done = [trial.values for trial in own if trial.state == "done"]
        paper = study.reported_at(point)
        cells = {}
        for measure in study.measures:
            values = [row[measure] for row in done if measure in row]
            cells[measure] = Cell(
                statistics.fmean(values) if values else None,
                statistics.stdev(values) if len(values) > 1 else None,
                len(values),
                paper.get(measure),
            )
        found.append(Line(point, own, cells))
    return found


def write(study: Study, trials: Sequence[Trial], out: Path, reduced: str, about: dict[str, str]) -> list[Path]:
    """Write table.md, table.csv and figure.png to `out`.

    `reduced` says in what the runs are less than the paper's, or nothing; `about` is what else to say of them.

    Raises:
        ToolError: E0509 a file cannot be written.
    """
    table = lines(study, trials)
    write_whole(out / "figure.png", figure(study, table, reduced))
    texts = {"table.md": page(study, table, reduced, about), "table.csv": as_csv(study, table)}
    return [*write_all(out, texts), out / "figure.png"]


def page(study: Study, table: Sequence[Line], reduced: str, about: dict[str, str]) -> str:
    """The page in Markdown: the table, the figure, and how the numbers came about."""
    heads = [*study.axis]
    for measure in study.measures:
        heads += [f"{measure} (reduced)" if reduced else measure, *(["paper"] if measure in study.compared else [])]
    remarks = any(line.remark for line in table)
    rows = []
    for line in table:
        row = [*line.point.labels.values()]
        for measure in study.measures:
            cell = line.cells[measure]
            row += [str(cell), *([number(cell.paper)] if measure in study.compared else [])]
        rows.append([*row, *([line.remark] if remarks else [])])
    text = [f"# {study.title}", ""]
    text += [study.paper, ""] if study.paper else []
    text += markdown([*heads, *([""] if remarks else [])], rows)
    text += [
        "",
        *([f"Reduced: {reduced}.", ""] if reduced else ["Full: the paper's setting.", ""] if study.paper else []),
    ]
    text += [study.note.strip(), ""] if study.note else []
    text += [*markdown(["runs", ""], list(about.items())), "", "![figure](figure.png)", ""]
    return "\n".join(text)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in (heads, ["---"] * len(heads), *rows))
    return [f"| {' | '.join(row)} |" for row in escaped]


def as_csv(study: Study, table: Sequence[Line]) -> str:
    """The table as CSV: a row a point, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("mean", "deviation", "seeds", "paper")
    writer.writerow([*study.axis, *(f"{measure} {column}" for measure in study.measures for column in columns)])
    for line in table:
        cells = [line.cells[measure] for measure in study.measures]
        writer.writerow(
            [*line.point.labels.values(), *(v for c in cells for v in (c.mean, c.deviation, c.count, c.paper))]
        )
    return text.getvalue()


def figure(study: Study, table: Sequence[Line], reduced: str) -> bytes:
    """The figure as PNG: curves over the epochs if the study asks for them, else bars beside the paper's numbers."""
    drawn = _curves(study, table) if study.figure.get("curves") else _bars(study, table)
    image = io.BytesIO()
    drawn.suptitle(study.title + (" (reduced)" if reduced else ""))
    drawn.savefig(image, format="png", dpi=100)
    return image.getvalue()


def _curves(study: Study, table: Sequence[Line]) -> Figure:
    """A row of panels for each quantity, a column for each label of one axis, a curve for each point of the others."""
    axis = study.figure.get("columns")
    columns = list(dict.fromkeys(line.point.labels[axis] for line in table)) if axis else [""]
    quantities = study.figure["curves"]
    drawn = Figure(figsize=(3 + 5 * len(columns), 0.8 + 3.2 * len(quantities)), layout="constrained")
    panels = drawn.subplots(len(quantities), len(columns), squeeze=False, sharex=True, sharey="row")
    others = [other for other in study.axis if other != axis]
    colours, styles = _looks(table, others[:1], _COLOURS), _looks(table, others[1:], _STYLES)
    for down, quantity in enumerate(quantities):
        for across, column in enumerate(columns):
            panel = panels[down][across]
            for line in table:
                if axis and line.point.labels[axis] != column:
                    continue
                x, y = _mean_curve(line.trials, quantity)
                if x:
                    name = ", ".join(f"{key}={label}" for key, label in line.point.labels.items() if key != axis)
                    look = {"color": colours[id(line.point)], "linestyle": styles[id(line.point)]}
                    panel.plot(x, y, marker="o" if len(x) == 1 else None, label=name, linewidth=1, **look)
            panel.set(title=column if not down else "", ylabel="" if across else _TITLES.get(quantity, quantity))
            panel.grid(alpha=0.3)
            if down == len(quantities) - 1:
                panel.set_xlabel("epoch")
    found = {line.get_label(): line for panel in panels.flat for line in panel.lines}
    if found:
        drawn.legend(list(found.values()), list(found), fontsize=7, loc="outside right upper")
    return drawn


_COLOURS = [f"C{k}" for k in range(10)]
_STYLES: list[Any] = ["-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3))]


def _looks(table: Sequence[Line], axes: Sequence[str], looks: Sequence[Any]) -> dict[int, Any]:
    """One of `looks` for each combination of labels on `axes`, by the id of the point."""
    found = [tuple(line.point.labels[axis] for axis in axes) for line in table]
    order = list(dict.fromkeys(found))
    return {id(line.point): looks[order.index(own) % len(looks)] for line, own in zip(table, found, strict=True)}


_TITLES = {"pi": "π = ln(share of flips + e⁻⁹)", "accuracy": "accuracy, held out", "loss": "training loss"}


def _mean_curve(trials: Sequence[Trial], quantity: str) -> tuple[list[float], list[float]]:
    """The mean over the seeds of a quantity of the epochs, or of the steps if the epochs do not have it, by epoch."""
    curves = [curve for trial in trials if trial.state == "done" and (curve := list(_curve(trial, quantity)))]
    if not curves:
        return [], []
    shortest = min(map(len, curves))
    x = [curves[0][k][0] for k in range(shortest)]
    return x, [statistics.fmean(curve[k][1] for curve in curves) for k in range(shortest)]


def _curve(trial: Trial, quantity: str) -> Iterator[tuple[float, float]]:
    if any(quantity in row for row in trial.epochs):
        yield from ((row["epoch"], row[quantity]) for row in trial.epochs if quantity in row)
        return
    length = trial.epochs[-1]["step"] / trial.epochs[-1]["epoch"] if trial.epochs else 1
    yield from ((row["step"] / length, row[quantity]) for row in trial.steps if quantity in row)


def _bars(study: Study, table: Sequence[Line]) -> Figure:
    """A panel for each measure: a bar a point, with its deviation, and the paper's number as a mark."""
    drawn = Figure(figsize=(1.5 + 4.5 * len(study.measures), 1.5 + 0.35 * len(table)), layout="constrained")
    panels = drawn.subplots(1, len(study.measures), squeeze=False, sharey=True)[0]
    places = range(len(table))
    for panel, measure in zip(panels, study.measures, strict=True):
        cells = [line.cells[measure] for line in table]
        heights = [math.nan if cell.mean is None else cell.mean for cell in cells]
        panel.barh(places, heights, xerr=[cell.deviation or 0 for cell in cells], color="tab:blue", label="here")
        paper = [_with_deviation(cell.paper) for cell in cells]
        known = [mean for mean, _ in paper if not math.isnan(mean)]
        if known:
            means, deviations = zip(*paper, strict=True)
            panel.errorbar(means, places, xerr=deviations, fmt="D", color="tab:orange", label="paper")
            panel.legend(fontsize=7)
        values = [v for v in (*heights, *known) if not math.isnan(v)]
        if values and min(values) > 0.5 and max(values) <= 1:
            panel.set_xlim(max(0, min(values) - 0.05), min(1, max(values) + 0.02))
        panel.set_title(measure)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(places, [str(line.point) for line in table], fontsize=8)
    panels[0].invert_yaxis()
    return drawn


def _with_deviation(reported: Any) -> tuple[float, float]:
    """A paper's number and its deviation; not a number, and 0, where there is none."""
    mean, deviation = reported if isinstance(reported, list) else (reported, 0)
    return (mean, deviation) if isinstance(mean, int | float) else (math.nan, 0)


def number(value: Any) -> str:
    """A number with four significant digits at least, [mean, deviation] as such, a text as it is, nothing for None."""
    if isinstance(value, list):
        return " ± ".join(map(number, value))
    if isinstance(value, int | float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else str(value)
