import copy
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bnncc.errors import ModelError
from bnncc.train import BinaryAndReal, Bop, binary_parameters, export_onnx, fold, latent, real_parameters
from bnncc.train.latents import clip_weights, full_precision, latent_layers, load_full_precision
from bnncc.train.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryLinear,
    RSign,
    Sign,
    watch_signs,
)
from bnncc.train.models import DigitsNet


def set_latent(layer: nn.Module, values: Tensor) -> nn.Parameter:
    ((_, _, weight),) = latent_layers(layer)
    weight.data = values
    return weight


@pytest.mark.parametrize(
    ("settings", "slopes"),
    [
        ({"clip": math.inf}, [1, 1, 1, 1, 1, 1]),
        ({}, [0, 1, 1, 1, 1, 0]),
        ({"clip": 1.25}, [0, 1, 1, 1, 1, 1]),
        ({"polynomial": True}, [0, 0, 1, 2, 1.5, 0]),
    ],
)
def test_straight_through_estimators(settings: dict[str, float], slopes: list[float]) -> None:
    layer = BinaryLinear(6, 1)
    latent(layer, **settings)  # type: ignore[arg-type]
    weight = set_latent(layer, torch.tensor([[-2.0, -1.0, -0.5, 0.0, 0.25, 1.25]]))
    assert layer.weight.tolist() == [[-1, -1, -1, 1, 1, 1]]
    layer(torch.arange(1.0, 7.0)).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[(i + 1) * slope for i, slope in enumerate(slopes)]]


def test_magnitude_aware_sign_scales_weights_and_gradients() -> None:
    layer = BinaryLinear(4, 1)
    latent(layer, magnitude=True)
    weight = set_latent(layer, torch.tensor([[-0.5, 0.25, 1.5, -0.75]]))
    assert layer.weight.tolist() == [[-0.75, 0.75, 0.75, -0.75]]
    layer(torch.ones(4)).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.75, 0.75, 0, 0.75]]
    fold(layer)
    assert layer.weight.tolist() == [[-1, 1, 1, -1]]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (BinaryConv1d(4, 8, 5), (2, 4, 9)),
        (BinaryConv2d(6, 6, 3, groups=6, padding=1, padding_value=1), (2, 6, 5, 5)),
        (BinaryConvTranspose2d(3, 8, 3, stride=2), (2, 3, 5, 5)),
        (BinaryLinear(30, 20), (2, 30)),
    ],
)
def test_every_binary_layer_can_have_latent_weights(layer: nn.Module, shape: tuple[int, ...]) -> None:
    layer, x = copy.deepcopy(layer), torch.randn(shape)
    latent(layer)
    folded = copy.deepcopy(layer)
    fold(folded)
    assert torch.equal(layer(x), folded(x))
    assert binary_parameters(layer) == []
    assert [p.shape for p in real_parameters(layer)] == [p.shape for p in binary_parameters(folded)]
    assert set(folded.weight.flatten().tolist()) == {-1, 1}
    assert type(folded).__name__.startswith("Binary")


def test_a_second_call_changes_settings_and_keeps_weights() -> None:
    """Two stages: plain straight-through estimation, then gradient and weight clipping."""
    layer = BinaryLinear(50, 4)
    latent(layer, clip=math.inf, bound=math.inf, initialise=partial(nn.init.uniform_, a=-3, b=3))
    ((_, _, weight),) = latent_layers(layer)
    before = weight.detach().clone()
    clip_weights(layer)
    assert torch.equal(weight, before)
    latent(layer)
    assert torch.equal(weight, before)
    layer(torch.ones(50)).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad != 0, before.abs() <= 1)
    clip_weights(layer)
    assert torch.equal(weight, before.clamp(-1, 1))


def test_the_bound_of_binary_connect_is_that_of_xavier() -> None:
    layer = BinaryLinear(50, 4)
    latent(layer, bound="xavier")
    weight = set_latent(layer, torch.full((4, 50), -2.0))
    clip_weights(layer)
    assert weight.unique().item() == pytest.approx(-math.sqrt(1.5 / 54))


def test_latent_weights_may_start_from_the_binary_ones() -> None:
    layer = BinaryLinear(50, 4)
    before = layer.weight.detach().clone()
    latent(layer, initialise=None)
    assert torch.equal(layer.weight, before)
    fold(layer)
    assert torch.equal(layer.weight, before)


def trained() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = DigitsNet(), torch.randint(0, 17, (32, 1, 8, 8), dtype=torch.uint8)
    latent(model)
    optimizer = BinaryAndReal.of(model, binary=Bop, real=partial(torch.optim.Adam, lr=1e-2))
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(model(x)[-1], torch.arange(32) % 10).backward()
        optimizer.step()
    return model, x


def test_latent_and_folded_networks_export_the_same_file(tmp_path: Path) -> None:
    model, _ = trained()
    exits = {"exits": ["a", "b", "c"], "exit_threshold": 0.1, "samples": 2}
    export_onnx(model, tmp_path / "latent.onnx", (1, 1, 8, 8), **exits)  # type: ignore[arg-type]
    assert len(list(latent_layers(model))) == 7
    fold(model)
    export_onnx(model, tmp_path / "folded.onnx", (1, 1, 8, 8), **exits)  # type: ignore[arg-type]
    assert (tmp_path / "latent.onnx").read_bytes() == (tmp_path / "folded.onnx").read_bytes()


def test_latent_weights_that_are_not_finite_are_not_exported(tmp_path: Path) -> None:
    layer = BinaryLinear(4, 2)
    latent(layer)
    set_latent(layer, torch.full((2, 4), math.nan))
    with pytest.raises(ModelError, match="E0707"):
        export_onnx(layer, tmp_path / "x.onnx", (1, 4), input_dtype="float32")


def test_binary_training_starts_from_full_precision() -> None:
    model, x = trained()
    full_precision(model)
    with watch_signs() as seen:
        real = model(x)[-1]
    assert seen == []
    assert not torch.equal(model.block1.conv.weight.abs().unique(), torch.ones(1))  # type: ignore[union-attr, operator]
    other = DigitsNet()
    latent(other)
    names = {name.replace("parametrizations.weight.original", "weight"): v for name, v in model.state_dict().items()}
    assert "block1.conv.weight" in names
    load_full_precision(other, names)
    full_precision(other)
    assert torch.equal(other(x)[-1], real)
    full_precision(model, None)
    full_precision(other, None)
    with watch_signs() as seen:
        assert torch.equal(other(x)[-1], model(x)[-1])
    assert len(seen) == 8


def test_full_precision_replaces_signs_by_a_clamp() -> None:
    layers = nn.Sequential(Sign(), RSign(2))
    full_precision(layers)
    x = torch.tensor([[-3.0, 0.25]])
    layers[1].threshold.data = torch.tensor([0.5, 0.5])
    assert layers[0](x).tolist() == [[-1, 0.25]]
    assert layers[1](x).tolist() == [[-1, -0.25]]
    full_precision(layers, torch.relu)
    assert layers[0](x).tolist() == [[0, 0.25]]


def test_a_shared_weight_stays_shared() -> None:
    first, second = BinaryLinear(4, 4), BinaryLinear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    latent(model)
    assert len(real_parameters(model)) == 1
    optimizer = BinaryAndReal.of(model, binary=Bop, real=torch.optim.Adam)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]
    fold(model)
    assert len(binary_parameters(model)) == 1
