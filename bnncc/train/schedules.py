"""Schedules of what an optimizer's parameter groups hold: gamma, tau, lr or any other number.

A schedule is a factor of the starting value: a pure function of the time, counted in steps or in epochs from 0.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bnncc.errors import UsageError

Unit = Literal["step", "epoch"]


def constant() -> Callable[[float], float]:
    """Always 1."""
    return lambda _: 1.0


def exponential(end: float, over: float) -> Callable[[float], float]:
    """end^(t / over): from 1 to `end` at t = `over`, and `end` from then on."""
    return lambda t: float(end ** min(t / over, 1))


def step(factor: float, every: float) -> Callable[[float], float]:
    """factor^floor(t / every)."""
    return lambda t: float(factor ** (t // every))


def linear(end: float, over: float) -> Callable[[float], float]:
    """A line from 1 to `end` at t = `over`, and `end` from then on."""
    return lambda t: 1 + (end - 1) * min(t / over, 1)


def cosine(end: float, over: float) -> Callable[[float], float]:
    """Half a cosine from 1 to `end` at t = `over`, and `end` from then on."""
    return lambda t: end + (1 - end) * (1 + math.cos(math.pi * min(t / over, 1))) / 2


KINDS: dict[str, Callable[..., Callable[[float], float]]] = {
    f.__name__: f for f in (constant, exponential, step, linear, cosine)
}


@dataclass(frozen=True)
class Schedule:
    """A factor of a starting value as a function of the time t >= 0, which counts `unit`s."""

    factor: Callable[[float], float]
    unit: Unit = "step"

    @staticmethod
    def of(settings: Mapping[str, object], *, epochs: int, steps_per_epoch: int, where: str = "") -> "Schedule":
        """The schedule that a recipe describes, for instance {"kind": "step", "factor": 0.1, "every": 100, "unit": "epoch"}.

        Args:
            settings: `kind`, one of `KINDS`; that function's arguments; `unit`, "step" (default) or "epoch". All
                numbers are positive, `end` may be 0 but for "exponential". `over` is the whole run if it is not given.
            epochs, steps_per_epoch: the length of the run.
            where: the place of the settings, for the message.

        Raises:
            UsageError: E0721 the settings are no schedule.
        """

        def refuse(what: str, remedy: str) -> UsageError:
            return UsageError.of("E0721", f"schedule {dict(settings)}: {what}", where=where, remedy=remedy)

        kind, unit = settings.get("kind"), settings.get("unit", "step")
        if not isinstance(kind, str) or kind not in KINDS:
            raise refuse(f"kind is {kind!r}", f"give one of {', '.join(KINDS)}")
        if unit not in get_args(Unit):
            raise refuse(f"unit is {unit!r}", "give step or epoch")
        given = {key: value for key, value in settings.items() if key not in ("kind", "unit")}
        wanted = list(inspect.signature(KINDS[kind]).parameters)
        if "over" in wanted:
            given.setdefault("over", epochs * (1 if unit == "epoch" else steps_per_epoch))
        if set(given) != set(wanted):
            raise refuse("its settings do not fit", f"give {kind} {' and '.join(wanted) or 'no settings'}")
        for name, value in given.items():
            may_be_zero = name == "end" and kind != "exponential"
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not (number and (value > 0 or (may_be_zero and value == 0))):  # type: ignore[operator]
                raise refuse(
                    f"{name} is {value!r}", f"give {'a number from 0' if may_be_zero else 'a positive number'}"
                )
        return Schedule(KINDS[kind](**given), unit)  # type: ignore[arg-type]


class GroupSchedule(LRScheduler):
    """Sets `key` in an optimizer's parameter groups to its starting value there times the schedule's factor.

    Call `step` after each of the schedule's units; groups without the key are left alone. A value that is a tensor is
    filled in place, so that a step under `torch.compile` sees it without being compiled anew.

    It is a torch scheduler: state_dict, load_state_dict, and Lightning with `interval=schedule.unit`.

    Raises:
        ValueError: no group has the key.
    """

    def __init__(self, optimizer: Optimizer, key: str, schedule: Schedule) -> None:
        self.optimizer, self.key, self.schedule = optimizer, key, schedule
        self.start = [float(group[key]) if key in group else None for group in optimizer.param_groups]
        if not any(value is not None for value in self.start):
            raise ValueError(f"no parameter group of {type(optimizer).__name__} has {key!r}")
        self.last_epoch = 0
        self._set()

    def step(self, epoch: int | None = None) -> None:  # noqa: ARG002
        """Go on by one unit."""
        self.last_epoch += 1
        self._set()

    def get_last_lr(self) -> list[float | Tensor]:
        """The values of `key`, of the groups that have it."""
        return [group[self.key] for group in self.optimizer.param_groups if self.key in group]

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start, self.last_epoch = state_dict["start"], state_dict["last_epoch"]
        self._set()

    def _set(self) -> None:
        for group, start in zip(self.optimizer.param_groups, self.start, strict=True):
            if start is None:
                continue
            value = start * self.schedule.factor(self.last_epoch)
            if isinstance(group[self.key], Tensor):
                group[self.key].fill_(value)
            else:
                group[self.key] = value
