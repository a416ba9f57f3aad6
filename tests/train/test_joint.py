import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam

from bnncc.train import BinaryAndReal, BinaryConv2d, BinaryLinear, Bop, GroupSchedule, Schedule, Sign
from bnncc.train.joint import real_groups
from bnncc.train.latents import latent, latent_layers, xavier_scale
from bnncc.train.layers import binary_parameters


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        BinaryConv2d(1, 8, 3), nn.BatchNorm2d(8), Sign(), nn.Flatten(), BinaryLinear(8 * 36, 10), nn.BatchNorm1d(10)
    )


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(16, 1, 8, 8, generator=generator), torch.randint(0, 10, (16,), generator=generator)


def joint(model: nn.Module) -> BinaryAndReal:
    return BinaryAndReal.of(model, binary=partial(Bop, gamma=0.1, tau=1e-4), real=partial(Adam, lr=1e-2))


def loss_of(model: nn.Module, number: int) -> Tensor:
    x, y = batch(number)
    return functional.cross_entropy(model(x), y)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for number in steps:
        optimizer.zero_grad()
        loss_of(model, number).backward()
        optimizer.step()


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


def test_steps_as_both_optimizers_do() -> None:
    model, other = network(), network()
    bop, adam = Bop(binary_parameters(other), gamma=0.1, tau=1e-4), Adam(real_groups(other), lr=1e-2)
    optimizer = joint(model)
    train(model, optimizer, range(5))
    for number in range(5):
        other.zero_grad()
        loss_of(other, number).backward()
        bop.step()
        adam.step()
    assert_same(model, other)
    assert not torch.equal(network()[0].weight, model[0].weight)


def test_resumes_from_plain_state_dicts(tmp_path: Path) -> None:
    straight, broken = network(), network()
    train(straight, joint(straight), range(8))
    first = joint(broken)
    train(broken, first, range(4))
    torch.save({"model": broken.state_dict(), "optimizer": first.state_dict()}, tmp_path / "checkpoint")
    state = torch.load(tmp_path / "checkpoint", weights_only=True)
    torch.manual_seed(7)
    resumed = copy.deepcopy(network())
    resumed.load_state_dict(state["model"])
    second = BinaryAndReal.of(resumed, binary=Bop, real=Adam)  # gamma, tau and lr come with the state
    second.load_state_dict(state["optimizer"])
    train(resumed, second, range(4, 8))
    assert_same(straight, resumed)
    assert all(part.state is second.state for part in second.parts)


def test_a_copy_has_a_state_of_its_own() -> None:
    model = network()
    optimizer = joint(model)
    train(model, optimizer, range(2))
    copied_model, copied = copy.deepcopy((model, optimizer))
    train(copied_model, copied, range(2, 4))
    train(model, optimizer, range(2, 4))
    assert_same(model, copied_model)


def test_gradient_scaling_changes_no_flip() -> None:
    model, scaled = network(), network()
    a, b = joint(model), joint(scaled)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    train(model, a, range(5))
    for number in range(5):
        b.zero_grad()
        scaler.scale(loss_of(scaled, number)).backward()
        scaler.step(b)
        scaler.update()
    assert_same(model, scaled)


def test_gradient_scaling_leaves_out_a_step_that_overflows() -> None:
    model = network()
    before, optimizer, scaler = copy.deepcopy(model), joint(model), torch.amp.GradScaler("cpu", init_scale=2.0**14)
    scaler.scale(loss_of(model, 0)).backward()
    model[0].weight.grad[0, 0, 0, 0] = torch.inf
    scaler.step(optimizer)
    assert torch.equal(model[0].weight, before[0].weight)
    assert torch.equal(model[1].weight, before[1].weight)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_gradients_flip_as_the_full_batch_does(reduction: str) -> None:
    """Of micro-batches of one size, means are divided by their number and sums are not; tau is absolute."""
    torch.manual_seed(0)
    whole = BinaryLinear(12, 6)
    parts = copy.deepcopy(whole)
    x, target = torch.randint(-8, 9, (32, 12)) / 8, torch.randint(-8, 9, (32, 6)) / 8  # sums of these are exact
    tau = 1 / 32 if reduction == "mean" else 1.0
    a, b = Bop(whole.parameters(), gamma=0.5, tau=tau), Bop(parts.parameters(), gamma=0.5, tau=tau)
    before = whole.weight.detach().clone()
    for _ in range(4):
        a.zero_grad()
        b.zero_grad()
        products = whole(x) * target
        (products.sum(1).mean() if reduction == "mean" else products.sum()).backward()
        for part, wanted in zip(x.split(8), target.split(8), strict=True):
            products = parts(part) * wanted
            (products.sum(1).mean() / 4 if reduction == "mean" else products.sum()).backward()
        a.step()
        b.step()
        assert torch.equal(whole.weight, parts.weight)
    assert not torch.equal(whole.weight, before)


