"""A small network with two exits, and images for it."""

import numpy as np
import torch
from torch import nn

from bnncc.train import BinaryConv2d, BinaryLinear, Normalize, Sign
from bnncc.train.data import DataSet, Images
from bnncc.train.recipe import Recipe


class TwoExits(nn.Module):
    def __init__(self, *, dropout: float = 0, features: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(Normalize(), BinaryConv2d(1, 16, 3), nn.BatchNorm2d(16), Sign(), nn.Flatten())
        self.dropout = nn.Dropout(dropout)
        self.head1 = nn.Sequential(BinaryLinear(64, 2), nn.BatchNorm1d(2))
        self.head2 = nn.Sequential(
            BinaryLinear(64, features), nn.BatchNorm1d(features), Sign(), BinaryLinear(features, 2), nn.BatchNorm1d(2)
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.dropout(self.body(x))
        return self.head1(features), self.head2(features)


def stripes(count: int, seed: int) -> Images:
    """Noisy 4x4 images whose bright half is the upper (class 0) or the left one (class 1)."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 120, (count, 1, 4, 4)), rng.integers(0, 2, count)
    x[y == 0, :, :2] += 120
    x[y == 1, :, :, :2] += 120
    return Images(x.astype(np.uint8), y)


DATA = DataSet(stripes(150, 0), stripes(60, 2))
RECIPE = Recipe(
    name="small",
    title="stripes",
    network={"name": "TwoExits"},
    data={"name": "stripes", "validation": 1 / 3},
    optimizer={
        "binary": {"name": "bop", "gamma": {"start": 1e-2, "kind": "exponential", "end": 0.1}, "tau": 1e-6},
        "real": {"name": "adam", "lr": {"start": 1e-2, "kind": "linear", "end": 0}},
    },
    epochs=4,
    batch=24,
    log_every=2,
)
