"""What is done at a point of a study: from a recipe to the numbers of a trial."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from bnncc.train import build
from bnncc.train.data import Images
from bnncc.train.evaluate import recalibrate
from bnncc.train.latents import Latent, full_precision, latent_layers
from bnncc.train.module import Row
from bnncc.train.recipe import Recipe
from bnncc.train.run import Run, train

OnEpoch = Callable[[Row], None]
TRAIN_SAMPLES = 10_000
MOST_STEPS = 500


@dataclass(frozen=True)
class Outcome:
    """What a trial gives: the numbers of the table, and rows over the epochs and steps for the figure."""

    values: Row
    epochs: list[Row]
    steps: list[Row]


Experiment = Callable[..., Outcome]
"""(recipe, folder for checkpoints, what is called after each epoch, **the study's options) -> Outcome."""


def plain(recipe: Recipe, folder: Path, on_epoch: OnEpoch) -> Outcome:
    """Train. See `measured` for what it gives."""
    run = _train(recipe, folder, on_epoch)
    return Outcome(measured(run), run.epochs, thinned(run.steps))


def latent_and_binary(recipe: Recipe, folder: Path, on_epoch: OnEpoch, retrain_epochs: int = 0) -> Outcome:
    """Train with latent weights, then evaluate the same network with the latent weights in place of their signs.

    Gives what `measured` does, and on the test part `binary`; `latent`; `latent_recalibrated`, with batch normalisation's
    statistics measured anew; and with `retrain_epochs` `latent_retrained`: after so many epochs in which the latent
    weights stay as they are and batch normalisation is trained. Source: Vaessen et al. 3.1.1, Nayak et al. 2.
    """
    run = _train(recipe, folder, on_epoch)
    values = measured(run)
    values["binary"] = _test(run, run.model)
    real = copy.deepcopy(run.model)
    _work_with_latent_weights(real)
    values["latent"] = _test(run, real)
    recalibrate(real, run.data.train)
    values["latent_recalibrated"] = _test(run, real)
    if retrain_epochs:
        for _, _, weight in latent_layers(real):
            weight.requires_grad_(False)
        again = _train(replace(recipe, epochs=retrain_epochs), folder / "retrained", on_epoch, real)
        values["latent_retrained"] = _test(run, again.model)
    return Outcome(values, run.epochs, thinned(run.steps))


def invariance(recipe: Recipe, folder: Path, on_epoch: OnEpoch, rate: float = 1, weights: float = 1) -> Outcome:
    """Train twice, the second time with the latent weights' learning rate times `rate` and their start times `weights`.

    Gives `differing`, how many of the binary weights differ at the end; `differing_share`; and the `accuracy` and
    `accuracy_scaled` of both on the test part. Source: theorem 1 of Helwegen et al.: none should differ if both factors
    are equal, exactly so in floating point if they are a power of two.
    """
    latent, optimizer = dict(recipe.latent), dict(recipe.optimizer)
    latent["scale"] = latent.get("scale", 1) * weights
    optimizer["latent_rate"] = optimizer.get("latent_rate", 1) * rate
    runs = [
        _train(recipe, folder / "first", on_epoch),
        _train(replace(recipe, latent=latent, optimizer=optimizer), folder / "scaled", on_epoch),
    ]
    signs = [torch.cat([layer.weight.flatten() for _, layer, _ in latent_layers(run.model)]) for run in runs]
    differing = int((signs[0] != signs[1]).sum())
    values = {
        "differing": differing,
        "differing_share": differing / len(signs[0]),
        "accuracy": _test(runs[0], runs[0].model),
        "accuracy_scaled": _test(runs[1], runs[1].model),
    }
    return Outcome(values, runs[1].epochs, thinned(runs[1].steps))


def from_full_precision(recipe: Recipe, folder: Path, on_epoch: OnEpoch, real_epochs: int = 0) -> Outcome:
    """Train without binarization for `real_epochs`, then binary from those weights, as `plain` does from random ones.

    Gives what `measured` does, and `real`, the accuracy before binarization. Source: Alizadeh et al. 4, table 5.
    """
    if not real_epochs:
        return plain(recipe, folder, on_epoch)
    torch.manual_seed(recipe.seed)
    model = build.network(recipe, build.divided(recipe, build.data(recipe)))
    full_precision(model)
    first = _train(replace(recipe, epochs=real_epochs), folder / "real", on_epoch, model)
    real = _test(first, first.model)
    full_precision(first.model, None)
    run = _train(recipe, folder, on_epoch, first.model)
    return Outcome(measured(run) | {"real": real}, run.epochs, thinned(run.steps))


EXPERIMENTS: dict[str, Experiment] = {
    "train": plain,
    "latent_and_binary": latent_and_binary,
    "invariance": invariance,
    "from_full_precision": from_full_precision,
}


def measured(run: Run) -> Row:
    """The numbers of a run by the names that studies have for them.

    What the test part gives (`accuracy`, or `accuracy_exit1` ..., or `psnr`); of the held-out part `validation`,
    `best_validation` and `best_epoch`; `train_accuracy` of the first 10,000 training samples; `loss`; and `flips` and
    `pi`, the means over the last epoch.
    """
    last, key = run.epochs[-1], next(iter(run.test))
    values = dict(run.test) | {"loss": last["loss"]}
    if key in last:
        best = max(run.epochs, key=lambda row: row[key])
        values |= {"validation": last[key], "best_validation": best[key], "best_epoch": best["epoch"]}
    part = run.data.train
    values["train_accuracy"] = _score(run, run.model, Images(part.x[:TRAIN_SAMPLES], part.y[:TRAIN_SAMPLES]))
    steps = [row for row in run.steps if row["epoch"] == last["epoch"]]
    for name in ("flips", "pi"):
        found = [row[name] for row in steps if name in row]
        values[name] = sum(found) / len(found) if found else math.nan
    return {name: value for name, value in values.items() if not math.isnan(value)}


def thinned(steps: list[Row]) -> list[Row]:
    """Some of the observed steps, without the layers' own values: enough for a curve."""
    stride = max(1, -(-len(steps) // MOST_STEPS))
    return [{key: value for key, value in row.items() if "/" not in key} for row in steps[::stride]]


def _train(recipe: Recipe, folder: Path, on_epoch: OnEpoch, model: nn.Module | None = None) -> Run:
    return train(recipe, out=folder, resume=True, on_epoch=on_epoch, show=False, model=model, devices=1)


def _score(run: Run, model: nn.Module, images: Images) -> float:
    """The accuracy, or whatever else is measured."""
    return next(iter(build.score(run.recipe, model, images).values()))


def _test(run: Run, model: nn.Module) -> float:
    return _score(run, model, run.data.test)


def _work_with_latent_weights(model: nn.Module) -> None:
    """Let binary layers work with their latent weights. The activations stay signs."""
    for part in model.modules():
        if isinstance(part, Latent):
            part.real = True
