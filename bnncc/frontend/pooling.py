"""Importers of pooling and of reductions over height and width."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from bnncc.frontend.geometry import attributes, check_window, image, image_shape, padding, pair
from bnncc.frontend.source.text import label
from bnncc.frontend.values import Context, Known, Moment, Refusal, Value, scalar_step, within
from bnncc.ops import MaxPool, SumPool
from bnncc.scalar import step
from bnncc.tensor import Elem, Shape, Tensor, integer


def window(ctx: Context, node: onnx.NodeProto) -> tuple[Value, dict[str, Any], dict[str, Any], Shape]:
    """The input of a pooling node, its attributes, the geometry of its windows, and the shape [C, H, W] of its output."""
    value, given = image(ctx, node), attributes(node)
    size = value.tensor.shape[1:]
    if node.op_type.startswith("Global"):
        return value, given, {"kernel": size}, image_shape(ctx, node, value, value.shape[1])
    kernel = pair(value, given, "kernel_shape")
    strides, dilations = pair(value, given, "strides"), pair(value, given, "dilations")
    pads = padding(value, given, kernel, strides, dilations)
    if any(p > (k - 1) * d for p, k, d in zip(pads, (*kernel, *kernel), (*dilations, *dilations), strict=True)):
        raise Refusal(
            "E0105",
            f"pads {list(pads)} are as large as the window {list(kernel)}: a window could hold nothing but padding",
            "use less padding, or a larger window",
        )
    check_window(value, kernel, dilations, pads)
    shape = image_shape(ctx, node, value, value.shape[1])
    if any((o - 1) * s >= n + p for o, s, n, p in zip(shape[1:], strides, size, pads, strict=False)):
        raise Refusal("E0201", "with ceil_mode its last window lies outside of the image", "set ceil_mode to 0")
    return value, given, {"kernel": kernel, "strides": strides, "pads": pads, "dilations": dilations}, shape


def max_pool(ctx: Context, node: onnx.NodeProto) -> Known:
    if len(node.output) > 1 and node.output[1]:
        raise Refusal("E0201", "MaxPool with indices is not supported", "use only its first output")
    value, _, geometry, shape = window(ctx, node)
    t = value.tensor
    y = Tensor(node.output[0], t.elem, shape, t.lo, t.hi, t.stride, twin=node.output[0])
    return Value(ctx.add(MaxPool(x=t, y=y, origin=(label(node),), **geometry)), ctx.out_shape(node))


def average_pool(ctx: Context, node: onnx.NodeProto) -> Known:
    """AveragePool and GlobalAveragePool: the sum, then one division by how many values each window holds."""
    value, given, geometry, shape = window(ctx, node)
    op = pooled_sum(ctx, node, value.tensor, shape, {**geometry, "order": average_order(ctx, node, value, geometry)})
    grid = op
    if given.get("count_include_pad", 0):
        (top, left, bottom, right), (c, h, w) = op.pads, op.x.shape
        grid = replace(op, x=replace(op.x, shape=(c, h + top + bottom, w + left + right)), pads=(0, 0, 0, 0))
    rows, columns = (grid.at_pixels(axis).sum(axis=1) for axis in (0, 1))
    counts = np.outer(rows, columns)[None].astype(np.float32)
    divisor = counts if (counts != counts.flat[0]).any() else counts.flat[0]
    return ctx.map(node, Value(op.y, ctx.out_shape(node)), step("div", divisor), node.output[0])


def average_order(ctx: Context, node: onnx.NodeProto, value: Value, geometry: dict[str, Any]) -> str:
    """How onnxruntime sums real values here: SumPool.order."""
    if node.op_type == "AveragePool" and (ctx.opset >= 19 or len(value.shape) != 4):
        return "rows"
    plain = geometry.get("strides", (1, 1)) == (1, 1) and not any(geometry.get("pads", ()))
    if node.op_type != "AveragePool" or (plain and geometry["kernel"] == value.tensor.shape[1:]):
        return "lanes"
    return "columns" if geometry["strides"][1] <= 2 and max(geometry["kernel"]) <= 32 else "rows"


def pooled_sum(
    ctx: Context,
    node: onnx.NodeProto,
    t: Tensor,
    shape: Shape,
    geometry: dict[str, Any],
    twin: str = "",
    *,
    last: bool = False,
) -> SumPool:
    """Append the sums over windows."""
    taps = math.prod(geometry["kernel"])
    blank = Tensor(twin or ctx.name(node.output[0], "sum"), Elem.F32, shape, twin=twin, channels_last=last)
    op = SumPool(x=t, y=blank, origin=(label(node),), **geometry)
    if t.elem.is_integer:
        lo, hi, stride = t.lo * taps, t.hi * taps, t.stride
        if op.padded:
            lo, hi, stride = min(lo, 0), max(hi, 0), 1
        if max(abs(lo), abs(hi)) > 1 << 24:
            raise Refusal(
                "E0302", "its sum can exceed 2**24, beyond which onnxruntime's float32 is not exact", "pool first"
            )
        op = replace(op, y=replace(blank, elem=integer(lo, hi), lo=lo, hi=hi, stride=stride))
    ctx.add(op)
    return op


def reduced_axes(ctx: Context, node: onnx.NodeProto, rank: int) -> list[int]:
    given = attributes(node)
    named = len(node.input) > 1 and node.input[1]
    axes = ctx.need_constant(node, 1, "axes").tolist() if named else given.get("axes")
    if axes is None or axes == []:
        axes = [] if given.get("noop_with_empty_axes") else range(rank)
    return sorted({within(int(a), rank) for a in axes})


def reduction(ctx: Context, node: onnx.NodeProto) -> Known:
    """ReduceMean, ReduceSum and ReduceMax over height and width, or one of them; or the mean of a layer normalisation."""
    known = ctx.values.get(node.input[0])
    if isinstance(known, Moment):
        return moment_mean(ctx, node, known)
    value = ctx.value(node)
    axes = reduced_axes(ctx, node, len(value.shape))
    features, channels = list(range(1, len(value.shape))), [len(value.shape) - 1 if value.last else 1]
    if node.op_type == "ReduceMean" and is_centre(ctx, node) and keeps_axes(ctx, node, value.shape, axes):
        if axes in (features, channels):
            return Moment("mean", value, value, features=axes == features)
        if axes == [len(value.shape) - 1]:
            return Moment("mean", value, ctx.last_axis(node, value), features=False)
    rank = len(value.shape)
    if rank in (3, 4) and 0 not in axes and any(value.axes[a - 1] == 0 for a in axes):  # another axis becomes channels
        if rank - 1 not in axes:
            value = ctx.last_axis(node, value)
        elif 1 not in axes:
            value = image(ctx, node)
    if rank not in (3, 4) or 0 in axes or any(value.axes[a - 1] == 0 for a in axes) or not axes:
        raise Refusal(
            "E0201",
            f"{node.op_type} over axes {axes} of shape {list(value.shape)} is not supported",
            "reduce over height and width of an image",
        )
    t = value.tensor
    over = {value.axes[a - 1] for a in axes}
    if len(value.shape) == 3:
        over |= {a for a in (1, 2) if t.shape[a] == 1}
    height, width = (t.shape[a] if a in over else 1 for a in (1, 2))
    kernel = (height, width)
    shape = (t.shape[0], t.shape[1] // height, t.shape[2] // width)
    out = ctx.out_shape(node)
    last = value.last and len(out) > 2
    if node.op_type == "ReduceMax":
        y = Tensor(node.output[0], t.elem, shape, t.lo, t.hi, t.stride, node.output[0], last)
        return Value(ctx.add(MaxPool(x=t, y=y, kernel=kernel, origin=(label(node),))), out, last)
    whole = shape[1] == shape[2] == 1 and not value.last
    geometry = {"kernel": kernel, "order": "reduce" if whole and min(kernel) > 1 else "rows"}
    if node.op_type == "ReduceSum":
        return Value(pooled_sum(ctx, node, t, shape, geometry, node.output[0], last=last).y, out, last)
    total = pooled_sum(ctx, node, t, shape, geometry).y
    return ctx.map(node, Value(total, out, last), scalar_step("div", math.prod(kernel)), node.output[0])


def is_centre(ctx: Context, node: onnx.NodeProto) -> bool:
    """Whether the mean is only subtracted from what it is the mean of."""
    readers = ctx.readers.get(node.output[0], [])
    pair = [node.input[0], node.output[0]]
    return bool(readers) and all(n.op_type == "Sub" and list(n.input) == pair for n in readers)


def keeps_axes(ctx: Context, node: onnx.NodeProto, shape: tuple[int, ...], axes: list[int]) -> bool:
    """Whether the reduced value broadcasts to what it was reduced from along these axes, as if they were kept.

    A Reshape behind it may give them back, as torch writes a variance.
    """
    readers = ctx.readers.get(node.output[0], [])
    restored = [ctx.out_shape(n) for n in readers if n.op_type in ("Expand", "Reshape", "Unsqueeze")]
    shapes = restored if restored and len(restored) == len(readers) else [ctx.out_shape(node)]
    kept = tuple(1 if a in axes else n for a, n in enumerate(shape))
    return all((1,) * (len(shape) - len(s)) + s == kept for s in shapes)


def moment_mean(ctx: Context, node: onnx.NodeProto, known: Moment) -> Known:
    """The variance, as the mean of squared distances from the mean."""
    rank = len(known.value.shape)
    wanted = list(range(1, rank)) if known.features else [rank - 1 if known.value.last else 1]
    whole = keeps_axes(ctx, node, known.value.shape, wanted)
    if known.stage != "squared" or reduced_axes(ctx, node, rank) != wanted or not whole:
        raise Refusal("E0201", "this mean is no part of a layer normalisation", "use LayerNormalization")
    return replace(known, stage="variance")
