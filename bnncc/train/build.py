"""What the words of a recipe stand for."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bnncc.errors import UsageError
from bnncc.train import data as sets
from bnncc.train import models
from bnncc.train.batches import Samples
from bnncc.train.bop import Bop
from bnncc.train.data import DataSet, Images
from bnncc.train.data.sets import VALIDATION_SHARE
from bnncc.train.evaluate import accuracy
from bnncc.train.layers import binary_parameters, real_parameters
from bnncc.train.module import Loss, Row, Schedule
from bnncc.train.recipe import Recipe
from bnncc.train.shelf import Table

NETWORKS: dict[str, type[nn.Module]] = {name: getattr(models, name) for name in models.__all__}
LOSSES: dict[str, Loss] = {"cross_entropy": functional.cross_entropy}
WIDTHS = ("width", "growth")


def data(recipe: Recipe) -> DataSet:
    """The data set. Raises what `bnncc.train.data.load` does, and UsageError E0710."""
    _only(recipe, "data", recipe.data, ("name", "validation", "augment"))
    return sets.load(_name(recipe, "data", recipe.data, sets.SETS))


def divided(recipe: Recipe, whole: DataSet) -> DataSet:
    """The set with its validation part, none if the recipe's share is 0."""
    share = recipe.data.get("validation", VALIDATION_SHARE)
    if not isinstance(share, int | float) or not 0 <= share < 1:
        raise _refusal(recipe, f"data.validation is {share!r}", "give a share from 0 to below 1")
    parts = whole.with_validation(share) if share else whole
    return parts if recipe.data.get("augment", True) else replace(parts, augment=None)


def samples(recipe: Recipe, parts: DataSet) -> Samples:
    """What to train on."""
    return Samples(parts.train, parts.augment, recipe.seed)


def network(recipe: Recipe, parts: DataSet) -> nn.Module:
    """The network for the data's shape and classes, scaled by the recipe's width."""
    builder = NETWORKS[_name(recipe, "network", recipe.network, NETWORKS)]
    known = inspect.signature(builder).parameters
    options = {key: value for key, value in recipe.network.items() if key != "name"}
    _only(recipe, "network", options, tuple(known))
    shape = parts.train.x.shape[1:]
    ours = {"shape": shape, "channels": shape[0], "classes": len(parts.classes) or int(parts.train.y.max()) + 1}
    for key in WIDTHS:
        if key in known and recipe.width != 1:
            ours[key] = round(recipe.width * options.pop(key, known[key].default))
    if recipe.width != 1 and not known.keys() & set(WIDTHS):
        raise _refusal(recipe, f"{builder.__name__} has no width", "leave out the width")
    try:
        return builder(**{key: value for key, value in ours.items() if key in known} | options)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise _refusal(recipe, f"{builder.__name__}: {error}", "correct the keys of network, or the width") from error


def loss(recipe: Recipe) -> Loss:
    """The loss of one output."""
    return LOSSES[_name(recipe, "", {"name": recipe.loss}, LOSSES, "loss")]


def score(recipe: Recipe, model: nn.Module, images: Images) -> Row:
    """What is measured on held-out images: accuracy, of every exit where there are several."""
    del recipe
    shares = accuracy(model, images)
    if len(shares) == 1:
        return {"accuracy": shares[0]}
    return {f"accuracy_exit{k}": share for k, share in enumerate(shares, 1)}


def _name(recipe: Recipe, place: str, table: Table, known: Mapping[str, Any], key: str = "name") -> str:
    """`table["name"]`, which must be one of `known`."""
    name = table.get("name")
    if not isinstance(name, str) or name not in known:
        dotted = f"{place}.{key}" if place else key
        raise _refusal(recipe, f"{dotted} is {name!r}", f"give one of: {', '.join(known)}")
    return name


def _only(recipe: Recipe, place: str, table: Table, known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise _refusal(recipe, f"unknown key {place}.{key}", f"the keys are {', '.join(known)}")


def _refusal(recipe: Recipe, message: str, remedy: str) -> UsageError:
    return UsageError.of("E0710", message, where=recipe.name, remedy=remedy)


class Joint(torch.optim.Optimizer):
    """Several optimizers as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        super().__init__([p for part in parts for g in part.param_groups for p in g["params"]], {})
        self.param_groups = [g for part in parts for g in part.param_groups]

    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [p.state_dict() for p in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, one in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(one)
        self.param_groups = [g for part in self.parts for g in part.param_groups]


def optimizer(
    recipe: Recipe, model: nn.Module, steps: int
) -> tuple[torch.optim.Optimizer, dict[tuple[int, str], Schedule]]:
    schedules: dict[tuple[int, str], Schedule] = {}
    parts: list[torch.optim.Optimizer] = []
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {"bop": Bop, "adam": torch.optim.Adam}
    for group, (name, parameters) in enumerate((("binary", binary_parameters), ("real", real_parameters))):
        options = dict(recipe.optimizer[name])
        kind = kinds[_name(recipe, f"optimizer.{name}", options, kinds)]
        del options["name"]
        for key, value in options.items():
            if isinstance(value, dict):
                schedules[group, key] = schedule(value, steps)
                options[key] = schedules[group, key](0)
        try:
            parts.append(kind(parameters(model), **options))
        except (TypeError, ValueError) as error:
            raise _refusal(recipe, f"optimizer.{name}: {error}", "correct its keys") from error
    return Joint(*parts), schedules


def schedule(value: dict[str, Any], steps: int) -> Schedule:
    start, end = value["start"], value["end"]
    if value["schedule"] == "linear":
        return lambda step: start + (end - start) * step / steps
    return lambda step: start * (end / start) ** (step / steps)
