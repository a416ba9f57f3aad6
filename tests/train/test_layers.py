import copy

import pytest
import torch
from torch import nn

from bnncc.train import BinaryConv2d, BinaryLinear, Normalize, Sign, binary_parameters, real_parameters, sign


def test_sign_of_zero_is_plus_one() -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-30, -1e-30, float("nan")])
    assert sign(x).tolist() == [-1, 1, 1, 1, -1, -1]
    assert torch.equal(Sign()(x), sign(x))


def test_gradient_passes_straight_through_up_to_one() -> None:
    x = torch.tensor([-1.5, -1.0, -0.2, 0.0, 1.0, 1.001], requires_grad=True)
    (sign(x) * torch.arange(1.0, 7.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 0]


@pytest.mark.parametrize("layer", [BinaryConv2d(3, 8, (3, 5), stride=2, padding=1, dilation=2), BinaryLinear(30, 20)])
def test_weights_are_the_binary_values(layer: nn.Module) -> None:
    (weight,) = layer.parameters()
    assert set(weight.flatten().tolist()) == {-1.0, 1.0}
    assert weight.requires_grad


def test_convolution_is_that_of_torch() -> None:
    layer, x = BinaryConv2d(3, 8, 3, stride=2, padding=1, dilation=2), torch.randn(2, 3, 12, 11)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, layer.weight, None, 2, 1, 2))


def test_parameters_fall_into_binary_and_real() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), BinaryConv2d(4, 4, 3), nn.BatchNorm2d(4), BinaryLinear(4, 2))
    model = copy.deepcopy(model)
    binary, real = binary_parameters(model), real_parameters(model)
    assert [p.shape for p in binary] == [(4, 4, 3, 3), (2, 4)]
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
