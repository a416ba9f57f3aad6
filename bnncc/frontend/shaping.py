"""Importers of nodes that move values: padding, resizing, slices, concatenation, reshaping, transposition."""

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.frontend.geometry import attributes
from bnncc.frontend.norms import stage
from bnncc.frontend.source.session import session
from bnncc.frontend.source.text import first_line, label, printable
from bnncc.frontend.values import Context, Known, Refusal, Swapped, Value, within
from bnncc.ops import Concat, Pad, Reshape, Slice, Transpose, Upsample
from bnncc.tensor import Elem, Shape, Tensor, integer

Axes = dict[int, int]


def pad(ctx: Context, node: onnx.NodeProto) -> Known:
    """A constant border, kept aside for the convolution that reads it."""
    value, given = ctx.value(node), attributes(node)
    mode = given.get("mode", b"constant").decode()
    if mode != "constant":
        raise Refusal("E0201", f"Pad mode {printable(mode, 40)} is not supported", "pad with a constant")
    rank = len(value.shape)
    widths: Any = given.get("pads") if len(node.input) < 2 else ctx.need_constant(node, 1, "pads").tolist()
    fill = float(given.get("value", 0.0))
    if len(node.input) > 2 and node.input[2]:
        fill = float(ctx.need_constant(node, 2, "fill value").reshape(-1)[0])
    if len(node.input) > 3 and node.input[3]:
        axes = [within(int(a), rank) for a in ctx.need_constant(node, 3, "axes")]
        full = [0] * 2 * rank
        for k, a in enumerate(axes):
            full[a], full[a + rank] = widths[k], widths[k + len(axes)]
        widths = full
    p = [int(k) for k in widths or ()]
    out = ctx.out_shape(node)
    if len(p) != 2 * rank or p[0] or p[rank] or min(p) < 0 or max(p) > 1 << 15 or (rank == 2 and any(p)):
        raise Refusal("E0201", f"Pad by {p} is not supported", "pad channels, height and width by 0 or more")
    if not any(p):
        return value
    before, after = (dict(zip(value.axes, q, strict=True)) for q in (p[1:rank], p[rank + 1 :]))
    if before[0] or after[0]:
        return padded_channels(ctx, node, value, fill, before, after, out)
    pads = (before.get(1, 0), before.get(2, 0), after.get(1, 0), after.get(2, 0))
    return Value(value.tensor, out, value.last, pads, fill, node.input[0])


def padded_channels(
    ctx: Context, node: onnx.NodeProto, value: Value, fill: float, before: Axes, after: Axes, out: tuple[int, ...]
) -> Value:
    """Constant channels around the value's own (and a border, if asked)."""
    t = value.tensor
    if not (t.elem is Elem.F32 or (abs(fill) == 1 if t.elem is Elem.BIN else fill == 0)):
        t = ctx.real(node, value).tensor
    c, h, w = (n + before.get(a, 0) + after.get(a, 0) for a, n in enumerate(t.shape))
    lo, hi = (min(t.lo, int(fill)), max(t.hi, int(fill))) if t.elem.is_integer else (0, 0)
    stride = t.stride if t.elem is Elem.BIN else 1
    y = Tensor(node.output[0], t.elem, (c, h, w), lo, hi, stride, node.output[0], value.last)
    start = (before[0], before.get(1, 0), before.get(2, 0))
    return Value(ctx.add(Pad(x=t, y=y, before=start, value=fill, origin=(label(node),))), out, value.last)


def tensor_shape(value: Value, shape: tuple[int, ...]) -> Shape:
    """[C, H, W] of an ONNX shape whose axes are those of `value`."""
    by_axis = dict(zip(value.axes, shape[1:], strict=True))
    return by_axis.get(0, 1), by_axis.get(1, 1), by_axis.get(2, 1)


def moved(ctx: Context, node: onnx.NodeProto, value: Value, shape: Shape) -> Tensor:
    """The tensor that the node makes by moving values of `value`."""
    t, name = value.tensor, node.output[0]
    return Tensor(name, t.elem, shape, t.lo, t.hi, t.stride, ctx.twin(name), value.last)


