"""What a data set is: samples and their classes, in parts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

VALIDATION_SHARE = 0.1

Augment = Callable[[Any, NDArray[np.int64], int, int], Tensor]
"""(x of a part, rows of it [B], epoch, seed) -> what training sees of these rows in this epoch, [B,C,H,W].

It depends on nothing else, so not on how the rows fall into batches or onto processes.
"""


@dataclass(frozen=True)
class Images:
    """Samples and their classes.

    `x` is uint8 [N,C,H,W], or float32 [N,1,frames,bands] for sounds: an array, an array mapped from a file, or an object
    that reads the rows it is asked for, with `len`, `shape`, `dtype` and `x[rows]`. `y` is int64 [N].
    """

    x: Any
    y: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def hold_out(self, count: int) -> tuple["Images", "Images"]:
        """All but the last `count` samples, and these."""
        split = len(self) - count
        return Images(self.x[:split], self.y[:split]), Images(self.x[split:], self.y[split:])


@dataclass(frozen=True)
class DataSet:
    """A data set in its parts. No choice may depend on the test part.

    `validation` is the publisher's own; None where there is none. `classes` are the names of the labels, `augment` is what
    the papers do to training samples of this set, if anything.
    """

    train: Images
    test: Images
    validation: Images | None = None
    classes: tuple[str, ...] = ()
    augment: Augment | None = None

    def with_validation(self, share: float = VALIDATION_SHARE) -> "DataSet":
        """The set with a validation part: the publisher's, else the last `share` of the training part."""
        if self.validation is not None:
            return self
        train, validation = self.train.hold_out(round(len(self.train) * share))
        return replace(self, train=train, validation=validation)
