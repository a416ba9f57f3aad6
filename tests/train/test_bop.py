import math
from collections.abc import Callable

import pytest
import torch

from bnncc.train import Bop, Bop2ndOrder, CascadedBop
from bnncc.train.bop import CHUNK


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


def scalar_second_order(
    weights: list[float], gradients: list[list[float]], gamma: float, sigma: float, tau: float, *, unbiased: bool
) -> list[float]:
    weights, m, v = list(weights), [0.0] * len(weights), [0.0] * len(weights)
    for t, step in enumerate(gradients, 1):
        for i, g in enumerate(step):
            m[i] = (1 - gamma) * m[i] + gamma * g
            v[i] = (1 - sigma) * v[i] + sigma * g**2
            seen_m, seen_v = (1 - (1 - gamma) ** t, 1 - (1 - sigma) ** t) if unbiased else (1, 1)
            if weights[i] * (m[i] / seen_m) / (math.sqrt(v[i] / seen_v) + 1e-10) > tau:
                weights[i] = -weights[i]
    return weights


@pytest.mark.parametrize("unbiased", [False, True])
def test_second_order_flips_just_as_the_scalar_rule_says(unbiased: bool) -> None:
    torch.manual_seed(0)
    w = signs(200)
    before, gradients = w.tolist(), torch.randn(8, 200)
    optimizer = Bop2ndOrder([w], gamma=0.2, tau=0.3, sigma=0.4, unbiased=unbiased)
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
    wanted = scalar_second_order(before, gradients.tolist(), 0.2, 0.4, 0.3, unbiased=unbiased)
    assert w.tolist() == wanted
    assert wanted != before
    assert wanted != scalar_second_order(before, gradients.tolist(), 0.2, 0.4, 0.3, unbiased=not unbiased)


def test_second_order_is_blind_to_the_scale_of_the_loss() -> None:
    torch.manual_seed(0)
    small = signs(200)
    large = torch.nn.Parameter(small.detach().clone())
    a, b = Bop2ndOrder([small], gamma=0.2, tau=0.3), Bop2ndOrder([large], gamma=0.2, tau=0.3)
    for g in torch.randn(8, 200):
        small.grad, large.grad = g, 1024 * g
        a.step()
        b.step()
    assert torch.equal(small, large)


def test_bias_correction_follows_a_schedule() -> None:
    """Of a constant gradient every corrected average is that gradient, whatever gamma was at each step."""
    w = torch.nn.Parameter(torch.ones(1))
    optimizer = Bop2ndOrder([w], gamma=0.5, tau=0.99, unbiased=True)
    for gamma in (0.5, 0.01, 0.2):
        optimizer.param_groups[0]["gamma"] = gamma
        w.data.fill_(1)
        w.grad = torch.full((1,), 3.0)  # m / sqrt(v) is 1 with both corrected
        optimizer.step()
        assert w.item() == -1


def test_two_filters_flip_just_as_their_scalar_rule_says() -> None:
    torch.manual_seed(0)
    w = signs(200)
    weights, a, m = w.tolist(), [0.0] * 200, [0.0] * 200
    optimizer = CascadedBop([w], gamma=0.3, alpha=0.2)
    for g in torch.randn(8, 200):
        w.grad = g.clone()
        optimizer.step()
        for i, value in enumerate(g.tolist()):
            a[i] = 0.7 * a[i] + 0.3 * value
            m[i] = 0.8 * m[i] + 0.2 * a[i]
            weights[i] = -weights[i] if m[i] * weights[i] > 0 else weights[i]
        assert w.tolist() == weights


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """All that the optimizer keeps, in bytes."""
    return sum(
        value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 8
        for state in optimizer.state.values()
        for value in state.values()
    )


@pytest.mark.parametrize(
    ("build", "wanted"), [(Bop, 4), (Bop2ndOrder, 8), (CascadedBop, 8), (lambda w: Bop(w, first="gradient"), 4)]
)
def test_bytes_of_state_a_weight(
    build: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], wanted: int
) -> None:
    """Adam on latent weights needs 12 (tests/train/test_statements.py)."""
    weights = [signs(40, 60), signs(30)]
    optimizer = build(weights)
    for w in weights:
        w.grad = torch.randn_like(w)
    optimizer.step()
    assert state_bytes(optimizer) == wanted * sum(w.numel() for w in weights)


@pytest.mark.parametrize("optimizer", [Bop, CascadedBop])
def test_large_tensors_are_worked_on_in_pieces(optimizer: type[Bop] | type[CascadedBop]) -> None:
    torch.manual_seed(0)
    rows = 3 * CHUNK * torch.get_num_threads() // 1000
    large = signs(rows, 1000)
    small = [torch.nn.Parameter(row.clone()) for row in large.detach()[[0, rows // 2, -1]]]
    a, b = optimizer([large], gamma=0.5), optimizer(small, gamma=0.5)
    for _ in range(2):
        large.grad = torch.randn_like(large)
        for w, g in zip(small, large.grad[[0, rows // 2, -1]], strict=True):
            w.grad = g
        a.step()
        b.step()
    assert torch.equal(large[[0, rows // 2, -1]], torch.stack(list(small)))


def test_channels_last_weights_flip_alike() -> None:
    torch.manual_seed(0)
    plain = signs(4, 3, 5, 5)
    last = torch.nn.Parameter(plain.detach().clone(memory_format=torch.channels_last))
    plain.grad = torch.randn(4, 3, 5, 5)
    last.grad = plain.grad.clone()
    Bop([plain], gamma=1.0).step()
    Bop([last], gamma=1.0).step()
    assert torch.equal(plain, last)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_compiled_step_flips_alike_and_follows_gamma() -> None:
    """Gamma as a tensor is an input of what is compiled: a schedule compiles nothing anew."""
    torch.manual_seed(0)
    eager = [signs(16, 40), signs(30)]
    compiled = [torch.nn.Parameter(w.detach().clone()) for w in eager]
    a, b = Bop(eager, gamma=0.5, tau=0.1), Bop(compiled, gamma=torch.tensor(0.5), tau=0.1)
    torch._dynamo.reset()
    step = torch.compile(b.step)
    for number in range(5):
        a.param_groups[0]["gamma"] = 0.5**number
        b.param_groups[0]["gamma"].fill_(0.5**number)
        with torch._dynamo.config.patch(error_on_recompile=number > 1):  # the first step makes the state
            for w, v in zip(eager, compiled, strict=True):
                w.grad = torch.randint(-8, 9, w.shape) / 8
                v.grad = w.grad.clone()
            a.step()
            step()
        assert all(torch.equal(w, v) for w, v in zip(eager, compiled, strict=True))


@pytest.mark.parametrize(
    "build",
    [
        lambda w: Bop(w, gamma=1.0, tau=0),
        lambda w: Bop2ndOrder(w, gamma=1.0, tau=0, unbiased=True),
        lambda w: CascadedBop(w, gamma=1.0),
    ],
)
def test_nan_never_flips_a_weight(build: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]) -> None:
    w = signs(3)
    before = w.detach().clone()
    optimizer = build([w])
    for value in (math.nan, 1.0, -1.0):
        w.grad = torch.full((3,), value)
        optimizer.step()
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


def test_other_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="first must be"):
        Bop([signs(1)], first="last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sigma must be"):
        Bop2ndOrder([signs(1)], sigma=0)
    with pytest.raises(ValueError, match="alpha must be"):
        CascadedBop([{"params": [signs(1)], "alpha": 2}])
