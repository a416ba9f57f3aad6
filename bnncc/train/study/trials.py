"""The trials of a study in a storage of Optuna's that processes on several machines can share.

Each point of the grid, with each seed, is a trial that some process takes and runs. It is run exactly once: taking a trial is
atomic, a trial whose process is gone is given back, and of trials of one point only the first counts.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from bnncc.errors import ToolError, UsageError
from bnncc.train.study.file import Key

BEAT = 30  # seconds between the signs of life of a running trial
GONE = 300  # seconds without one after which its process is taken for dead
PATIENCE = 60  # seconds to wait for another process to unlock an SQLite file
TRIES = 3  # a point whose process died or failed so often is left alone


@dataclass(frozen=True)
class Trial:
    """A trial's state and what it gave.

    Attributes:
        state: "waiting", "running", "done", "diverged" or "failed".
        values: what was measured. epochs, steps: rows of what was observed on the way.
        where: the machine and process that runs or ran it.
        reason: why it failed, if it did.
    """

    number: int
    key: Key
    state: str
    values: dict[str, float] = field(default_factory=dict)
    epochs: list[dict[str, float]] = field(default_factory=list)
    steps: list[dict[str, float]] = field(default_factory=list)
    where: str = ""
    reason: str = ""


STATES = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "diverged",
    TrialState.FAIL: "failed",
}


def open_storage(place: str | Path) -> BaseStorage:
    """A storage: a URL with :// is a database's, as SQLAlchemy writes it; anything else is a journal file.

    Raises:
        ToolError: E0715 it cannot be opened.
    """
    try:
        if "://" not in str(place):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(place), JournalFileOpenLock(str(place))))
        return _open_database(str(place))
    except (OSError, ImportError, ValueError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise _unusable(place, error) from error


class Trials:
    """The trials of the study `name`, in `storage`, for all of `keys`. All processes that share it give the same `settings`.

    Raises:
        UsageError: E0714 the storage holds the study with other settings.
        ToolError: E0715 it cannot be read or written.
    """

    def __init__(self, place: str | Path, name: str, keys: Sequence[Key], settings: Mapping[str, Any]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.place, self.keys = place, list(keys)
        self.storage = open_storage(place)
        text = json.dumps(settings, sort_keys=True)
        with self._guarded():
            study = optuna.create_study(
                storage=self.storage, study_name=name, direction="maximize", load_if_exists=True
            )
            if study.user_attrs.get("settings", text) != text:
                raise UsageError.of(
                    "E0714",
                    f"{name} is there with other settings",
                    where=str(place),
                    remedy="give the settings it was begun with, or another --out or --storage",
                )
            study.set_user_attr("settings", text)
            self.study, self.id = study, self.storage.get_study_id_from_name(name)

    def take(self) -> Trial | None:
        """A trial that from now on is this process's to run; None if all are done, or taken by others."""
        with self._guarded():
            self._give_back()
            self._fill()
            for trial in self._firsts():
                if trial.state == TrialState.WAITING and self._taken(trial.number):
                    self._note(trial.number, where=_here(), seen=time.time())
                    return _read(trial)
        return None

    @contextmanager
    def alive(self, trial: Trial) -> Iterator[None]:
        """While it lasts, others see that `trial` is being run. If it ends with an exception, the trial has failed."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(BEAT):
                self._note(trial.number, seen=time.time())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        except BaseException as error:
            stop.set()
            thread.join()
            interrupted = isinstance(error, KeyboardInterrupt)
            self._end(trial.number, TrialState.FAIL, reason="interrupted" if interrupted else str(error)[:300])
            raise
        finally:
            stop.set()
            thread.join()

    def finish(
        self,
        trial: Trial,
        values: Mapping[str, float],
        epochs: Sequence[Mapping[str, float]] = (),
        steps: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Keep what a trial gave. The first of `values` is Optuna's objective."""
        self._end(trial.number, TrialState.COMPLETE, dict(values), epochs=list(epochs), steps=list(steps))

    def diverged(self, trial: Trial, reason: str) -> None:
        """Keep that a trial's loss became infinite: that is a result, and is not tried again."""
        self._end(trial.number, TrialState.PRUNED, reason=reason)

    def all(self) -> list[Trial]:
        """The state of each of `keys`, in their order."""
        with self._guarded():
            found = {trial.key: trial for trial in map(_read, reversed(self._every())) if trial.state == "failed"}
            found |= {trial.key: trial for trial in map(_read, self._firsts())}
        return [found.get(key, Trial(-1, key, "waiting")) for key in self.keys]

    def _every(self) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self.id, deepcopy=False)

    def _firsts(self) -> list[FrozenTrial]:
        """Of each point the first trial that has not failed."""
        firsts: dict[Key, FrozenTrial] = {}
        for trial in self._every():
            if trial.state != TrialState.FAIL:
                firsts.setdefault(_key(trial), trial)
        return list(firsts.values())

    def _fill(self) -> None:
        """Add a trial for each point that has none. Two processes may both add one; only the first counts."""
        every = self._every()
        there = {_key(trial) for trial in every if trial.state != TrialState.FAIL}
        failures = [
            _key(t) for t in every if t.state == TrialState.FAIL and t.user_attrs.get("reason") != "interrupted"
        ]
        for key in self.keys:
            if key not in there and failures.count(key) < TRIES:
                names = dict(part.split("=", 1) for part in key)
                self.study.add_trial(
                    optuna.create_trial(
                        state=TrialState.WAITING,
                        params=names,
                        distributions=self._axes(),
                        user_attrs={"key": list(key)},
                    )
                )

    def _axes(self) -> dict[str, BaseDistribution]:
        """What Optuna calls the distributions: each axis with all its labels."""
        labels: dict[str, dict[str, None]] = {}
        for axis, label in (part.split("=", 1) for key in self.keys for part in key):
            labels.setdefault(axis, {})[label] = None
        return {axis: CategoricalDistribution(list(found)) for axis, found in labels.items()}

    def _give_back(self) -> None:
        """Let trials fail whose process is gone."""
        for trial in self._every():
            if trial.state == TrialState.RUNNING and _is_gone(trial):
                self._end(trial.number, TrialState.FAIL, reason="its process is gone")

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.id, number)

    def _taken(self, number: int) -> bool:
        """Whether this process, and no other, has just changed a trial from waiting to running."""
        try:
            return self.storage.set_trial_state_values(self._id(number), TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False

    def _note(self, number: int, **attributes: Any) -> None:
        try:
            for name, value in attributes.items():
                self.storage.set_trial_user_attr(self._id(number), name, value)
        except (UpdateFinishedTrialError, SQLAlchemyError, OSError):
            pass  # a sign of life that came too late, or that another will follow

    def _end(self, number: int, state: TrialState, values: dict[str, float] | None = None, **attributes: Any) -> None:
        with self._guarded():
            try:
                for name, value in (attributes | {"values": values or {}}).items():
                    self.storage.set_trial_user_attr(self._id(number), name, value)
                objective = [next(iter(values.values()))] if values else None
                self.storage.set_trial_state_values(self._id(number), state, objective)
            except UpdateFinishedTrialError:
                pass  # another process has ended it, taking this one for dead

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError, json.JSONDecodeError) as error:
            raise _unusable(self.place, error) from error


