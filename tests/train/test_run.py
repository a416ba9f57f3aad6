"""The training loop: it learns, repeats itself, resumes with the same bits, and says what is wrong."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import nn

import bnncc
from bnncc.errors import ModelError, ToolError, UsageError
from bnncc.train import module
from bnncc.train.data import DataSet, Images
from bnncc.train.recipe import Recipe, load
from bnncc.train.run import Run, train
from bnncc.train.summary import export, plots, write_files
from tests.train.small import DATA, RECIPE, TwoExits


def run(recipe: Recipe = RECIPE, **options: Any) -> Run:
    torch.manual_seed(0)
    given = {"model": TwoExits(dropout=0.25), "data": DATA, "show": False, "accelerator": "cpu", "devices": 1}
    return train(recipe, **(given | options))


@pytest.fixture(scope="module")
def whole() -> Run:
    return run()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_learns_and_keeps_the_weights_binary(whole: Run) -> None:
    assert [row["epoch"] for row in whole.epochs] == [1, 2, 3, 4]
    assert whole.epochs[-1]["loss"] < whole.epochs[0]["loss"]
    assert min(whole.test["accuracy_exit1"], whole.test["accuracy_exit2"]) > 0.95
    assert min(whole.epochs[-1]["accuracy_exit1"], whole.epochs[-1]["accuracy_exit2"]) > 0.9
    assert not whole.model.training
    assert set(whole.model.head2[0].weight.flatten().tolist()) == {-1.0, 1.0}


def test_flips_and_schedules_are_recorded(whole: Run) -> None:
    assert [row["step"] for row in whole.steps] == list(range(1, 21, 2))
    first = whole.steps[0]
    assert 0 < first["flips"] < 1
    assert first["pi"] == pytest.approx(torch.tensor(first["flips"] + 2.718281828**-9).log().item(), rel=1e-4)
    assert {"density", "density/body.1", "density/head2.3"} <= whole.epochs[0].keys()
    assert {"pi/body.1", "pi/head1.0", "pi/head2.0", "pi/head2.3"} <= first.keys()
    assert whole.epochs[-1]["gamma"] == pytest.approx(1e-2 * 0.1 ** (19 / 20))
    assert whole.epochs[-1]["lr"] == pytest.approx(1e-2 / 20)


class Stop(Exception):
    pass


@pytest.mark.parametrize("killed_in_step", [3, 5, 6, 10, 14, 20])
def test_a_run_resumes_with_the_same_bits(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in_step: int
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1)
    killed = TwoExits(dropout=0.25)
    left = [killed_in_step]

    def stop(layer: nn.Module, *_: object) -> None:
        left[0] -= layer.training
        if left[0] == 0:
            raise Stop

    torch.manual_seed(0)
    killed = TwoExits(dropout=0.25)
    killed.dropout.register_forward_hook(stop)
    with pytest.raises(Stop):
        run(model=killed, out=tmp_path)
    torch.manual_seed(1)
    resumed = run(model=TwoExits(dropout=0.25), out=tmp_path, resume=True)
    assert same(whole.model, resumed.model)
    assert (resumed.epochs, resumed.steps, resumed.test) == (whole.epochs, whole.steps, whole.test)


def test_a_finished_run_resumes_to_its_own_result(whole: Run, tmp_path: Path) -> None:
    short = replace(RECIPE, epochs=1)
    first = run(short, out=tmp_path)
    again = run(short, out=tmp_path, resume=True)
    assert same(first.model, again.model)
    assert (again.epochs, again.test) == (first.epochs, first.test)
    assert not same(first.model, whole.model)


def test_files(tmp_path: Path) -> None:
    done = run(replace(RECIPE, epochs=2), out=tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in done.epochs]
    assert len((tmp_path / "steps.csv").read_text().splitlines()) == 1 + len(done.steps)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.value for e in events.Scalars("epoch/loss")] == pytest.approx([row["loss"] for row in done.epochs])
    assert len(events.Scalars("step/pi")) == len(done.steps)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    short = replace(RECIPE, epochs=1)
    run(short, out=tmp_path)
    before = (tmp_path / "checkpoint.ckpt").read_bytes()
    with pytest.raises(UsageError, match="E0711"):
        run(short, out=tmp_path)
    for recipe, options in (
        (replace(short, seed=1), {}),
        (short, {"model": TwoExits(features=24)}),
    ):
        with pytest.raises(UsageError, match="E0703"):
            run(recipe, out=tmp_path, resume=True, **options)
    assert (tmp_path / "checkpoint.ckpt").read_bytes() == before
    (tmp_path / "checkpoint.ckpt").write_bytes(b"rubbish")
    with pytest.raises(UsageError, match="E0703"):
        run(short, out=tmp_path, resume=True)


def test_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ToolError, match="E0509"):
        run(out=tmp_path / "file" / "run")


def test_how_the_settings_were_given_does_not_matter(tmp_path: Path) -> None:
    short = replace(RECIPE, epochs=1)
    first = run(short, out=tmp_path)
    assert run(replace(short, changes={"epochs": 1}), out=tmp_path, resume=True).epochs == first.epochs


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"loss": "mse"}, {}, "E0710.*mse"),
        ({"data": {"name": "digits", "noise": 0.1}}, {}, "E0710.*cross_entropy"),
        ({"data": {"name": "digits", "noise": 0.1}, "loss": "mse"}, {}, "E0710.*do not fit each other"),
        ({}, {"model": TwoExits().head1}, "E0710.*do not fit each other"),
        ({"batch": 1}, {}, "E0710.*batches of 1"),
        ({"data": {"name": "digits", "validation": 0.999}}, {}, "E0710.*training samples"),
        ({}, {"accelerator": "abacus"}, "E0722"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises((UsageError, ToolError), match=message):
        run(replace(RECIPE, **changes), out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_last_batch_of_one_is_left_out() -> None:
    last = replace(RECIPE, epochs=1, batch=len(DATA.train) - 1)
    assert run(replace(last, data={"name": "digits", "validation": 0})).epochs[0]["step"] == 1


def test_there_is_an_accuracy_to_plot_without_a_held_out_part(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: drawn.append(k.get("label", "")) or plot(*a, **k))
    plots(run(replace(RECIPE, epochs=1, data={"name": "digits", "validation": 0})))
    assert drawn[0] == "while training"


def test_divergence_is_reported() -> None:
    model = TwoExits()
    with torch.no_grad():
        model.head1[1].weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="E0702"):
        run(model=model)


def test_what_on_epoch_raises_ends_the_run() -> None:
    seen = []

    def stop_after_two(row: dict[str, float]) -> None:
        seen.append(row["epoch"])
        if len(seen) == 2:
            raise Stop

    with pytest.raises(Stop):
        run(on_epoch=stop_after_two)
    assert seen == [1, 2]


def test_progress_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    run(replace(RECIPE, epochs=1), show=True)
    out, err = capfd.readouterr()
    assert "epoch 1: loss" in err
    assert not out


class Files:
    """Images that are read when they are asked for, as those of ImageNet are."""

    def __init__(self, x: NDArray[np.uint8]) -> None:
        self.x, self.shape, self.dtype = x, x.shape, x.dtype

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> Any:
        return Files(self.x[rows]) if isinstance(rows, slice) else self.x[rows]


def test_samples_that_are_read_from_files_give_the_same_run(whole: Run) -> None:
    parts = [Images(Files(images.x), images.y) for images in (DATA.train, DATA.test)]
    assert same(run(data=DataSet(*parts)).model, whole.model)


def test_bi_real_net_learns_a_few_images_by_heart_and_compiles(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = Images(rng.integers(0, 256, (64, 3, 32, 32), np.uint8), rng.integers(0, 4, 64))
    changes = {"epochs": 20, "batch": 16, "width": 0.25, "data.validation": 0, "data.augment": False}
    recipe = load("helwegen-birealnet", changes=changes)
    done = train(recipe, data=DataSet(images, images, classes=tuple("abcd")), show=False, accelerator="cpu", devices=1)
    assert done.epochs[0]["training_accuracy"] < 0.5
    assert done.epochs[-1]["training_accuracy"] > 0.9
    export(done, tmp_path / "net.onnx")
    bnncc.compile(tmp_path / "net.onnx", "cortex-m7")


def test_an_autoencoder_is_trained_measured_and_exported(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = Images(rng.integers(0, 256, (40, 3, 16, 16), np.uint8), np.zeros(40, np.int64))
    recipe = load("nayak-autoencoder", changes={"epochs": 2, "batch": 20, "width": 0.5})
    done = train(recipe, data=DataSet(images, images), show=False, accelerator="cpu", devices=1)
    assert list(done.test) == ["psnr", "psnr_input", "psnr_mean"]
    assert done.test["psnr_input"] == pytest.approx(20.2, abs=0.3)  # noise of 0.1, a little of it clipped
    assert done.test["psnr_mean"] == pytest.approx(10 * np.log10(3), abs=0.1)  # uniform values have a variance of 1/3
    assert 0 < done.test["psnr"] < done.test["psnr_input"]
    about = write_files(done, tmp_path)
    assert about["onnx"]["agreeing"] == about["onnx"]["samples"]
    assert "| psnr |" in (tmp_path / "summary.md").read_text()
