import copy
import math

import pytest
import torch
from torch import nn

from bnncc.train import BinaryConv2d, BinaryLinear, Normalize, Sign, binary_parameters, real_parameters, sign
from bnncc.train.layers import (
    BinaryConv1d,
    BinaryConvTranspose2d,
    Blur,
    ChannelNorm,
    RPReLU,
    RSign,
    set_norm_momentum,
    watch_signs,
)


def test_sign_of_zero_is_plus_one() -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-30, -1e-30, float("nan")])
    assert sign(x).tolist() == [-1, 1, 1, 1, -1, -1]
    assert torch.equal(Sign()(x), sign(x))


def test_gradient_passes_straight_through_up_to_one() -> None:
    x = torch.tensor([-1.5, -1.0, -0.2, 0.0, 1.0, 1.001], requires_grad=True)
    (sign(x) * torch.arange(1.0, 7.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 0]


@pytest.mark.parametrize(
    ("layer", "gradient"),
    [
        (Sign(clip=1.25), [0, 1, 1, 1, 1]),
        (Sign(clip=math.inf), [1, 1, 1, 1, 1]),
        (Sign(polynomial=True), [0, 0, 1, 2, 1.5]),
    ],
)
def test_other_gradients(layer: nn.Module, gradient: list[float]) -> None:
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.25], requires_grad=True)
    y = layer(x)
    assert y.tolist() == [-1, -1, -1, 1, 1]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == gradient


def test_no_slope_is_negative() -> None:
    x = torch.tensor([-1.2, -0.5, 0.75, 1.2], requires_grad=True)
    sign(x, clip=math.inf, polynomial=True).sum().backward()
    assert x.grad.tolist() == [0, 1, 0.5, 0]


def test_signs_are_watched_in_order() -> None:
    x = torch.randn(3)
    with watch_signs() as seen:
        sign(sign(x))
    sign(x)
    assert len(seen) == 2
    assert torch.equal(seen[0], x)
    assert torch.equal(seen[1], sign(x))


def test_rsign_has_a_threshold_for_each_channel() -> None:
    layer, x = RSign(2), torch.tensor([[[[-1.0, 0.5]], [[0.5, 2.0]]]])
    layer.threshold.data = torch.tensor([-1.0, 1.0])
    y = layer(x)
    assert y.tolist() == [[[[1, 1]], [[-1, 1]]]]
    y.sum().backward()
    assert layer.threshold.grad is not None
    assert layer.threshold.grad.tolist() == [-1, -2]  # 1.5 lies outside of the clip


def test_rprelu_bends_where_each_channel_says() -> None:
    layer, x = RPReLU(2), torch.tensor([[-3.0, 4.0], [1.0, 1.0]])
    layer.before.data, layer.after.data = torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 0.0])
    assert layer(x).tolist() == [[-2 * 0.25 + 0.5, 2], [2.5, -0.25]]


def test_blur_is_a_fixed_low_pass() -> None:
    layer = Blur(2)
    assert list(layer.parameters()) == []
    x = torch.zeros(1, 2, 5, 4)
    x[0, 1, 2, 1] = 16
    y = layer(x)
    assert y.shape == (1, 2, 3, 2)
    assert y[0, 0].tolist() == [[0, 0], [0, 0], [0, 0]]
    assert y[0, 1].tolist() == [[0, 0], [2, 2], [0, 0]]
    assert torch.equal(Blur(1, stride=1)(torch.ones(1, 1, 3, 3))[0, 0, 1, 1], torch.tensor(1.0))


