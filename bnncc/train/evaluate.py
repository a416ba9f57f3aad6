"""What a trained network gives: outputs, accuracy, restored images; and batch normalisation's statistics measured anew."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnncc.train.data import Augment, Images


def outputs_of(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The model's outputs, as a tuple also where there is but one."""
    outputs = model(x)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def predict(model: nn.Module, images: Images, batch_size: int = 500) -> list[Tensor]:
    """The outputs of each exit, [N,...] on the CPU, in eval mode (in which the model stays)."""
    model.eval()
    device = _device(model)
    with torch.no_grad():
        parts = [
            outputs_of(model, torch.tensor(images.x[rows], device=device)) for rows in _rows(len(images), batch_size)
        ]
    return [torch.cat(exit_parts).cpu() for exit_parts in zip(*parts, strict=True)]


def accuracy(model: nn.Module, images: Images) -> tuple[float, ...]:
    """The share of `images` (0..1) that each exit classifies correctly, in eval mode."""
    y = torch.tensor(images.y)
    return tuple((z.argmax(1) == y).float().mean().item() for z in predict(model, images))


def recalibrate(model: nn.Module, images: Images, limit: int = 10_000, batch_size: int = 500) -> None:
    """Measure batch normalisation's statistics anew, over the first `limit` images (none at 0), and leave the model in eval mode.

    While weights flip, the running averages describe the network as it was some steps ago. Dropout stays off.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    model.eval()
    if not norms or not limit:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    device = _device(model)
    with torch.no_grad():
        for rows in _rows(min(limit, len(images)), batch_size):
            model(torch.tensor(images.x[rows], device=device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def denoised(model: nn.Module, images: Images, add_noise: Augment, seed: int) -> dict[str, float]:
    """Peak signal-to-noise ratios in dB, of images against the original (x - 128) / 128 of bytes [N,C,H,W], peak 1.

    `psnr` of what the model makes of noisy images, `psnr_input` of the noisy images themselves, `psnr_mean` of an image
    that is everywhere the mean of all.
    """
    device, errors = _device(model), torch.zeros(3, dtype=torch.float64)
    mean = images.x.mean() / 128 - 1
    model.eval()
    for rows in _rows(len(images), 500):
        original = torch.tensor(images.x[rows]).float() / 128 - 1
        noisy = torch.as_tensor(add_noise(images.x, rows, 0, seed))
        with torch.no_grad():
            restored = model(noisy.to(device)).cpu()
        for k, image in enumerate((restored, noisy.float() / 128 - 1, torch.full_like(original, mean))):
            errors[k] += (image - original).double().square().sum()
    ratios = -10 * torch.log10(errors / images.x.size)
    return dict(zip(("psnr", "psnr_input", "psnr_mean"), ratios.tolist(), strict=True))


def _rows(count: int, size: int) -> list[NDArray[np.int64]]:
    """The numbers below `count`, at most `size` at a time."""
    return np.split(np.arange(count), range(size, count, size))


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
