"""Layers whose float arithmetic in the file is not exact: their canonical form, put into the reference model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.frontend.affine import EXACT, Affine, Doubles
from bnncc.frontend.load import label
from bnncc.frontend.values import Context, Refusal, Value
from bnncc.graph import Conv, Sign, Sum, Tensor
from bnncc.scalar import Step


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

    def of(self, x: Tensor, y: Tensor) -> Conv:
        """The sum of signs over x, without scale and bias."""
        return Conv(
            x=x,
            y=y,
            origin=(label(self.node),),
            weight=self.signs,
            kernel=self.kernel,
            strides=self.strides,
            pads=self.pads,
            dilations=self.dilations,
        )


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
