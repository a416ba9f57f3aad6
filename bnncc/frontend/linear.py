"""Importers of Conv, ConvTranspose, Gemm and MatMul, with weights of +-1 (or +-s per output channel) or real ones.

One canonical form comes out: an integer accumulator over signs wherever the input is an affine image of integers, then
float32 steps. Where the file's own float arithmetic is not exact (scales that are no power of two, a bias inside a blocked
Gemm), the reference model is edited to the same canonical form, and the reason is kept for the report.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.frontend.affine import EXACT, Doubles, affine, constant_part, is_power_of_two
from bnncc.frontend.canonical import Linear, edit, exact_bias, largest_bias
from bnncc.frontend.geometry import attributes, auto_pad, check_window, image, image_shape, padding, pair
from bnncc.frontend.source.text import label
from bnncc.frontend.values import Context, Known, Refusal, Value
from bnncc.ops import Conv
from bnncc.scalar import Step, step
from bnncc.tensor import Elem, Shape, Tensor, integer

SCALE_JITTER = 1e-6  # relative spread of |w| within a channel that exporters leave


def signs_and_scale(w: NDArray[Any]) -> tuple[NDArray[np.int8] | None, Doubles]:
    """Split weights [O, ...] into signs and one scale per output channel; None for weights that are real."""
    a = np.abs(w.reshape(w.shape[0], -1))
    low, high = (np.asarray(m, np.float64) for m in (a.min(axis=1), a.max(axis=1)))
    if ((low == 0) | (high - low > SCALE_JITTER * high)).any():
        return None, high
    scale = np.where(high == low, high, (low + high) / 2)
    return np.where(w > 0, np.int8(1), np.int8(-1)), scale


def conv(ctx: Context, node: onnx.NodeProto) -> Known:
    """Conv of one or two dimensions: binary weights, or real ones."""
    w, given = ctx.need_constant(node, 1, "weight"), attributes(node)
    value = windowed(ctx, node, w)
    groups = int(given.get("group", 1))
    if groups < 1 or w.shape[1] * groups != value.tensor.shape[0] or w.shape[0] % groups:
        raise Refusal(
            "E0105",
            f"its weight {list(w.shape)} in {groups} group(s) does not fit {value.tensor.shape[0]} channels",
            "export the model again",
        )
    w = as_image(w, value)
    kernel = (w.shape[2], w.shape[3])
    strides, dilations = pair(value, given, "strides"), pair(value, given, "dilations")
    pads, t = padding(value, given, kernel, strides, dilations), value.pads
    check_window(value, kernel, dilations, pads)
    if value.padded and value.pad_value != 0 and any(pads):
        value, t = ctx.framed(node, value, node.input[0]), (0, 0, 0, 0)
    both = (pads[0] + t[0], pads[1] + t[1], pads[2] + t[2], pads[3] + t[3])
    geometry = {"kernel": kernel, "strides": strides, "pads": both, "dilations": dilations, "groups": groups}
    bias = bias_of(ctx, node, 2, w.shape[0])
    shape = image_shape(ctx, node, value, w.shape[0])
    return layer(ctx, Weights(node, value, w, bias, geometry, lambda a: a), shape)


def conv_transpose(ctx: Context, node: onnx.NodeProto) -> Known:
    """ConvTranspose of stride s: a convolution with turned weights over pixels that stand s apart."""
    w, given = ctx.need_constant(node, 1, "weight"), attributes(node)
    value = windowed(ctx, node, w)
    if value.padded:
        value = ctx.framed(node, value, node.input[0])
    groups = int(given.get("group", 1))
    if groups < 1 or w.shape[0] != value.tensor.shape[0] or w.shape[0] % groups:
        raise Refusal(
            "E0105",
            f"its weight {list(w.shape)} in {groups} group(s) does not fit {value.tensor.shape[0]} channels",
            "export the model again",
        )
    w = as_image(w, value)
    o, kh, kw = w.shape[1:]
    w = unturned(w, groups)  # which is its own inverse
    shape = image_shape(ctx, node, value, groups * o)
    up, dilations = pair(value, given, "strides"), pair(value, given, "dilations")
    top, left = transposed_pads(value, given, (kh, kw), up, dilations, shape)
    pads = ((kh - 1) * dilations[0] - top, (kw - 1) * dilations[1] - left, 0, 0)
    geometry = {"kernel": (kh, kw), "up": up, "pads": pads, "dilations": dilations, "groups": groups}
    bias = bias_of(ctx, node, 2, groups * o)
    return layer(ctx, Weights(node, value, w, bias, geometry, lambda a: unturned(a, groups)), shape)


def unturned(w: NDArray[Any], groups: int) -> NDArray[Any]:
    """Weights [O, C / groups, kh, kw] as ConvTranspose has them: [C, O / groups, kh, kw], turned."""
    o, c, kh, kw = w.shape
    turned = w[:, :, ::-1, ::-1].reshape(groups, o // groups, c, kh, kw).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(turned.reshape(groups * c, o // groups, kh, kw))


def transposed_pads(
    value: Value,
    given: dict[str, Any],
    kernel: tuple[int, int],
    up: tuple[int, int],
    dilations: tuple[int, int],
    shape: Shape,
) -> tuple[int, int]:
    """How many rows and columns are cut off in front of a transposed convolution's full result."""
    mode = auto_pad(given)
    if mode in ("NOTSET", "VALID") and "output_shape" not in given:
        plain = padding(value, given, kernel, up, dilations)
        return plain[0], plain[1]
    extra = given.get("output_padding", ())
    by_axis = dict(zip([a for a in value.axes if a], extra, strict=False))
    cut = []
    for axis in (1, 2):
        whole = up[axis - 1] * (value.tensor.shape[axis] - 1) + (kernel[axis - 1] - 1) * dilations[axis - 1] + 1
        total = max(0, whole + int(by_axis.get(axis, 0)) - shape[axis])
        cut.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
    return cut[0], cut[1]


