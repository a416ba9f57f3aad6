"""Importers of Conv, Gemm and MatMul with weights of +-1 (or +-s per output channel).

One canonical form comes out: an integer accumulator over signs wherever the input is an affine image of integers, then
float32 steps. Where the file's own float arithmetic is not exact (scales that are no power of two, a bias inside a blocked
Gemm), the reference model is edited to the same canonical form, and the reason is kept for the report.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.frontend.affine import EXACT, Doubles, affine, constant_part, is_power_of_two
from bnncc.frontend.canonical import Linear, edit, exact_bias, largest_bias
from bnncc.frontend.elementwise import attributes
from bnncc.frontend.load import label
from bnncc.frontend.shaping import image_shape, padding, pair
from bnncc.frontend.values import Context, Known, Refusal, Value
from bnncc.graph import Conv, Elem, Tensor
from bnncc.scalar import Step, step

SCALE_JITTER = 1e-6  # relative spread of |w| within a channel that exporters leave


def signs_and_scale(w: NDArray[Any]) -> tuple[NDArray[np.int8], Doubles]:
    """Split weights [O, ...] into signs and one scale per output channel. Raises Refusal E0203."""
    a = np.abs(w.reshape(w.shape[0], -1).astype(np.float64))
    low, high = a.min(axis=1), a.max(axis=1)
    bad = (low == 0) | (high - low > SCALE_JITTER * high)
    if bad.any():
        c = int(np.argmax(bad))
        what = "a weight of zero" if low[c] == 0 else f"weights from {low[c]:.6g} to {high[c]:.6g} in magnitude"
        raise Refusal(
            "E0203",
            f"its weights are not binary: {int(bad.sum())} of {len(bad)} output channels are neither +-1 nor +-s (channel {c} has {what})",
            "binarize this layer; real-valued weights come in a later release",
        )
    scale = np.where(high == low, high, (low + high) / 2)
    return np.where(w > 0, 1, -1).astype(np.int8), scale


def conv(ctx: Context, node: onnx.NodeProto) -> Known:
    value, given = ctx.padded_value(node), attributes(node)
    w = ctx.need_constant(node, 1, "weight")
    if w.ndim != 4 or len(value.shape) != 4:
        raise Refusal(
            "E0201",
            f"a convolution over {w.ndim - 2} dimension(s) is not supported",
            "only 2D convolutions are supported",
        )
    if given.get("group", 1) != 1:
        raise Refusal("E0201", f"a convolution in {given['group']} groups is not supported yet", "use group = 1")
    if w.shape[1] != value.shape[1]:
        raise Refusal(
            "E0105",
            f"its weight is for {w.shape[1]} channels, its input has {value.shape[1]}",
            "export the model again",
        )
    signs, scale = signs_and_scale(w)
    kernel = (w.shape[2], w.shape[3])
    strides, dilations = pair(given, "strides"), pair(given, "dilations")
    (_, h, wd), t = value.tensor.shape, value.pads
    pads = padding(given, (h + t[0] + t[2], wd + t[1] + t[3]), kernel, strides, dilations)
    if value.padded and value.pad_value != 0 and any(pads):
        raise Refusal(
            "E0206", "it pads with zeros what a Pad node has padded with another value", "use one kind of padding"
        )
    both = (pads[0] + t[0], pads[1] + t[1], pads[2] + t[2], pads[3] + t[3])
    layer = Linear(
        node,
        signs,
        scale,
        bias_of(ctx, node, 2, w.shape[0]),
        kernel,
        strides,
        both,
        dilations,
        value.pad_value if value.padded else 0.0,
    )
    return lower(ctx, layer, value, image_shape(ctx, node), gemm_bias=False)


def gemm(ctx: Context, node: onnx.NodeProto) -> Known:
    """Gemm and MatMul with a constant right side: a convolution whose kernel covers the whole input."""
    value, given = ctx.value(node), attributes(node)
    w = ctx.need_constant(node, 1, "weight")
    if w.ndim != 2 or len(value.shape) != 2 or given.get("transA", 0):
        raise Refusal(
            "E0201",
            f"a product of shapes {list(value.shape)} and {list(w.shape)} is not supported",
            "flatten to [1, N] first",
        )
    if not given.get("transB", 0):
        w = w.T
    c, h, wd = value.tensor.shape
    if w.shape[1] != c * h * wd:
        raise Refusal(
            "E0105", f"its weight is for {w.shape[1]} inputs, there are {c * h * wd}", "export the model again"
        )
    signs, scale = signs_and_scale(w)
    scale = scale * float(given.get("alpha", 1.0))
    if (scale < 0).any():
        signs, scale = -signs, -scale
    if not scale.all():
        raise Refusal("E0203", "its alpha is zero", "export the model again")
    bias = bias_of(ctx, node, 2, w.shape[0])
    beta = float(given.get("beta", 1.0))
    if bias is not None and beta != 1:
        bias = (bias * np.float32(beta)).astype(np.float32)
    layer = Linear(node, signs.reshape(-1, c, h, wd), scale, bias, (h, wd), dense=True)
    return lower(ctx, layer, value, (w.shape[0], 1, 1), gemm_bias=True)


def bias_of(ctx: Context, node: onnx.NodeProto, index: int, channels: int) -> NDArray[np.float32] | None:
    if len(node.input) <= index or not node.input[index]:
        return None
    b = ctx.need_constant(node, index, "bias").astype(np.float32)
    if b.size not in (1, channels):
        raise Refusal("E0105", f"its bias has {b.size} values for {channels} channels", "export the model again")
    flat = np.broadcast_to(b.reshape(-1), (channels,)).copy()
    return None if not flat.any() else flat


def lower(ctx: Context, layer: Linear, value: Value, shape: tuple[int, int, int], *, gemm_bias: bool) -> Known:
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
        raise Refusal(
            "E0206",
            f"padding with {layer.pad_value:g} is not supported here",
            "pad binary tensors with -1, 0 or +1, others with 0",
        )
    if source is None:
        return real(ctx, layer, value, shape)
    pad_value = round(layer.pad_value / source.scale)
    if source.scale < 0:  # the reference's sum of zero is +0.0, and -1 times it would not be
        layer, source = replace(layer, signs=-layer.signs), replace(source, scale=-source.scale)
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
    scale = (layer.scale * source.scale).astype(np.float32)
    if not np.all(scale == 1):
        steps.append(step("mul", scale if np.ptp(scale) else scale[0]))
    if layer.bias is not None:
        steps.append(step("add", layer.bias))
    reasons = []
    if not source.exact:
        reasons.append("its input is not an exact multiple of a power of two in float32")
    if not is_power_of_two(layer.scale):
        reasons.append("its weights are +-s with s no power of two, so the reference's own float sums are inexact")
    if gemm_bias and layer.bias is not None and not exact_bias(layer, source.scale, bound):
        reasons.append("Gemm adds its bias before blocks of the sum, so its rounding depends on the blocking")
    twin = "" if steps else out
    if reasons:
        twin = edit(ctx, layer, source, value, steps, conv_of_signs)
        largest = bound + float(np.abs(correction).max()) + largest_bias(layer, source.scale)
        conv_of_signs = replace(conv_of_signs, file_error=(conv_of_signs.taps + 4) * 2.0**-24 * largest)
        ctx.edits.reasons.append((label(node), "; ".join(reasons)))
    return finish(ctx, layer, conv_of_signs, steps, twin, edited=bool(reasons), onnx_shape=ctx.out_shape(node))


def finish(
    ctx: Context,
    layer: Linear,
    op: Conv,
    steps: Sequence[Step],
    twin: str,
    *,
    edited: bool,
    onnx_shape: tuple[int, ...],
) -> Value:
    """Append the Conv with its range, and its steps as Maps."""
    lo, hi, stride = accumulator_range(op) if op.x.elem.is_integer else (0, 0, 1)
    out = layer.node.output[0]
    y = Tensor(op.y.name if steps else out, op.y.elem, op.y.shape, lo, hi, stride, twin)
    v = Value(ctx.add(Conv(**{**op.__dict__, "y": y})), onnx_shape)
    for k, s in enumerate(steps):
        last = k == len(steps) - 1
        v = ctx.map(layer.node, v, s, out if last else ctx.name(out, f"step{k}"))
        if edited and not last:
            ctx.twins[v.tensor.name] = v.tensor.name
    return v


def real(ctx: Context, layer: Linear, value: Value, shape: tuple[int, int, int]) -> Value:
    """A layer whose input is real: float32 sums, close to the reference within a bound."""
    node, out = layer.node, layer.node.output[0]
    steps = []
    if not np.all(layer.scale == 1):
        steps.append(step("mul", layer.scale.astype(np.float32)))
    if layer.bias is not None:
        steps.append(step("add", layer.bias))
    op = layer.of(value.tensor, Tensor(ctx.name(out, "acc"), Elem.F32, shape))
    twin = out
    if steps:
        twin = edit(ctx, layer, None, value, steps, op)
        ctx.edits.reasons.append((label(node), "its scale or bias is applied after the sum of a real-valued layer"))
    return finish(ctx, layer, op, steps, twin, edited=bool(steps), onnx_shape=ctx.out_shape(node))


def accumulator_range(op: Conv) -> tuple[int, int, int]:
    """(lo, hi, stride) that the integer accumulator can take, over all channels and inputs."""
    if op.x.elem is Elem.BIN:
        same_parity = not op.padded or op.pad_value != 0 or op.x.shape[0] % 2 == 0
        return -op.taps, op.taps, 2 if same_parity else 1
    return -op.bound, op.bound, 1
