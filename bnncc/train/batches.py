"""Batches of a data set: which rows a step takes, and what these are."""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from bnncc.train.data import Augment, Images

LEAST = 2
"""Samples in a process's share of a batch: of a single one batch normalisation has no variance."""


class Batch(NamedTuple):
    """A step: its number in the whole run and its epoch, both counted from 0, and its rows of the data set, [N].

    `inputs` are these rows on the CPU, where they have been read ahead.
    """

    number: int
    epoch: int
    rows: NDArray[np.int64]
    inputs: Tensor | None = None


class Batches:
    """The batches of one epoch after another. Each iteration gives the rest of the epoch in which step `done` lies.

    The order of an epoch depends on the seed and the epoch alone. Of `world` processes each takes every world-th row of
    each batch, so that together they take the batches that one process takes. What an epoch's last batch has too much to
    share out evenly is left out, and that batch where a share would be less than `LEAST`.
    """

    def __init__(self, size: int, batch: int, seed: int) -> None:
        self.size, self.batch, self.seed = size, batch, seed
        self.rank, self.world, self.done = 0, 1, 0

    def __len__(self) -> int:
        """Batches in an epoch. The last one may be smaller."""
        whole, rest = divmod(self.size, self.batch)
        return whole + (rest >= LEAST * self.world)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = divmod(self.done, len(self))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.size, generator=generator).numpy()
        for position in range(first, len(self)):
            rows = order[position * self.batch : (position + 1) * self.batch]
            rows = rows[: len(rows) // self.world * self.world]
            yield Batch(epoch * len(self) + position, epoch, rows[self.rank :: self.world])


class Samples:
    """What a network is trained on: the inputs of some rows and what the loss compares the outputs with.

    Inputs that are an array move to the device as a whole; those that are read from files, batch by batch: see `loader`.
    """

    classes = True  # whether the targets are classes

    def __init__(self, images: Images, augment: Augment | None = None, seed: int = 0) -> None:
        self.images, self.augment, self.seed = images, augment, seed
        self.x = torch.tensor(images.x) if isinstance(images.x, np.ndarray) else images.x
        self.y = torch.tensor(images.y)
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> None:
        self.device, self.y = device, self.y.to(device)
        if isinstance(self.x, Tensor):
            self.x = self.x.to(device)

    def __getitem__(self, batch: Batch) -> Batch:
        return batch._replace(inputs=self._read(batch))

    def _read(self, batch: Batch) -> Tensor:
        x = self.augment(self.x, batch.rows, batch.epoch, self.seed) if self.augment else self.x[batch.rows]
        return torch.as_tensor(x)

    def inputs(self, batch: Batch) -> Tensor:
        """What the network takes, on the device."""
        return (self._read(batch) if batch.inputs is None else batch.inputs).to(self.device)

    def loader(self, batches: Batches) -> Iterable[Batch]:
        """The batches; what must be read from files is read ahead, by other processes."""
        if isinstance(self.x, Tensor):
            return batches
        return DataLoader(
            self,  # type: ignore[arg-type]
            sampler=batches,
            batch_size=None,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            num_workers=max(1, min(8, (os.cpu_count() or 1) - 1)),
        )

    def targets(self, batch: Batch) -> Tensor:
        """The classes, int64 [N]."""
        return self.y[batch.rows]


def _as_it_is(batch: Batch) -> Batch:
    return batch


class Denoising(Samples):
    """Targets are the images themselves, without noise: bytes as float32 (x - 128) / 128, [N,C,H,W]."""

    classes = False

    def targets(self, batch: Batch) -> Tensor:
        return (torch.as_tensor(self.x[batch.rows]).to(self.device).float() - 128) / 128