def windowed(ctx: Context, node: onnx.NodeProto, w: NDArray[Any]) -> Value:
    """The layer's input as an image of as many dimensions as its weight; a border is left to the layer."""
    value = ctx.padded_value(node)
    if w.ndim not in (3, 4) or w.ndim != len(value.shape) or min(w.shape) < 1:
        raise Refusal(
            "E0201",
            f"a convolution over {w.ndim - 2} dimension(s) of shape {list(value.shape)} is not supported",
            "only 1D and 2D convolutions are supported",
        )
    plain = not value.last and (len(value.shape) == 4 or 1 in value.tensor.shape[1:])
    return value if plain else image(ctx, node)


def as_image(w: NDArray[Any], value: Value) -> NDArray[Any]:
    """Weights [.., .., kh, kw], for 1D along the axis of the tensor that is not 1."""
    if w.ndim == 4:
        return w
    return w[:, :, None] if value.axes[-1] == 2 else w[..., None]


def gemm(ctx: Context, node: onnx.NodeProto) -> Known:
    """Gemm and MatMul with a constant right side: a convolution whose kernel covers the whole input, or one pixel of an image."""
    value, given = ctx.value(node), attributes(node)
    w = ctx.need_constant(node, 1, "weight")
    if w.ndim != 2 or given.get("transA", 0) or len(value.shape) < 2:
        raise Refusal(
            "E0201",
            f"a product of shapes {list(value.shape)} and {list(w.shape)} is not supported",
            "flatten to [1, N] first",
        )
    w = scaled(w if given.get("transB", 0) else w.T, given.get("alpha", 1.0), "weight")
    bias = bias_of(ctx, node, 2, w.shape[0])
    if bias is not None and (beta := float(given.get("beta", 1.0))) != 1:
        bias = scaled(bias, beta, "bias")
    if w.shape[1] != value.shape[-1]:
        raise Refusal(
            "E0105", f"its weight is for {w.shape[1]} inputs, there are {value.shape[-1]}", "export the model again"
        )
    if len(value.shape) > 2:
        if not value.last:
            value = ctx.last_axis(node, value)
        shape = (w.shape[0], *value.tensor.shape[1:])
        w, kernel = w.reshape(*w.shape, 1, 1), (1, 1)
    else:
        c, h, wd = value.tensor.shape
        w = w.reshape(-1, h, wd, c).transpose(0, 3, 1, 2) if value.last else w.reshape(-1, c, h, wd)
        shape, kernel = (w.shape[0], 1, 1), (h, wd)

    def rows(a: NDArray[Any]) -> NDArray[Any]:
        flat = (a.transpose(0, 2, 3, 1) if value.last else a).reshape(len(a), -1)
        return flat if given.get("transB", 0) else np.ascontiguousarray(flat.T)

    if given.get("alpha", 1.0) == 0:
        raise Refusal("E0203", "its alpha is zero", "export the model again")
    computed = "columns" if given.get("transB", 0) else "rows"
    geometry = {"kernel": kernel, "order": "packed" if node.input[1] in ctx.stored else computed}
    return layer(ctx, Weights(node, value, np.ascontiguousarray(w), bias, geometry, rows), shape)


