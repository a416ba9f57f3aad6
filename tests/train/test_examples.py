"""The trained models of the examples, on images that need no download."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bnncc.train.data import DataSet, Images
from examples import trained

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


def made_up(shape: tuple[int, ...]) -> Callable[[], DataSet]:
    rng = np.random.default_rng(0)
    images = Images(rng.integers(0, 256, (6, *shape), np.uint8), rng.integers(0, 10, 6))
    return lambda: DataSet(images, images, classes=tuple("0123456789"))


@pytest.mark.parametrize("model", trained.MODELS, ids=str)
def test_the_c_of_a_trained_model_decides_as_onnxruntime(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = SHAPES[model.parent.name]
    monkeypatch.setattr(trained, "MODELS", {model: made_up(shape)})
    monkeypatch.setattr("sys.argv", ["trained", str(model), "--samples", "5", "--json"])
    assert trained.main() == 0
    [outcome] = json.loads(capsys.readouterr().out)
    assert (outcome["images"], outcome["mismatched"], outcome["same_classes"]) == (5, 0, True)
    assert outcome["c"] == outcome["onnxruntime"]


def test_another_class_than_onnxruntimes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = next(iter(trained.MODELS))
    images = made_up(SHAPES[model.parent.name])().test
    one = replace(trained.Outcome(str(model), len(images), 0.5, 0.5, True, 0, 0, 0, 0), same_classes=False)
    monkeypatch.setattr(trained, "judge", lambda *_: one)
    monkeypatch.setattr("sys.argv", ["trained", str(model), "--json"])
    assert trained.main() == 1
