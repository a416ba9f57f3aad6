"""Importers of pooling, padding and shape nodes."""

import math
from typing import Any

import onnx

from bnncc.frontend.elementwise import attributes
from bnncc.frontend.load import label
from bnncc.frontend.values import Context, Known, Refusal, Value, scalar_step
from bnncc.graph import Elem, MaxPool, Sum, Tensor

Pads = tuple[int, int, int, int]


def pair(given: dict[str, Any], name: str, default: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """An attribute of two positive integers."""
    v = given.get(name, default)
    a = tuple(int(k) for k in v)
    if len(a) != 2 or min(a) < 1 or max(a) > 1 << 15:
        raise Refusal(
            "E0105", f"{name} is {list(a)}: two positive numbers are expected", "only 2D layers are supported"
        )
    return a[0], a[1]


def padding(
    given: dict[str, Any],
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
) -> Pads:
    """pads or auto_pad as (top, left, bottom, right)."""
    mode = given.get("auto_pad", b"NOTSET")
    if mode in (b"NOTSET", b""):
        p = [int(k) for k in given.get("pads", (0, 0, 0, 0))]
        if len(p) != 4 or min(p) < 0 or max(p) > 1 << 15:
            raise Refusal("E0105", f"pads is {p}: four numbers from 0 are expected", "only 2D layers are supported")
        return p[0], p[1], p[2], p[3]
    if mode == b"VALID":
        return 0, 0, 0, 0
    total = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    small = [t // 2 for t in total]
    large = [t - s for t, s in zip(total, small, strict=True)]
    first, last = (small, large) if mode == b"SAME_UPPER" else (large, small)
    return first[0], first[1], last[0], last[1]


def image_shape(ctx: Context, node: onnx.NodeProto) -> tuple[int, int, int]:
    shape = ctx.out_shape(node)
    if len(shape) != 4 or shape[0] != 1:
        raise Refusal(
            "E0105",
            f"its output has shape {list(shape)}; [1, C, H, W] is expected",
            "only 2D layers with batch 1 are supported",
        )
    return shape[1], shape[2], shape[3]


def max_pool(ctx: Context, node: onnx.NodeProto) -> Known:
    value, given, shape = ctx.value(node), attributes(node), image_shape(ctx, node)
    if len(node.output) > 1 and node.output[1]:
        raise Refusal("E0201", "MaxPool with indices is not supported", "use only its first output")
    size = value.tensor.shape[1:]
    if node.op_type == "GlobalMaxPool":
        kernel, strides, dilations, pads = size, (1, 1), (1, 1), (0, 0, 0, 0)
    else:
        kernel, strides, dilations = pair(given, "kernel_shape"), pair(given, "strides"), pair(given, "dilations")
        pads = padding(given, size, kernel, strides, dilations)
        if any(p > (k - 1) * d for p, k, d in zip(pads, (*kernel, *kernel), (*dilations, *dilations), strict=True)):
            raise Refusal("E0105", f"pads {list(pads)} are larger than the window", "export the model again")
        if any((o - 1) * s >= n + p for o, s, n, p in zip(shape[1:], strides, size, pads, strict=False)):
            raise Refusal("E0201", "with ceil_mode its last window lies outside of the image", "set ceil_mode to 0")
    t = value.tensor
    y = Tensor(node.output[0], t.elem, shape, t.lo, t.hi, t.stride, twin=node.output[0])
    op = MaxPool(x=t, y=y, kernel=kernel, strides=strides, pads=pads, dilations=dilations, origin=(label(node),))
    return Value(ctx.add(op), ctx.out_shape(node))


def mean(ctx: Context, node: onnx.NodeProto) -> Known:
    """GlobalAveragePool, AveragePool over everything, ReduceMean over H and W: the sum, then one division."""
    value = ctx.value(node)
    t = value.tensor
    given = attributes(node)
    if node.op_type == "ReduceMean":
        axes = (
            ctx.need_constant(node, 1, "axes").tolist() if len(node.input) > 1 and node.input[1] else given.get("axes")
        )
        if len(value.shape) != 4 or axes is None or sorted(a % 4 for a in axes) != [2, 3]:
            raise Refusal(
                "E0201",
                f"ReduceMean over axes {axes} is not supported",
                "take the mean over height and width of an image",
            )
    elif node.op_type == "AveragePool":
        kernel = pair(given, "kernel_shape")
        if kernel != t.shape[1:] or any(given.get("pads", ())):
            raise Refusal(
                "E0201",
                "only average pooling over the whole image is supported",
                "use a max-pool or a global average pool",
            )
    if math.prod(ctx.out_shape(node)) != t.shape[0]:
        raise Refusal(
            "E0201", "only average pooling to one pixel is supported", "use a max-pool or a global average pool"
        )
    pixels = t.shape[1] * t.shape[2]
    elem = Elem.I32 if t.elem.is_integer else Elem.F32
    total = Tensor(ctx.name(node.output[0], "sum"), elem, (t.shape[0], 1, 1), t.lo * pixels, t.hi * pixels, t.stride)
    if max(abs(total.lo), abs(total.hi)) > 1 << 24:
        raise Refusal(
            "E0302", "its sum can exceed 2**24, beyond which onnxruntime's float32 is not exact", "pool first"
        )
    ctx.add(Sum(x=t, y=total, origin=(label(node),)))
    return ctx.map(node, Value(total, ctx.out_shape(node)), scalar_step("div", pixels), node.output[0])


def pad(ctx: Context, node: onnx.NodeProto) -> Known:
    """A constant border, kept aside for the convolution that reads it."""
    value, given = ctx.value(node), attributes(node)
    if given.get("mode", b"constant") != b"constant":
        raise Refusal("E0201", f"Pad mode {given['mode']!r} is not supported", "pad with a constant")
    widths: Any = given.get("pads") if len(node.input) < 2 else ctx.need_constant(node, 1, "pads").tolist()
    fill = float(given.get("value", 0.0))
    if len(node.input) > 2 and node.input[2]:
        fill = float(ctx.need_constant(node, 2, "fill value").reshape(-1)[0])
    if len(node.input) > 3 and node.input[3]:
        axes = [int(a) % 4 for a in ctx.need_constant(node, 3, "axes")]
        full = [0] * 8
        for k, a in enumerate(axes):
            full[a], full[a + 4] = widths[k], widths[k + len(axes)]
        widths = full
    p = [int(k) for k in widths or ()]
    if len(p) != 8 or len(value.shape) != 4 or any(p[k] for k in (0, 1, 4, 5)) or min(p) < 0:
        raise Refusal("E0201", f"Pad by {p} is not supported", "pad only height and width, by 0 or more")
    ctx.out_shape(node)
    return Value(value.tensor, value.shape, (p[2], p[3], p[6], p[7]), fill)


def reshape(ctx: Context, node: onnx.NodeProto) -> Known:
    """Flatten, Reshape, Squeeze, Unsqueeze: a view as a vector [1, N], or no change."""
    value, shape = ctx.value(node), ctx.out_shape(node)
    c, h, w = value.tensor.shape
    if shape in (value.shape, (1, c, h, w), (1, c * h * w)):
        return Value(value.tensor, shape)
    if h == w == 1 and len(shape) == 4 and shape == (1, c, 1, 1):
        return Value(value.tensor, shape)
    raise Refusal(
        "E0204",
        f"it turns shape {list(value.shape)} into {list(shape)}",
        "only flattening to [1, N] and dropping or adding dimensions of 1 after channels are supported",
    )