def scaled(a: NDArray[Any], factor: float, what: str) -> NDArray[np.float32]:
    """The product, in float32. Raises Refusal E0301 where that overflows."""
    if factor == 1:
        return a.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        product = (a * factor).astype(np.float32)
    if not np.isfinite(product).all():
        raise Refusal("E0301", f"its {what} times {factor:g} overflows float32", "train or export the model again")
    return product


@dataclass(frozen=True)
class Weights:
    """A layer as the file has it, with weights [O, C / groups, kh, kw]; `to_file` gives such weights the file's own shape."""

    node: onnx.NodeProto
    value: Value
    weight: NDArray[Any]
    bias: NDArray[np.float32] | None
    geometry: dict[str, Any]
    to_file: Callable[[NDArray[Any]], NDArray[Any]]


def layer(ctx: Context, w: Weights, shape: Shape) -> Value:
    """The layer, binary if every output channel has weights of one magnitude."""
    signs, scale = signs_and_scale(w.weight)
    if signs is None:
        return real_weights(ctx, w, shape)
    pad_value = w.value.pad_value if w.value.padded else 0.0
    own = bool(np.all(np.abs(w.weight) == scale.reshape(-1, *[1] * (w.weight.ndim - 1))))
    return lower(ctx, Linear(w.node, signs, scale, w.bias, w.geometry, w.to_file, pad_value, own), w.value, shape)


def bias_of(ctx: Context, node: onnx.NodeProto, index: int, channels: int) -> NDArray[np.float32] | None:
    if len(node.input) <= index or not node.input[index]:
        return None
    b = ctx.need_constant(node, index, "bias").astype(np.float32)
    if b.size not in (1, channels):
        raise Refusal("E0105", f"its bias has {b.size} values for {channels} channels", "export the model again")
    flat = np.broadcast_to(b.reshape(-1), (channels,)).copy()
    return None if not flat.any() else flat


