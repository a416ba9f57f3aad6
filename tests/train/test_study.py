import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bnncc.cli.app import app
from bnncc.errors import ModelError, UsageError
from bnncc.train import build, stepping
from bnncc.train.data import DataSet, Images
from bnncc.train.study import experiments, report
from bnncc.train.study import file as studies
from bnncc.train.study.experiments import Outcome
from bnncc.train.study.runner import run

TINY = """
title = "Tiny"
paper = "A paper, table 1"
recipe = "digits"
measures = ["accuracy_exit3", "flips"]
seeds = 2
note = "What to know."

[set]
"data.validation" = 0.1

[axis.gamma]
key = "optimizer.binary.gamma"
values = [1e-2, 0.001]

[axis.threshold]
none = { "optimizer.binary.tau" = 0 }
some = { "optimizer.binary.tau" = 1e-6, batch = 100 }

[[reported]]
gamma = 0.01
threshold = "some"
accuracy_exit3 = 0.99

[figure]
curves = ["accuracy_exit3", "pi"]
columns = "threshold"

[variant.reduced]
reduced = "1 epoch"
seeds = 1
set = { epochs = 1 }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def fake(recipe: Any, folder: Path, on_epoch: Any, **options: Any) -> Outcome:
    """In place of training: numbers that tell the recipe."""
    del folder, options
    gamma, tau = recipe.optimizer["binary"]["gamma"], recipe.optimizer["binary"]["tau"]
    if tau == 0 and gamma < 0.01:
        raise ModelError.of("E0702", "the loss became inf")
    rows = [{"epoch": k, "step": 10 * k, "accuracy_exit3": 0.1 * k} for k in (1, 2)]
    for row in rows:
        on_epoch(row)
    return Outcome(
        {"flips": 10 * tau, "accuracy_exit3": gamma + recipe.seed}, rows, [{"step": 5, "epoch": 1, "pi": -3}]
    )


@pytest.fixture
def _faked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(experiments.EXPERIMENTS, "train", fake)


def test_the_grid_is_the_product_of_the_axes(file: Path) -> None:
    study = studies.load(file)
    assert [str(point) for point in study.points()] == ["0.01, none", "0.01, some", "0.001, none", "0.001, some"]
    assert len(study.grid()) == 8
    key = ("gamma=0.001", "threshold=some", "seed=1")
    assert key in study.grid()
    recipe = study.run(key, {"epochs": 3, "batch": 7, "seed": 5})
    assert (recipe.epochs, recipe.batch, recipe.seed) == (3, 100, 6), "the point's changes come last"
    assert recipe.optimizer["binary"]["gamma"] == 0.001
    assert study.reported_at(study.points()[1]) == {"accuracy_exit3": 0.99}
    assert study.reported_at(study.points()[0]) == {}


def test_a_variant_changes_keys(file: Path) -> None:
    study = studies.load(file, ["reduced"])
    assert (study.name, study.seeds, study.reduced) == ("tiny+reduced", 1, "1 epoch")
    assert study.set == {"data.validation": 0.1, "epochs": 1}
    assert studies.variants(file) == ["reduced"]


@pytest.mark.parametrize("name", studies.names())
def test_studies_that_come_with_bnncc_are_whole(name: str) -> None:
    for variant in (None, *studies.variants(name)):
        study = studies.load(name, [variant] if variant else [])
        assert study.experiment in experiments.EXPERIMENTS
        assert study.paper or name == "digits"
        runs = [(asdict(study.run(key, {})), study.options_of(key)) for key in study.grid()]
        assert len({json.dumps(run, sort_keys=True) for run in runs}) == len(runs)
        assert variant in (None, "cifar10", "mnist") or study.reduced or all(recipe["reduced"] for recipe, _ in runs)


@pytest.mark.parametrize("name", [name for name in studies.names() if name != "digits"])
def test_what_studies_run_can_be_built(name: str) -> None:
    for variant in (None, *studies.variants(name)):
        study = studies.load(name, [variant] if variant else [])
        for point in study.points():
            recipe = study.run(study.key(point, 0), {"width": 0.05})
            shape = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}[recipe.data["name"]]
            images = Images(np.zeros((2, *shape), np.uint8), np.arange(2))
            model = build.network(recipe, DataSet(images, images, classes=tuple("0123456789")))
            stepping.optimizer(recipe, model, recipe.epochs, 100)
            build.loss(recipe)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('title = "Tiny"', "title = 1", "title is 1"),
        ("seeds = 2", "seeds = 0", "seeds is 0"),
        ("seeds = 2", "sedes = 2", "unknown key sedes"),
        ('recipe = "digits"', "", "recipe is missing"),
        ("values = [1e-2, 0.001]", "values = 3", "axis.gamma"),
        ("gamma = 0.01", "gamma = 0.05", "reported: gamma = 0.05"),
        ("accuracy_exit3 = 0.99", "accuracy = 0.99", "reported: accuracy"),
        ("[axis.gamma]", "[axis.gamma", "not readable"),
        ('measures = ["accuracy_exit3", "flips"]', "measures = []", "measures is []"),
    ],
)
def test_bad_studies_are_refused(file: Path, old: str, new: str, says: str) -> None:
    assert old in TINY
    file.write_text(TINY.replace(old, new, 1))
    with pytest.raises(UsageError, match="E0713") as caught:
        studies.load(file)
    assert says in str(caught.value)


def test_unknown_studies_and_variants_are_refused(file: Path) -> None:
    for name, variants in (("nothing", []), (file, ["huge"]), (file.with_suffix(".txt"), [])):
        with pytest.raises(UsageError, match="E0713"):
            studies.load(name, variants)


def test_trains_and_writes_the_table_beside_the_paper(file: Path, tmp_path: Path) -> None:
    study = studies.load(file, ["reduced"])
    done = run(study, tmp_path / "out", trials=2)
    assert [trial.state for trial in done] == ["done", "done", "waiting", "waiting"]
    assert all(len(trial.epochs) == 1 and "pi" in trial.steps[0] for trial in done[:2])
    first = report.lines(study, done)[1].cells["accuracy_exit3"]
    assert 0.1 < (first.mean or 0) < 1
    assert first.paper == 0.99
    page = (tmp_path / "out" / "table.md").read_text()
    for text in (
        "accuracy_exit3 (reduced)",
        "Reduced: 1 epoch.",
        "| 0.99 |",
        "2 of 4 done",
        "What to know.",
        "1 waiting",
    ):
        assert text in page
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert float(rows[1]["accuracy_exit3 mean"]) == first.mean
    assert rows[2]["accuracy_exit3 mean"] == ""
    assert (tmp_path / "out" / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_faked")
def test_goes_on_where_it_stopped(file: Path, tmp_path: Path) -> None:
    study, seen = studies.load(file), []
    for _ in range(3):
        run(study, tmp_path, trials=3, watch=lambda _, trial, row: seen.append((trial, row)))
    begun = [trial.key for trial, row in seen if trial and not row]
    assert sorted(begun) == sorted(study.grid())
    done = run(study, tmp_path)
    assert [t.state for t in done] == ["done", "done", "diverged", "done"] * 2
    cell = report.lines(study, done)[0].cells["accuracy_exit3"]
    assert (cell.mean, cell.count) == (pytest.approx(0.51), 2)
    assert cell.deviation == pytest.approx(0.5**0.5)
    assert "2 diverged" in (tmp_path / "table.md").read_text()
    with pytest.raises(UsageError, match="E0714"):
        run(study, tmp_path, changes={"epochs": 2})


def test_bars_of_labels_do_not_break_the_table() -> None:
    assert report.markdown(["a"], [["|w| <= 1"]]) == ["| a |", "| --- |", r"| \|w\| <= 1 |"]


@pytest.mark.usefixtures("_faked")
def test_bars_and_unknown_measures(file: Path, tmp_path: Path) -> None:
    file.write_text(TINY.split("[figure]", maxsplit=1)[0].replace("= 0.99", "= [0.99, 0.01]"))
    study = studies.load(file)
    run(study, tmp_path / "bars")
    assert (tmp_path / "bars" / "figure.png").stat().st_size > 5000
    assert "| 0.99 ± 0.01 |" in (tmp_path / "bars" / "table.md").read_text()
    file.write_text(
        TINY.replace('"flips"]', '"flips", "height"]').replace("seeds = 2", 'seeds = 2\nexperiment = "train"')
    )
    with pytest.raises(UsageError, match=r"E0713.*height"):
        run(studies.load(file), tmp_path / "unknown")
    file.write_text(TINY.replace("seeds = 2", 'seeds = 2\nexperiment = "dance"'))
    with pytest.raises(UsageError, match=r"E0713.*dance"):
        run(studies.load(file), tmp_path / "unknown")


@pytest.mark.usefixtures("_faked")
def test_an_interruption_leaves_a_table_and_goes_on(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> Outcome:
        raise KeyboardInterrupt

    study = studies.load(file)
    run(study, tmp_path, trials=1)
    with monkeypatch.context() as patch:
        patch.setitem(experiments.EXPERIMENTS, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            run(study, tmp_path)
    assert "1 of 8 done" in (tmp_path / "table.md").read_text()
    assert {t.state for t in run(study, tmp_path)} == {"done", "diverged"}


@pytest.mark.usefixtures("_faked")
def test_the_command(file: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out"), "--seeds", "1"]
    done = CliRunner().invoke(app, ["study", str(file), *out, "--trials", "1", "--set", "batch=10"])
    assert done.exit_code == 0, done.output
    assert "1 done, 3 waiting" in done.output
    assert "trial 1 of 4: gamma=0.01, threshold=none, seed=0" in done.output
    as_json = CliRunner().invoke(app, ["study", str(file), *out, "--set", "batch=10", "--json"])
    about = json.loads(as_json.stdout)
    assert [point["states"] for point in about["points"]] == [["done"], ["done"], ["diverged"], ["done"]]
    assert about["points"][1]["measures"]["accuracy_exit3"] == {
        "mean": 0.01,
        "deviation": None,
        "seeds": 1,
        "paper": 0.99,
    }


def test_the_studies_are_listed() -> None:
    listed = CliRunner().invoke(app, ["study", "--list"])
    assert listed.exit_code == 0
    found = json.loads(CliRunner().invoke(app, ["study", "--list", "--json"]).stdout)
    assert [entry["name"] for entry in found] == studies.names()
    for name in studies.names():
        assert name in listed.output
    assert isinstance(CliRunner().invoke(app, ["study"]).exception, UsageError)
