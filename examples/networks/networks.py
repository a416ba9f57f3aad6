"""The networks of the papers, at full and at reduced width, with random parameters that keep all their channels busy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bnncc.train import ExportCheck, Normalize, export_onnx
from bnncc.train.models import (
    MLP,
    BinaryDenseNet,
    BinaryNet,
    BiRealNet,
    DenoisingAutoencoder,
    FullyCon,
    LeNet5,
    MeliusNet,
    QuickNet,
    VaessenNet,
)

MNIST, CIFAR, AUDIO, IMAGENET = (1, 28, 28), (3, 32, 32), (1, 98, 64), (3, 224, 224)
BATCH = 32  # inputs that set the statistics of batch normalisation; a quarter of it for large images
NEGATIVE = 0.15  # of the normalisations' scales, as training gives some
EXIT_THRESHOLD = 0.5  # nats


@dataclass(frozen=True)
class Network:
    """A network of a paper. `shape` is [C,H,W] of one input: bytes, or float32 features if `features` is true.

    `reduced` are the builder's arguments for a version that a test can afford; `i8`: also tried with its real weights
    stored in 8 bits.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    builder: Callable[..., nn.Module]
    reduced: Mapping[str, int] = field(default_factory=dict)
    features: bool = False
    i8: bool = False


NETWORKS = (
    Network("lenet5_table", "LeNet5, the paper's table", MNIST, LeNet5, {"width": 4}),
    Network("lenet5_code", "LeNet5, the paper's code", MNIST, partial(LeNet5, "code", padding="same"), {"width": 4}),
    Network(
        "lenet5_cifar",
        "LeNet5, the paper's code, CIFAR-10",
        CIFAR,
        partial(LeNet5, "code", shape=CIFAR, padding="same"),
        {"width": 4},
    ),
    Network("vaessen_mnist", "Vaessen's small network, MNIST", MNIST, partial(VaessenNet, shape=MNIST), {"width": 8}),
    Network("vaessen_cifar", "Vaessen's small network, CIFAR-10", CIFAR, VaessenNet, {"width": 8}),
    Network("autoencoder", "Denoising autoencoder", CIFAR, DenoisingAutoencoder, {"width": 4}),
    Network("mlp_sign", "MLP 3×2048, signs", MNIST, MLP, {"width": 128}),
    Network("mlp_relu", "MLP 3×2048, ReLU", MNIST, partial(MLP, "relu"), {"width": 128}),
    Network("fullycon", "FullyCon", MNIST, FullyCon, {"width": 128}),
    Network("binarynet_valid", "BinaryNet, VALID", CIFAR, BinaryNet, {"width": 16}),
    Network("binarynet_same", "BinaryNet, SAME (ConvNet)", CIFAR, partial(BinaryNet, padding="same"), {"width": 16}),
    Network(
        "binarynet_channels",
        "BinaryNet, LayerNorm of channels",
        CIFAR,
        partial(BinaryNet, norm="channels"),
        {"width": 16},
    ),
    Network(
        "binarynet_features",
        "BinaryNet, LayerNorm of all features",
        CIFAR,
        partial(BinaryNet, norm="features"),
        {"width": 16},
    ),
    Network("quicknet", "QuickNet, 5 exits", AUDIO, QuickNet, {"width": 16}, features=True, i8=True),
    Network("bireal", "Bi-Real-18, 5 exits", AUDIO, BiRealNet, {"width": 16}, features=True, i8=True),
    Network(
        "binarydensenet", "BinaryDenseNet-28, 5 exits", AUDIO, BinaryDenseNet, {"growth": 16}, features=True, i8=True
    ),
    Network("meliusnet", "MeliusNet-22, 5 exits", AUDIO, MeliusNet, {"growth": 16}, features=True, i8=True),
    Network(
        "bireal_imagenet",
        "Bi-Real-18, ImageNet",
        IMAGENET,
        partial(BiRealNet, 3, 1000, exits=(16,), binary_head=False, normalize=Normalize()),
        {"width": 4},
    ),
)


def structured_inputs(network: Network, count: int, seed: int) -> NDArray[Any]:
    """`count` smooth random images with some noise, [N,C,H,W]: uint8, or float32 like logarithms of a spectrogram.

    On them neighbouring pixels are alike, as in the real thing: with noise alone deep layers see hardly anything.
    """
    rng = np.random.default_rng(seed)
    channels, height, width = network.shape
    each = (count, channels, 4, 1, 1)  # four waves a channel
    amplitude, phase = rng.normal(size=each), rng.uniform(0, 2 * np.pi, each)
    along_y, along_x = rng.uniform(0, 0.8, each), rng.uniform(0, 0.8, each)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    z = (amplitude * np.sin(along_y * y + along_x * x + phase)).sum(2)
    z += rng.normal(0, 0.5, (count, channels, 1, 1)) + rng.normal(0, 0.3, z.shape)
    if network.features:
        return np.asarray(2 * z - 6, np.float32)
    return np.asarray(np.clip(50 * z + 128, 0, 255), np.uint8)


def random_model(network: Network, *, reduced: bool = False, seed: int = 0) -> nn.Module:
    """The network with random weights and random normalisations, whose statistics are those of structured inputs."""
    torch.manual_seed(seed)
    model = network.builder(**(network.reduced if reduced else {})).eval()
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm | nn.LayerNorm) and norm.weight is not None:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            norm.weight.data[torch.rand(norm.weight.shape) < NEGATIVE] *= -1
            nn.init.normal_(norm.bias, std=0.3)
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.momentum = None  # the statistics are those of the one batch to come
            norm.train()
    count = BATCH if network.shape[1] < 200 else BATCH // 4
    with torch.no_grad():
        model(torch.from_numpy(structured_inputs(network, count, seed)))
    return model.eval()


def export(network: Network, model: nn.Module, path: Path) -> ExportCheck:
    """Write `model`, one of `network`, to `path`; several outputs are exits."""
    with torch.no_grad():
        outputs = model(torch.from_numpy(structured_inputs(network, 1, 0)))
    exits = [f"exit{k}" for k in range(1, len(outputs) + 1)] if isinstance(outputs, tuple) else None
    return export_onnx(
        model,
        path,
        (1, *network.shape),
        exits=exits,
        exit_threshold=EXIT_THRESHOLD if exits else None,
        input_dtype="float32" if network.features else "uint8",
        samples=4,
    )
