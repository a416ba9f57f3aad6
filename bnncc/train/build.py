"""What the words of a recipe stand for: data, network, loss, and what is measured."""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bnncc.errors import UsageError
from bnncc.train import data as sets
from bnncc.train import models
from bnncc.train.batches import Batch, Denoising, Samples
from bnncc.train.checks import number, one_of, only, refusal
from bnncc.train.data import DataSet, Images
from bnncc.train.data.augment import noisy
from bnncc.train.data.sets import VALIDATION_SHARE
from bnncc.train.evaluate import accuracy, denoised, outputs_of, predict
from bnncc.train.latents import full_precision, latent, latent_layers, load_full_precision
from bnncc.train.layers import Normalize, set_norm_momentum
from bnncc.train.losses import LOSSES, Loss, summed
from bnncc.train.metrics import exit_statistics
from bnncc.train.recipe import Recipe
from bnncc.train.shelf import Table

WIDTHS = ("width", "growth")
NETWORKS: dict[str, Callable[..., nn.Module]] = {name: getattr(models, name) for name in models.__all__}
INITIALISERS: dict[str, Callable[[Tensor], Any]] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "he_uniform": partial(nn.init.kaiming_uniform_, a=math.sqrt(5)),  # torch's own for its layers
    "uniform": partial(nn.init.uniform_, a=-0.05, b=0.05),  # Keras's RandomUniform
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"hardtanh": nn.functional.hardtanh, "relu": torch.relu}
LATENT = ("clip", "polynomial", "magnitude", "bound")
STARTING = ("initialise", "scale", "checkpoint", "real", "stage2")


def data(recipe: Recipe) -> DataSet:
    """The data set. Raises UsageError E0710, and what `bnncc.train.data.load` does."""
    only(recipe, "data", recipe.data, ("name", "validation", "augment", "noise"))
    return sets.load(one_of(recipe, "data.name", recipe.data.get("name"), sets.SETS))


def divided(recipe: Recipe, whole: DataSet) -> DataSet:
    """The set with its validation part, none if the recipe's share is 0."""
    share = number(recipe, "data.validation", recipe.data.get("validation", VALIDATION_SHARE), 0, 1)
    parts = whole.with_validation(share) if share else whole
    return parts if recipe.data.get("augment", True) else replace(parts, augment=None)


def samples(recipe: Recipe, parts: DataSet) -> Samples:
    """What to train on: noisy images and the images themselves, or samples and their classes."""
    if "noise" in recipe.data:
        return Denoising(parts.train, partial(noisy, factor=_noise(recipe)), recipe.seed)
    return Samples(parts.train, parts.augment, recipe.seed)


def network(recipe: Recipe, parts: DataSet) -> nn.Module:
    """The network for the data's shape and classes, scaled by the recipe's width, with its latent weights if any."""
    builder = NETWORKS[one_of(recipe, "network.name", recipe.network.get("name"), NETWORKS)]
    options = {key: value for key, value in recipe.network.items() if key not in ("name", "bn_momentum")}
    known = inspect.signature(builder).parameters
    only(recipe, "network", options, (*known, "name", "bn_momentum"))
    shape = parts.train.x.shape[1:]
    ours: Table = {"shape": shape, "channels": shape[0], "classes": len(parts.classes) or int(parts.train.y.max()) + 1}
    if recipe.width != 1:
        key = next((key for key in WIDTHS if key in known), None)
        if key is None:
            raise refusal(recipe, f"{builder.__name__} has no width", "leave out the width")
        options[key] = max(1, round(recipe.width * options.get(key, known[key].default)))
    try:
        if "normalize" in options:
            options["normalize"] = Normalize(**options["normalize"])
        model = builder(**{key: value for key, value in ours.items() if key in known} | options)
        if "bn_momentum" in recipe.network:
            set_norm_momentum(model, keras=recipe.network["bn_momentum"])
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise refusal(recipe, f"network: {error}", "correct its keys, or the width") from error
    _add_latent_weights(recipe, model)
    # With channels last a CPU pools and convolves in .6 to .8 of the time; torch's types lack this argument of `to`.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def stage(recipe: Recipe, model: nn.Module, epoch: int) -> None:
    """Set what changes with the epoch, counted from 0: the clipping of latent weights (Alizadeh's second stage)."""
    second = recipe.latent.get("stage2")
    if second is not None:
        latent(model, **_latent_settings(recipe, late=epoch >= second["from"] * recipe.epochs))


def loss(recipe: Recipe) -> Loss:
    """The loss of one output."""
    return LOSSES[one_of(recipe, "loss", recipe.loss, LOSSES)]


