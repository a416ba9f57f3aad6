"""Random ops for each kernel, built directly as the compiler's own values, with inputs that include the extremes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bnncc.graph import Conv, Elem, Map, MaxPool, Op, Output, Sum, Tensor, Threshold
from bnncc.outputs import Store
from bnncc.scalar import OPERATIONS, Cut, Step, step

INTEGERS = {Elem.BIN: (-1, 1, 2), Elem.U8: (0, 255, 1), Elem.I8: (-128, 127, 1), Elem.I32: (-5000, 5000, 1)}
CHANNELS = (1, 3, 7, 8, 9, 10, 16, 17, 20, 31, 32, 33, 40, 48, 64, 65, 96, 97, 100)


def pick(rng: np.random.Generator, *options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def channels(rng: np.random.Generator) -> int:
    return int(pick(rng, pick(rng, *CHANNELS), rng.integers(1, 101)))


def tensor(name: str, elem: Elem, shape: tuple[int, int, int]) -> Tensor:
    return Tensor(name, elem, shape, *INTEGERS.get(elem, (0, 0, 1)), twin=name)


def inputs(rng: np.random.Generator, t: Tensor, samples: int = 4) -> np.ndarray:
    """Samples [N, C, H, W]: the last two hold the lowest and the highest value everywhere."""
    size = (samples, *t.shape)
    if t.elem is Elem.F32:
        x = rng.normal(size=size).astype(np.float32)
        x[-2], x[-1] = -1e6, 1e6
        return x
    lo, hi, stride = INTEGERS[t.elem]
    x = lo + stride * rng.integers(0, (hi - lo) // stride + 1, size)
    x[-2], x[-1] = lo, hi
    return x


def cut(rng: np.random.Generator, shape: tuple[int, int, int], lo: float, hi: float, *, floats: bool = False) -> Cut:
    """Random levels within and a little beyond lo..hi, with inverted channels and pixel classes at times."""
    c, h, w = shape
    classes = rng.integers(0, 3, (h, w)) if rng.random() < 0.3 and h * w > 1 else None
    rows = 1 if classes is None else 3
    levels = rng.uniform(lo / 4, hi / 4 + 1, (rows, c)) if rng.random() < 0.8 else rng.choice([lo, hi + 1], (rows, c))
    inverts = rng.random((rows, c)) < pick(rng, 0.0, 0.5)
    if not floats:
        return Cut(np.round(levels).astype(np.int64), inverts, classes)
    levels = levels.astype(np.float32)
    levels[rng.random((rows, c)) < 0.1] = np.nan
    return Cut(levels, inverts, classes)


def window(rng: np.random.Generator, limit: int = 7, *, pool: bool = False) -> dict[str, Any]:
    """Image size, kernel, strides, dilations, pads and the output's size. A pool's windows all meet the image."""
    while True:
        size = rng.integers(1, 11, 2)
        kernel, strides = rng.integers(1, limit + 1, 2), rng.integers(1, 4, 2)
        dilations = np.array([1, 1]) if pool else rng.integers(1, 3, 2)
        span = (kernel - 1) * dilations + 1
        pads = [int(rng.integers(0, s)) for s in (*span, *span)] if rng.random() < 0.6 else [0, 0, 0, 0]
        room = size + pads[:2] + pads[2:] - span
        if (room >= 0).all():
            break
    out = room // strides + 1
    return {
        "size": tuple(size.tolist()),
        "out": tuple(out.tolist()),
        "kernel": tuple(kernel.tolist()),
        "strides": tuple(strides.tolist()),
        "dilations": tuple(dilations.tolist()),
        "pads": tuple(pads),
    }


def weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    kind = pick(rng, "random", "random", "random", "plus", "minus")
    fixed = {"plus": np.ones(shape), "minus": -np.ones(shape)}
    return (rng.choice([-1, 1], shape) if kind == "random" else fixed[kind]).astype(np.int8)


def conv(
    rng: np.random.Generator,
    elem: Elem,
    c: int | None = None,
    o: int | None = None,
    given: dict[str, Any] | None = None,
) -> Conv:
    """A convolution of `elem` inputs with or without a threshold."""
    c, o = c or channels(rng), o or channels(rng)
    if elem is not Elem.BIN and given is None:
        c = min(c, int(rng.integers(1, 12)))
    g = dict(given or window(rng, pick(rng, 3, 3, 7)))
    (h, w), (oh, ow) = g.pop("size"), g.pop("out")
    x, integer = tensor("x", elem, (c, h, w)), elem is not Elem.F32
    extra: dict[str, Any] = {"pad_value": pick(rng, 0, 0, 1, -1)} if elem is Elem.BIN else {}
    if integer and elem is not Elem.BIN:
        zeros = {
            "none": (),
            "one": (int(rng.integers(-130, 300)),) * c,
            "each": tuple(rng.integers(-130, 300, c).tolist()),
        }
        extra = {"mul": pick(rng, 1, 1, 2), "zero": zeros[pick(rng, "none", "one", "each")]}
    op = Conv(
        x=x,
        y=tensor("y", Elem.I32 if integer else Elem.F32, (o, oh, ow)),
        weight=weights(rng, (o, c, *g["kernel"])),
        **g,
        **extra,
    )
    if rng.random() < 0.6:
        bound = op.bound if integer else op.taps
        op = Conv(
            **{
                **op.__dict__,
                "y": tensor("y", Elem.BIN, (o, oh, ow)),
                "cut": cut(rng, (o, oh, ow), -bound, bound, floats=not integer),
            }
        )
    return op


def binary_conv(rng: np.random.Generator) -> Op:
    return conv(rng, Elem.BIN)


def binary_dense(rng: np.random.Generator) -> Op:
    h, w = (int(v) for v in rng.integers(1, 6, 2))
    whole = {
        "size": (h, w),
        "out": (1, 1),
        "kernel": (h, w),
        "strides": (1, 1),
        "dilations": (1, 1),
        "pads": (0, 0, 0, 0),
    }
    return conv(rng, Elem.BIN, int(rng.integers(17, 101)), None, whole)


def value_conv(rng: np.random.Generator) -> Op:
    return conv(rng, pick(rng, Elem.U8, Elem.I8, Elem.I32, Elem.F32))


def table_conv(rng: np.random.Generator) -> Op:
    return conv(rng, pick(rng, Elem.U8, Elem.I8, Elem.I32))


def threshold(rng: np.random.Generator) -> Op:
    elem, shape = pick(rng, *Elem), (channels(rng), *rng.integers(1, 5, 2).tolist())
    lo, hi = INTEGERS.get(elem, (-3, 3))[:2]
    level = cut(rng, shape, lo, hi, floats=elem is Elem.F32)
    return Threshold(x=tensor("x", elem, shape), y=tensor("y", Elem.BIN, shape), cut=level)


def pool(rng: np.random.Generator, elem: Elem) -> Op:
    g, c = window(rng, 4, pool=True), channels(rng)
    x, y = tensor("x", elem, (c, *g.pop("size"))), tensor("y", elem, (c, *g.pop("out")))
    minimum = tuple((rng.random(c) < 0.5).tolist()) if elem is Elem.BIN and rng.random() < 0.5 else ()
    return MaxPool(x=x, y=y, minimum=minimum, **g)


def bit_pool(rng: np.random.Generator) -> Op:
    return pool(rng, Elem.BIN)


def value_pool(rng: np.random.Generator) -> Op:
    return pool(rng, pick(rng, Elem.U8, Elem.I8, Elem.I32, Elem.F32))


def sums(rng: np.random.Generator) -> Op:
    elem, c = pick(rng, *Elem), channels(rng)
    x = tensor("x", elem, (c, *rng.integers(1, 8, 2).tolist()))
    return Sum(x=x, y=tensor("y", Elem.F32 if elem is Elem.F32 else Elem.I32, (c, 1, 1)))


def steps(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[Step, ...]:
    """Up to four steps with constants for all, per channel, or for each value."""
    out = []
    for _ in range(int(rng.integers(1, 5))):
        value = rng.normal(size=pick(rng, (1, 1, 1), (shape[0], 1, 1), shape, (1, *shape[1:]))) * 3
        out.append(step(pick(rng, *OPERATIONS), np.where(np.abs(value) < 1e-3, 1, value)))
    return tuple(out)


def maps(rng: np.random.Generator) -> Op:
    shape = (channels(rng), *rng.integers(1, 5, 2).tolist())
    return Map(x=tensor("x", pick(rng, *Elem), shape), y=tensor("y", Elem.F32, shape), steps=steps(rng, shape))


def store(rng: np.random.Generator) -> Op:
    shape = (channels(rng), *rng.integers(1, 5, 2).tolist())
    x = tensor("x", pick(rng, *Elem), shape)
    output = Output("out", (1, *shape), x, steps(rng, shape) if rng.random() < 0.5 else ())
    return Store(x=x, y=tensor("y", Elem.F32, shape), output=output, as_float=bool(rng.random() < 0.3))


MAKERS: dict[str, Callable[[np.random.Generator], Op]] = {
    "binary_conv": binary_conv,
    "binary_dense": binary_dense,
    "value_conv": value_conv,
    "table_conv": table_conv,
    "threshold": threshold,
    "bit_pool": bit_pool,
    "value_pool": value_pool,
    "sum": sums,
    "map": maps,
    "store": store,
}