def resize(ctx: Context, node: onnx.NodeProto) -> Known:
    """Resize and Upsample by nearest neighbour: which pixel each takes is asked of onnxruntime itself."""
    value, out = ctx.value(node), ctx.out_shape(node)
    if attributes(node).get("mode", b"nearest") != b"nearest" or len(out) != len(value.shape) or len(out) < 3:
        raise Refusal("E0201", "only resizing by nearest neighbour is supported", "set mode to nearest")
    t, shape = value.tensor, tensor_shape(value, out)
    if shape[0] != t.shape[0]:
        raise Refusal("E0201", "it resizes the channels", "resize height and width")
    taken = taken_pixels(ctx, node, value, shape)
    y, origin = moved(ctx, node, value, shape), (label(node),)
    rows, columns = np.arange(shape[1])[:, None], np.arange(shape[2])
    up = (max(1, shape[1] // t.shape[1]), max(1, shape[2] // t.shape[2]))
    if np.array_equal(taken, rows // up[0] * t.shape[2] + columns // up[1]):
        return Value(ctx.add(Upsample(x=t, y=y, factors=up, origin=origin)), out, value.last)
    down = (max(1, t.shape[1] // shape[1]), max(1, t.shape[2] // shape[2]))
    first = divmod(int(taken[0, 0]), t.shape[2])
    if np.array_equal(taken, (first[0] + rows * down[0]) * t.shape[2] + first[1] + columns * down[1]):
        return Value(ctx.add(Slice(x=t, y=y, start=(0, *first), step=(1, *down), origin=origin)), out, value.last)
    raise Refusal(
        "E0201", f"resizing {list(value.shape)} to {list(out)} is by no whole factor", "resize by a whole factor"
    )


def taken_pixels(ctx: Context, node: onnx.NodeProto, value: Value, shape: Shape) -> NDArray[np.int64]:
    """The index of the pixel of the input that each pixel of the output is, [H', W']."""
    _, h, w = value.tensor.shape
    numbers = np.broadcast_to(np.arange(h * w, dtype=np.float32).reshape(h, w), value.tensor.shape)
    x = np.ascontiguousarray(numbers.transpose(1, 2, 0) if value.last else numbers).reshape(value.shape)
    make = onnx.helper
    sizes = {n: ctx.need_constant(node, k, "size") for k, n in enumerate(node.input) if k and n}
    graph = make.make_graph(
        [node],
        "resize",
        [make.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, value.shape)],
        [onnx.ValueInfoProto(name=node.output[0])],
        [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in sizes.items()],
    )
    opsets = [o for o in ctx.source.model.opset_import if o.domain in ("", "ai.onnx")]
    try:
        (y,) = session(make.make_model(graph, opset_imports=opsets, ir_version=8)).run(None, {node.input[0]: x})
    except Exception as e:  # onnxruntime has one exception class a status code, under a private module
        raise Refusal("E0107", f"onnxruntime cannot resize so: {first_line(e)}", "export the model again") from None
    plane = np.asarray(y)[0, ..., 0] if value.last else np.asarray(y)[0, 0]
    return plane.astype(np.int64).reshape(shape[1:])


def sliced(ctx: Context, node: onnx.NodeProto) -> Known:
    """Slice, in both forms, forwards."""
    value, given = ctx.value(node), attributes(node)
    rank = len(value.shape)
    if "starts" in given or len(node.input) < 3:
        starts, ends = list(given.get("starts", ())), list(given.get("ends", ()))
        axes, steps = list(given.get("axes", range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = (ctx.need_constant(node, k, "range").reshape(-1).tolist() for k in (1, 2))
        has = [len(node.input) > k and node.input[k] for k in (3, 4)]
        axes = ctx.need_constant(node, 3, "axes").reshape(-1).tolist() if has[0] else list(range(len(starts)))
        steps = ctx.need_constant(node, 4, "steps").reshape(-1).tolist() if has[1] else [1] * len(starts)
    ranges = [range(n) for n in value.shape]
    for a, begin, end, by in zip(axes, starts, ends, steps, strict=True):
        if by < 1:
            raise Refusal("E0201", "a slice backwards is not supported", "slice forwards")
        ranges[within(a, rank)] = range(value.shape[a % rank])[slice(begin, end, by)]
    return part(ctx, node, value, ranges, node.output[0])


def part(ctx: Context, node: onnx.NodeProto, value: Value, ranges: list[range], name: str) -> Value:
    """The values at these indices of each ONNX axis, called `name`."""
    out = tuple(len(r) for r in ranges)
    if min(out) < 1 or len(ranges[0]) != value.shape[0]:
        raise Refusal("E0201", f"it takes {list(out)} of {list(value.shape)}", "slice channels, height or width")
    if out == value.shape:
        return value
    if len(out) == 2:
        value = ctx.vector(node, value)
    axes = (0,) if len(out) == 2 else value.axes
    taken = dict(zip(axes, ranges[1:], strict=True))
    taken = {a: taken.get(a, range(value.tensor.shape[a])) for a in range(3)}
    t = value.tensor
    shape = (len(taken[0]), len(taken[1]), len(taken[2]))
    y = Tensor(name, t.elem, shape, t.lo, t.hi, t.stride, ctx.twin(name), value.last)
    start, by = (tuple(getattr(taken[a], f) for a in range(3)) for f in ("start", "step"))
    op = Slice(x=t, y=y, start=(start[0], start[1], start[2]), step=(by[0], by[1], by[2]), origin=(label(node),))
    return Value(ctx.add(op), out, value.last)


def split(ctx: Context, node: onnx.NodeProto) -> Known:
    value, given = ctx.value(node), attributes(node)
    axis = within(int(given.get("axis", 0)), len(value.shape))
    total, count = value.shape[axis], len(node.output)
    sizes: Any = given.get("split")
    if len(node.input) > 1 and node.input[1]:
        sizes = ctx.need_constant(node, 1, "split").tolist()
    if not sizes:
        each = -(-total // count)
        sizes = [each] * (count - 1) + [total - each * (count - 1)]
    begin, parts = 0, []
    for name, size in zip(node.output, sizes, strict=True):
        ranges = [range(n) for n in value.shape]
        ranges[axis] = range(begin, begin + int(size))
        parts.append(part(ctx, node, value, ranges, name))
        begin += int(size)
    for name, p in zip(node.output, parts, strict=True):
        ctx.values[name] = p
    return parts[0]


def gather(ctx: Context, node: onnx.NodeProto) -> Known:
    """Gather of one index, which drops the axis, of indices at even distances, or of a whole vector in order."""
    value = ctx.value(node)
    axis = within(int(attributes(node).get("axis", 0)), len(value.shape))
    indices = ctx.need_constant(node, 1, "index")
    n = value.shape[axis]
    flat = [int(i) % n for i in indices.reshape(-1)]
    by = flat[1] - flat[0] if len(flat) > 1 else 1
    if value.shape == (n,) and flat == list(range(n)):  # all in order: what torch makes of a mean with channels last
        return viewed(ctx, node, value, ctx.out_shape(node))
    if indices.ndim > 1 or by < 1 or flat != list(range(flat[0], flat[0] + by * len(flat), by)):
        raise Refusal("E0201", "it gathers at uneven indices", "use a slice")
    ranges = [range(k) for k in value.shape]
    ranges[axis] = range(flat[0], flat[-1] + 1, by)
    if indices.ndim == 1:
        return part(ctx, node, value, ranges, node.output[0])
    one = part(ctx, node, value, ranges, ctx.name(node.output[0], "one"))
    return viewed(ctx, node, one, ctx.out_shape(node))


def concat(ctx: Context, node: onnx.NodeProto) -> Known:
    """Concatenation of channels, or of the features of vectors."""
    out = ctx.out_shape(node)
    axis = within(int(attributes(node).get("axis", 1)), len(out))
    constants = {k: c for k, name in enumerate(node.input) if (c := ctx.constant(name)) is not None}
    if constants:
        return between_constants(ctx, node, constants, axis, out)
    return side_by_side(ctx, node, [ctx.value(node, k) for k in range(len(node.input))], axis, out)


def between_constants(
    ctx: Context, node: onnx.NodeProto, constants: dict[int, NDArray[Any]], axis: int, out: tuple[int, ...]
) -> Value:
    """One tensor with channels of one number before and behind it: a shortcut that makes room for new channels."""
    tensors = [k for k in range(len(node.input)) if k not in constants]
    numbers = {float(v) for c in constants.values() for v in np.unique(c)[:2]}
    if len(tensors) != 1 or len(numbers) != 1 or len(out) < 3 or (value := ctx.value(node, tensors[0])).axes[axis - 1]:
        raise Refusal(
            "E0201", "Concat of constants is only supported as channels of one number around a tensor", "use Pad"
        )
    before, after = (
        sum(c.shape[axis] for k, c in constants.items() if (k < tensors[0]) == left) for left in (True, False)
    )
    return padded_channels(ctx, node, value, numbers.pop(), {0: before}, {0: after}, out)


def side_by_side(ctx: Context, node: onnx.NodeProto, values: list[Value], axis: int, out: tuple[int, ...]) -> Value:
    """The values one after the other along an ONNX axis."""
    first = values[0]
    if len(values) == 1:
        return first
    if len(out) == 2 and axis == 1:
        same = all(v.tensor.shape[1:] == first.tensor.shape[1:] and not v.last for v in values)
        values = values if same else [ctx.vector(node, v) for v in values]
    else:
        if len(out) < 3 or axis == 0 or any(len(v.shape) != len(out) for v in values):
            raise Refusal("E0201", f"concatenation along axis {axis} is not supported", "concatenate channels")
        like = next((v for v in values if v.axes[axis - 1] == 0), None)
        if like is None and axis != len(out) - 1:
            raise Refusal("E0201", "concatenation of height or width is not supported", "concatenate channels")
        like = like or ctx.last_axis(node, first)
        values = [laid_out(ctx, node, v, like) for v in values]
    tensors = [v.tensor for v in values]
    if any(t.shape[1:] != tensors[0].shape[1:] for t in tensors):
        raise Refusal("E0105", "its inputs have different sizes", "export the model again")
    kinds = {t.elem for t in tensors}
    shape = (sum(t.shape[0] for t in tensors), *tensors[0].shape[1:])
    y = Tensor(node.output[0], Elem.F32, shape, 0, 0, 1, node.output[0], values[0].last)
    if Elem.F32 not in kinds:
        lo, hi = min(t.lo for t in tensors), max(t.hi for t in tensors)
        elem = Elem.BIN if kinds == {Elem.BIN} else integer(lo, hi)
        y = Tensor(y.name, elem, shape, lo, hi, 2 if elem is Elem.BIN else 1, y.twin, y.channels_last)
    op = Concat(x=tensors[0], others=tuple(tensors[1:]), y=y, origin=(label(node),))
    return Value(ctx.add(op), out, values[0].last)


def scatter(ctx: Context, node: onnx.NodeProto) -> Known:
    """ScatterND that replaces neighbouring channels, as torch writes x[:, a:b] = y: directly, or on [C, 1, H, W]."""
    known = [ctx.values.get(node.input[k]) for k in (0, 2)]
    swapped = [isinstance(k, Swapped) for k in known]
    data, new = (k.value if isinstance(k, Swapped) else ctx.value(node, n) for k, n in zip(known, (0, 2), strict=True))
    indices = ctx.need_constant(node, 1, "index")
    n = data.shape[1]
    flat = indices.reshape(-1, indices.shape[-1])[:, -1] % n
    first, count = int(flat[0]), len(flat)
    batch_first = (1, count, 2) == indices.shape and not indices[..., 0].any()
    if (
        attributes(node).get("reduction", b"none") != b"none"
        or any(swapped) != all(swapped)
        or not ((count, 1) == indices.shape if all(swapped) else batch_first)
        or flat.tolist() != list(range(first, first + count))
        or new.shape != (1, count, *data.shape[2:])
    ):
        raise Refusal("E0201", "ScatterND is only supported of neighbouring channels", "use Slice and Concat")
    ranges = [[range(1), r, *map(range, data.shape[2:])] for r in (range(first), range(first + count, n))]
    sides = [
        [part(ctx, node, data, r, ctx.name(node.output[0], f"side{k}"))] if len(r[1]) else []
        for k, r in enumerate(ranges)
    ]
    replaced = data
    if not holds(ctx, data, new, first):
        replaced = side_by_side(ctx, node, [*sides[0], new, *sides[1]], 1, data.shape)
    return Swapped(replaced) if all(swapped) else replaced


def holds(ctx: Context, data: Value, new: Value, first: int) -> bool:
    """Whether the channels of `data` from `first` on are `new` already: torch writes them back a second time."""
    a, b = ctx.makers.get(data.tensor.name), ctx.makers.get(new.tensor.name)
    if isinstance(b, Slice) and b.x.name == data.tensor.name and not data.last:
        return b.start == (first, 0, 0) and b.step == (1, 1, 1)
    if not isinstance(a, Concat):
        return False
    starts = np.cumsum([0, *(t.shape[0] for t in a.inputs)])
    return any(t.name == new.tensor.name and s == first for t, s in zip(a.inputs, starts, strict=False))


def laid_out(ctx: Context, node: onnx.NodeProto, value: Value, like: Value) -> Value:
    """The value with the order of axes of `like`."""
    if value.last == like.last and value.axes == like.axes:
        return value
    shape = tensor_shape(like, value.shape)
    return ctx.arranged(node, value, Value(Tensor("", value.tensor.elem, shape), value.shape, like.last))


def reshape(ctx: Context, node: onnx.NodeProto) -> Known:
    """Flatten, Reshape, Squeeze, Unsqueeze: a view wherever the values stay in their order."""
    if (part_of_norm := stage(ctx, node)) is not None:
        return part_of_norm
    known = ctx.values.get(node.input[0])
    if isinstance(known, Value) and known.padded and ctx.out_shape(node) == known.shape:
        return known
    return viewed(ctx, node, ctx.value(node), ctx.out_shape(node))


def viewed(ctx: Context, node: onnx.NodeProto, value: Value, shape: tuple[int, ...]) -> Value:
    """The value in another ONNX shape."""
    t = value.tensor
    c, h, w = t.shape
    if shape == value.shape:
        return value
    if len(shape) == 5 and shape[0] == 1 and shape[1] * shape[2] == c and len(value.shape) == 4 and not value.last:
        return Value(ctx.move(node, t, Reshape, (shape[1], shape[2], h * w)), shape)  # groups of channels
    if len(shape) > 4 or (shape and shape[0] != 1 and len(shape) > 1):
        raise Refusal(
            "E0204",
            f"it turns shape {list(value.shape)} into {list(shape)}",
            "only shapes [1, C, H, W], [1, C, L] and [1, N] are supported",
        )
    if len(shape) <= 2:
        return Value(t, shape, value.last and t.pixels > 1)
    if len(value.shape) > 2 and len(shape) > 2:  # a size of 1 more or less, or height and width as one
        for last in {value.last, value.last and t.pixels > 1}:
            sizes, channels = (shape[1:-1], shape[-1]) if last else (shape[2:], shape[1])
            if channels == c and sizes in ((h, w), (h * w,)) and (len(shape) == 4 or 1 in (h, w)):
                return Value(t, shape, last)
    if not value.last or t.pixels == 1:
        if shape in ((1, c, h, w), (1, c, h * w)) and (len(shape) == 4 or 1 in (h, w)):
            return Value(t, shape)
    elif shape == (1, h, w, c):
        return Value(t, shape, last=True)
    if t.pixels == 1 and shape[-1] == c and math.prod(shape) == c:
        return Value(t, shape, last=True)
    wanted = (shape[1], shape[2], shape[3]) if len(shape) == 4 else (shape[1], 1, shape[2])
    flat = ctx.planar(node, value)
    y = Tensor(node.output[0], flat.elem, wanted, flat.lo, flat.hi, flat.stride, node.output[0])
    return Value(ctx.add(Reshape(x=flat, y=y, origin=(label(node),))), shape)


def transpose(ctx: Context, node: onnx.NodeProto) -> Known:
    """Between channels first and channels last only the view changes; other orders move the values."""
    given = attributes(node).get("perm", [])
    known = ctx.values.get(node.input[0])
    swaps = list(given[:2]) == [1, 0] and list(given[2:]) == list(range(2, len(given)))
    if isinstance(known, Swapped) and swaps:
        return known.value
    value = ctx.value(node)
    rank = len(value.shape)
    readers = ctx.readers.get(node.output[0], ())
    if swaps and rank > 2 and not value.last and readers and all(r.op_type == "ScatterND" for r in readers):
        return Swapped(value)
    perm = [int(p) for p in given or range(rank)[::-1]]
    out = tuple(value.shape[p] for p in perm)
    if perm == list(range(rank)):
        return value
    if perm == [0, 2, 1, 3, 4]:  # a shuffle of channels
        c, h, w = value.tensor.shape
        return Value(ctx.move(node, value.tensor, Transpose, (h, c, w), axes=(1, 0, 2)), out)
    if rank < 3 or perm[0] != 0:
        raise Refusal("E0201", f"a transposition by {perm} is not supported", "keep the batch in front")
    axes = tuple(value.axes[p - 1] for p in perm[1:])
    t = value.tensor
    for last in (False, True):
        if axes == Value(t, out, last).axes:
            return Value(t, out, last)
    order = (axes[0], axes[1], axes[2]) if rank == 4 else (axes[0], 3 - axes[0] - axes[1], axes[1])
    y = moved(ctx, node, Value(t, out), (t.shape[order[0]], t.shape[order[1]], t.shape[order[2]]))
    return Value(ctx.add(Transpose(x=t, y=y, axes=order, origin=(label(node),))), out)
