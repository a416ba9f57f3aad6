"""Values and the base of all ops. A tensor is [C, H, W] (a vector is [C, 1, 1]); the batch is always one sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, int, int]


class Elem(Enum):
    """Element type of a tensor; it alone fixes the tensor's layout in memory."""

    BIN = "bin"  # -1 or +1
    U8 = "u8"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    F32 = "f32"

    @property
    def is_integer(self) -> bool:
        return self is not Elem.F32

    @property
    def dtype(self) -> type[Any]:
        """The numpy type in which `evaluate` holds it."""
        return np.float32 if self is Elem.F32 else np.int64


RANGES = {
    Elem.U8: (0, 255),
    Elem.I8: (-128, 127),
    Elem.I16: (-(1 << 15), (1 << 15) - 1),
    Elem.I32: (-(1 << 31), (1 << 31) - 1),
}


def integer(lo: int, hi: int) -> Elem:
    """The smallest type that holds the integers lo..hi."""
    return next(e for e, (low, high) in RANGES.items() if low <= lo and hi <= high)


@dataclass(frozen=True)
class Tensor:
    """A value. Integers are lo, lo + stride, ... hi.

    `twin` is the value of the reference model that it equals, "" if none; `channels_last` says that its axes there are
    [1, H, W, C] (or flattened from them), `negated` lists the channels that hold the negative of it.
    """

    name: str
    elem: Elem
    shape: Shape
    lo: int = 0
    hi: int = 0
    stride: int = 1
    twin: str = ""
    channels_last: bool = False
    negated: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def pixels(self) -> int:
        return self.shape[1] * self.shape[2]

    @property
    def signs(self) -> NDArray[np.int64]:
        """[C, 1, 1]: -1 where the channel is negated, else 1."""
        signs = np.ones((self.shape[0], 1, 1), np.int64)
        signs[list(self.negated)] = -1
        return signs

    def from_reference(self, values: Mapping[str, Array]) -> Array:
        """What the tensor holds by the twin's values, [N, C, H, W]."""
        c, h, w = self.shape
        v = values[self.twin]
        v = v.reshape(-1, h, w, c).transpose(0, 3, 1, 2) if self.channels_last else v.reshape(-1, c, h, w)
        return v * self.signs.astype(v.dtype) if self.negated else v


def bits(name: str, shape: Shape, twin: str = "", *, channels_last: bool = False) -> Tensor:
    """A binary tensor."""
    return Tensor(name, Elem.BIN, shape, -1, 1, 2, twin, channels_last)


MOST_NAMES = 8  # of nodes in a message


@dataclass(frozen=True, kw_only=True, eq=False)
class Op:
    """What all ops share: inputs (`x` and perhaps `others`), one output, and the names of the ONNX nodes it came from."""

    x: Tensor
    y: Tensor
    others: tuple[Tensor, ...] = ()
    origin: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return (self.x, *self.others)

    @property
    def where(self) -> str:
        """The names of the ONNX nodes for a message: of many the first and the last ones."""
        names = self.origin
        if len(names) > MOST_NAMES:
            names = (*names[:3], f"{len(names) - 4} more", names[-1])
        return ", ".join(names)

    def evaluate(self, x: Array, *others: Array) -> Array:
        """The output [N, C, H, W] for the inputs [N, C, H, W]."""
        raise NotImplementedError

    @property
    def exact(self) -> bool:
        """Whether the C reproduces the reference bit for bit on the same input."""
        return True