def _key(trial: FrozenTrial) -> Key:
    return tuple(trial.user_attrs["key"])


def _read(trial: FrozenTrial) -> Trial:
    kept = trial.user_attrs
    return Trial(
        trial.number,
        _key(trial),
        STATES[trial.state],
        kept.get("values", {}),
        kept.get("epochs", []),
        kept.get("steps", []),
        kept.get("where", ""),
        kept.get("reason", ""),
    )


def _here() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _is_gone(trial: FrozenTrial) -> bool:
    """Whether the process that runs a trial has died on this machine, or has given no sign of life for long."""
    seen = trial.user_attrs.get("seen", trial.datetime_start.timestamp() if trial.datetime_start else 0.0)
    host, _, process = trial.user_attrs.get("where", "").rpartition(":")
    if host == socket.gethostname():
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
    return bool(time.time() - seen > GONE)


def _open_database(url: str) -> RDBStorage:
    lite = url.startswith("sqlite")
    options = {"connect_args": {"timeout": PATIENCE}} if lite else {"pool_pre_ping": True}
    began = time.monotonic()
    while True:
        try:
            storage = RDBStorage(url, engine_kwargs=options)
            break
        except SQLAlchemyError as error:
            racing = isinstance(error, IntegrityError) or "already exists" in str(error)
            if not racing or time.monotonic() - began > PATIENCE:  # with another process that creates the same tables
                raise
            time.sleep(0.2)
    if lite:
        _serialise(storage)
    return storage


def _serialise(storage: RDBStorage) -> None:
    """Let each transaction of SQLite begin by locking the file: Optuna reads a trial's state, and then writes it."""

    @event.listens_for(storage.engine, "connect")
    def plain(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @event.listens_for(storage.engine, "begin")
    def lock(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()


def _unusable(place: str | Path, error: Exception) -> ToolError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ToolError.of(
        "E0715",
        f"the study's storage cannot be used: {reason}",
        where=str(place),
        remedy="give a writable file, or the URL of a database, such as sqlite:///study.db",
    )
