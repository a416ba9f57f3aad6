"""The windows of a convolution: where they lie, and which classes of them differ in the taps that lie in the image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnncc.layout import DTYPES
from bnncc.ops import Conv
from bnncc.program import Constant

LONGEST_COLUMN = 16_000  # inputs of a window that are taken as one column: 16-bit entries of a list reach them
MOST_VARIANTS = 120  # classes of windows that signed bytes number, those with unset inputs included
INTS = NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """The windows of a convolution as the C walks them: a dense layer's one window is one column if that is not too long, and an
    image one pixel wide is turned, so that its windows share columns. Both leave the order in memory as it is."""

    image: tuple[int, int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]  # top, left
    up: tuple[int, int] = (1, 1)  # places of the grid that windows slide over to a pixel

    @classmethod
    def of(cls, op: Conv) -> "Windows":
        c, h, w = op.x.shape
        if op.whole and op.taps <= LONGEST_COLUMN:
            return cls((c, h * w, 1), (1, 1), (h * w, 1), (1, 1), (1, 1), (0, 0))
        plain = cls.plain(op)
        return plain.turned() if w == op.kernel[1] == op.y.shape[2] == 1 and op.pads[1] == 0 else plain

    @classmethod
    def plain(cls, op: Conv) -> "Windows":
        """The windows as the op has them."""
        return cls(op.x.shape, (op.y.shape[1], op.y.shape[2]), op.kernel, op.strides, op.dilations, op.pads[:2], op.up)

    def turned(self) -> "Windows":
        """Rows and columns exchanged."""
        c, h, w = self.image
        pairs = (self.out, self.kernel, self.strides, self.dilations, self.pads, self.up)
        return Windows((c, w, h), *((b, a) for a, b in pairs))

    def inside(self, axis: int) -> NDArray[np.bool_]:
        """[outputs, taps] along an axis: whether the tap lies in the image."""
        start = np.arange(self.out[axis])[:, None] * self.strides[axis] - self.pads[axis]
        at = start + np.arange(self.kernel[axis]) * self.dilations[axis]
        up = self.up[axis]
        return np.asarray((at >= 0) & (at <= (self.image[1 + axis] - 1) * up) & (at % up == 0))

    @property
    def span(self) -> int:
        """Columns that a window reaches over."""
        return (self.kernel[1] - 1) * self.dilations[1] + 1


@dataclass(frozen=True)
class Variants:
    """Classes of windows: `of` [Ho, Wo] numbers them, those without a tap outside the image last; `valid` [n, kh, kw] are
    their taps in the image, `cuts` [n] their rows of op.cut.

    `row` and `column` sum up to `of` where they are not None.
    """

    of: INTS
    valid: NDArray[np.bool_]
    cuts: INTS
    row: INTS | None
    column: INTS | None

    @property
    def full(self) -> int:
        """How many classes have all their taps in the image."""
        return int(self.valid.all(axis=(1, 2)).sum())


def variants(op: Conv, windows: Windows) -> Variants:
    ways = [np.unique(axis, axis=0, return_inverse=True) for axis in (windows.inside(0), windows.inside(1))]
    (rows, row), (columns, column) = ((kinds, np.asarray(index).ravel()) for kinds, index in ways)
    own = op.cut.classes if op.cut is not None and op.cut.classes is not None else None
    cuts = 1 if own is None else int(own.max()) + 1
    key = (row[:, None] * len(columns) + column) * cuts + (0 if own is None else own.reshape(windows.out))
    kinds, of = np.unique(key, return_inverse=True)
    valid = rows[kinds // cuts // len(columns)][:, :, None] & columns[kinds // cuts % len(columns)][:, None, :]
    order = np.argsort(valid.all(axis=(1, 2)), kind="stable")
    place = np.argsort(order)
    numbered = place[np.asarray(of).reshape(key.shape)].astype(np.int64)
    valid, chosen = valid[order], (kinds % cuts)[order]
    separable = own is None and np.array_equal(numbered, numbered[:, :1] + numbered[:1] - numbered[0, 0])
    if not separable or len(kinds) == 1:
        return Variants(numbered, valid, chosen, None, None)
    return Variants(numbered, valid, chosen, numbered[:, 0], numbered[0] - numbered[0, 0])


def refuse_variants(c: Conv, windows: Windows) -> str:
    """Why the classes of windows do not fit kernels that keep their thresholds bit-sliced."""
    if c.sparse:
        return "its windows have taps between the input's pixels"
    if c.cut is not None and (c.cut.inverts != c.cut.inverts[0]).any():
        return "the direction of its thresholds changes from pixel to pixel"
    kinds = len(variants(c, windows).valid)
    return "" if kinds <= MOST_VARIANTS else f"its windows have {kinds} kinds of border"


def variant_of(kinds: Variants, name: str) -> tuple[str, tuple[Constant, ...]]:
    """The C for the number of a window's class, and the arrays it reads."""
    width, few = kinds.of.shape[1], len(kinds.valid) <= MOST_VARIANTS
    if len(kinds.valid) == 1:
        return "0", ()
    if kinds.row is None or kinds.column is None:
        kind = "uint8_t" if few else "int32_t"
        arrays = (Constant(f"{name}_classes", kind, kinds.of.astype(DTYPES[kind])),)
        return f"{name}_classes[oy * {width} + ox]", arrays
    kind = "int8_t" if few else "int32_t"
    parts = ((f"{name}_rows", kinds.row), (f"{name}_columns", kinds.column))
    return f"{name}_rows[oy] + {name}_columns[ox]", tuple(Constant(n, kind, v.astype(DTYPES[kind])) for n, v in parts)
