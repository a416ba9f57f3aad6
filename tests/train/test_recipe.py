"""Every recipe and variant stands for something that can be trained, and nothing else is taken."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnncc.errors import UsageError
from bnncc.train import build, stepping
from bnncc.train.data import DataSet, Images
from bnncc.train.evaluate import outputs_of
from bnncc.train.latents import latent_layers
from bnncc.train.recipe import Recipe, load, names, parse, variants

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "imagenet": (3, 64, 64),
    "speech_commands": (1, 98, 64),
    "speech_commands_4w": (1, 98, 64),
}


def made_up(name: str, count: int = 20) -> DataSet:
    """A few samples of the shape of a data set."""
    rng = np.random.default_rng(0)
    sounds = name.startswith("speech")
    x = (
        rng.standard_normal((count, *SHAPES[name]), np.float32)
        if sounds
        else rng.integers(0, 256, (count, *SHAPES[name]), np.uint8)
    )
    images = Images(x, rng.integers(0, 4, count))
    return DataSet(images, images, classes=tuple("abcd" if sounds else "0123456789"))


@pytest.mark.parametrize(("name", "variant"), [(name, v) for name in names() for v in ("", *variants(name))])
def test_every_recipe_can_be_trained(name: str, variant: str) -> None:
    narrow = {} if name in ("digits", "nayak-autoencoder") else {"width": 0.25 if name == "saeed-meliusnet" else 0.125}
    recipe = load(name, [variant] if variant else [], narrow)
    assert variant != "reduced" or recipe.reduced
    whole = made_up(recipe.data["name"])
    parts = build.divided(recipe, whole)
    torch.manual_seed(0)
    model = build.network(recipe, parts)
    optimizer, values = stepping.optimizer(recipe, model, recipe.epochs, 10)
    assert all(math.isfinite(value(recipe.epochs * 10 - 1)) for value in values.values())
    build.stage(recipe, model, 0)
    taken = build.samples(recipe, parts)
    outputs = outputs_of(model, taken.x[:8])
    targets = taken.y[:8] if taken.classes else taken.x[:8].float()
    loss = sum(build.loss(recipe)(z, targets) for z in outputs)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)


def test_every_paper_says_what_it_reports() -> None:
    for name in names():
        recipe = load(name)
        assert name == "digits" or (recipe.paper and recipe.reported)


def test_schedules_of_the_papers() -> None:
    def value(name: str, key: str, epoch: int, *, epochs: int | None = None) -> float:
        recipe = load(name, changes={"width": 0.125} | ({"epochs": epochs} if epochs else {}))
        model = build.network(recipe, made_up(recipe.data["name"]))
        _, values = stepping.optimizer(recipe, model, recipe.epochs, 10)
        (found,) = (v for (_, k), v in values.items() if k == key)
        return found(epoch * 10)

    gammas = [value("helwegen-binarynet", "gamma", epoch) for epoch in (0, 99, 100, 499)]
    assert gammas == pytest.approx([1e-4, 1e-4, 1e-5, 1e-8])
    assert value("helwegen-binarynet", "gamma", 19, epochs=20) == pytest.approx(1e-8)
    assert value("helwegen-birealnet", "gamma", 100) == pytest.approx(2.5e-6)
    assert value("helwegen-birealnet", "lr", 100) == pytest.approx(2.5e-6)


def test_variants_replace_and_empty_tables() -> None:
    latent, bop = load("nayak-lenet5"), load("nayak-lenet5", ["bop", "cifar10", "reduced"])
    assert latent.latent
    assert "binary" not in latent.optimizer
    assert not bop.latent
    assert bop.optimizer["binary"]["name"] == "bop"
    assert bop.optimizer["real"]["lr"] == {"start": 1e-2, "kind": "linear", "end": 0}
    assert (bop.name, bop.epochs, bop.data["name"]) == ("nayak-lenet5+bop+cifar10+reduced", 10, "cifar10")
    small = load("vaessen-small", ["mnist"])
    assert small.data == {"name": "mnist", "validation": 0, "augment": False}
    other = load("helwegen-binarynet", ["bop2ndorder"])
    assert set(other.optimizer["binary"]) == {"name", "gamma", "sigma", "tau"}


def test_width_scales_every_layer() -> None:
    recipe = load("vaessen-small", changes={"width": 0.5})
    model = build.network(recipe, made_up("cifar10"))
    assert [layer.weight.shape[0] for _, layer, _ in latent_layers(model)] == [16, 32, 32, 32, 10]


def test_latent_weights_start_as_the_recipe_says() -> None:
    def weights(**latent: Any) -> torch.Tensor:
        torch.manual_seed(0)
        recipe = load("vaessen-small", changes={f"latent.{key}": value for key, value in latent.items()})
        model = build.network(recipe, made_up("cifar10"))
        return torch.cat([weight.detach().flatten() for _, _, weight in latent_layers(model)])

    assert torch.equal(weights(scale=0.25), weights() * 0.25)
    assert 0.049 < weights(initialise="uniform").abs().max() <= 0.05


def test_a_second_stage_clips() -> None:
    recipe = load("alizadeh-mlp", ["stages"], {"width": 0.05, "epochs": 10})
    model = build.network(recipe, made_up("mnist"))
    bounds = []
    for epoch in (0, 7, 8, 9):
        build.stage(recipe, model, epoch)
        layer = next(latent_layers(model))[1]
        bounds.append(layer.parametrizations.weight[0].bound)
    assert bounds == [math.inf, math.inf, 1, 1]


def test_a_network_can_begin_with_the_weights_of_another(tmp_path: Path) -> None:
    parts, file = made_up("mnist"), tmp_path / "plain.pt"
    first = build.network(load("vaessen-small"), parts)
    torch.save(first.state_dict(), file)
    torch.manual_seed(1)
    second = build.network(load("vaessen-small", changes={"latent.checkpoint": str(file)}), parts)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    with pytest.raises(UsageError, match="E0703"):
        build.network(load("vaessen-small", changes={"latent.checkpoint": str(file), "width": 0.5}), parts)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("optimizer.binary.gamma=0", "optimizer.binary"),
        ("optimizer.binary.rate=1", "optimizer.binary.rate"),
        ("optimizer.binary.gamma={start = 1, kind = 'none'}", "E0721"),
        ("optimizer.binary.gamma={kind = 'linear', end = 0}", "optimizer.binary.gamma.start"),
        ("optimizer.binary=3", "optimizer.binary"),
        ("optimizer.real.name=bop", "optimizer.real.name"),
        ("optimizer.third.name=bop", "optimizer.third"),
        ("latent.clipping=1", "latent.clipping"),
        ("latent.initialise=ones", "latent.initialise"),
        ("network.classes=many", "network"),
        ("latent.clip=-1", "latent: clip"),
        ("latent.bound=x", "latent: bound"),
        ("latent={clip=1, stage2={from=0.5, bound=0}}", "latent: bound"),
        ("latent.scale=x", "latent.scale"),
        ("latent.checkpoint=5", "E0703"),
        ("optimizer.latent_rate=x", "optimizer.latent_rate"),
        ("seed=-1", "seed"),
        ("log_every=-1", "log_every"),
        ("network.bn_momentum=2", "network"),
        ("data.validation=1", "data.validation"),
        ("data.folds=1", "data.folds"),
        ("data.noise=loud", "data.noise"),
        ("loss=l1", "loss"),
        ("precision=8-bit", "precision"),
        ("recalibrate=0.5", "recalibrate"),
    ],
)
def test_what_stands_for_nothing_is_refused(change: str, place: str) -> None:
    def build_all(recipe: Recipe) -> None:
        build.data(recipe)
        parts = build.divided(recipe, made_up("digits"))
        build.samples(recipe, parts)
        model = build.network(recipe, parts)
        stepping.optimizer(recipe, model, recipe.epochs, 10)
        build.loss(recipe)

    with pytest.raises(UsageError, match=place):
        build_all(load("vaessen-binarynet", changes=dict([("data.name", "digits"), ("width", 0.05), parse(change)])))
