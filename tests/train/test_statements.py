"""What the papers state and what can be tested exactly, on data made up here."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer

from bnncc.train import BinaryAndReal, Bop, binary_parameters, real_parameters
from bnncc.train.latents import latent, latent_layers
from bnncc.train.models import BinaryNet, VaessenNet


def batches(count: int, size: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randint(0, 256, (size, 3, 32, 32)), torch.randint(0, 10, (size,))) for _ in range(count)]


def train(model: nn.Module, optimizer: Optimizer, data: list[tuple[Tensor, Tensor]]) -> None:
    for x, y in data:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("algorithm", [partial(SGD, momentum=0.9), Adam])
def test_theorem_1_learning_rate_invariance(algorithm: Callable[..., Optimizer]) -> None:
    """Scaled by a power of two, the learning rate and the latent weights give the same binary weights (Helwegen).

    It needs a straight-through estimator that does not depend on |w|, and no clipping.
    """
    torch.manual_seed(0)
    model = VaessenNet()
    latent(model, clip=torch.inf, bound=torch.inf)
    data = batches(4, 16)

    def signs_after(rate_factor: float, weight_factor: float) -> Tensor:
        copied = copy.deepcopy(model)
        with torch.no_grad():
            for _, _, weight in latent_layers(copied):
                weight.mul_(weight_factor)

        def real(groups: list[dict[str, Any]]) -> Optimizer:
            optimizer = algorithm(groups, lr=1e-2)
            optimizer.param_groups[1]["lr"] *= rate_factor
            return optimizer

        train(copied, BinaryAndReal.of(copied, binary=Bop, real=real), data)
        return torch.cat([layer.weight.detach().flatten() for _, layer, _ in latent_layers(copied)])

    first = signs_after(1, 1)
    assert len(first) == 122_336
    assert set(first.tolist()) == {-1, 1}
    assert (signs_after(2**10, 2**10) != first).sum() == 0
    assert (signs_after(2**-7, 2**-7) != first).sum() == 0
    assert (signs_after(2**10, 1) != first).sum() > 0


def test_bop_without_tau_is_the_sign_of_averaged_sgd() -> None:
    """At tau = 0 each weight is -sign(m) after each step, m the average of its gradients (Helwegen, section 4)."""
    torch.manual_seed(0)
    model = VaessenNet()
    other = copy.deepcopy(model)
    bop, sgd = Bop(binary_parameters(model), gamma=0.1, tau=0), SGD(binary_parameters(other), lr=1)
    averages = [torch.zeros_like(w) for w in binary_parameters(other)]
    for x, y in batches(4, 16):
        for network, optimizer in ((model, bop), (other, sgd)):
            optimizer.zero_grad()
            functional.cross_entropy(network(x), y).backward()
        bop.step()
        for w, m in zip(binary_parameters(other), averages, strict=True):
            assert w.grad is not None
            m.lerp_(w.grad, 0.1)
            w.grad = torch.where(m == 0, 0, w.detach() + m.sign())  # a step of SGD at rate 1 leads to -sign(m)
        sgd.step()
        for a, b in zip(binary_parameters(model), binary_parameters(other), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("algorithm", "state", "bytes_a_weight"),
    [(partial(SGD, lr=0.1, momentum=0.9), 4, 8), (partial(Adam, lr=0.1), 8, 12)],
)
def test_memory_of_latent_weights(algorithm: Callable[..., Optimizer], state: int, bytes_a_weight: int) -> None:
    """Two real numbers a weight with momentum, three with Adam, where Bop takes one (Helwegen, section 4)."""
    model = VaessenNet()
    latent(model)
    weights = [weight for _, _, weight in latent_layers(model)]
    optimizer = algorithm(weights)
    functional.cross_entropy(model(torch.zeros(2, 3, 32, 32)), torch.zeros(2).long()).backward()
    optimizer.step()
    kept = [v for values in optimizer.state.values() for v in values.values() if isinstance(v, Tensor) and v.ndim]
    count = sum(weight.numel() for weight in weights)
    assert sum(tensor.nbytes for tensor in kept) == state * count
    assert sum(tensor.nbytes for tensor in (*kept, *weights)) == bytes_a_weight * count


def test_memory_of_bop_on_a_network() -> None:
    model = VaessenNet()
    optimizer = BinaryAndReal.of(model, binary=Bop, real=partial(Adam, lr=1e-2))
    train(model, optimizer, batches(1, 2))
    kept = [value for w in binary_parameters(model) for value in optimizer.state[w].values()]
    assert sum(value.nbytes for value in kept) == 4 * 122_336
    assert sum(p.numel() for p in real_parameters(model)) == 2 * (32 + 64 + 64 + 64 + 10)


@pytest.mark.parametrize(("first", "share"), [("zero", 0.34), ("gradient", 0.50)])
def test_flips_of_the_first_step(first: Literal["zero", "gradient"], share: float) -> None:
    """gamma 1e-4, tau 1e-8 and a batch of 50: from zero, only the gradients above tau / gamma flip their weights.

    On BinaryNet of a quarter of the width. How many these are depends on the network: 6 % at full width.
    """
    torch.manual_seed(0)
    model = BinaryNet(width=32)
    weights = binary_parameters(model)
    before = [w.detach().clone() for w in weights]
    train(model, Bop(weights, gamma=1e-4, tau=1e-8, first=first), batches(1, 50))
    flips = sum(int((w != old).sum()) for w, old in zip(weights, before, strict=True))
    assert flips / sum(w.numel() for w in weights) == pytest.approx(share, abs=0.02)
