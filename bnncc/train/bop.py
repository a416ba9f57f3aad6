"""The Bop optimizer: binary weights that flip, without latent weights.

Source: Helwegen et al., "Latent Weights Do Not Exist: Rethinking Binarized Neural Network Optimization", NeurIPS 2019,
algorithm 1.
"""

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class Bop(Optimizer):
    """Flips a weight when the average of its gradient has pushed against it for long enough.

    Per weight w in {-1, +1}, with g the gradient of the loss with respect to w itself:

        m <- (1 - gamma) * m + gamma * g
        w <- -w   if |m| > tau and sign(m) == sign(w)

    The comparison is strict and m starts at 0. The state is m alone: one real number a weight.

    Args:
        params: parameters whose values are -1 and +1 (`bnncc.train.binary_parameters`), or parameter groups of them.
        gamma: adaptivity rate, in (0, 1]. A larger one forgets faster and flips more.
        tau: threshold on |m|, not negative. It is absolute: any rescaling of the loss rescales what it means.

    `gamma` and `tau` live in the parameter groups and may be changed between steps, as a schedule does.
    A NaN gradient never flips its weight, so weights stay -1 and +1 whatever happens; from then on it stays put.

    Raises:
        ValueError: gamma or tau out of range.
    """

    def __init__(self, params: ParamsT, gamma: float = 1e-4, tau: float = 1e-8) -> None:
        super().__init__(params, {"gamma": gamma, "tau": tau})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; see `torch.optim.Optimizer.add_param_group`. Its gamma and tau are checked."""
        gamma, tau = param_group.get("gamma", self.defaults["gamma"]), param_group.get("tau", self.defaults["tau"])
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma must be in (0, 1], not {gamma}")
        if not 0 <= tau < float("inf"):
            raise ValueError(f"tau must be finite and not negative, not {tau}")
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of all weights that have a gradient; `closure`, if given, recomputes and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            gradients = [p.grad for p in weights if p.grad is not None]
            if any(g.is_sparse for g in gradients):
                raise RuntimeError("Bop does not support sparse gradients")
            averages = [self._average(p) for p in weights]
            torch._foreach_mul_(averages, 1 - group["gamma"])
            torch._foreach_add_(averages, gradients, alpha=group["gamma"])
            for weight, average in zip(weights, averages, strict=True):
                # For w = +-1 this product is exact, and it is above tau >= 0 just when the signs agree and |m| > tau.
                weight.copy_(torch.where(average * weight > group["tau"], -weight, weight))
        return loss

    def _average(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "average" not in state:
            state["average"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        average: Tensor = state["average"]
        return average
