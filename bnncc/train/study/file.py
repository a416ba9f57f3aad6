"""Studies: grids of training runs as small TOML files. docs/studies.md describes their keys."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnncc.train import recipe as recipes
from bnncc.train.recipe import Recipe
from bnncc.train.shelf import Shelf, Table

SHELF = Shelf("studies", "study", "E0713")
names, variants = SHELF.names, SHELF.variants
OPTION = "options."

Key = tuple[str, ...]
"""A trial: "AXIS=LABEL" for each axis in order, and "seed=N"."""


@dataclass(frozen=True)
class Point:
    """A place on the grid: its label on each axis, and what it changes in the recipe, by dotted keys."""

    labels: dict[str, str]
    changes: Table

    def __str__(self) -> str:
        return ", ".join(self.labels.values())


@dataclass(frozen=True)
class Study:
    """A grid of runs, each with some seeds, and what the paper has in their place.

    Attributes:
        name: the file's name without .toml, and the study's variants, joined with "+".
        title, paper: what it is, and where it is published.
        recipe, variants: what a run begins with; see `bnncc.train.recipe`.
        experiment: what is done at a point: a name in `bnncc.train.study.experiments.EXPERIMENTS`.
        options: arguments of the experiment.
        set: changes to the recipe for all points, by dotted keys.
        axis: for each axis its labels and what they change; or `key` and `values`, the values being the labels. Among
            the keys that a label changes may be "recipe", "variants" and, behind "options.", the experiment's arguments.
        seeds: how many, counted from the recipe's own.
        measures: the columns of the table; names of values that the experiment gives. The first is the objective.
        reported: the paper's numbers: tables of labels, and of measures with a number, [mean, standard deviation], or a text.
        figure: `curves`, quantities to draw over the epochs, and `columns`, an axis; without `curves` bars are drawn.
        reduced: in what the study is smaller than the paper's; empty if it is not.
        note: what to know beside the numbers.
    """

    name: str
    title: str
    recipe: str
    axis: dict[str, Table]
    measures: list[str]
    paper: str = ""
    variants: list[str] = field(default_factory=list)
    experiment: str = "train"
    options: Table = field(default_factory=dict)
    set: Table = field(default_factory=dict)
    seeds: int = 1
    reported: list[Table] = field(default_factory=list)
    figure: Table = field(default_factory=dict)
    reduced: str = ""
    note: str = ""

    @property
    def compared(self) -> list[str]:
        """The measures of which the paper has numbers."""
        return [measure for measure in self.measures if any(measure in row for row in self.reported)]

    def points(self) -> list[Point]:
        """The grid, the last axis running fastest."""
        axes = [[(axis, label, changes) for label, changes in found.items()] for axis, found in self._axes().items()]
        return [
            Point(
                {axis: label for axis, label, _ in place}, {k: v for *_, changes in place for k, v in changes.items()}
            )
            for place in itertools.product(*axes)
        ]

    def grid(self) -> list[Key]:
        """The trials: all points with the first seed, then with the next."""
        return [self.key(point, seed) for seed in range(self.seeds) for point in self.points()]

    def key(self, point: Point, seed: int) -> Key:
        return (*(f"{axis}={label}" for axis, label in point.labels.items()), f"seed={seed}")

    def run(self, key: Key, changes: Mapping[str, Any]) -> Recipe:
        """The recipe of a trial. `changes` come after the study's own and before the point's.

        Raises:
            UsageError: E0710 the recipe, or a change to it, is not as it should be.
        """
        table = {k: v for k, v in self._changes(key, changes).items() if not k.startswith(OPTION)}
        name, variants = table.pop("recipe", self.recipe), table.pop("variants", self.variants)
        first = recipes.load(name, variants, table)
        return recipes.load(name, variants, table | {"seed": first.seed + int(key[-1].removeprefix("seed="))})

    def options_of(self, key: Key) -> Table:
        """The experiment's arguments for a trial."""
        changes = self._changes(key, {}).items()
        return self.options | {k.removeprefix(OPTION): v for k, v in changes if k.startswith(OPTION)}

    def reported_at(self, point: Point) -> Table:
        """The paper's numbers at a point, by measure."""
        found: Table = {}
        for row in self.reported:
            labels = {axis: row[axis] for axis in point.labels if axis in row}
            if all(point.labels[axis] == _label(label) for axis, label in labels.items()):
                found |= {measure: row[measure] for measure in self.measures if measure in row}
        return found

    def _changes(self, key: Key, changes: Mapping[str, Any]) -> Table:
        point = next(point for point in self.points() if self.key(point, 0)[:-1] == key[:-1])
        return self.set | dict(changes) | point.changes

    def _axes(self) -> dict[str, dict[str, Table]]:
        return {
            axis: {_label(value): {found["key"]: value} for value in found["values"]} if "values" in found else found
            for axis, found in self.axis.items()
        }


def load(name: str | Path, variants: Iterable[str] = (), changes: Mapping[str, Any] | None = None) -> Study:
    """The study `name`, one of `names()` or a file, with its `variants` applied in order, and then `changes` to its keys.

    Raises:
        UsageError: E0713 the study, or a variant, is not as it should be.
    """
    full_name, path, table = SHELF.load(name, variants)
    table |= changes or {}
    _check(table, path)
    study = Study(full_name, **table)
    axes = study._axes()
    for row in study.reported:
        for key, label in row.items():
            if not (_label(label) in axes[key] if key in axes else key in study.measures):
                raise SHELF.refusal(
                    path, f"reported: {key} = {label}", "name an axis and one of its labels, or a measure"
                )
    return study


def _check(table: Table, path: Path) -> None:
    SHELF.check(table, Study, ("title", "recipe", "axis", "measures"), path)
    for axis, found in table["axis"].items():
        listed = isinstance(found, dict) and set(found) == {"key", "values"} and isinstance(found["values"], list)
        if not listed and not (isinstance(found, dict) and found and all(isinstance(v, dict) for v in found.values())):
            remedy = "give key and values, or a table of changes for each label"
            raise SHELF.refusal(path, f"axis.{axis} is {found!r}", remedy)
    for key in ("axis", "measures", "seeds"):
        if not table.get(key, 1):
            raise SHELF.refusal(path, f"{key} is {table[key]!r}", "give one at least")


def _label(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
