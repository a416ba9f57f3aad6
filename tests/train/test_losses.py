import pytest
import torch
from torch.nn import functional

from bnncc.train.losses import LOSSES, l2_svm, squared_hinge, summed

SCORES = torch.tensor([[2.0, 0.5, -1.0], [0.0, -2.0, 0.5]])
Y = torch.tensor([0, 2])


def test_squared_hinge_is_that_of_scalars() -> None:
    hinges = [0, 1.5, 0, 1, 0, 0.5]  # 1 - t * score where that is positive
    assert squared_hinge(SCORES, Y).item() == pytest.approx(sum(h**2 for h in hinges) / 6)
    assert l2_svm(SCORES, Y).item() == pytest.approx(sum(h**2 for h in hinges) / 2)


def test_hinges_vanish_beyond_the_margin() -> None:
    scores = torch.tensor([[1.0, -1.0], [-3.0, 2.0]], requires_grad=True)
    loss = l2_svm(scores, torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_exits_are_summed() -> None:
    other = -SCORES
    both = functional.cross_entropy(SCORES, Y) + functional.cross_entropy(other, Y)
    torch.testing.assert_close(summed(LOSSES["cross_entropy"], (SCORES, other), Y), both)
    assert summed(LOSSES["l2_svm"], SCORES, Y) == l2_svm(SCORES, Y)


def test_losses_have_names() -> None:
    assert {name: loss(SCORES, Y).item() > 0 for name, loss in LOSSES.items() if name != "mse"} == dict.fromkeys(
        ("cross_entropy", "squared_hinge", "l2_svm"), True
    )
    assert LOSSES["mse"](SCORES, SCORES + 2).item() == 4
