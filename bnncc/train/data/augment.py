"""What the papers do to training samples. Each draw depends on the seed, the epoch and the sample alone.

The functions fit `Augment`; `rows` are indices into the part x that is trained on.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


@lru_cache(maxsize=2)
def draws(count: int, epoch: int, seed: int) -> NDArray[np.float64]:
    """Three numbers in [0,1) for each of `count` samples: [count,3]."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, epoch])).random((count, 3))


def pad_crop_flip(x: Any, rows: NDArray[np.int64], epoch: int, seed: int, padding: int = 4) -> Tensor:
    """Pad images with `padding` black pixels on each side, cut the old size at random, mirror every other one.

    Args: x: [N,C,H,W]. Returns: [B,C,H,W] of the same dtype. Source: Helwegen et al. 5.2; that black is what is padded
    with is in the released code.
    """
    batch = torch.as_tensor(x[rows])
    padded = functional.pad(batch, (padding,) * 4)
    return crop_flip(padded, batch.shape[-1], draws(len(x), epoch, seed)[rows])


def crop_flip(batch: Tensor, size: int, drawn: NDArray[np.float64]) -> Tensor:
    """Cut squares of `size` from images [B,C,H,W], and mirror: where and whether is `drawn`, [B,3] in [0,1)."""
    top, left, flip = torch.as_tensor(drawn, device=batch.device).unbind(1)
    span = torch.arange(size, device=batch.device)
    down = (top * (batch.shape[2] - size + 1)).long()[:, None] + span
    across = torch.where(flip[:, None] < 0.5, span, size - 1 - span)
    across = (left * (batch.shape[3] - size + 1)).long()[:, None] + across
    image = torch.arange(len(batch), device=batch.device)[:, None, None]
    return batch.movedim(1, -1)[image, down[:, :, None], across[:, None, :]].movedim(-1, 1).contiguous()


def noisy(x: Any, rows: NDArray[np.int64], epoch: int, seed: int, factor: float = 0.1) -> Tensor:
    """Add normal noise to images of bytes: `factor` times N(0,1) in the units of (x - 128) / 128, clipped to the bytes.

    Returns: uint8 [B,C,H,W]. Source: Nayak et al. 5. Equation 4 clips to (0,1), their code to (-1,1), as is done here.
    """
    batch = torch.as_tensor(x[rows])
    shape = batch.shape[1:]
    noise = np.stack([_generator(int(row), epoch, seed).standard_normal(shape, np.float32) for row in rows])
    values = batch.float() + torch.as_tensor(noise, device=batch.device) * (128 * factor)
    return values.round().clip(0, 255).to(torch.uint8)


def _generator(row: int, epoch: int, seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, row, epoch]))


def random_second(x: Any, rows: NDArray[np.int64], epoch: int, seed: int) -> Tensor:
    """The features of a second that begins anywhere in the recording: x is `Recordings`. Returns [B,1,98,64].

    Source: Saeed 3.1.
    """
    return torch.as_tensor(x.seconds(rows, draws(len(x), epoch, seed)[rows, 0]))


def square_crop_flip(x: Any, rows: NDArray[np.int64], epoch: int, seed: int) -> Tensor:
    """A random crop of the square of 256 pixels in an image's middle, mirrored half of the time: x is `ImageFiles`."""
    return crop_flip(torch.as_tensor(x.squares(rows)), x.size, draws(len(x), epoch, seed)[rows])
