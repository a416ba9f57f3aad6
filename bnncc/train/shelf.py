"""Settings as small TOML files: those that come with bnncc, and the user's own.

A file begins with the setting of the paper. Its `[variant.NAME]` tables change single keys of it: another data set,
another optimizer, or a size that fits a small machine ("reduced").
"""

import copy
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_origin

from bnncc.errors import UsageError

Table = dict[str, Any]

_KINDS: dict[Any, tuple[type | tuple[type, ...], str]] = {
    str: (str, "a text"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    list: (list, "a list"),
    dict: (dict, "a table"),
}


@dataclass(frozen=True)
class Shelf:
    """The files of one kind, "recipe" or "study", in a folder beside this module; E-code `code` refuses what is wrong."""

    folder: str
    kind: str
    code: str

    def names(self) -> list[str]:
        """The files that come with bnncc, without their .toml."""
        return sorted(path.stem for path in (Path(__file__).parent / self.folder).glob("*.toml"))

    def variants(self, name: str | Path) -> list[str]:
        """The variants of a file."""
        return list(self._read(self._find(name)).get("variant", {}))

    def load(self, name: str | Path, variants: Iterable[str] = ()) -> tuple[str, Path, Table]:
        """The file `name`, one of `names()` or a path, with its `variants` applied in order.

        Returns: its name and its variants', joined with "+"; its path; what it holds.

        Raises:
            UsageError: there is no such file or variant, or the file is no TOML.
        """
        path = self._find(name)
        table = self._read(path)
        others, names = table.pop("variant", {}), [path.stem]
        for variant in variants:
            if variant not in others:
                known = ", ".join(others) or "(none)"
                raise self.refusal(path, f"there is no variant {variant}", f"give one of: {known}")
            merge(table, others[variant])
            names.append(variant)
        return "+".join(names), path, table

    def check(self, table: Table, what: type, required: Sequence[str], where: Path | str) -> None:
        """Hold the keys and types of a file to the fields of the dataclass `what`, but for its name.

        Raises:
            UsageError: at the first that does not fit, or that is missing.
        """
        known = {f.name: get_origin(f.type) or f.type for f in fields(what) if f.name not in ("name", "changes")}
        for key, value in table.items():
            if key not in known:
                raise self.refusal(where, f"unknown key {key}", f"the keys are {', '.join(known)}, variant")
            kind, words = _KINDS[known[key]]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise self.refusal(where, f"{key} is {value!r}", f"give {words}")
        for key in required:
            if key not in table:
                raise self.refusal(
                    where, f"the key {key} is missing", f"a {self.kind} has at least {', '.join(required)}"
                )

    def refusal(self, where: Path | str, message: str, remedy: str) -> UsageError:
        """What to raise for a file that is not as it should be."""
        return UsageError.of(self.code, message, where=str(where), remedy=remedy)

    def _find(self, name: str | Path) -> Path:
        if name in self.names():
            return Path(__file__).parent / self.folder / f"{name}.toml"
        path = Path(name)
        if path.suffix != ".toml" or not path.is_file():
            raise UsageError.of(
                self.code,
                f"there is no {self.kind} {name}",
                remedy=f"give a .toml file or one of: {', '.join(self.names())}",
            )
        return path

    def _read(self, path: Path) -> Table:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise self.refusal(path, f"not readable as TOML: {error}", "correct the file") from None
        tables = table.get("variant", {})
        if not isinstance(tables, dict) or not all(isinstance(t, dict) for t in tables.values()):
            raise self.refusal(path, "variant is not a table of tables", "write [variant.NAME] above what it changes")
        return table


def merge(table: Table, changes: Table) -> None:
    """Put `changes` into `table`: tables key by key, everything else whole.

    An empty table empties, and a schedule of another `kind` takes the old one's place.
    """
    for key, value in changes.items():
        old = table.get(key)
        if isinstance(value, dict) and value and isinstance(old, dict) and value.get("kind") in (None, old.get("kind")):
            merge(old, value)
        else:
            table[key] = copy.deepcopy(value)
