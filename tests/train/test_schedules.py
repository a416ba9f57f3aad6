import math

import pytest
import torch

from bnncc.errors import UsageError
from bnncc.train import Bop, GroupSchedule, Schedule


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        ({"kind": "constant"}, {0: 1, 7: 1}),
        ({"kind": "step", "factor": 0.1, "every": 3}, {0: 1, 2: 1, 3: 0.1, 5: 0.1, 6: 0.01}),
        ({"kind": "linear", "end": 0, "over": 4}, {0: 1, 1: 0.75, 4: 0, 9: 0}),
        ({"kind": "exponential", "end": 0.01, "over": 4}, {0: 1, 2: 0.1, 4: 0.01, 9: 0.01}),
        ({"kind": "cosine", "end": 0.5, "over": 4}, {0: 1, 1: 0.75 + math.sqrt(0.5) / 4, 2: 0.75, 4: 0.5, 9: 0.5}),
        ({"kind": "linear", "end": 0}, {0: 1, 100: 0.5, 200: 0}),
        ({"kind": "linear", "end": 0, "unit": "epoch"}, {0: 1, 10: 0.5, 20: 0}),
    ],
)
def test_factors(settings: dict[str, object], factors: dict[int, float]) -> None:
    schedule = Schedule.of(settings, epochs=20, steps_per_epoch=10)
    assert schedule.unit == settings.get("unit", "step")
    assert {t: schedule.factor(t) for t in factors} == pytest.approx(factors)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one of constant, exponential, step, linear, cosine"),
        ({"kind": "stairs"}, "kind is 'stairs'"),
        ({"kind": "step", "factor": 0.1}, "give step factor and every"),
        ({"kind": "step", "factor": 0.1, "every": 5, "end": 1}, "give step factor and every"),
        ({"kind": "constant", "end": 1}, "give constant no settings"),
        ({"kind": "linear", "end": 0, "unit": "batch"}, "unit is 'batch'"),
        ({"kind": "linear", "end": -1}, "end is -1"),
        ({"kind": "exponential", "end": 0}, "end is 0"),
        ({"kind": "step", "factor": "0.1", "every": 5}, "factor is '0.1'"),
        ({"kind": "step", "factor": 0.1, "every": 0}, "every is 0"),
        ({"kind": "cosine", "end": math.nan}, "end is nan"),
    ],
)
def test_what_is_no_schedule_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match="E0721") as caught:
        Schedule.of(settings, epochs=20, steps_per_epoch=10, where="recipe.toml: gamma")
    assert message in str(caught.value)
    assert "recipe.toml: gamma" in str(caught.value)


def make() -> Bop:
    slow, fast = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    return Bop([{"params": [slow], "gamma": 0.01}, {"params": [fast]}], gamma=1.0, tau=0.1)


def test_groups_keep_their_proportion_and_resume() -> None:
    optimizer = make()
    schedule = GroupSchedule(optimizer, "gamma", Schedule(lambda t: 0.5**t))
    for _ in range(3):
        schedule.step()
    assert [group["gamma"] for group in optimizer.param_groups] == [0.01 / 8, 1 / 8]
    assert [group["tau"] for group in optimizer.param_groups] == [0.1, 0.1]
    assert schedule.get_last_lr() == [0.01 / 8, 1 / 8]
    resumed = make()
    again = GroupSchedule(resumed, "gamma", Schedule(lambda t: 0.5**t))
    resumed.load_state_dict(optimizer.state_dict())
    again.load_state_dict(schedule.state_dict())
    again.step()
    assert [group["gamma"] for group in resumed.param_groups] == [0.01 / 16, 1 / 16]


def test_tensors_are_filled_in_place() -> None:
    gamma = torch.tensor(0.5)
    optimizer = Bop([torch.nn.Parameter(torch.ones(1))], gamma=gamma)  # type: ignore[arg-type]
    schedule = GroupSchedule(optimizer, "gamma", Schedule(lambda t: 0.5**t))
    schedule.step()
    assert optimizer.param_groups[0]["gamma"] is gamma
    assert gamma.item() == 0.25


def test_only_groups_with_the_key_change() -> None:
    a, b = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([{"params": [a], "gamma": 1.0}, {"params": [b]}], lr=0.1)
    GroupSchedule(optimizer, "gamma", Schedule(lambda t: 0.5**t)).step()
    assert optimizer.param_groups[0]["gamma"] == 0.5
    assert "gamma" not in optimizer.param_groups[1]
    with pytest.raises(ValueError, match="no parameter group of Adam has 'tau'"):
        GroupSchedule(optimizer, "tau", Schedule(lambda _: 1.0))
