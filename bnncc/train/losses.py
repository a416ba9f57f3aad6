"""Losses of class scores, by the names that recipes use."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of outputs [N,...] and targets, int64 [N] for classes: the loss, a scalar."""


def _hinge(scores: Tensor, y: Tensor) -> Tensor:
    """max(0, 1 - t * score) with t = +1 for the sample's class and -1 for the others: [N,classes] -> [N,classes]."""
    targets = torch.full_like(scores, -1).scatter_(1, y[:, None], 1)
    return functional.relu(1 - targets * scores)


def squared_hinge(scores: Tensor, y: Tensor) -> Tensor:
    """The mean of max(0, 1 - t * score)^2 over samples and classes, t being +1 for the sample's class and -1 elsewhere.

    [N,classes], int64 [N] -> scalar. As in BinaryConnect's and BinaryNet's code and in Keras.
    """
    return _hinge(scores, y).square().mean()


def l2_svm(scores: Tensor, y: Tensor) -> Tensor:
    """The squared hinges summed over the classes, their mean over the samples: `squared_hinge` times the classes.

    [N,classes], int64 [N] -> scalar. Tang, "Deep Learning using Linear Support Vector Machines", 2013, equation 10,
    without its |w|^2 / 2, which is a constant for weights of -1 and +1.
    """
    return _hinge(scores, y).square().sum(1).mean()


LOSSES: dict[str, Loss] = {
    "cross_entropy": functional.cross_entropy,
    "squared_hinge": squared_hinge,
    "l2_svm": l2_svm,
    "mse": functional.mse_loss,
}
"""Losses of one output. "mse" is the mean squared error of an output of any shape and a target of the same."""


def summed(loss: Loss, outputs: Tensor | Sequence[Tensor], y: Tensor) -> Tensor:
    """The sum of `loss` over all exits, or that of the one output (Saeed 2022, section 2).

    The sum scales with the number of exits, and so does what Bop's tau means.
    """
    exits = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return torch.stack([loss(scores, y) for scores in exits]).sum()