def score(recipe: Recipe, model: nn.Module, images: Images) -> dict[str, float]:
    """What is measured on held-out samples, by the names that recipes have for it.

    `accuracy` (0..1); with early exits that of every sample at its exit, then `accuracy_exit1` ... of each for all
    samples and `share_exit1` ..., how many take it; or `psnr` in dB.
    """
    if "noise" in recipe.data:
        return denoised(model, images, partial(noisy, factor=_noise(recipe)), recipe.seed)
    shares = accuracy(model, images)
    if len(shares) == 1:
        return {"accuracy": shares[0]}
    found = exit_statistics(predict(model, images), torch.tensor(images.y), recipe.exit_threshold)
    row = {"accuracy": found.accuracy}
    row |= {f"accuracy_exit{k}": share for k, share in enumerate(found.accuracy_all, 1)}
    return row | {f"share_exit{k}": share for k, share in enumerate(found.shares, 1)}


def try_out(recipe: Recipe, model: nn.Module, taken: Samples) -> None:
    """Compute the loss of two samples. Raises UsageError E0710 if the network, the data and the loss do not fit each other."""
    if taken.classes == (recipe.loss == "mse"):
        remedy = "take cross_entropy, squared_hinge or l2_svm for classes, and mse with data.noise"
        raise refusal(recipe, f"the loss {recipe.loss} does not fit what is learned", remedy)
    batch, training = Batch(0, 0, np.arange(2)), model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs, targets = outputs_of(model, taken.inputs(batch)), taken.targets(batch)
            if not taken.classes and outputs[0].shape != targets.shape:
                raise ValueError(f"outputs of shape {list(outputs[0].shape)}, images of {list(targets.shape)}")
            summed(loss(recipe), outputs, targets)
    except (RuntimeError, ValueError, IndexError) as error:
        message = f"the network, the data and the loss do not fit each other: {error}"
        raise refusal(recipe, message, "take another network, or other data") from error
    finally:
        model.train(training)


def _latent_settings(recipe: Recipe, *, late: bool) -> Table:
    """Arguments of `latent`, before the second stage or `late`, in it."""
    second = recipe.latent.get("stage2", {}) if late else {}
    return {key: value for key, value in (recipe.latent | second).items() if key in LATENT}


def _add_latent_weights(recipe: Recipe, model: nn.Module) -> None:
    if not recipe.latent:
        return
    only(recipe, "latent", recipe.latent, LATENT + STARTING)
    if "stage2" in recipe.latent:
        only(recipe, "latent.stage2", recipe.latent["stage2"], ("from", *LATENT))
        number(recipe, "latent.stage2.from", recipe.latent["stage2"].get("from"), 0, 1)
    name = recipe.latent.get("initialise", "xavier_uniform")
    initialise = INITIALISERS[one_of(recipe, "latent.initialise", name, INITIALISERS)]
    try:
        for late in (True, False):
            latent(model, **_latent_settings(recipe, late=late), initialise=initialise)
    except (TypeError, ValueError) as error:
        raise refusal(recipe, f"latent: {error}", "correct its keys") from error
    scale = number(recipe, "latent.scale", recipe.latent.get("scale", 1), 0, math.inf)
    with torch.no_grad():
        for _, _, weight in latent_layers(model):
            weight.mul_(scale)
    if "checkpoint" in recipe.latent:
        _load(recipe, model, Path(str(recipe.latent["checkpoint"])))
    if "real" in recipe.latent:
        full_precision(model, ACTIVATIONS[one_of(recipe, "latent.real", recipe.latent["real"], ACTIVATIONS)])


def _load(recipe: Recipe, model: nn.Module, checkpoint: Path) -> None:
    """Begin with the weights of another run, or of a plain state_dict."""
    try:
        state = torch.load(checkpoint, weights_only=True, map_location="cpu")
        weights = {key.removeprefix("model."): value for key, value in state.get("state_dict", state).items()}
        if any(".parametrizations." in key for key in weights):
            model.load_state_dict(weights)
        else:
            load_full_precision(model, weights)
    except Exception as error:  # torch.load and load_state_dict raise a wide variety
        raise UsageError.of(
            "E0703",
            f"{recipe.name} cannot begin with this checkpoint: {error}",
            where=str(checkpoint),
            remedy="name the checkpoint of a run of the same network",
        ) from error


def _noise(recipe: Recipe) -> float:
    return number(recipe, "data.noise", recipe.data["noise"], 0, math.inf)