def test_the_closure_runs_once_a_step() -> None:
    model, other = network(), network()
    optimizer, calls = joint(model), []

    def closure() -> float:
        calls.append(len(calls))
        optimizer.zero_grad()
        loss = loss_of(model, calls[-1])
        loss.backward()
        return loss.item()

    losses = [optimizer.step(closure) for _ in range(3)]
    assert calls == [0, 1, 2]
    assert losses[0] == loss_of(network(), 0).item()
    train(other, joint(other), range(3))
    assert_same(model, other)


def test_lbfgs_calls_the_closure_of_latent_weights_itself() -> None:
    torch.manual_seed(0)
    model, calls = nn.Sequential(BinaryLinear(9, 4), nn.BatchNorm1d(4)), []
    latent(model, bound=0.25)

    def lbfgs(groups: list[dict[str, Any]]) -> torch.optim.LBFGS:
        return torch.optim.LBFGS([p for group in groups for p in group["params"]], max_iter=3)

    optimizer = BinaryAndReal.of(model, binary=Bop, real=lbfgs)
    x, y = torch.randn(20, 9), torch.arange(20) % 4

    def closure() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        calls.append(loss.item())
        return loss

    optimizer.step(closure)
    assert len(calls) > 1
    assert calls[-1] < calls[0]
    assert all(weight.abs().max() <= 0.25 for _, _, weight in latent_layers(model))


def test_schedulers_of_torch_and_of_groups_work_on_it() -> None:
    model = network()
    optimizer = joint(model)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    gamma = GroupSchedule(optimizer, "gamma", Schedule(lambda t: 0.5**t))
    for number in range(2):
        train(model, optimizer, range(number, number + 1))
        rate.step()
        gamma.step()
    assert [group.get("gamma") for group in optimizer.param_groups] == [0.1 / 4, None]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0, 0.005])
    assert optimizer.parts[1].param_groups[0]["lr"] == pytest.approx(0.005)


def test_one_kind_of_parameters_is_enough() -> None:
    flips = BinaryAndReal.of(BinaryLinear(4, 2), binary=Bop, real=Adam)
    steps = BinaryAndReal.of(nn.Linear(4, 2), binary=Bop, real=Adam)
    assert [type(part) for part in (*flips.parts, *steps.parts)] == [Bop, Adam]
    with pytest.raises(ValueError, match="empty parameter list"):
        BinaryAndReal(None, None)


def test_groups_are_added_to_the_parts() -> None:
    optimizer = joint(network())
    with pytest.raises(TypeError, match="before joining"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


def test_latent_weights_are_real_with_rates_of_their_own() -> None:
    model = network()
    latent(model, bound=0.01)
    optimizer = BinaryAndReal.of(model, binary=Bop, real=partial(SGD, lr=0.5), xavier=True)
    (conv, dense) = [layer for _, layer, _ in latent_layers(model)]
    assert [len(group["params"]) for group in optimizer.param_groups] == [4, 1, 1]
    assert [group["lr"] for group in optimizer.param_groups] == [
        0.5,
        0.5 * xavier_scale(conv),
        0.5 * xavier_scale(dense),
    ]
    assert xavier_scale(conv) == pytest.approx(((9 + 72) / 1.5) ** 0.5)
    assert xavier_scale(dense) == pytest.approx(((288 + 10) / 1.5) ** 0.5)
    train(model, optimizer, range(2))
    assert all(weight.abs().max() <= 0.01 for _, _, weight in latent_layers(model))


def test_lightning_steps_it_with_automatic_optimization(tmp_path: Path) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def training_step(self, numbers: Tensor, index: int) -> Tensor:  # noqa: ARG002
            return loss_of(self.model, int(numbers))

        def configure_optimizers(self) -> Any:
            optimizer = joint(self.model)
            schedule = GroupSchedule(optimizer, "gamma", Schedule(lambda t: 0.5**t))
            rate = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
            return [optimizer], [{"scheduler": s, "interval": "step"} for s in (schedule, rate)]

    module, other = Module(), network()
    trainer = lightning.Trainer(
        max_steps=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, torch.utils.data.DataLoader(range(4), batch_size=1))  # type: ignore[arg-type]
    optimizer = joint(other)
    for number in range(4):
        optimizer.param_groups[0]["gamma"] = 0.1 * 0.5**number
        optimizer.param_groups[1]["lr"] = 1e-2 * 0.5 ** (number // 2)
        train(other, optimizer, range(number, number + 1))
    assert_same(module.model, other)
