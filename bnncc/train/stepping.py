"""The optimizer that a recipe describes, and what changes in it during the run."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from bnncc.train.bop import Bop, Bop2ndOrder, CascadedBop, FlippingOptimizer
from bnncc.train.checks import number, one_of, only, refusal
from bnncc.train.joint import BinaryAndReal
from bnncc.train.latents import latent_layers
from bnncc.train.recipe import Recipe
from bnncc.train.schedules import Schedule
from bnncc.train.shelf import Table

Values = dict[tuple[int, str], Callable[[int], float]]
"""By parameter group and key: the value at a step, counted from 0."""

BINARY: dict[str, Callable[..., Optimizer]] = {"bop": Bop, "bop2ndorder": Bop2ndOrder, "cascadedbop": CascadedBop}
OF_ANOTHER_KIND = {
    "Optimizer",
    "SparseAdam",
    "LBFGS",
    "Muon",
}  # for sparse gradients, with a closure, for matrices alone
REAL: dict[str, Callable[..., Optimizer]] = {
    name.lower(): kind
    for name, kind in sorted(vars(torch.optim).items())
    if inspect.isclass(kind) and issubclass(kind, Optimizer) and name not in OF_ANOTHER_KIND
}
"""torch's own, by their names in small letters."""


def optimizer(recipe: Recipe, model: nn.Module, epochs: int, steps_per_epoch: int) -> tuple[Optimizer, Values]:
    """The optimizer of all parameters, and the values in its groups that change during the run."""
    only(recipe, "optimizer", recipe.optimizer, ("binary", "real", "xavier", "latent_rate"))
    makers: dict[str, Callable[..., Optimizer]] = {}
    schedules: dict[str, dict[str, Schedule]] = {}
    for part, kinds in (("binary", BINARY), ("real", REAL)):
        place, given = f"optimizer.{part}", recipe.optimizer.get(part, {})
        if part == "binary" and recipe.latent:
            given = {"name": "bop"}  # there are no binary parameters that it would get
        if not isinstance(given, dict):
            raise refusal(recipe, f"{place} is {given!r}", "give a table with a name and its arguments")
        table = dict(given)
        kind = kinds[one_of(recipe, f"{place}.name", table.pop("name", None), kinds)]
        only(recipe, place, table, tuple(inspect.signature(kind).parameters)[1:])
        schedules[part] = {}
        for key, value in table.items():
            if isinstance(value, dict):
                table[key], schedules[part][key] = _schedule(recipe, f"{place}.{key}", value, epochs, steps_per_epoch)
        makers[part] = partial(_made, recipe, place, kind, table)
    joint = BinaryAndReal.of(model, **makers, xavier=bool(recipe.optimizer.get("xavier", False)))
    latents = {weight for _, _, weight in latent_layers(model)}
    rate = number(recipe, "optimizer.latent_rate", recipe.optimizer.get("latent_rate", 1), 0, math.inf)
    flipping = isinstance(joint.parts[0], FlippingOptimizer)
    values: Values = {}
    for index, group in enumerate(joint.param_groups):
        if latents.intersection(group["params"]):
            group["lr"] *= rate
        for key, schedule in schedules["binary" if flipping and index == 0 else "real"].items():
            values[index, key] = partial(_value, group[key], schedule, steps_per_epoch)
    return joint, values


def _schedule(recipe: Recipe, place: str, table: Table, epochs: int, steps_per_epoch: int) -> tuple[float, Schedule]:
    """The starting value and what it is multiplied with. `stages`, equal parts of the run, are turned into epochs."""
    settings = dict(table)
    start = number(recipe, f"{place}.start", settings.pop("start", None), 0, math.inf)
    if "stages" in settings:
        stages = number(recipe, f"{place}.stages", settings.pop("stages"), 1, math.inf)
        settings |= {"every": epochs * steps_per_epoch / stages}
    where = f"{recipe.name}, {place}"
    return start, Schedule.of(settings, epochs=epochs, steps_per_epoch=steps_per_epoch, where=where)


def _value(start: float, schedule: Schedule, steps_per_epoch: int, step: int) -> float:
    return start * schedule.factor(step if schedule.unit == "step" else step // steps_per_epoch)


def _made(recipe: Recipe, place: str, kind: Callable[..., Optimizer], options: Table, parameters: Any) -> Optimizer:
    try:
        return kind(parameters, **options)
    except (TypeError, ValueError) as error:
        raise refusal(recipe, f"{place}: {error}", "correct its keys") from error
