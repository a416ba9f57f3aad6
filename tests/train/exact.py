"""Runs in one process or more: `exact`, whose gradients are sums of small multiples of a power of two, exact in float32
in whatever order they are added, and `normalised`, with batch normalisation, which is not.

    python tests/train/exact.py FILE PROCESSES

trains both on CPUs and keeps the weights and the observed flips in FILE.
"""

import math
import sys

import torch
from torch import Tensor, nn

from bnncc.train import BinaryConv2d, BinaryLinear, Normalize, Sign
from bnncc.train.module import Row
from bnncc.train.recipe import Recipe
from bnncc.train.run import train

RECIPE = Recipe(
    name="exact",
    title="exact gradients",
    network={"name": "none"},
    data={"name": "digits", "validation": 0.1093},  # which leaves 1,280: 40 whole batches
    loss="l2_svm",
    optimizer={"binary": {"name": "bop", "gamma": 0.1, "tau": 1e-3}, "real": {"name": "adam"}},
    epochs=1,
    batch=32,
    log_every=1,
)


class Net(nn.Sequential):
    """Integers all through: 64 pixels, 32 signs whose gradient is never clipped, 10 scores. Nothing depends on the batch."""

    def __init__(self) -> None:
        layers = (nn.Flatten(), BinaryLinear(64, 32), Sign(clip=math.inf), BinaryLinear(32, 10))
        super().__init__(Normalize(8, 8), *layers)


class Normalised(nn.Sequential):
    """Batch normalisation of vectors and of images, on which all else depends."""

    def __init__(self) -> None:
        conv = (BinaryConv2d(1, 8, 3), nn.MaxPool2d(2), nn.BatchNorm2d(8), Sign(), nn.Flatten())
        super().__init__(Normalize(8, 8), *conv, BinaryLinear(72, 10), nn.BatchNorm1d(10))


def run(processes: int, net: type[nn.Sequential] = Net) -> tuple[dict[str, Tensor], list[Row], int]:
    """The weights, the observed steps, and the rank of the process that returns."""
    torch.manual_seed(0)
    done = train(RECIPE, model=net(), show=False, accelerator="cpu", devices=processes, threads=1)
    return done.model.state_dict(), done.steps, done.rank


if __name__ == "__main__":
    found = {net.__name__: run(int(sys.argv[2]), net) for net in (Net, Normalised)}
    if all(rank == 0 for _, _, rank in found.values()):
        torch.save(
            {name: {"weights": weights, "steps": steps} for name, (weights, steps, _) in found.items()}, sys.argv[1]
        )
