"""How many binary weights a step flips."""

import math

import torch
from torch import Tensor, nn

from bnncc.train.layers import binary_layers


def pi(ratio: float) -> float:
    """Helwegen's measure of flips, ln(ratio + e^-9), of the share of weights that flipped."""
    return math.log(ratio + math.exp(-9))


class Flips:
    """Counts the weights that change their sign between `begin` and `end`, in each binary layer and overall."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = dict(binary_layers(model))
        self.before: dict[str, Tensor] = {}

    def begin(self) -> None:
        self.before = {path: layer.weight.detach() >= 0 for path, layer in self.layers.items()}

    def end(self) -> dict[str, float]:
        flips, total, row = 0, 0, {}
        for path, before in self.before.items():
            changed = int(torch.count_nonzero(before != (self.layers[path].weight.detach() >= 0)))
            row[f"pi/{path}"] = pi(changed / before.numel())
            flips, total = flips + changed, total + before.numel()
        ratio = flips / max(total, 1)
        return {"flips": ratio, "pi": pi(ratio)} | row
