"""Latent weights: the baseline, in which a binary weight is the sign of a real one that any torch optimizer trains.

`latent` puts them under the binary layers of any model, as parametrizations of torch; `fold` takes them away again.
Sources: Hubara, Courbariaux et al., "Binarized Neural Networks", NeurIPS 2016; Alizadeh et al., "An Empirical Study of
Binary Neural Networks' Optimisation", ICLR 2019.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bnncc.train.layers import BinaryLayer, Sign, binary_layers, straight_through_sign


class Latent(nn.Module):
    """The parametrization: the sign of a latent weight, +1 at zero. `latent` describes the settings."""

    def __init__(self) -> None:
        super().__init__()
        self.clip, self.polynomial, self.magnitude = 1.0, False, False
        self.bound = math.inf
        self.real = False

    def forward(self, weight: Tensor) -> Tensor:
        """Of the latent weights, of any shape: the weights that the layer works with, of the same shape."""
        if self.real:
            return weight
        signs = straight_through_sign(weight, self.clip, self.polynomial)
        return signs * weight.detach().abs().mean() if self.magnitude else signs

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is assigned to the layer's weight becomes the latent weight."""
        return weight

    def extra_repr(self) -> str:
        return (
            f"clip={self.clip}, polynomial={self.polynomial}, magnitude={self.magnitude}, bound={self.bound:.4g}"
            f"{', real' if self.real else ''}"
        )


def latent(
    model: nn.Module,
    *,
    clip: float = 1,
    polynomial: bool = False,
    magnitude: bool = False,
    bound: float | Literal["xavier"] = 1,
    initialise: Callable[[Tensor], Any] | None = nn.init.xavier_uniform_,
) -> None:
    """Give every binary layer of `model` latent weights, in place.

    In a model that has them already only the settings change: train with `clip=math.inf, bound=math.inf` first and
    call it again with the clipping for the second stage (Alizadeh, section 4).

    Args:
        model: its layers of `bnncc.train.layers` with binary weights are changed.
        clip: gradient clipping: a latent weight gets the gradient of its binary one where it is at most this far from
            0, and none elsewhere; `math.inf` is the plain straight-through estimator.
        polynomial: the slope of Bi-Real Net on top of that, max(0, 2 - 2|w|).
        magnitude: magnitude-aware sign (Liu et al., "Bi-Real Net", ECCV 2018): in training the weights are the signs
            times the layer's mean |w|, through which no gradient flows, so that gradients scale with it. Folded
            weights are the signs alone: recalibrate batch normalisation afterwards.
        bound: weight clipping: `clip_weights` keeps latent weights this close to 0; `math.inf` not at all, "xavier"
            1 / `xavier_scale` of the layer (BinaryConnect).
        initialise: draws latent weights in place; None starts from the -1 and +1 that the layer has.

    Raises:
        ValueError: `clip` or `bound` is no positive number.
    """
    for name, limit in (("clip", clip), ("bound", 1 if bound == "xavier" else bound)):
        if not isinstance(limit, int | float) or not limit > 0:
            raise ValueError(f"{name} must be a positive number, not {limit!r}")
    for _, layer in binary_layers(model):
        if not parametrize.is_parametrized(layer, "weight"):
            parametrize.register_parametrization(layer, "weight", Latent())
            if initialise is not None:
                with torch.no_grad():
                    initialise(_latent_weight(layer))
        settings = _settings(layer)
        settings.clip, settings.polynomial, settings.magnitude = clip, polynomial, magnitude
        settings.bound = 1 / xavier_scale(layer) if bound == "xavier" else bound


def latent_layers(model: nn.Module) -> Iterator[tuple[str, BinaryLayer, nn.Parameter]]:
    """The layers with latent weights: path in the model, layer, latent weights."""
    for path, layer in binary_layers(model):
        if parametrize.is_parametrized(layer, "weight"):
            yield path, layer, _latent_weight(layer)


def clip_weights(model: nn.Module) -> None:
    """Bring latent weights back within their layer's `bound`. Call it after each step; `BinaryAndReal.of` does."""
    with torch.no_grad():
        for _, layer, weight in latent_layers(model):
            bound = _settings(layer).bound
            if bound < math.inf:
                weight.clamp_(-bound, bound)


def xavier_scale(layer: BinaryLayer) -> float:
    """sqrt((fan_in + fan_out) / 1.5), by which a layer's learning rate is multiplied in Xavier learning-rate scaling.

    Source: Courbariaux et al., "BinaryConnect", NeurIPS 2015. Their code squares it for SGD.
    """
    weight = _latent_weight(layer) if parametrize.is_parametrized(layer, "weight") else layer.weight
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
    return math.sqrt((fan_in + fan_out) / 1.5)


def full_precision(model: nn.Module, activation: Callable[[Tensor], Tensor] | None = nn.functional.hardtanh) -> None:
    """Train the same network without binarization: latent weights as they are, and `activation` for every `Sign`.

    With None it is binary again, and training goes on from those weights (Alizadeh, section 4 and table 5).
    Recalibrate batch normalisation at the change. Nayak's real autoencoder has `torch.relu`.
    """
    for layer in model.modules():
        if isinstance(layer, Latent):
            layer.real = activation is not None
        elif isinstance(layer, Sign):
            layer.real = activation


def load_full_precision(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a checkpoint whose binary layers have real weights, as "conv.weight", into a model with latent weights.

    Raises:
        RuntimeError: names or shapes do not fit, as `torch.nn.Module.load_state_dict` says it.
    """
    names = {f"{path}.weight": f"{path}.parametrizations.weight.original" for path, _, _ in latent_layers(model)}
    model.load_state_dict({names.get(name, name): value for name, value in state.items()})


def fold(model: nn.Module) -> None:
    """Make `model` a plain one of -1 and +1 again, in place: each weight becomes the sign of its latent one.

    Optimizers keep parameters of their own: build them anew. `export_onnx` folds a copy by itself.
    """
    full_precision(model, None)
    for _, layer, weight in list(latent_layers(model)):
        with torch.no_grad():
            weight.copy_(straight_through_sign(weight, 1, False))
        # Not parametrize.remove_parametrizations: it takes "weight" from the class, which copies of the layer share.
        del layer.parametrizations
        layer.__class__ = type(layer).__bases__[0]
        layer.weight = weight


def _parametrizations(layer: nn.Module) -> parametrize.ParametrizationList:
    found = layer.get_submodule("parametrizations.weight")
    assert isinstance(found, parametrize.ParametrizationList)
    return found


def _latent_weight(layer: nn.Module) -> nn.Parameter:
    weight = _parametrizations(layer).original
    assert isinstance(weight, nn.Parameter)
    return weight


def _settings(layer: nn.Module) -> Latent:
    settings = _parametrizations(layer)[0]
    assert isinstance(settings, Latent)
    return settings
