"""Recipes: what to train and how, as small TOML files. docs/train.md describes their keys.

A recipe begins with the setting of the paper. Its `[variant.NAME]` tables change single keys of it: another data set,
another optimizer, or a size that fits a small machine ("reduced").
"""

import copy
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from bnncc.errors import UsageError

Table = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """One training run, entirely described; together with the versions and the machine it determines the outcome.

    Attributes:
        name: the recipe's file name without .toml, and its variants, joined with "+".
        title, paper: what it is, and where it is published.
        network: `name` of a builder in `bnncc.train.models`, and its arguments.
        width: factor on the builder's `width` or `growth`.
        data: `name` of a set in `bnncc.train.data`; `validation`, the share of the training part that is held out where
            the publisher has no validation part; `augment`, whether to do to training samples what the papers do.
        optimizer: the tables `binary` and `real`, each with a `name` and arguments; a number or a schedule's table.
        latent: if not empty, arguments of `bnncc.train.latent`: the binary weights become signs of real ones.
        loss: by name; summed over the exits.
        epochs, batch, seed: as usual. The seed draws the weights, the order of the images and all other randomness.
        exit_threshold: entropy in nats for the exported early exits.
        log_every: every so many steps the flips of one step are counted; 0: ten times an epoch.
        reported: the paper's own results by the names of ours.
        reduced: in what the setting is smaller than the paper's; empty if it is not.
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
    changes: Table = field(default_factory=dict)


_TYPES = {f.name: f.type for f in fields(Recipe) if f.name not in ("name", "changes")}
_KINDS: dict[Any, tuple[type | tuple[type, ...], str]] = {
    str: (str, "a text"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    Table: (dict, "a table"),
}
_REQUIRED = ("title", "network", "data", "optimizer", "epochs", "batch")
_POSITIVE = ("epochs", "batch", "width", "exit_threshold")


def names() -> list[str]:
    """The recipes that come with bnncc."""
    return sorted(f.name.removesuffix(".toml") for f in _shipped().iterdir() if f.name.endswith(".toml"))


def load(name: str | Path, variants: Iterable[str] = (), changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe `name`, one of `names()` or a file, with its `variants` applied in order, and then `changes`.

    `changes` maps dotted keys to values: {"epochs": 5, "optimizer.binary.gamma": 1e-3}.

    Raises:
        UsageError: E0710 the recipe, a variant, a key or a value is not as it should be.
    """
    path = _find(name)
    table = _read(path)
    others = table.pop("variant", {})
    full_name = [path.name.removesuffix(".toml")]
    for variant in variants:
        if variant not in others:
            raise _refusal(path, f"there is no variant {variant}", f"give one of: {', '.join(others) or '(none)'}")
        _merge(table, others[variant])
        full_name.append(variant)
    for key, value in (changes or {}).items():
        _change(table, key, value, path)
    check(table, path)
    table["width"] = float(table.get("width", 1))
    return Recipe("+".join(full_name), **table, changes=dict(changes or {}))


def variants(name: str | Path) -> list[str]:
    """The variants of a recipe."""
    return list(_read(_find(name)).get("variant", {}))


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
    """Hold the keys and types of a whole recipe to `Recipe`. Raises UsageError E0710 at the first that does not fit."""
    for key, value in table.items():
        if key not in _TYPES:
            raise _refusal(path, f"unknown key {key}", f"the keys are {', '.join(_TYPES)}, variant")
        kind, words = _KINDS[_TYPES[key]]
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if not fits:
            raise _refusal(path, f"{key} is {value!r}", f"give {words}")
        if key in _POSITIVE and not value > 0:
            raise _refusal(path, f"{key} is {value}", "give a positive number")
    for key in _REQUIRED:
        if key not in table:
            raise _refusal(path, f"the key {key} is missing", f"a recipe has at least {', '.join(_REQUIRED)}")


def _shipped() -> Any:
    return resources.files("bnncc.train") / "recipes"


def _find(name: str | Path) -> Path:
    if isinstance(name, str) and name in names():
        return Path(str(_shipped() / f"{name}.toml"))
    path = Path(name)
    if path.suffix != ".toml" or not path.is_file():
        raise UsageError.of(
            "E0710",
            f"there is no recipe {name}",
            remedy=f"give a .toml file or one of: {', '.join(names())}",
        )
    return path


def _read(path: Path) -> Table:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _refusal(path, f"not readable as TOML: {error}", "correct the file") from None
    tables = table.get("variant", {})
    if not isinstance(tables, dict) or not all(isinstance(t, dict) for t in tables.values()):
        raise _refusal(path, "variant is not a table of tables", "write [variant.NAME] above what it changes")
    return table


def _merge(table: Table, changes: Table) -> None:
    """Put `changes` into `table`: tables key by key, everything else whole. A table with another `name` is a new one."""
    for key, value in changes.items():
        old = table.get(key)
        same = (
            isinstance(value, dict) and isinstance(old, dict) and value.get("name", old.get("name")) == old.get("name")
        )
        if same:
            _merge(table[key], value)
        else:
            table[key] = copy.deepcopy(value)


def _change(table: Table, key: str, value: Any, path: Path) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = table.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise _refusal(path, f"{key}: {parent} is no table", f"set {parent} itself")
        table = inner
    table[last] = value


def _refusal(path: Path | str, message: str, remedy: str) -> UsageError:
    return UsageError.of("E0710", message, where=str(path), remedy=remedy)
