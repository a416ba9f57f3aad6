import pytest
import torch
from torch import nn

from bnncc.train.layers import binary_parameters
from bnncc.train.models import DigitsNet, LeNet5


@pytest.mark.parametrize(
    ("model", "shape", "exits", "weights"),
    [
        (DigitsNet(), (2, 1, 8, 8), 3, 9 * 32 + 9 * 32 * 32 + 9 * 32 * 64 + 256 * 128 + (2048 + 512 + 128) * 10),
        (LeNet5(), (2, 1, 28, 28), 1, 25 * (20 + 20 * 20 + 20 * 50 + 50 * 50) + 50 * 500 + 500 * 10),
    ],
)
def test_shapes_and_sizes(model: nn.Module, shape: tuple[int, ...], exits: int, weights: int) -> None:
    outputs = model(torch.zeros(shape, dtype=torch.uint8))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert [z.shape for z in outputs] == [(2, 10)] * exits
    assert sum(p.numel() for p in binary_parameters(model)) == weights
