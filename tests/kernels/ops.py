"""Random ops for each kernel, built directly as the compiler's own values, with inputs that include the extremes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bnncc.graph import Output
from bnncc.ops import (
    Combine,
    Concat,
    Conv,
    Map,
    MaxPool,
    Normalize,
    NormSign,
    Pad,
    Reshape,
    Slice,
    Softmax,
    SumPool,
    Threshold,
    Transpose,
    Upsample,
)
from bnncc.outputs import Store
from bnncc.scalar import BINARY, ROUGH, UNARY, Cut, Operand, Step, step
from bnncc.tensor import Elem, Op, Tensor, integer

INTEGERS = {
    Elem.BIN: (-1, 1, 2),
    Elem.U8: (0, 255, 1),
    Elem.I8: (-128, 127, 1),
    Elem.I16: (-2000, 2000, 1),
    Elem.I32: (-5000, 5000, 1),
}
CHANNELS = (1, 3, 7, 8, 9, 10, 16, 17, 20, 31, 32, 33, 40, 48, 64, 65, 96, 97, 100)
VALUES = (Elem.U8, Elem.I8, Elem.I16, Elem.I32, Elem.F32)


def pick(rng: np.random.Generator, *options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def channels(rng: np.random.Generator) -> int:
    return int(pick(rng, pick(rng, *CHANNELS), rng.integers(1, 101)))


def image(rng: np.random.Generator, c: int | None = None, side: int = 5) -> tuple[int, int, int]:
    return c or channels(rng), int(rng.integers(1, side + 1)), int(rng.integers(1, side + 1))


def tensor(name: str, elem: Elem, shape: tuple[int, int, int]) -> Tensor:
    return Tensor(name, elem, shape, *INTEGERS.get(elem, (0, 0, 1)), twin=name)


def ranged(name: str, shape: tuple[int, int, int], lo: int, hi: int) -> Tensor:
    """An integer tensor of the smallest type for lo..hi."""
    return Tensor(name, integer(lo, hi), shape, lo, hi, twin=name)


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


def window(rng: np.random.Generator, limit: int = 7, most_rows: int = 10) -> dict[str, Any]:
    """Image size, kernel, strides, dilations, pads (negative ones crop) and the output's size."""
    while True:
        size = rng.integers(1, (most_rows + 1, 11))
        kernel, strides = rng.integers(1, limit + 1, 2), rng.integers(1, 4, 2)
        dilations = rng.integers(1, 3, 2)
        span = (kernel - 1) * dilations + 1
        kind = pick(rng, "none", "pad", "pad", "crop")
        low = -np.minimum((size - 1) // 2, 2) if kind == "crop" else (0, 0)
        pads = (
            [0] * 4
            if kind == "none"
            else [int(rng.integers(a, b)) for a, b in zip((*low, *low), (*span, *span), strict=True)]
        )
        room = size + pads[:2] + pads[2:] - span
        if (room >= 0).all():
            break
    return geometry(size, room // strides + 1, kernel, strides, dilations, pads)


def transposed(rng: np.random.Generator) -> dict[str, Any]:
    """The same of a transposed convolution, with padding of its output at times: windows reach past the image."""
    while True:
        size, kernel = rng.integers(1, 7, 2), rng.integers(1, 5, 2)
        up, dilations = rng.integers(1, 4, 2), rng.integers(1, 3, 2)
        span = (kernel - 1) * dilations + 1
        pads = [int(rng.integers(-min(s - 1, 1), s)) for s in (*span, *span)]
        output = rng.integers(0, up) if rng.random() < 0.5 else np.array([0, 0])
        room = (size - 1) * up + 1 + pads[:2] + pads[2:] - span + output
        if (room >= 0).all() and up.max() > 1:
            break
    return {**geometry(size, room + 1, kernel, np.array([1, 1]), dilations, pads), "up": tuple(up.tolist())}


def geometry(
    size: np.ndarray, out: np.ndarray, kernel: np.ndarray, strides: np.ndarray, dilations: np.ndarray, pads: list[int]
) -> dict[str, Any]:
    names = ("size", "out", "kernel", "strides", "dilations")
    made = zip(names, (size, out, kernel, strides, dilations), strict=True)
    return {**{n: tuple(v.tolist()) for n, v in made}, "pads": tuple(pads)}


def whole(h: int, w: int) -> dict[str, Any]:
    """The window of a dense layer."""
    plain = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0)}
    return {"size": (h, w), "out": (1, 1), "kernel": (h, w), **plain}


def weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    kind = pick(rng, "random", "random", "random", "plus", "minus")
    fixed = {"plus": np.ones(shape), "minus": -np.ones(shape)}
    return (rng.choice([-1, 1], shape) if kind == "random" else fixed[kind]).astype(np.int8)


def real_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    """Float weights in one of the ways in which they lie in flash."""
    storage = pick(rng, "f32", "f16", "i8")
    if storage == "i8":
        scales = rng.uniform(1e-3, 0.1, shape[0]).astype(np.float32)
        rows = rng.integers(-127, 128, shape).astype(np.float32) * scales.reshape(-1, 1, 1, 1)
        return {"weight": rows, "storage": storage, "scales": tuple(float(s) for s in scales)}
    values = rng.normal(size=shape) * rng.choice([1, 1e-6, 1000, 0], shape, p=[0.8, 0.1, 0.05, 0.05])
    return {
        "weight": values.astype(np.float16 if storage == "f16" else np.float32).astype(np.float32),
        "storage": storage,
    }


def conv(
    rng: np.random.Generator,
    elem: Elem,
    c: int | None = None,
    o: int | None = None,
    given: dict[str, Any] | None = None,
    *,
    groups: int = 1,
    real: bool = False,
) -> Conv:
    """A convolution of `elem` inputs, c and o channels a group: to a sum, to bits with a threshold, or to float32 with steps."""
    c, o = c or channels(rng), o or channels(rng)
    if (elem is not Elem.BIN or real) and given is None and groups == 1:
        c = min(c, int(rng.integers(1, 12)))
    g = dict(given or (transposed(rng) if rng.random() < 0.2 else window(rng, pick(rng, 3, 3, 7))))
    (h, w), (oh, ow) = g.pop("size"), g.pop("out")
    c, o = c * groups, o * groups
    x, whole_numbers = tensor("x", elem, (c, h, w)), elem is not Elem.F32 and not real
    extra: dict[str, Any] = {"weight": weights(rng, (o, c // groups, *g["kernel"]))}
    if not whole_numbers:
        extra |= {"order": pick(rng, "conv", "conv", "packed", "rows", "columns")}
        extra |= {"start": tuple(rng.normal(size=o).astype(np.float32).tolist())} if rng.random() < 0.3 else {}
    if real:
        extra |= real_weights(rng, (o, c // groups, *g["kernel"]))
    elif elem is Elem.BIN and "up" not in g:
        extra["pad_value"] = pick(rng, 0, 0, 1, -1)
        if rng.random() < 0.3:
            x = replace(x, negated=tuple(np.flatnonzero(rng.random(c) < 0.5).tolist()))
    elif whole_numbers and elem is not Elem.BIN:
        one = int(rng.integers(-130, 300))
        zeros = {"none": (), "one": (one,) * c, "each": tuple(rng.integers(-130, 300, c).tolist())}
        extra |= {"mul": pick(rng, 1, 1, 2, -3), "zero": zeros[pick(rng, "none", "one", "each")]}
    op = Conv(x=x, y=tensor("y", Elem.F32, (o, oh, ow)), groups=groups, **g, **extra)
    bound = op.bound if whole_numbers else int(3 * op.taps)
    if whole_numbers:
        op = replace(op, y=ranged("y", op.y.shape, -bound, bound))
    kind = pick(rng, "plain", "cut", "cut", "steps")
    if kind == "cut":
        level = cut(rng, op.y.shape, -bound, bound, floats=not whole_numbers)
        op = replace(op, y=tensor("y", Elem.BIN, op.y.shape), cut=level)
    elif kind == "steps":
        made, others = steps(rng, op.y.shape, exact=whole_numbers)
        op = replace(op, y=tensor("y", Elem.F32, op.y.shape), steps=made, others=others)
    return op


def grouped(rng: np.random.Generator, elem: Elem, *, real: bool = False) -> Conv:
    """Groups of any size, one channel each among them, with one or several outputs."""
    groups = int(pick(rng, 2, 3, 8, 9, 31, 33, 65))
    c = int(pick(rng, 1, 1, 2, 3, 5, 8, 12, 16, 32, 33)) if groups < 10 else int(pick(rng, 1, 1, 2))
    return conv(rng, elem, c, int(pick(rng, 1, 1, 2, 3)), groups=groups, real=real)


def binary_conv(rng: np.random.Generator) -> Op:
    return conv(rng, Elem.BIN)


def words_or_groups(rng: np.random.Generator) -> Op:
    """At times in groups that are whole words."""
    if rng.random() < 0.7:
        return binary_conv(rng)
    c, o = (32 * int(rng.integers(1, 3)) for _ in range(2))
    return conv(rng, Elem.BIN, c, o, groups=int(rng.integers(2, 4)))


def several_words(rng: np.random.Generator) -> Op:
    return conv(rng, Elem.BIN, o=int(rng.integers(33, 101)))


def tall(rng: np.random.Generator) -> Op:
    """Up to 40 rows of an image."""
    return conv(rng, Elem.BIN, given=window(rng, pick(rng, 3, 3, 7), pick(rng, 10, 40)))


def binary_dense(rng: np.random.Generator) -> Op:
    return conv(rng, Elem.BIN, int(rng.integers(17, 101)), None, whole(*image(rng)[1:]))


def grouped_conv(rng: np.random.Generator) -> Op:
    return grouped(rng, Elem.BIN)


def depthwise_conv(rng: np.random.Generator) -> Op:
    return conv(rng, Elem.BIN, 1, 1, groups=channels(rng))


def value_conv(rng: np.random.Generator) -> Op:
    elem = pick(rng, *VALUES)
    return grouped(rng, elem) if rng.random() < 0.3 else conv(rng, elem)


def table_conv(rng: np.random.Generator) -> Op:
    return conv(rng, pick(rng, *VALUES[:-1]))


def quad_conv(rng: np.random.Generator) -> Op:
    """At times a window of one row, or an image of one."""
    given = window(rng, pick(rng, 3, 3, 5), pick(rng, 1, 10, 10))
    return conv(rng, pick(rng, *VALUES[:-1]), int(rng.integers(1, 5)), given=given)


def real_conv(rng: np.random.Generator) -> Op:
    elem = pick(rng, Elem.F32, *Elem)
    return grouped(rng, elem, real=True) if rng.random() < 0.3 else conv(rng, elem, real=True)


def threshold(rng: np.random.Generator) -> Op:
    elem, shape = pick(rng, *Elem), image(rng)
    lo, hi = INTEGERS.get(elem, (-3, 3))[:2]
    level = cut(rng, shape, lo, hi, floats=elem is Elem.F32)
    return Threshold(x=tensor("x", elem, shape), y=tensor("y", Elem.BIN, shape), cut=level)


def pool(rng: np.random.Generator, elem: Elem) -> Op:
    """A maximum over windows that all meet the image."""
    while True:
        g, c = window(rng, 4), channels(rng)
        x, y = tensor("x", elem, (c, *g.pop("size"))), tensor("y", elem, (c, *g.pop("out")))
        minimum = tuple((rng.random(c) < 0.5).tolist()) if rng.random() < 0.5 else ()
        op = MaxPool(x=x, y=y, minimum=minimum, **g)
        if op.slide(op.spread(np.ones((1, 1, *x.shape[1:])), 0)).any(axis=(4, 5)).all():
            return op


def bit_pool(rng: np.random.Generator) -> Op:
    return pool(rng, Elem.BIN)


def value_pool(rng: np.random.Generator) -> Op:
    return pool(rng, pick(rng, *VALUES))


def sums(rng: np.random.Generator) -> Op:
    x = tensor("x", pick(rng, Elem.F32, *Elem), image(rng, side=7))
    order = pick(rng, "rows", "lanes", "reduce")
    return SumPool(x=x, y=summed(x, (x.shape[0], 1, 1), x.pixels), kernel=x.shape[1:], order=order)


def window_sum(rng: np.random.Generator) -> Op:
    g, c = window(rng, 4), channels(rng)
    x = tensor("x", pick(rng, *Elem), (c, *g.pop("size")))
    order = pick(rng, "rows", "columns")
    return SumPool(x=x, y=summed(x, (c, *g.pop("out")), g["kernel"][0] * g["kernel"][1]), order=order, **g)


def summed(x: Tensor, shape: tuple[int, int, int], taps: int) -> Tensor:
    if x.elem is Elem.F32:
        return tensor("y", Elem.F32, shape)
    return ranged("y", shape, min(0, x.lo) * taps, max(0, x.hi) * taps)


def steps(
    rng: np.random.Generator, shape: tuple[int, int, int], *, exact: bool = True, operands: bool = True
) -> tuple[tuple[Step | Operand, ...], tuple[Tensor, ...]]:
    """Up to four steps with constants for all, per channel, or for each value, or with other tensors; and these tensors.

    Where the result is not exact, nothing is divided by what may be zero.
    """
    out: list[Step | Operand] = []
    others: list[Tensor] = []
    for _ in range(int(rng.integers(1, 5))):
        if operands and rng.random() < 0.3:
            operation, elem = pick(rng, *BINARY), pick(rng, *Elem)
            if operation == "div" and not exact:
                elem = Elem.BIN
            if not others or rng.random() < 0.8:
                others.append(tensor(f"other{len(others)}", elem, pick(rng, shape, (shape[0], 1, 1))))
                out.append(Operand(operation, len(others) - 1))
            else:
                out.append(Operand("add", int(rng.integers(len(others)))))
            continue
        operation = pick(rng, *BINARY, *(u for u in UNARY if not exact or u not in ROUGH))
        if operation in UNARY:
            out.append(Step(operation))
            continue
        value = rng.normal(size=pick(rng, (1, 1, 1), (shape[0], 1, 1), shape, (1, *shape[1:]))) * 3
        out.append(step(operation, np.where(np.abs(value) < 1e-3, 1, value)))
    return tuple(out), tuple(others)


def maps(rng: np.random.Generator) -> Op:
    shape, elem = image(rng), pick(rng, *Elem)
    made, others = steps(rng, shape, exact=bool(rng.random() < 0.7))
    return Map(x=tensor("x", elem, shape), y=tensor("y", Elem.F32, shape), steps=made, others=others)


def integer_maps(rng: np.random.Generator) -> Op:
    """A quantisation: scaled, rounded, clipped to integers."""
    shape, y = image(rng), pick(rng, Elem.U8, Elem.I8, Elem.I16, Elem.I32)
    lo, hi = INTEGERS[y][:2]
    scale = rng.uniform(0.01, 2, pick(rng, (1, 1, 1), (shape[0], 1, 1)))
    made = (
        step(pick(rng, "mul", "div"), scale),
        Step(pick(rng, "round", "floor", "ceil")),
        step("max", lo),
        step("min", hi),
    )
    return Map(x=tensor("x", pick(rng, *Elem), shape), y=tensor("y", y, shape), steps=made)


def any_map(rng: np.random.Generator) -> Op:
    return integer_maps(rng) if rng.random() < 0.3 else maps(rng)


def store(rng: np.random.Generator) -> Op:
    shape = image(rng)
    x = tensor("x", pick(rng, *Elem), shape)
    output = Output("out", (1, *shape), x, steps(rng, shape, operands=False)[0] if rng.random() < 0.5 else ())
    return Store(x=x, y=tensor("y", Elem.F32, shape), output=output, as_float=bool(rng.random() < 0.3))


def combine(rng: np.random.Generator) -> Op:
    shape, count = image(rng), int(rng.integers(1, 5))
    terms = [tensor(f"t{k}", pick(rng, *(e for e in Elem if e is not Elem.F32)), shape) for k in range(count)]
    factors = tuple(int(rng.choice([-300, -2, -1, 1, 1, 2, 100])) for _ in terms)
    offset = pick(rng, (), (7,) * shape[0], tuple(rng.integers(-500, 500, shape[0]).tolist()))
    ends = [sorted((f * t.lo, f * t.hi)) for f, t in zip(factors, terms, strict=True)]
    lo, hi = (sum(e[k] for e in ends) + limit(offset or (0,)) for k, limit in enumerate((min, max)))
    return Combine(x=terms[0], others=tuple(terms[1:]), y=ranged("y", shape, lo, hi), factors=factors, offset=offset)


def normalize(rng: np.random.Generator) -> Op:
    x = tensor("x", pick(rng, Elem.F32, *Elem), image(rng))
    return Normalize(x=x, y=tensor("y", Elem.F32, x.shape), epsilon=1e-5, features=bool(rng.random() < 0.5))


def norm_sign(rng: np.random.Generator) -> Op:
    x, features = tensor("x", pick(rng, *(e for e in Elem if e is not Elem.F32)), image(rng)), bool(rng.random() < 0.5)
    constants = pick(rng, (x.shape[0], 1, 1), x.shape) if features else (x.shape[0], 1, 1)
    rho = rng.normal(size=constants).astype(np.float32)
    rho[rng.random(constants) < 0.1] = pick(rng, -np.inf, np.inf, 0)
    return NormSign(
        x=x,
        y=tensor("y", Elem.BIN, x.shape),
        epsilon=float(pick(rng, 1e-5, 0.3)),
        features=features,
        rho=rho,
        falling=rng.random(constants) < pick(rng, 0.0, 0.5),
        strict=bool(rng.random() < 0.5),
        inverts=pick(rng, (), tuple((rng.random(x.shape[0]) < 0.5).tolist())),
    )


def softmax(rng: np.random.Generator) -> Op:
    x = tensor("x", pick(rng, Elem.F32, *Elem), image(rng))
    return Softmax(x=x, y=tensor("y", Elem.F32, x.shape), log=bool(rng.random() < 0.5))


def concat_bits(rng: np.random.Generator) -> Op:
    return concat(rng, (Elem.BIN,))


def concat_values(rng: np.random.Generator) -> Op:
    return concat(rng, tuple(Elem))


def concat(rng: np.random.Generator, elems: tuple[Elem, ...]) -> Op:
    h, w = image(rng)[1:]
    size = pick(rng, (1, 100), (1, 9), (32, 33))
    parts = [
        tensor(f"part{k}", pick(rng, *elems), (int(rng.integers(*size)), h, w)) for k in range(int(rng.integers(1, 6)))
    ]
    if len(parts) > 1 and rng.random() < 0.3:  # word for word
        parts = [*(replace(t, shape=(32 * int(rng.integers(1, 3)), h, w)) for t in parts[:-1]), parts[-1]]
    shape = (sum(t.shape[0] for t in parts), h, w)
    if any(t.elem is Elem.F32 for t in parts):
        y = tensor("y", Elem.F32, shape)
    elif all(t.elem is Elem.BIN for t in parts):
        y = tensor("y", Elem.BIN, shape)
    else:
        y = ranged("y", shape, min(t.lo for t in parts), max(t.hi for t in parts))
    return Concat(x=parts[0], others=tuple(parts[1:]), y=y)


def move(rng: np.random.Generator) -> Op:
    x = tensor("x", pick(rng, Elem.BIN, *Elem), image(rng))
    return pick(rng, sliced, padded, reshaped, transposition, upsampled)(rng, x)


def move_pixels(rng: np.random.Generator) -> Op:
    x = tensor("x", Elem.BIN, image(rng))
    return pick(rng, sliced, transposition, upsampled)(rng, x)


def sliced(rng: np.random.Generator, x: Tensor) -> Op:
    start = tuple(int(rng.integers(0, n)) * int(rng.random() < 0.6) for n in x.shape)
    by = tuple(int(pick(rng, 1, 1, 2, 3)) for _ in x.shape)
    shape = tuple(int(rng.integers(1, (n - 1 - s) // d + 2)) for n, s, d in zip(x.shape, start, by, strict=True))
    if rng.random() < 0.4:
        start, by, shape = (0, *start[1:]), (1, *by[1:]), (x.shape[0], *shape[1:])
    return Slice(x=x, y=replace(x, name="y", shape=shape), start=start, step=by)


def padded(rng: np.random.Generator, x: Tensor) -> Op:
    before = tuple(int(rng.integers(0, 4)) * int(rng.random() < 0.5) for _ in x.shape)
    after = tuple(int(rng.integers(0, 4)) * int(rng.random() < 0.5) for _ in x.shape)
    shape = tuple(b + n + a for b, n, a in zip(before, x.shape, after, strict=True))
    y = replace(x, name="y", shape=shape)
    if x.elem is Elem.F32:
        return Pad(x=x, y=y, before=before, value=pick(rng, 0.0, -1.5, 1e30, np.inf, -np.inf))
    if x.elem is Elem.BIN:
        return Pad(x=x, y=y, before=before, value=pick(rng, -1, 1))
    value = pick(rng, 0, x.hi, x.lo, -200)
    return Pad(x=x, y=ranged("y", shape, min(x.lo, value), max(x.hi, value)), before=before, value=value)


def reshaped(rng: np.random.Generator, x: Tensor) -> Op:
    rest = x.size
    c = pick(rng, *(d for d in range(1, rest + 1) if rest % d == 0))
    h = pick(rng, *(d for d in range(1, rest // c + 1) if (rest // c) % d == 0))
    return Reshape(x=x, y=replace(x, name="y", shape=(c, h, rest // c // h)))


def transposition(rng: np.random.Generator, x: Tensor) -> Op:
    axes = tuple(rng.permutation(3).tolist())
    return Transpose(x=x, y=replace(x, name="y", shape=tuple(x.shape[a] for a in axes)), axes=axes)


def upsampled(rng: np.random.Generator, x: Tensor) -> Op:
    f = tuple(int(v) for v in rng.integers(1, 4, 2))
    c, h, w = x.shape
    return Upsample(x=x, y=replace(x, name="y", shape=(c, h * f[0], w * f[1])), factors=f)


MAKERS: dict[str, Callable[[np.random.Generator], Op]] = {
    "binary_conv": binary_conv,
    "sbs_conv": words_or_groups,
    "sbs_conv_ram": words_or_groups,
    "sbs_conv_blocks": several_words,
    "sbs_vector": binary_conv,
    "lut_conv": tall,
    "binary_dense": binary_dense,
    "grouped_conv": grouped_conv,
    "depthwise_conv": depthwise_conv,
    "value_conv": value_conv,
    "table_conv": table_conv,
    "quad_conv": quad_conv,
    "quad_conv_ram": quad_conv,
    "real_conv": real_conv,
    "threshold": threshold,
    "bit_pool": bit_pool,
    "value_pool": value_pool,
    "sum": sums,
    "window_sum": window_sum,
    "map": any_map,
    "store": store,
    "combine": combine,
    "normalize": normalize,
    "norm_sign": norm_sign,
    "softmax": softmax,
    "concat_bits": concat_bits,
    "concat": concat_values,
    "move": move,
    "move_pixels": move_pixels,
}
