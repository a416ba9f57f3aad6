"""What a recipe says, held to what there is. Everything refused is UsageError E0710, with the place and what is allowed."""

from collections.abc import Collection, Mapping
from typing import Any

from bnncc.errors import UsageError
from bnncc.train.recipe import Recipe


def one_of(recipe: Recipe, place: str, name: Any, known: Mapping[str, Any]) -> str:
    """`name`, which must be one of `known`."""
    if not isinstance(name, str) or name not in known:
        raise refusal(recipe, f"{place} is {name!r}", f"give one of: {', '.join(known)}")
    return name


def number(recipe: Recipe, place: str, value: Any, least: float, below: float) -> float:
    """`value`, which must be a number from `least` to below `below`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value < below:
        raise refusal(recipe, f"{place} is {value!r}", f"give a number from {least} to below {below}")
    return value


def only(recipe: Recipe, place: str, table: Any, known: Collection[str]) -> None:
    """Refuse what is no table, and keys that are not `known`."""
    if not isinstance(table, dict):
        raise refusal(recipe, f"{place} is {table!r}", f"give a table with {', '.join(known)}")
    for key in table:
        if key not in known:
            raise refusal(recipe, f"unknown key {place}.{key}", f"the keys are {', '.join(known)}")


def refusal(recipe: Recipe, message: str, remedy: str) -> UsageError:
    """E0710, with the recipe's name as the place."""
    return UsageError.of("E0710", message, where=recipe.name, remedy=remedy)
