"""Recipes: what to train and how. docs/train.md describes their keys."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnncc.errors import UsageError
from bnncc.train.shelf import Shelf, Table

SHELF = Shelf("recipes", "recipe", "E0710")
names, variants = SHELF.names, SHELF.variants


@dataclass(frozen=True)
class Recipe:
    """One training run, entirely described; together with the versions and the machine it determines the outcome.

    Attributes:
        name: the recipe's file name without .toml, and its variants, joined with "+".
        title, paper: what it is, and where it is published.
        network: `name` of a builder in `bnncc.train.models` and its arguments; `bn_momentum` in Keras's convention.
        width: factor on the builder's `width` or `growth`.
        data: `name` of a set in `bnncc.train.data`; `validation`, the share of the training part that is held out where
            the publisher has no validation part; `augment`, whether to do to training samples what the papers do;
            `noise`, with which the network learns to restore images.
        optimizer: `binary` and `real`, each a table with a `name` and arguments: a number, or a schedule's table with its
            `start`; `xavier`, whether to scale the rates of latent weights by layer; `latent_rate`, a factor on them.
        latent: if not empty, arguments of `bnncc.train.latent`: the binary weights become signs of real ones. Also
            `initialise` by name, `scale` of the initial weights, `checkpoint` to begin with, `real`, the activation in
            place of signs where nothing is to be binary, and `stage2`: other settings `from` a share of the run on.
        loss: by name; summed over the exits.
        epochs, batch, seed: as usual. The seed draws the weights, the order of the images and all other randomness.
        exit_threshold: entropy in nats for the exported early exits.
        log_every: every so many steps the flips of one step are counted; 0: ten times an epoch.
        reported: the paper's own results by the names of ours.
        reduced: in what the setting is smaller than the paper's; empty if it is not.
        precision: "32-true", or mixed on a GPU: "16-mixed", "bf16-mixed". Gradients are unscaled before a step.
        recalibrate: over how many training samples batch normalisation is measured anew before an evaluation; 0: not.
        changes: what `load` was asked to change, by dotted keys; no key of a file.
    """

    name: str
    title: str
    network: Table
    data: Table
    optimizer: Table
    epochs: int
    batch: int
    paper: str = ""
    width: float = 1.0
    latent: Table = field(default_factory=dict)
    loss: str = "cross_entropy"
    seed: int = 0
    exit_threshold: float = 0.5
    log_every: int = 0
    reported: Table = field(default_factory=dict)
    reduced: str = ""
    precision: str = "32-true"
    recalibrate: int = 10_000
    changes: Table = field(default_factory=dict)


PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
_REQUIRED = ("title", "network", "data", "optimizer", "epochs", "batch")
_POSITIVE = ("epochs", "batch", "width", "exit_threshold")
_NOT_NEGATIVE = ("seed", "log_every", "recalibrate")


def load(name: str | Path, variants: Iterable[str] = (), changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe `name`, one of `names()` or a file, with its `variants` applied in order, and then `changes`.

    `changes` maps dotted keys to values: {"epochs": 5, "optimizer.binary.gamma": 1e-3}.

    Raises:
        UsageError: E0710 the recipe, a variant, a key or a value is not as it should be.
    """
    full_name, path, table = SHELF.load(name, variants)
    for key, value in (changes or {}).items():
        _change(table, key, value, path)
    check(table, path)
    table["width"] = float(table.get("width", 1))
    return Recipe(full_name, **table, changes=dict(changes or {}))


def parse(text: str) -> tuple[str, Any]:
    """A change as written on the command line, `key=value`; what is no TOML value is a string.

    Raises UsageError E0710 without an equals sign.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError.of(
            "E0710", f"--set {text}", remedy="write --set key=value, such as optimizer.binary.gamma=1e-3"
        )
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def check(table: Table, path: Path | str) -> None:
    """Hold the keys and values of a whole recipe to `Recipe`. Raises UsageError E0710 at the first that does not fit."""
    SHELF.check(table, Recipe, _REQUIRED, path)
    if table.get("precision", PRECISIONS[0]) not in PRECISIONS:
        raise SHELF.refusal(path, f"precision is {table['precision']!r}", f"give one of: {', '.join(PRECISIONS)}")
    for key in _POSITIVE:
        if key in table and not table[key] > 0:
            raise SHELF.refusal(path, f"{key} is {table[key]}", "give a positive number")
    for key in _NOT_NEGATIVE:
        if table.get(key, 0) < 0:
            raise SHELF.refusal(path, f"{key} is {table[key]}", "give a number from 0")


def _change(table: Table, key: str, value: Any, path: Path) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = table.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise SHELF.refusal(path, f"{key}: {parent} is no table", f"set {parent} itself")
        table = inner
    table[last] = value
