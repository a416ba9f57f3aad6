"""What is observed of a binary network: flips, density of set bits, early exits, the quality of images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnncc.train.layers import binary_layers, watch_signs

Rule = Literal["entropy", "score"]


def pi(ratio: float) -> float:
    """ln(ratio + e^-9) of the share of weights that flipped in a step: -9 where none did.

    Source: Helwegen et al., "Latent Weights Do Not Exist", equation 7. Vaessen's text prints 1e-9, the code has e^-9.
    """
    return math.log(ratio + math.exp(-9))


class Flips:
    """Counts the weights whose sign differs between `begin` and `end`, in each binary layer and overall.

    The weights may be latent. Between the two calls it holds one byte a weight.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = dict(binary_layers(model))
        self.before: dict[str, Tensor] = {}

    @torch.no_grad()
    def begin(self) -> None:
        self.before = {path: layer.weight >= 0 for path, layer in self.layers.items()}

    @torch.no_grad()
    def end(self) -> dict[str, float]:
        """`flips`, the share of weights that flipped since `begin`, and `pi` of it; `flips/LAYER` and `pi/LAYER` too."""
        counts = {path: int((before != (self.layers[path].weight >= 0)).sum()) for path, before in self.before.items()}
        sizes = {path: before.numel() for path, before in self.before.items()}
        self.before = {}
        ratios = {f"/{path}": count / sizes[path] for path, count in counts.items()}
        ratios = {"": sum(counts.values()) / max(1, sum(sizes.values()))} | ratios
        return {f"flips{place}": ratio for place, ratio in ratios.items()} | {
            f"pi{place}": pi(ratio) for place, ratio in ratios.items()
        }


@torch.no_grad()
def weight_density(model: nn.Module) -> dict[str, float]:
    """The share of set bits, weights of +1, in each binary layer by its path, and in all together at ""."""
    set_bits = {path: (layer.weight >= 0) for path, layer in binary_layers(model)}
    total = sum(bits.numel() for bits in set_bits.values())
    overall = sum(int(bits.sum()) for bits in set_bits.values()) / max(1, total)
    return {"": overall} | {path: bits.float().mean().item() for path, bits in set_bits.items()}


@torch.no_grad()
def sign_density(model: nn.Module, x: Tensor) -> list[float]:
    """The share of set bits, activations of +1, at each sign in the order of execution, when `model` runs on `x`.

    The model runs in the mode that it is in: put it into eval mode first.
    """
    with watch_signs() as inputs:
        model(x)
    return [(before >= 0).float().mean().item() for before in inputs]


def entropy(logits: Tensor) -> Tensor:
    """The entropy of softmax(logits) in nats: [N,classes] -> [N]."""
    log_share = functional.log_softmax(logits, 1)
    return -(log_share.exp() * log_share).sum(1)


def score(logits: Tensor, temperature: float = 1) -> Tensor:
    """The largest value of softmax(logits / temperature), in (0, 1]: [N,classes] -> [N]."""
    return (logits / temperature).softmax(1).amax(1)


def leave(
    exits: Sequence[Tensor], threshold: float, *, rule: Rule = "entropy", temperature: float = 1
) -> tuple[Tensor, Tensor]:
    """Early exit: each sample takes the first exit that is sure of it, else the last one.

    Args:
        exits: logits of each exit, [N,classes], in order of depth.
        threshold: an exit is sure where its entropy is below it, in nats, which is what the compiled C does; or, by the
            rule "score", where its `score` is above it.
        rule, temperature: as above.

    Returns:
        The class, int64 [N], and the exit, int64 [N], counted from 0.

    Source: Saeed, "Binary Early-Exit Network for Adaptive Inference on Low-Resource Devices", 2022, algorithm 1.
    """
    if rule == "entropy":
        sure = torch.stack([entropy(logits) < threshold for logits in exits])
    else:
        sure = torch.stack([score(logits, temperature) > threshold for logits in exits])
    sure[-1] = True
    taken = sure.int().argmax(0)
    classes = torch.stack([logits.argmax(1) for logits in exits])
    return classes.gather(0, taken[None])[0], taken


@dataclass(frozen=True)
class ExitStatistics:
    """What early exit does to a set of samples; a value for each exit, in order of depth, all 0..1.

    `shares`: how many samples take the exit. `accuracy_taken`: of these, how many it classifies correctly, NaN if there
    are none. `accuracy_all`: what it would be for all samples. `accuracy`: that of the whole, each sample at its exit.
    """

    shares: tuple[float, ...]
    accuracy_taken: tuple[float, ...]
    accuracy_all: tuple[float, ...]
    accuracy: float


def exit_statistics(
    exits: Sequence[Tensor], y: Tensor, threshold: float, *, rule: Rule = "entropy", temperature: float = 1
) -> ExitStatistics:
    """`leave` on samples of known class; `y` is int64 [N], the others as there."""
    classes, taken = leave(exits, threshold, rule=rule, temperature=temperature)
    right = classes == y
    return ExitStatistics(
        shares=tuple((taken == k).float().mean().item() for k in range(len(exits))),
        accuracy_taken=tuple(right[taken == k].float().mean().item() for k in range(len(exits))),
        accuracy_all=tuple((logits.argmax(1) == y).float().mean().item() for logits in exits),
        accuracy=right.float().mean().item(),
    )


def psnr(image: Tensor, original: Tensor, peak: float = 1) -> float:
    """Peak signal-to-noise ratio in dB, 10 * log10(peak^2 / mean squared error), of two tensors of one shape.

    Source: Nayak et al., equation 3; its peak is 1 although its images lie in (-1, 1).
    """
    error = functional.mse_loss(image, original).item()
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)
