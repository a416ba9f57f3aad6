import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from bnncc.errors import ToolError, UsageError
from bnncc.train.study import trials
from bnncc.train.study.trials import Trials

KEYS = [(f"gamma={gamma}", f"seed={seed}") for seed in range(3) for gamma in ("0.1", "0.01")]
FORK = multiprocessing.get_context("fork")


def opened(place: str | Path, settings: dict[str, object] | None = None) -> Trials:
    return Trials(place, "demo", KEYS, settings or {"epochs": 1})


@pytest.fixture(params=["study.journal", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else str(tmp_path / "deep" / request.param)


def work(place: str, log: Path) -> None:
    """Run whatever trials there are to run, and note which."""
    shared = opened(place)
    while trial := shared.take():
        with shared.alive(trial):
            with log.open("a") as file:
                file.write(f"{trial.key}\n")
            time.sleep(0.02)
            shared.finish(trial, {"accuracy": 0.5}, [{"epoch": 1}], [{"step": 1}])


def test_processes_share_a_study_and_run_each_trial_once(place: str, tmp_path: Path) -> None:
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    processes = [FORK.Process(target=work, args=(place, log)) for log in logs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    ran = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
    assert sorted(ran) == sorted(map(str, KEYS))
    found = opened(place).all()
    assert [trial.key for trial in found] == KEYS
    assert {trial.state for trial in found} == {"done"}
    assert found[0].values == {"accuracy": 0.5}
    assert (found[0].epochs, found[0].steps) == ([{"epoch": 1}], [{"step": 1}])


def hang(place: str, taken: Path) -> None:
    shared = opened(place)
    trial = shared.take()
    assert trial
    with shared.alive(trial):
        taken.write_text("now")
        time.sleep(60)


def test_a_killed_trial_is_run_again(place: str, tmp_path: Path) -> None:
    process = FORK.Process(target=hang, args=(place, tmp_path / "taken"))
    process.start()
    while not (tmp_path / "taken").exists():
        time.sleep(0.01)
    shared = opened(place)
    assert shared.all()[0].state == "running"
    assert shared.all()[0].where.endswith(f":{process.pid}")
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(10)
    again = [shared.take() for _ in KEYS]
    assert {trial.key for trial in again if trial} == set(KEYS)
    assert shared.take() is None


def test_a_trial_of_a_silent_machine_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = opened(tmp_path / "s.journal")
    monkeypatch.setattr(trials, "_here", lambda: "elsewhere:1")
    trial = shared.take()
    assert trial
    monkeypatch.undo()
    other = opened(tmp_path / "s.journal").take()
    assert other
    assert other.key != trial.key
    shared._note(trial.number, seen=time.time() - trials.GONE - 1)
    assert [one.key for one in iter(shared.take, None)].count(trial.key) == 1


def test_failures_are_tried_again_some_times(tmp_path: Path) -> None:
    shared, seen = opened(tmp_path / "s.journal"), []
    for _ in range(trials.TRIES):
        trial = shared.take()
        assert trial
        seen.append(trial.key)
        with pytest.raises(RuntimeError), shared.alive(trial):
            raise RuntimeError("no luck")
    assert seen[-1] == KEYS[trials.TRIES - 1], "others come first"
    for _ in range(trials.TRIES * (len(KEYS) - 1)):
        trial = shared.take()
        assert trial
        with pytest.raises(RuntimeError), shared.alive(trial):
            raise RuntimeError("no luck")
    assert shared.take() is None
    assert {(trial.state, trial.reason) for trial in shared.all()} == {("failed", "no luck")}


def test_an_interrupted_trial_goes_on_however_often(tmp_path: Path) -> None:
    for _ in range(trials.TRIES + 2):
        shared = Trials(tmp_path / "s.journal", "demo", KEYS[:1], {})
        trial = shared.take()
        assert trial
        with pytest.raises(KeyboardInterrupt), shared.alive(trial):
            raise KeyboardInterrupt
    assert shared.all()[0].reason == "interrupted"


def test_divergence_is_a_result(tmp_path: Path) -> None:
    shared = Trials(tmp_path / "s.journal", "demo", KEYS[:1], {})
    trial = shared.take()
    assert trial
    with shared.alive(trial):
        shared.diverged(trial, "the loss became inf")
    assert shared.take() is None
    assert shared.all()[0].state == "diverged"


def test_other_settings_are_refused(place: str) -> None:
    opened(place)
    with pytest.raises(UsageError, match="E0714"):
        opened(place, {"epochs": 2})


@pytest.mark.parametrize("name", ["sqlite:////nowhere/at/all.db", "rubbish://", "/dev/null/study.journal"])
def test_unusable_storages_are_reported(name: str) -> None:
    with pytest.raises(ToolError, match="E0715"):
        opened(name)


def test_a_damaged_journal_is_reported(tmp_path: Path) -> None:
    (tmp_path / "s.journal").write_text("rubbish\nrubbish\nrubbish\n")
    with pytest.raises(ToolError, match="E0715"):
        opened(tmp_path / "s.journal")
