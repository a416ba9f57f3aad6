"""Real tensors that are affine images of integers: how a layer's input becomes integers, exactly or by a canonical form."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnncc.frontend.values import Context, Refusal
from bnncc.ops import Conv
from bnncc.scalar import Step, apply_steps
from bnncc.tensor import Elem, Tensor

Doubles = NDArray[np.float64]
EXACT = 1 << 24  # below this float32 holds every integer
MULTIPLIERS = (1, 2, 4, 5, 8, 10, 16)  # tried to make an offset integral: 127.5 needs 2


@dataclass(frozen=True)
class Affine:
    """A real tensor as scale * (mul * q - zero[c] + rest[c, h, w]) of an integer tensor q; rest is what is not integral."""

    q: Tensor
    scale: float
    mul: int
    zero: tuple[int, ...]
    rest: Doubles
    exact: bool  # the float32 values are exactly scale * integer, with scale a power of two
    steps: int  # of float32 arithmetic between q and the tensor


def is_power_of_two(x: "float | Doubles") -> bool:
    mantissa, _ = np.frexp(np.abs(x))
    return bool(np.all(mantissa == 0.5))


def affine(ctx: Context, tensor: Tensor) -> Affine | None:
    """How `tensor` depends on an integer tensor, if by one scale for all of it. Raises Refusal where its values overflow."""
    q, steps = ctx.chain(tensor)
    if not q.elem.is_integer:
        return None
    with np.errstate(all="ignore"):
        line = composed(steps)
        if line is None or not follows(q, steps, line[0]):
            return None
    a, b = line
    offset = -b / a  # in units of q
    mul = next((m for m in MULTIPLIERS if np.abs(m * offset - np.round(m * offset)).max() < 1e-6), 1)
    if q.elem is Elem.BIN:
        mul, zero = 1, np.zeros((1, 1, 1))
    else:
        zero = np.round(mul * offset)
        zero = zero if np.all(zero == zero[:, :1, :1]) else np.zeros((1, 1, 1))
    rest = zero - mul * offset
    rest = np.where(np.abs(rest - np.round(rest)) < 1e-6, np.round(rest), rest)
    scale = float(a) / mul
    zeros = tuple(int(z) for z in np.broadcast_to(zero[:, 0, 0], q.shape[:1])) if zero.any() else ()
    return Affine(q, scale, mul, zeros, rest, is_exact(q, steps, scale, mul, zero + 0 * rest, rest), len(steps))


def composed(steps: Sequence[Step]) -> tuple[float, Doubles] | None:
    """a, b of steps that are a * x + b with one a for the whole tensor; None for others."""
    a, b = 1.0, np.zeros((1, 1, 1))
    for s in steps:
        v = s.value.astype(np.float64)
        if s.operation in ("mul", "div"):
            v = 1 / v if s.operation == "div" else v
            if v.size > 1 and not np.all(v == v.flat[0]):
                return None
            a, b = a * float(v.flat[0]), b * v.flat[0]
        elif s.operation in ("add", "sub"):
            b = b + v if s.operation == "add" else b - v
        elif s.operation == "rsub":
            a, b = -a, v - b
        else:
            return None
    return a, b


def follows(q: Tensor, steps: Sequence[Step], a: float) -> bool:
    """Whether the float32 values follow q at all: no product vanishes, nor in a large offset. Raises Refusal where they overflow."""
    low, high = (apply_steps(np.full((1, 1, 1, 1), k), steps).astype(np.float64) for k in (q.lo, q.hi))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise Refusal("E0301", "it reads values that overflow float32", "train or export the model again")
    spread = a * (q.hi - q.lo)
    if q.lo == q.hi:
        return a != 0 and bool(np.isfinite(a))
    return spread != 0 and bool((np.abs(high - low - spread) <= abs(spread) / 2).all())


def is_exact(q: Tensor, steps: Sequence[Step], scale: float, mul: int, zero: Doubles, rest: Doubles) -> bool:
    """Whether the file's float32 steps give exactly scale * integer for every value of q (tried, up to 2**16 of them)."""
    if not is_power_of_two(scale) or not np.all(rest == np.round(rest)):
        return False
    if all(s.operation in ("mul", "div") and is_power_of_two(s.value.astype(np.float64)) for s in steps):
        return True
    values = np.arange(q.lo, q.hi + 1, q.stride)
    if len(values) > 1 << 16:
        return False
    grid = values.reshape(-1, 1, 1, 1)
    return bool(np.all(apply_steps(grid, steps).astype(np.float64) == scale * (mul * grid - zero + rest)))


def constant_part(op: Conv, rest: Doubles) -> Doubles:
    """What the non-integral offsets add to each accumulator, [O, 1, 1] or [O, H, W]; taps in zero padding add nothing."""
    if not rest.any():
        return np.zeros((1, 1, 1))
    c, h, w = op.x.shape
    if rest.shape[1:] == (1, 1):
        total = sums_at_pixels(op, np.broadcast_to(rest[:, 0, 0], (c,)))
    else:
        total = np.asarray(op.accumulate(op.spread(np.broadcast_to(rest, (1, c, h, w)), 0))[0], np.float64)
    return total[:, :1, :1] if np.all(total == total[:, :1, :1]) else total


def sums_at_pixels(op: Conv, x: Doubles) -> Doubles:
    """The accumulators of an input that is x [C] at every pixel, [O, H, W]; windows with the same taps inside are alike."""
    weight = op.weight.reshape(op.groups, -1, *op.weight.shape[1:])
    taps = np.einsum("gockl,gc->gokl", weight, x.reshape(op.groups, -1)).reshape(-1, *op.kernel)
    rows, row = np.unique(op.at_pixels(0), axis=0, return_inverse=True)
    columns, column = np.unique(op.at_pixels(1), axis=0, return_inverse=True)
    return np.asarray((rows @ taps @ columns.T)[:, row][:, :, column])
