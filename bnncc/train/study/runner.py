"""`run`: the trials of a study that nobody else runs, and then the table and the figure of all."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bnncc.errors import ModelError, UsageError
from bnncc.train.study import report
from bnncc.train.study.experiments import EXPERIMENTS
from bnncc.train.study.file import Study
from bnncc.train.study.trials import Trial, Trials
from bnncc.train.summary import command_line

Watch = Callable[[list[Trial], Trial | None, dict[str, float]], None]
"""Called with all trials, the one that this process runs, and its last epoch's row: at every change."""


def run(
    study: Study,
    out: Path,
    *,
    storage: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    trials: int | None = None,
    threads: int | None = None,
    watch: Watch | None = None,
) -> list[Trial]:
    """Run the trials of a study that no other process has taken, and write the table and the figure of all to `out`.

    Args:
        storage: a journal file or a database's URL, which other processes may share; study.journal in `out` if not given.
        changes: to the recipe, by dotted keys; the points' own changes come after them.
        trials: run so many at most.
        threads: of the CPU; torch's setting if not given.

    Returns: the state of every trial of the study.

    Raises:
        UsageError: E0710 a recipe, E0713 the study is not as it should be; E0714 it was begun with other settings.
        ToolError: E0715 the storage cannot be used, E0509 a file cannot be written; and what training raises.
    """
    if threads:
        torch.set_num_threads(threads)
    changed = dict(changes or {})
    experiment = EXPERIMENTS.get(study.experiment)
    if experiment is None:
        known = ", ".join(EXPERIMENTS)
        raise UsageError.of("E0713", f"there is no experiment {study.experiment}", remedy=f"take one of: {known}")
    keys = study.grid()
    settings = {
        "study": asdict(study),
        "runs": [[asdict(study.run(key, changed)), study.options_of(key)] for key in keys],
    }
    shared = Trials(storage or out / "study.journal", study.name, keys, settings)
    ran = 0
    try:
        while (trials is None or ran < trials) and (trial := shared.take()):
            ran += 1
            with shared.alive(trial):
                _run_one(study, experiment, shared, trial, out, changed, watch)
    finally:
        all_trials = shared.all()
        report.write(study, all_trials, out, *_about(study, all_trials, changed))
    if watch:
        watch(all_trials, None, {})
    return all_trials


def _run_one(
    study: Study,
    experiment: Callable[..., Any],
    shared: Trials,
    trial: Trial,
    out: Path,
    changes: Mapping[str, Any],
    watch: Watch | None,
) -> None:
    def on_epoch(row: dict[str, float]) -> None:
        if watch:
            watch(others, trial, row)

    others = shared.all()
    on_epoch({})
    folder = out / "trials" / "_".join(part.replace("/", "-").replace(" ", "-") for part in trial.key)
    try:
        outcome = experiment(study.run(trial.key, changes), folder, on_epoch, **study.options_of(trial.key))
    except ModelError as error:
        if error.diagnostics[0].code != "E0702":
            raise
        shared.diverged(trial, error.diagnostics[0].message)
        return
    missing = [measure for measure in study.measures if measure not in outcome.values]
    if missing:
        raise UsageError.of(
            "E0713",
            f"the experiment {study.experiment} does not measure {', '.join(missing)}",
            where=study.name,
            remedy=f"take measures from {', '.join(outcome.values)}",
        )
    values = {study.measures[0]: outcome.values[study.measures[0]]} | outcome.values
    shared.finish(trial, values, outcome.epochs, outcome.steps)


def _about(study: Study, trials: list[Trial], changes: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """In what the runs are reduced, and what else to say of them."""
    recipes = [study.run(trial.key, changes) for trial in trials]

    def span(values: Any) -> str:
        return ", ".join(map(str, sorted(set(values))))

    done = [trial for trial in trials if trial.state == "done"]
    command = command_line()
    changed = ", ".join(f"{key} = {value}" for key, value in changes.items())
    reduced = dict.fromkeys(filter(None, (study.reduced, *(recipe.reduced for recipe in recipes), changed)))
    return "; ".join(reduced), {
        "command": f"`{command}`" if command else "",
        "trials": f"{len(done)} of {len(trials)} done",
        "recipe": span(recipe.name for recipe in recipes),
        "seeds": span(recipe.seed for recipe in recipes),
        "epochs": span(recipe.epochs for recipe in recipes),
        "width": span(recipe.width for recipe in recipes),
    }