def lower(ctx: Context, layer: Linear, value: Value, shape: Shape) -> Value:
    """Append the Conv and its steps; edit the reference model where the file is not exact."""
    node, out = layer.node, layer.node.output[0]
    source = affine(ctx, value.tensor)
    pads_ok = layer.pad_value == 0 or (
        source is not None
        and source.q.elem is Elem.BIN
        and abs(layer.pad_value / source.scale) == 1
        and not source.rest.any()
    )
    if not pads_ok:
        value = ctx.framed(node, value, node.input[0])
        source = affine(ctx, value.tensor)
        layer = replace(layer, pad_value=0.0, geometry={**layer.geometry, "pads": (0, 0, 0, 0)})
    if source is None:
        return real(ctx, layer, value, shape)
    pad_value = round(layer.pad_value / source.scale)
    unit = abs(source.scale)
    if source.scale < 0:  # the reference's sum of zero is +0.0, and -1 times it would not be
        layer = replace(layer, signs=-layer.signs)
    acc = Tensor(ctx.name(out, "acc"), Elem.I32, shape)
    conv_of_signs = replace(layer.of(source.q, acc), pad_value=pad_value, mul=source.mul, zero=source.zero)
    correction = constant_part(conv_of_signs, source.rest)
    bound = conv_of_signs.bound
    if bound + float(np.abs(correction).max()) >= EXACT:
        raise Refusal(
            "E0302",
            f"its accumulator can reach {bound}, beyond 2**24 where onnxruntime's float32 is not exact",
            "use fewer inputs to this layer",
        )
    steps: list[Step] = []
    if correction.any():
        steps.append(step("add", correction if correction.shape[1:] != (1, 1) else correction[:, 0, 0]))
    scale = scaled(layer.scale, unit, "scale")
    if not np.all(scale == 1):
        steps.append(step("mul", scale if np.ptp(scale) else scale[0]))
    if layer.bias is not None:
        steps.append(step("add", layer.bias))
    reasons = []
    if not source.exact:
        reasons.append("its input is not an exact multiple of a power of two in float32")
    if not layer.own_scale:
        reasons.append("its weights are +-s but for their last digits")
    elif not is_power_of_two(layer.scale):
        reasons.append("its weights are +-s with s no power of two, so the reference's own float sums are inexact")
    if layer.dense and layer.bias is not None and not exact_bias(layer, unit, bound):
        reasons.append("Gemm adds its bias before blocks of the sum, so its rounding depends on the blocking")
    twin = "" if steps else out
    if reasons:
        twin = edit(ctx, layer, source, value, steps, conv_of_signs)
        largest = bound + float(np.abs(correction).max()) + largest_bias(layer, unit)
        jitter = 0 if layer.own_scale else SCALE_JITTER
        error = ((conv_of_signs.taps + 4) * 2.0**-24 + jitter) * largest
        conv_of_signs = replace(conv_of_signs, file_error=error)
        ctx.edits.reasons.append((label(node), "; ".join(reasons)))
    return finish(ctx, layer, conv_of_signs, steps, twin, edited=bool(reasons), value=value)


def finish(
    ctx: Context,
    layer: Linear,
    op: Conv,
    steps: Sequence[Step],
    twin: str,
    *,
    edited: bool,
    value: Value,
) -> Value:
    """Append the Conv with its range, and its steps as Maps."""
    lo, hi, stride = accumulator_range(op) if op.x.elem.is_integer else (0, 0, 1)
    out = layer.node.output[0]
    elem = integer(lo, hi) if op.x.elem.is_integer else Elem.F32
    last = value.last and len(value.shape) > 2
    y = Tensor(op.y.name if steps else out, elem, op.y.shape, lo, hi, stride, twin, last)
    v = Value(ctx.add(replace(op, y=y)), ctx.out_shape(layer.node), last)
    for k, s in enumerate(steps):
        at_end = k == len(steps) - 1
        v = ctx.map(layer.node, v, s, out if at_end else ctx.name(out, f"step{k}"))
        if edited and not at_end:
            ctx.twins[v.tensor.name] = v.tensor.name
    return v


