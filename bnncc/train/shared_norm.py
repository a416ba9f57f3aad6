"""Batch normalisation over the processes of a run on CPUs; torch's own `SyncBatchNorm` is for GPUs alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import Tensor, distributed, nn


class _Sum(torch.autograd.Function):
    """The sum over all processes. A process's values count in the loss of each, so their gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return _Sum.forward(None, gradient)


class _OverAll(nn.modules.batchnorm._BatchNorm):
    """In training mode its statistics, and their gradients, are those of all processes' shares, which are of equal size."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = (-1, *(1,) * (x.ndim - 2))
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        # Sums, not means: of integers they are exact for any number of processes, and so is what equals the mean.
        mean = _total(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = _total(centred.square().sum(axes)) / count
        self._keep(mean, variance, count)
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        return y * self.weight.view(shape) + self.bias.view(shape) if self.affine else y

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Bring the running statistics up to date, as torch does: with the unbiased variance of `count` values."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / (count - 1)), share)


class _OverAll1d(_OverAll, nn.BatchNorm1d):
    pass


class _OverAll2d(_OverAll, nn.BatchNorm2d):
    pass


def _total(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


KINDS: dict[Any, Any] = {nn.BatchNorm1d: _OverAll1d, nn.BatchNorm2d: _OverAll2d}
ALONE = {shared: alone for alone, shared in KINDS.items()}


class SharedNorms(LayerSync):
    """Lets the batch normalisations of a model work over all processes while several train it."""

    def apply(self, model: nn.Module) -> nn.Module:
        return _exchanged(model, KINDS)

    def revert(self, model: nn.Module) -> nn.Module:
        return _exchanged(model, ALONE)


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """While it lasts, batch normalisations work in each process by itself, as for samples that all processes see."""
    shared = any(type(layer) in ALONE for layer in model.modules())
    _exchanged(model, ALONE)
    try:
        yield
    finally:
        _exchanged(model, KINDS if shared else {})


def _exchanged(model: nn.Module, kinds: dict[Any, Any]) -> nn.Module:
    """`model`, in which layers of some classes became ones of others; their parameters and buffers stay."""
    for layer in model.modules():
        layer.__class__ = kinds.get(type(layer), type(layer))
    return model
