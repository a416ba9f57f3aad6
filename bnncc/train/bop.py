"""Optimizers without latent weights: binary weights that flip.

All of them keep exponential moving averages of the gradient and flip a weight when something made of these pushes
against it: Bop, its second-order relative, and two cascaded averages without a threshold.
"""

from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

CHUNK = 1 << 18
"""Weights a thread that an eager step on a CPU works on at a time: few enough that its temporaries stay in the cache."""


class FlippingOptimizer(Optimizer):
    """What the optimizers of this module share: the averages, and the step that flips.

    A subclass names its averages in `averages`; each is one real number a weight in `state[weight]`, of the weight's
    dtype and device, and starts at 0. `push` brings them up to date and returns what decides: w <- -w where
    push * w > tau, strictly, so that a push of zero flips nothing. `tau` is 0 for a group without one.

    A NaN in a gradient never flips its weight, so weights stay -1 and +1 whatever happens; from then on it stays put.
    Under `torch.compile` a step is a single pass over memory.
    """

    averages: tuple[str, ...] = ("average",)
    rates: tuple[str, ...] = ("gamma",)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as `torch.optim.Optimizer.add_param_group` does.

        Raises:
            ValueError: a rate is not in (0, 1], or tau is negative or not finite.
        """
        settings = self.defaults | param_group
        for name in self.rates:
            if not 0 < settings[name] <= 1:
                raise ValueError(f"{name} must be in (0, 1], not {settings[name]}")
        if not 0 <= settings.get("tau", 0) < float("inf"):
            raise ValueError(f"tau must be finite and not negative, not {settings['tau']}")
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of all weights that have a gradient; `closure`, if given, recomputes and returns the loss.

        Raises:
            RuntimeError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if weight.grad.is_sparse:
                    raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
                state = self.state[weight]
                if not state:
                    state.update(self.start(group, weight.grad))
                self.begin(group, state)
                tensors = (weight, weight.grad, *(state[name] for name in self.averages))
                for w, gradient, *averages in zip(*(_parts(tensor) for tensor in tensors), strict=True):
                    flips = self.push(group, state, gradient, *averages).mul(w).gt_(group.get("tau", 0))
                    w.addcmul_(flips, w, value=-2)  # w - 2w, exact for w = +-1, where it flips
        return loss

    def start(self, group: dict[str, Any], gradient: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """The state of a weight before its first step, of which `gradient` is the gradient."""
        return {name: torch.zeros_like(gradient, memory_format=torch.preserve_format) for name in self.averages}

    def begin(self, group: dict[str, Any], state: dict[str, Tensor]) -> None:
        """What a step does once for a whole tensor, before `push`."""

    def push(self, group: dict[str, Any], state: dict[str, Tensor], gradient: Tensor, *averages: Tensor) -> Tensor:
        """Update the averages of some of a tensor's weights in place; what pushes against these weights."""
        raise NotImplementedError


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensor in pieces of whole rows: they keep an eager CPU from writing and reading back long temporaries."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return (tensor,)
    rows = CHUNK * torch.get_num_threads() * len(tensor) // max(1, tensor.numel())
    return torch.split(tensor, max(1, rows))