def real(ctx: Context, layer: Linear, value: Value, shape: Shape) -> Value:
    """A layer whose input is real: float32 sums, close to the reference within a bound."""
    node, out = layer.node, layer.node.output[0]
    steps = []
    if not np.all(layer.scale == 1):
        steps.append(step("mul", layer.scale.astype(np.float32)))
    if layer.bias is not None:
        steps.append(step("add", layer.bias))
    op = layer.of(value.tensor, Tensor(ctx.name(out, "acc"), Elem.F32, shape))
    twin = out
    if steps or not layer.own_scale:
        if layer.dense:
            op = replace(op, order="packed")
        twin = edit(ctx, layer, None, value, steps, op)
        why = "its scale or bias is applied after the sum of a real-valued layer"
        ctx.edits.reasons.append((label(node), why if steps else "its weights are +-1 but for their last digits"))
    return finish(ctx, layer, op, steps, twin, edited=bool(steps) or not layer.own_scale, value=value)


def real_weights(ctx: Context, w: Weights, shape: Shape) -> Value:
    """A layer with float32 weights: float32 sums, close to the reference within a bound."""
    node, value, geometry, out = w.node, w.value, w.geometry, w.node.output[0]
    if value.padded and value.pad_value != 0:
        value, geometry = ctx.framed(node, value, node.input[0]), {**geometry, "pads": (0, 0, 0, 0)}
    weight, scales = stored(ctx, w)
    last = value.last and len(value.shape) > 2
    begins = w.bias is not None and node.op_type == "Gemm"  # a Gemm's sums begin with its bias
    bias = None if begins else w.bias
    start = tuple(w.bias.tolist()) if begins and w.bias is not None else ()
    name = out if bias is None else ctx.name(out, "acc")
    y = Tensor(name, Elem.F32, shape, twin=ctx.twin(name), channels_last=last)
    op = Conv(
        x=value.tensor,
        y=y,
        weight=weight,
        storage=ctx.real_weights,
        scales=scales,
        start=start,
        origin=(label(node),),
        **geometry,
    )
    v = Value(ctx.add(op), ctx.out_shape(node), last)
    return v if bias is None else ctx.map(node, v, step("add", bias), out)


def stored(ctx: Context, w: Weights) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """The weights rounded to what is stored, and the scales of i8; the reference model gets the rounded ones too."""
    node, given = w.node, np.ascontiguousarray(w.weight, np.float32)
    if ctx.real_weights == "f32":
        return given, ()
    scales: tuple[float, ...] = ()
    largest = np.abs(given).reshape(len(given), -1).max(axis=1)
    if ctx.real_weights == "f16":
        with np.errstate(over="ignore"):
            rounded = given.astype(np.float16).astype(np.float32)
        if not np.isfinite(rounded).all():
            raise Refusal("E0306", "its weights exceed 65504, the largest f16", "use --real-weights f32 or i8")
    else:
        scale = largest / np.float32(127)
        scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
        column = scale[:, None, None, None]
        rounded = (np.rint(given / column).astype(np.float32) * column).astype(np.float32)
        scales = tuple(scale.tolist())
    if ((largest > 0) & ~rounded.reshape(len(given), -1).any(axis=1)).any():
        raise Refusal(
            "E0306",
            f"a channel's weights are all too small for {ctx.real_weights}",
            "use --real-weights f32, or scale them",
        )
    original = ctx.constant(node.input[1])
    assert original is not None
    alpha = np.float32(attributes(node).get("alpha", 1.0)) if node.op_type == "Gemm" else np.float32(1)
    name = ctx.edits.constant(ctx.name(node.output[0], "stored"), w.to_file(rounded / alpha).reshape(original.shape))
    edited = onnx.NodeProto()
    edited.CopyFrom(node)
    edited.input[1] = name
    ctx.edits.replaced[node.output[0]] = [edited]
    ctx.edits.reasons.append((label(node), f"its weights are stored as {ctx.real_weights}"))
    return rounded, scales


def accumulator_range(op: Conv) -> tuple[int, int, int]:
    """(lo, hi, stride) that the integer accumulator can take, over all channels and inputs."""
    if op.x.elem is Elem.BIN:
        same_parity = not op.padded or op.pad_value != 0 or op.weight.shape[1] % 2 == 0
        return -op.taps, op.taps, 2 if same_parity else 1
    return -op.bound, op.bound, 1