def test_channel_norm_normalises_each_pixel() -> None:
    layer, x = ChannelNorm(6), torch.randn(2, 6, 3, 4) * 5
    nn.init.normal_(layer.weight)
    centred = x - x.mean(1, keepdim=True)
    wanted = centred / (centred.square().mean(1, keepdim=True) + layer.eps).sqrt()
    wanted = wanted * layer.weight[:, None, None] + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize(
    "layer",
    [
        BinaryConv1d(4, 8, 5, groups=2),
        BinaryConv2d(3, 8, (3, 5), stride=2, padding=1, dilation=2),
        BinaryConv2d(6, 6, 3, groups=6, padding_value=1),
        BinaryConvTranspose2d(3, 8, 3, stride=2),
        BinaryLinear(30, 20),
    ],
)
def test_weights_are_the_binary_values(layer: nn.Module) -> None:
    (weight,) = layer.parameters()
    assert set(weight.flatten().tolist()) == {-1.0, 1.0}
    assert weight.requires_grad


def test_convolution_is_that_of_torch() -> None:
    layer, x = BinaryConv2d(3, 8, 3, stride=2, padding=1, dilation=2), torch.randn(2, 3, 12, 11)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, layer.weight, None, 2, 1, 2))


def test_padding_of_ones_keeps_the_input_binary() -> None:
    layer = BinaryConv2d(4, 8, 3, stride=2, padding=(1, 2), groups=2, padding_value=-1)
    x = sign(torch.randn(2, 4, 6, 5))
    padded = nn.functional.pad(x, (2, 2, 1, 1), value=-1)
    assert torch.equal(layer(x), nn.functional.conv2d(padded, layer.weight, stride=2, groups=2))
    assert set((layer(x) % 2).flatten().tolist()) == {0}  # 18 values of -1 and +1


def test_other_convolutions_are_those_of_torch() -> None:
    line, x = BinaryConv1d(4, 8, 5, stride=2, padding=3, dilation=2, groups=2), torch.randn(2, 4, 20)
    torch.testing.assert_close(line(x), nn.functional.conv1d(x, line.weight, None, 2, 3, 2, 2))
    back, z = BinaryConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), torch.randn(2, 4, 5, 6)
    wanted = nn.functional.conv_transpose2d(z, back.weight, None, 2, 1, 1, 2)
    torch.testing.assert_close(back(z), wanted)
    assert wanted.shape == (2, 6, 10, 12)


def test_parameters_fall_into_binary_and_real() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), BinaryConv2d(4, 4, 3), nn.BatchNorm2d(4), BinaryConvTranspose2d(4, 3, 2), BinaryLinear(4, 2)
    )
    model = copy.deepcopy(model)
    binary, real = binary_parameters(model), real_parameters(model)
    assert [p.shape for p in binary] == [(4, 4, 3, 3), (4, 3, 2, 2), (2, 4)]
    assert [p.shape for p in real] == [(4, 1, 3, 3), (4,), (4,), (4,)]


def test_a_shared_layer_counts_once() -> None:
    layer = BinaryLinear(4, 4)
    other = BinaryLinear(4, 4)
    other.weight = layer.weight
    model = nn.Sequential(layer, other, layer)
    assert len(binary_parameters(model)) == 1
    assert real_parameters(model) == []


def test_normalisation_of_bytes_is_exact() -> None:
    x = torch.arange(256, dtype=torch.uint8)
    got = Normalize(128, 128)(x)
    assert got.dtype == torch.float32
    assert (got * 128 + 128).tolist() == list(range(256))
    assert torch.equal(got, Normalize(128, 128)(x.float()))


def test_momentum_in_both_conventions() -> None:
    model, x = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm2d(1)), torch.tensor([[1.0], [3.0]])
    set_norm_momentum(model, keras=0.75)
    assert [layer.momentum for layer in model] == [0.25, 0.25]
    model[0](x)
    assert model[0].running_mean.item() == 0.75 * 0 + 0.25 * 2
    set_norm_momentum(model, torch=0.75)
    model[0](x)
    assert model[0].running_mean.item() == 0.25 * 0.5 + 0.75 * 2
    for wrong in ({}, {"torch": 0.1, "keras": 0.9}, {"keras": 1.1}):
        with pytest.raises(ValueError, match="momentum"):
            set_norm_momentum(model, **wrong)
