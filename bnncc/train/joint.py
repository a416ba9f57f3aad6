"""One optimizer of two: flips for the binary weights, steps for the real ones."""

from collections.abc import Callable
from typing import Any, Self, overload

import torch
from torch import nn
from torch.optim import Optimizer

from bnncc.train.latents import clip_weights, latent_layers, xavier_scale
from bnncc.train.layers import binary_parameters, real_parameters


class BinaryAndReal(Optimizer):
    """Steps a binary optimizer and a real one together, as one torch optimizer.

    Its parameter groups are theirs, the binary ones first, and its state is theirs: state_dict, load_state_dict,
    zero_grad, gradient scaling, schedulers and Lightning's automatic optimization work as with any other.
    Binary groups get an "lr" of 0, which nothing reads: torch's schedulers ask every group for one.

    Args:
        binary, real: the optimizers, which must no longer be loaded, extended or copied by themselves. Either may be
            None: a model with latent weights has no binary parameters.

    Raises:
        ValueError: both are None.
    """

    def __init__(self, binary: Optimizer | None, real: Optimizer | None) -> None:
        self.parts = [part for part in (binary, real) if part is not None]
        for group in binary.param_groups if binary is not None else ():
            group.setdefault("lr", 0.0)
        self._complete = False
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._complete = True
        for part in self.parts:
            self.state.update(part.state)
        self._share()

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        binary: Callable[[list[nn.Parameter]], Optimizer],
        real: Callable[[list[dict[str, Any]]], Optimizer],
        xavier: bool = False,
    ) -> Self:
        """The optimizer of all of `model`'s parameters, told apart by its layers.

        Args:
            model: with latent weights or without; latent weights are clipped after each step, as their layers say.
            binary: makes the optimizer of the parameters that are -1 and +1, if there are any: `Bop`, or
                `functools.partial(Bop, gamma=1e-3)`.
            real: makes the optimizer of all others, if there are any: of groups, the latent weights in groups of their own.
            xavier: multiply the learning rate of each layer's latent weights by its `xavier_scale`.
        """
        flipping, groups = binary_parameters(model), real_groups(model, per_layer=xavier)
        optimizer = cls(binary(flipping) if flipping else None, real(groups) if groups else None)
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1)
        if any(latent_layers(model)):
            optimizer.register_step_post_hook(lambda *_: clip_weights(model))
        return optimizer

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """A step of both; `closure`, if given, recomputes and returns the loss, once.

        Where there is but one optimizer, it calls the closure itself, as often as it needs (`torch.optim.LBFGS`).
        """
        if len(self.parts) == 1:
            return self.parts[0].step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Not possible.

        Raises:
            TypeError: always.
        """
        if self._complete:
            raise TypeError(
                "BinaryAndReal has the groups of its two optimizers: add the group there, before joining them"
            )
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"parts": self.parts, "_complete": True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Let both optimizers work on the groups and the state of this one."""
        first = 0
        for part in self.parts:
            last = first + len(part.param_groups)
            part.__setstate__({"state": self.state, "param_groups": self.param_groups[first:last]})
            first = last


def real_groups(model: nn.Module, *, per_layer: bool = False) -> list[dict[str, Any]]:
    """Parameter groups for a real optimizer: the parameters that are neither binary nor latent, then the latent weights.

    These are one group, or with `per_layer` one a layer, with its `xavier_scale` as "lr_scale". Empty groups are left out.
    """
    latents = {weight: layer for _, layer, weight in latent_layers(model)}
    groups: list[dict[str, Any]] = [{"params": [p for p in real_parameters(model) if p not in latents]}]
    if per_layer:
        groups += [{"params": [weight], "lr_scale": xavier_scale(layer)} for weight, layer in latents.items()]
    else:
        groups.append({"params": list(latents)})
    return [group for group in groups if group["params"]]
