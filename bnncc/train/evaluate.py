"""What a trained network gives: outputs, accuracy, early exits; and batch normalisation's statistics measured anew."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bnncc.train.data import Images


def outputs_of(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The model's outputs, as a tuple also where there is but one."""
    outputs = model(x)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def predict(model: nn.Module, images: Images, batch_size: int = 500) -> list[Tensor]:
    """The outputs of each exit, [N,...] on the CPU, in eval mode (in which the model stays)."""
    model.eval()
    device = _device(model)
    with torch.no_grad():
        parts = [outputs_of(model, x.to(device)) for x in _batches(images, len(images), batch_size)]
    return [torch.cat(exit_parts).cpu() for exit_parts in zip(*parts, strict=True)]


def accuracy(model: nn.Module, images: Images) -> tuple[float, ...]:
    """The share of `images` (0..1) that each exit classifies correctly, in eval mode."""
    y = torch.tensor(images.y)
    return tuple((z.argmax(1) == y).float().mean().item() for z in predict(model, images))


def recalibrate(model: nn.Module, images: Images, limit: int = 10_000, batch_size: int = 500) -> None:
    """Measure batch normalisation's statistics anew, over the first `limit` images, and leave the model in eval mode.

    While weights flip, the running averages describe the network as it was some steps ago. Dropout stays off.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    model.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    device = _device(model)
    with torch.no_grad():
        for x in _batches(images, min(limit, len(images)), batch_size):
            model(x.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def entropy(z: Tensor) -> Tensor:
    """The entropy of softmax(z) in nats: [N,classes] -> [N]."""
    log_share = functional.log_softmax(z, 1)
    return -(log_share.exp() * log_share).sum(1)


def leave(exits: Sequence[Tensor], threshold: float) -> tuple[Tensor, Tensor]:
    """The early-exit rule: each image takes the first exit whose entropy is below `threshold`, else the last one.

    Args: exits: logits of each exit, [N,classes], in order of depth; threshold: in nats.
    Returns: the class, int64 [N], and the exit, int64 [N], counted from 0.
    """
    sure = torch.stack([entropy(z) < threshold for z in exits])
    sure[-1] = True
    taken = sure.int().argmax(0)
    classes = torch.stack([z.argmax(1) for z in exits])
    return classes.gather(0, taken[None])[0], taken


def _batches(images: Images, count: int, size: int) -> Iterator[Tensor]:
    """The first `count` inputs, at most `size` at a time."""
    for rows in np.split(np.arange(count), range(size, count, size)):
        yield torch.tensor(images.x[rows])


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