class Bop(FlippingOptimizer):
    """Flips a weight when the average of its gradient has pushed against it for long enough.

    Per weight w in {-1, +1}, with g the gradient of the loss with respect to w itself:

        m <- (1 - gamma) * m + gamma * g
        w <- -w   if |m| > tau and sign(m) == sign(w)

    The comparison is strict, as in the algorithm; equation 6 and Larq's code have >=. The state is m alone: one real
    number a weight. At tau = 0 and once m is nowhere zero, w is -sign(m) after each step.

    Args:
        params: parameters whose values are -1 and +1 (`bnncc.train.binary_parameters`), or parameter groups of them.
        gamma: adaptivity rate, in (0, 1]. A larger one forgets faster and flips more.
        tau: threshold on |m|, not negative. It is absolute: any rescaling of the loss rescales what it means.
        first: m before the first step, "zero" (Larq) or that step's "gradient" (Vaessen), so that m is g after it.

    `gamma` and `tau` live in the parameter groups and may be changed between steps, as a schedule does.

    Source: Helwegen et al., "Latent Weights Do Not Exist: Rethinking Binarized Neural Network Optimization",
    NeurIPS 2019, algorithm 2.

    Raises:
        ValueError: gamma, tau or first out of range.
    """

    def __init__(
        self, params: ParamsT, gamma: float = 1e-4, tau: float = 1e-8, *, first: Literal["zero", "gradient"] = "zero"
    ) -> None:
        super().__init__(params, {"gamma": gamma, "tau": tau, "first": first})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As `FlippingOptimizer.add_param_group`; `first` is checked as well."""
        first = (self.defaults | param_group)["first"]
        if first not in ("zero", "gradient"):
            raise ValueError(f"first must be 'zero' or 'gradient', not {first!r}")
        super().add_param_group(param_group)

    def start(self, group: dict[str, Any], gradient: Tensor) -> dict[str, Tensor]:
        return {"average": gradient.clone()} if group["first"] == "gradient" else super().start(group, gradient)

    def push(self, group: dict[str, Any], state: dict[str, Tensor], gradient: Tensor, *averages: Tensor) -> Tensor:  # noqa: ARG002
        (average,) = averages
        average.lerp_(gradient, group["gamma"])
        return average


class Bop2ndOrder(FlippingOptimizer):
    """Bop with an average that is normalised by that of the squared gradient, so that tau no longer scales with the loss.

        m <- (1 - gamma) * m + gamma * g        v <- (1 - sigma) * v + sigma * g^2
        w <- -w   if w * m / (sqrt(v) + 1e-10) > tau

    Two real numbers a weight, both starting at 0. With `unbiased`, m and v are first divided by the total weight that
    they have given to gradients so far: 1 - (1 - gamma)^t after t steps of one gamma, and exact for schedules too. That
    takes two more numbers a tensor.

    Args:
        params: as for `Bop`.
        gamma, sigma: adaptivity rates of m and v, in (0, 1].
        tau: threshold, not negative.
        unbiased: correct both averages for their start at 0.

    Source: Suarez-Ramirez et al., "A Bop and Beyond: A Second Order Optimizer for Binarized Neural Networks", CVPR
    Workshops 2021; the defaults are those of its CIFAR-10 runs.

    Raises:
        ValueError: a rate or tau out of range.
    """

    averages = ("average", "square_average")
    rates = ("gamma", "sigma")

    def __init__(
        self,
        params: ParamsT,
        gamma: float = 1e-7,
        tau: float = 1e-6,
        *,
        sigma: float = 1e-3,
        unbiased: bool = False,
    ) -> None:
        super().__init__(params, {"gamma": gamma, "tau": tau, "sigma": sigma, "unbiased": unbiased})

    def start(self, group: dict[str, Any], gradient: Tensor) -> dict[str, Tensor]:
        corrections = {"unseen": gradient.new_ones(2)} if group["unbiased"] else {}
        return super().start(group, gradient) | corrections

    def begin(self, group: dict[str, Any], state: dict[str, Tensor]) -> None:
        if group["unbiased"]:
            state["unseen"][0].mul_(1 - group["gamma"])
            state["unseen"][1].mul_(1 - group["sigma"])

    def push(self, group: dict[str, Any], state: dict[str, Tensor], gradient: Tensor, *averages: Tensor) -> Tensor:
        m, v = averages
        m.lerp_(gradient, group["gamma"])
        v.lerp_(gradient.square(), group["sigma"])
        if not group["unbiased"]:
            return m / v.sqrt().add_(1e-10)
        seen_m, seen_v = (1 - state["unseen"]).unbind()
        return (m / seen_m).div_((v / seen_v).sqrt_().add_(1e-10))


class CascadedBop(FlippingOptimizer):
    """Two averages in a row and no threshold: w <- -w where the average of the average has w's sign.

        a <- (1 - gamma) * a + gamma * g        m <- (1 - alpha) * m + alpha * a
        w <- -w   if m * w > 0

    It is what SGD with momentum and weight decay does to the signs of latent weights, whose magnitude is no longer
    there. Two real numbers a weight, both starting at 0. There is no tau: no rescaling of the loss matters.

    Args:
        params: as for `Bop`.
        gamma, alpha: rates of the first and of the second filter, in (0, 1].

    Source: Quist, Li and van Gemert, "Understanding weight-magnitude hyperparameters in training binary networks",
    ICLR 2023.

    Raises:
        ValueError: a rate out of range.
    """

    averages = ("average", "second_average")
    rates = ("gamma", "alpha")

    def __init__(self, params: ParamsT, gamma: float = 0.1, alpha: float = 1e-3) -> None:
        super().__init__(params, {"gamma": gamma, "alpha": alpha})

    def push(self, group: dict[str, Any], state: dict[str, Tensor], gradient: Tensor, *averages: Tensor) -> Tensor:  # noqa: ARG002
        first, second = averages
        first.lerp_(gradient, group["gamma"])
        second.lerp_(first, group["alpha"])
        return second
