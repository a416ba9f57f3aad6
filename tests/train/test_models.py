from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bnncc.train import Normalize
from bnncc.train.layers import binary_parameters
from bnncc.train.models import (
    MLP,
    BinaryDenseNet,
    BinaryNet,
    BiRealNet,
    DenoisingAutoencoder,
    DigitsNet,
    FullyCon,
    LeNet5,
    MeliusNet,
    QuickNet,
    VaessenNet,
)

MNIST, CIFAR, AUDIO = (1, 28, 28), (3, 32, 32), (1, 98, 64)


def outputs_of(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    outputs = model(x)
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize(
    ("build", "shape", "outputs", "parameters"),
    [
        (DigitsNet, (1, 8, 8), [(2, 10)] * 3, 9 * (32 + 32 * 32 + 32 * 64) + 256 * 128 + (2048 + 512 + 128) * 10),
        (LeNet5, MNIST, [(2, 10)], 25 * (20 + 20 * 20 + 20 * 50 + 50 * 50) + 50 * 500 + 500 * 10),
        (lambda: LeNet5("code"), MNIST, [(2, 10)], 25 * (20 + 20 * 50) + 800 * 500 + 500 * 10),
        (
            lambda: LeNet5("code", shape=CIFAR, padding="same"),
            CIFAR,
            [(2, 10)],
            25 * (3 * 20 + 20 * 50) + 3200 * 500 + 500 * 10,
        ),
        (BinaryNet, CIFAR, [(2, 10)], 10_352_000),
        (lambda: BinaryNet(padding="same"), CIFAR, [(2, 10)], 14_022_016),
        (lambda: BinaryNet(norm="channels"), CIFAR, [(2, 10)], 10_352_000),
        (lambda: BinaryNet(norm="features"), CIFAR, [(2, 10)], 10_352_000),
        (FullyCon, MNIST, [(2, 10)], 784 * 4096 + 2 * 4096**2 + 40960),
        (MLP, MNIST, [(2, 10)], 784 * 2048 + 2 * 2048**2 + 20480),
        (lambda: MLP("relu"), MNIST, [(2, 10)], 784 * 2048 + 2 * 2048**2 + 20480),
        (VaessenNet, CIFAR, [(2, 10)], 122_336),
        (lambda: VaessenNet(shape=MNIST), MNIST, [(2, 10)], 93_088),
        (DenoisingAutoencoder, CIFAR, [(2, 3, 32, 32)], 13_824),
    ],
)
def test_binary_weights_of_the_plain_networks(
    build: Callable[[], nn.Module], shape: tuple[int, ...], outputs: list[tuple[int, ...]], parameters: int
) -> None:
    with torch.device("meta"):
        model = build()
        assert [z.shape for z in outputs_of(model, torch.zeros((2, *shape), dtype=torch.uint8))] == outputs
    assert sum(p.numel() for p in binary_parameters(model)) == parameters


@pytest.mark.parametrize(
    ("network", "last", "parameters", "binary"),
    [
        (BiRealNet, 16, 11_176_384, 10_991_616),
        (QuickNet, 16, 12_722_880, 12_539_904),
        (BinaryDenseNet, 23, 4_555_136, 4_209_408),
        (MeliusNet, 17, 6_437_152, 6_125_568),
    ],
)
def test_parameters_of_the_networks_with_exits(
    network: Callable[..., nn.Module], last: int, parameters: int, binary: int
) -> None:
    with torch.device("meta"):
        single, whole, cut = network(exits=(last,)), network(), network(exits=(4,))
        features = torch.zeros(2, *AUDIO)
        assert [z.shape for z in outputs_of(whole, features)] == [(2, 12)] * 5
        assert [z.shape for z in outputs_of(single, features)] == [(2, 12)]
        assert [z.shape for z in outputs_of(cut, features)] == [(2, 12)]
    assert sum(p.numel() for p in single.parameters()) == parameters
    assert sum(p.numel() for p in binary_parameters(single)) == binary
    assert sum(p.numel() for p in cut.parameters()) < parameters / 4


def test_bireal_for_imagenet_ends_in_a_real_layer() -> None:
    with torch.device("meta"):
        model = BiRealNet(3, 1000, exits=(16,), binary_head=False, normalize=Normalize())
        assert model(torch.zeros((1, 3, 224, 224), dtype=torch.uint8)).shape == (1, 1000)
    assert sum(p.numel() for p in model.parameters()) == 11_176_384 + 2 * 49 * 64 + 512 * (1000 - 12) + 1000


@pytest.mark.parametrize("exits", [(), (0, 16), (2, 2), (4, 2), (2, 17)])
def test_exits_are_blocks_in_rising_order(exits: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="from 1 to 16"):
        BiRealNet(exits=exits, width=4)


def test_blocks_pool_where_they_are_told_to() -> None:
    x = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    usual = VaessenNet()
    assert [name for name, _ in usual.get_submodule("block1").named_children()] == ["conv", "pool", "norm", "sign"]
    for order in ("norm-pool-sign", "norm-sign-pool"):
        model = VaessenNet(order=order)  # type: ignore[arg-type]
        assert [name for name, _ in model.get_submodule("block1").named_children()] == ["conv", *order.split("-")]
        assert [name for name, _ in model.get_submodule("block3").named_children()] == ["conv", "norm", "sign"]
        model.load_state_dict(usual.state_dict())
        assert model(x).shape == (4, 10)
    assert BinaryNet(width=4, order="norm-sign-pool", norm="features")(x).shape == (4, 10)


@pytest.mark.parametrize("settings", [{"order": "sign-norm-pool"}, {"norm": "group"}])
def test_unknown_orders_and_norms_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is none of"):
        VaessenNet(**settings)  # type: ignore[arg-type]
