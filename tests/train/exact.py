"""A run whose gradients are sums of small multiples of a power of two, exact in float32 in whatever order they are added.

    python tests/train/exact.py FILE PROCESSES

trains on CPUs and keeps the weights and the observed flips in FILE.
"""

import math
import sys

import torch
from torch import Tensor, nn

from bnncc.train import BinaryLinear, Normalize, Sign
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


def run(processes: int) -> tuple[dict[str, Tensor], list[dict[str, float]], int]:
    """The weights, the observed steps, and the rank of the process that returns."""
    torch.manual_seed(0)
    done = train(RECIPE, model=Net(), show=False, accelerator="cpu", devices=processes, threads=1)
    return done.model.state_dict(), done.steps, done.rank


if __name__ == "__main__":
    weights, steps, rank = run(int(sys.argv[2]))
    if rank == 0:
        torch.save({"weights": weights, "steps": steps}, sys.argv[1])
