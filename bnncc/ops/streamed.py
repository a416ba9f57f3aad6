"""Two ops in one step."""

from dataclasses import dataclass, replace

from bnncc.ops.pointwise import NormSign
from bnncc.ops.windows import Conv, MaxPool
from bnncc.tensor import Array, Op


@dataclass(frozen=True, kw_only=True, eq=False)
class Streamed(Op):
    """A convolution and what takes the rows of its output as they are made: pooling, or the sign of normalised pixels.

    Only `ring` rows of that output are kept, row r as number r % ring. The convolution makes so many `at_once`, one for a NormSign.
    """

    conv: Conv
    then: MaxPool | NormSign
    at_once: int = 1

    @classmethod
    def of(cls, conv: Conv, then: MaxPool | NormSign, at_once: int = 1) -> "Streamed":
        origin = tuple(dict.fromkeys(conv.origin + then.origin))
        return cls(x=conv.x, others=conv.others, y=then.y, origin=origin, conv=conv, then=then, at_once=at_once)

    @property
    def span(self) -> int:
        """The rows that a window spans."""
        return (self.then.kernel[0] - 1) * self.then.dilations[0] + 1 if isinstance(self.then, MaxPool) else 1

    @property
    def ring(self) -> int:
        """The rows that there are at a time: those just made, and those above that are still to be taken."""
        if not isinstance(self.then, MaxPool) or self.at_once == 1:
            return self.span
        stride, above, height = self.then.strides[0], self.then.pads[0], self.conv.y.shape[1]
        made = range(0, height, self.at_once)
        first = (max(0, -(-(row + above - self.span + 1) // stride)) * stride - above for row in made)  # still needed
        return max(self.at_once, *(min(row + self.at_once, height) - f for row, f in zip(made, first, strict=True)))

    @property
    def on_row(self) -> MaxPool | NormSign:
        """`then` as it is done for one row: a normalisation on an image of one row."""
        if isinstance(self.then, MaxPool):
            return self.then
        x, y = (replace(t, shape=(t.shape[0], 1, t.shape[2])) for t in (self.then.x, self.then.y))
        return replace(self.then, x=x, y=y)

    @property
    def exact(self) -> bool:
        return self.conv.exact and self.then.exact

    def evaluate(self, x: Array, *others: Array) -> Array:
        return self.then.evaluate(self.conv.evaluate(x, *others))
