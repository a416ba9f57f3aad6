import math

import pytest
import torch

from bnncc.train import Bop


def signs(*shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randint(0, 2, shape) * 2.0 - 1)


def scalar_bop(weights: list[float], gradients: list[list[float]], gamma: float, tau: float) -> list[float]:
    """The rule, weight by weight, as the paper states it."""
    weights, averages = list(weights), [0.0] * len(weights)
    for step in gradients:
        for i, g in enumerate(step):
            averages[i] = (1 - gamma) * averages[i] + gamma * g
            m, w = averages[i], weights[i]
            if abs(m) > tau and math.copysign(1, m) == math.copysign(1, w):
                weights[i] = -w
    return weights


@pytest.mark.parametrize("tau", [0.0, 0.125, 0.5])
def test_flips_just_as_the_scalar_rule_says(tau: float) -> None:
    # Dyadic gammas and gradients: all averages are exact in float32 too, so that ties at tau really are ties.
    torch.manual_seed(0)
    weights = [signs(7, 5), signs(3)]
    flat = torch.cat([w.detach().flatten() for w in weights]).tolist()
    gradients = torch.randint(-4, 5, (6, len(flat))) / 4
    bop = Bop(weights, gamma=0.5, tau=tau)
    for step in gradients:
        weights[0].grad, weights[1].grad = step[:35].view(7, 5).clone(), step[35:].clone()
        bop.step()
    got = torch.cat([w.detach().flatten() for w in weights]).tolist()
    assert got == scalar_bop(flat, gradients.tolist(), 0.5, tau)
    assert got != flat


def test_comparison_with_tau_is_strict() -> None:
    w = torch.nn.Parameter(torch.ones(2))
    bop = Bop([w], gamma=0.5, tau=0.25)
    w.grad = torch.tensor([0.5, 0.75])  # averages 0.25 and 0.375
    bop.step()
    assert w.tolist() == [1, -1]


def test_without_tau_the_weight_opposes_the_average() -> None:
    torch.manual_seed(0)
    w = signs(50)
    bop = Bop([w], gamma=0.1, tau=0)
    for _ in range(5):
        w.grad = torch.randn(50)
        bop.step()
        assert torch.equal(w, -bop.state[w]["average"].sign())


def test_zero_gradients_flip_nothing() -> None:
    w = signs(20)
    before = w.detach().clone()
    bop = Bop([w], tau=0)
    w.grad = torch.zeros(20)
    bop.step()
    assert torch.equal(w, before)


def test_state_is_one_number_a_weight() -> None:
    w = signs(4, 6)
    bop = Bop([w])
    w.grad = torch.randn(4, 6)
    bop.step()
    (state,) = bop.state.values()
    assert sum(value.numel() for value in state.values()) == w.numel()


def test_nan_never_flips_a_weight() -> None:
    w = signs(3)
    before = w.detach().clone()
    bop = Bop([w], gamma=1.0, tau=0)
    w.grad = torch.full((3,), math.nan)
    bop.step()
    assert torch.equal(w, before)


def test_a_parameter_without_gradient_is_left_alone() -> None:
    w, unused = signs(3), signs(3)
    before = unused.detach().clone()
    w.grad = torch.ones(3)
    Bop([w, unused], gamma=1.0).step()
    assert torch.equal(unused, before)


def test_sparse_gradients_are_refused() -> None:
    w = signs(3, 3)
    w.grad = torch.eye(3).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        Bop([w]).step()


def test_resumes_from_its_state_dict() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(6, 30)
    straight = signs(30)
    broken = torch.nn.Parameter(straight.detach().clone())
    a, b = Bop([straight], gamma=0.3), Bop([broken], gamma=0.3)
    for number, g in enumerate(gradients):
        if number == 3:
            state = b.state_dict()
            b = Bop([broken], gamma=0.9)
            b.load_state_dict(state)
        straight.grad, broken.grad = g.clone(), g.clone()
        a.step()
        b.step()
    assert torch.equal(straight, broken)


def test_gamma_follows_the_parameter_group() -> None:
    w = torch.nn.Parameter(torch.ones(1))
    bop = Bop([w], gamma=1.0, tau=0.1)
    bop.param_groups[0]["gamma"] = 0.05
    w.grad = torch.ones(1)
    bop.step()
    assert w.item() == 1
    assert bop.state[w]["average"].item() == pytest.approx(0.05)


def test_groups_have_gammas_of_their_own() -> None:
    slow, fast = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    bop = Bop([{"params": [slow], "gamma": 0.01}, {"params": [fast]}], gamma=1.0, tau=0.1)
    slow.grad, fast.grad = torch.ones(1), torch.ones(1)
    bop.step()
    assert (slow.item(), fast.item()) == (1, -1)


def test_step_returns_the_loss_of_its_closure() -> None:
    w = torch.nn.Parameter(torch.ones(2))
    bop = Bop([w], gamma=1.0)

    def closure() -> float:
        bop.zero_grad()
        loss = (w * torch.tensor([3.0, -3.0])).sum()
        loss.backward()
        return loss.item()

    assert bop.step(closure) == 0
    assert w.tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("gamma", "tau"), [(0, 0), (-0.1, 0), (1.1, 0), (math.nan, 0), (0.1, -1), (0.1, math.inf), (0.1, math.nan)]
)
def test_values_out_of_range_are_refused(gamma: float, tau: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        Bop([signs(1)], gamma, tau)
