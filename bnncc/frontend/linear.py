"""Importers of Conv, Gemm and MatMul with weights of +-1 (or +-s per output channel).

One canonical form comes out: an integer accumulator over signs wherever the input is an affine image of integers, then
float32 steps. Where the file's own float arithmetic is not exact (scales that are no power of two, a bias inside a blocked
Gemm), the reference model is edited to the same canonical form, and the reason is kept for the report.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.frontend.elementwise import attributes
from bnncc.frontend.load import label
from bnncc.frontend.shaping import image_shape, padding, pair
from bnncc.frontend.values import Context, Known, Refusal, Value
from bnncc.graph import Conv, Elem, Sign, Sum, Tensor, pad_hw
from bnncc.scalar import Step, apply_steps, step

Doubles = NDArray[np.float64]
EXACT = 1 << 24  # below this float32 holds every integer
COUNTABLE = 1 << 16  # the generated code counts differing bits in 16-bit halves of a word
MULTIPLIERS = (1, 2, 4, 5, 8, 10, 16)  # tried to make an offset integral: 127.5 needs 2
SCALE_JITTER = 1e-6  # relative spread of |w| within a channel that exporters leave


@dataclass(frozen=True)
class Affine:
    """A real tensor as scale * (mul * q - zero[c] + rest[c, h, w]) of an integer tensor q; rest is what is not integral."""

    q: Tensor
    scale: float
    mul: int
    zero: tuple[int, ...]
    rest: Doubles
    exact: bool  # the float32 values are exactly scale * integer, with scale a power of two


@dataclass(frozen=True)
class Linear:
    """One layer as the file has it: signs [O, C, kh, kw], a scale and a bias per output channel."""

    node: onnx.NodeProto
    signs: NDArray[np.int8]
    scale: Doubles
    bias: NDArray[np.float32] | None
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    pad_value: float = 0.0
    dense: bool = False


def is_power_of_two(x: "float | Doubles") -> bool:
    mantissa, _ = np.frexp(np.abs(x))
    return bool(np.all(mantissa == 0.5))


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


def affine(ctx: Context, tensor: Tensor) -> Affine | None:
    """How `tensor` depends on an integer tensor, if by one scale for all of it."""
    q, steps = ctx.chain(tensor)
    if not q.elem.is_integer:
        return None
    a, b = np.float64(1), np.zeros((1, 1, 1))
    scales: list[Doubles] = []
    for s in steps:
        v = s.value.astype(np.float64)
        if s.operation in ("mul", "div"):
            v = 1 / v if s.operation == "div" else v
            scales.append(v)
            if v.size > 1 and not np.all(v == v.flat[0]):
                return None
            a, b = a * v.flat[0], b * v.flat[0]
        elif s.operation in ("add", "sub"):
            b = b + v if s.operation == "add" else b - v
        elif s.operation == "rsub":
            a, b = -a, v - b
        else:
            return None
    if a == 0:
        return None
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
    return Affine(q, scale, mul, zeros, rest, is_exact(q, steps, scale, mul, zero + 0 * rest, rest))


def is_exact(q: Tensor, steps: Sequence[Step], scale: float, mul: int, zero: Doubles, rest: Doubles) -> bool:
    """Whether the file's float32 steps give exactly scale * integer for every value of q (tried, up to 2**16 of them)."""
    if not is_power_of_two(scale) or not np.all(rest == np.round(rest)):
        return False
    if not steps:
        return True
    values = np.arange(q.lo, q.hi + 1, q.stride)
    if len(values) > 1 << 16:
        return False
    grid = values.reshape(-1, 1, 1, 1)
    return bool(np.all(apply_steps(grid, steps).astype(np.float64) == scale * (mul * grid - zero + rest)))


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
    conv_of_signs = Conv(
        x=source.q,
        y=Tensor(ctx.name(out, "acc"), Elem.I32, shape),
        origin=(label(node),),
        weight=layer.signs,
        kernel=layer.kernel,
        strides=layer.strides,
        pads=layer.pads,
        dilations=layer.dilations,
        pad_value=pad_value,
        mul=source.mul,
        zero=source.zero,
    )
    correction = constant_part(conv_of_signs, source.rest)
    bound = conv_of_signs.bound
    if bound + float(np.abs(correction).max()) >= EXACT:
        raise Refusal(
            "E0302",
            f"its accumulator can reach {bound}, beyond 2**24 where onnxruntime's float32 is not exact",
            "use fewer inputs to this layer",
        )
    if source.q.elem is Elem.BIN and bound >= COUNTABLE:
        raise Refusal(
            "E0302",
            f"each of its outputs sums {bound} binary inputs; the kernels count up to {COUNTABLE - 1}",
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
    op = Conv(
        x=value.tensor,
        y=Tensor(ctx.name(out, "acc"), Elem.F32, shape),
        origin=(label(node),),
        weight=layer.signs,
        kernel=layer.kernel,
        strides=layer.strides,
        pads=layer.pads,
        dilations=layer.dilations,
    )
    twin = out
    if steps:
        twin = edit(ctx, layer, None, value, steps, op)
        ctx.edits.reasons.append((label(node), "its scale or bias is applied after the sum of a real-valued layer"))
    return finish(ctx, layer, op, steps, twin, edited=bool(steps), onnx_shape=ctx.out_shape(node))


def constant_part(op: Conv, rest: Doubles) -> Doubles:
    """What the non-integral offsets add to each accumulator, [O, 1, 1] or [O, H, W]; taps in zero padding add nothing."""
    if not rest.any():
        return np.zeros((1, 1, 1))
    c, h, w = op.x.shape
    padded = pad_hw(np.broadcast_to(rest, (1, c, h, w)), op.pads, 0)
    total = np.asarray(op.accumulate(padded)[0], np.float64)
    return total[:, :1, :1] if np.all(total == total[:, :1, :1]) else total


def accumulator_range(op: Conv) -> tuple[int, int, int]:
    """(lo, hi, stride) that the integer accumulator can take, over all channels and inputs."""
    if op.x.elem is Elem.BIN:
        same_parity = not op.padded or op.pad_value != 0 or op.x.shape[0] % 2 == 0
        return -op.taps, op.taps, 2 if same_parity else 1
    return -op.bound, op.bound, 1


def largest_bias(layer: Linear, scale: float) -> float:
    """The largest |bias| in units of the accumulator."""
    return 0.0 if layer.bias is None else float(np.abs(layer.bias / (layer.scale * scale)).max())


def exact_bias(layer: Linear, scale: float, bound: int) -> bool:
    """Whether every partial sum of +-scale and the bias is exact in float32, in any order."""
    assert layer.bias is not None
    unit = float(np.min(layer.scale)) * abs(scale)
    b = layer.bias.astype(np.float64) / unit
    return bool(np.all(b == np.round(b)) and np.abs(b).max() + bound < EXACT and np.ptp(layer.scale) == 0)


def edit(ctx: Context, layer: Linear, source: Affine | None, value: Value, steps: Sequence[Step], op: Conv) -> str:
    """Put the canonical form of this layer into the reference model; returns the name of the accumulator there."""
    node, out, edits = layer.node, layer.node.output[0], ctx.edits
    make = onnx.helper.make_node
    nodes: list[onnx.NodeProto] = []

    def emit(kind: str, inputs: list[str], name: str, **given: Any) -> str:
        nodes.append(make(kind, inputs, [name], **given))
        return name

    x = node.input[0]
    if source is not None:
        x = emit("Cast", [materialise(ctx, source.q)], ctx.name(out, "q"), to=onnx.TensorProto.FLOAT)
        if source.mul != 1:
            x = emit(
                "Mul",
                [x, edits.constant(ctx.name(out, "mul"), np.array(source.mul, np.float32))],
                ctx.name(out, "scaled"),
            )
        if source.zero:
            zero = np.array(source.zero, np.float32).reshape(1, -1, 1, 1)
            x = emit(
                "Reshape",
                [x, edits.constant(ctx.name(out, "image"), np.array((1, *op.x.shape), np.int64))],
                ctx.name(out, "imaged"),
            )
            x = emit("Sub", [x, edits.constant(ctx.name(out, "zero"), zero)], ctx.name(out, "centred"))
    acc = ctx.name(out, "acc")
    if layer.dense:
        columns = layer.signs.reshape(layer.signs.shape[0], -1).T.astype(np.float32)
        flat = emit(
            "Reshape",
            [x, edits.constant(ctx.name(out, "flat"), np.array((1, columns.shape[0]), np.int64))],
            ctx.name(out, "flattened"),
        )
        emit("MatMul", [flat, edits.constant(ctx.name(out, "signs"), columns)], acc)
    else:
        if value.padded and source is not None:
            top, left, bottom, right = value.pads
            widths = edits.constant(ctx.name(out, "pads"), np.array((0, 0, top, left, 0, 0, bottom, right), np.int64))
            x = emit(
                "Pad",
                [x, widths, edits.constant(ctx.name(out, "fill"), np.array(op.pad_value, np.float32))],
                ctx.name(out, "padded"),
            )
        pads = [a - b for a, b in zip(layer.pads, value.pads, strict=True)]  # the Conv node's own
        signs = edits.constant(ctx.name(out, "signs"), layer.signs.astype(np.float32))
        emit("Conv", [x, signs], acc, strides=layer.strides, pads=pads, dilations=layer.dilations)
    name = acc
    for k, s in enumerate(steps):
        v = s.value.reshape(1, -1) if layer.dense else s.value[None]
        c = edits.constant(ctx.name(out, f"const{k}"), np.ascontiguousarray(v))
        name = emit(s.operation.capitalize(), [name, c], out if k == len(steps) - 1 else ctx.name(out, f"step{k}"))
    if not steps:
        emit("Identity", [name], out)
    edits.replaced[out] = nodes
    return acc if steps else out


def materialise(ctx: Context, q: Tensor) -> str:
    """The name of an ONNX value equal to the integer tensor q in the reference model. Raises Refusal."""
    twin = ctx.twins.get(q.name) or q.twin
    if twin:
        return twin
    maker = ctx.makers.get(q.name)
    if isinstance(maker, Sum):
        axes = ctx.edits.constant(ctx.name(q.name, "axes"), np.array([2, 3], np.int64))
        below = materialise(ctx, maker.x)
        nodes = [
            onnx.helper.make_node("Cast", [below], [ctx.name(q.name, "float")], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("ReduceSum", [ctx.name(q.name, "float"), axes], [q.name], keepdims=1),
        ]
        ctx.edits.added[q.name.removesuffix(ctx.name("", "sum"))] = nodes
        ctx.twins[q.name] = q.name
        return q.name
    scaled = q.name.removesuffix(ctx.name("", "bit"))
    if isinstance(maker, Sign) and scaled in ctx.images:
        return materialise_bits(ctx, q, scaled)
    raise Refusal(
        "E0303",
        "it scales an accumulator that has no counterpart in the file",
        "put a BatchNorm and a sign between the two layers",
    )


def materialise_bits(ctx: Context, q: Tensor, scaled: str) -> str:
    """Bits that the file has only as another pair of values, `scaled`: the sign of their distance from its middle."""
    value, (_, image) = ctx.values[scaled], ctx.images[scaled]
    assert isinstance(value, Value)
    low, high = (np.broadcast_to(v, q.shape).reshape(value.shape) for v in image)
    make, constant = onnx.helper.make_node, ctx.edits.constant
    middle, rise, centred, rising = (ctx.name(q.name, part) for part in ("middle", "rise", "centred", "rising"))
    ctx.edits.added[scaled] = [
        make("Sub", [scaled, constant(middle, (low + high) / np.float32(2))], [centred]),
        make("Mul", [centred, constant(rise, np.sign(high - low))], [rising]),
        make("Sign", [rising], [q.name]),
    ]
    ctx.twins[q.name] = q.name
    return q.name
