"""Layers whose float arithmetic in the file is not exact: their canonical form, put into the reference model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.frontend.affine import EXACT, Affine, Doubles
from bnncc.frontend.source.text import label
from bnncc.frontend.values import Context, Refusal, Value
from bnncc.ops import Conv
from bnncc.scalar import Step, U
from bnncc.tensor import Tensor


@dataclass(frozen=True)
class Linear:
    """One layer as the file has it: signs [O, C, kh, kw], a scale and a bias per output channel."""

    node: onnx.NodeProto
    signs: NDArray[np.int8]
    scale: Doubles
    bias: NDArray[np.float32] | None
    geometry: Mapping[str, Any]  # kernel, strides, pads, dilations, up, groups of the Conv
    to_file: Callable[[NDArray[Any]], NDArray[Any]]  # weights [O, C / groups, kh, kw] in the order of the file's own
    pad_value: float = 0.0
    own_scale: bool = True  # the file's weights are the signs times the scale, to the last digit

    @property
    def dense(self) -> bool:
        return self.node.op_type in ("Gemm", "MatMul")

    def of(self, x: Tensor, y: Tensor) -> Conv:
        """The sum of signs over x, without scale and bias."""
        return Conv(x=x, y=y, origin=(label(self.node),), weight=self.signs, **self.geometry)


def largest_bias(layer: Linear, scale: float) -> float:
    """The largest |bias| in units of the accumulator."""
    return 0.0 if layer.bias is None else float(np.abs(layer.bias / (layer.scale * scale)).max())


def exact_bias(layer: Linear, scale: float, bound: int) -> bool:
    """Whether every partial sum of +-scale and the bias is exact in float32, in any order."""
    assert layer.bias is not None
    unit = float(np.min(layer.scale)) * scale
    b = layer.bias.astype(np.float64) / unit
    return bool(np.all(b == np.round(b)) and np.abs(b).max() + bound < EXACT and np.ptp(layer.scale) == 0)


def edit(ctx: Context, layer: Linear, source: Affine | None, value: Value, steps: Sequence[Step], op: Conv) -> str:
    """Put the canonical form of this layer into the reference model; returns the name of the accumulator there."""
    node, out, edits = layer.node, layer.node.output[0], ctx.edits
    nodes: list[onnx.NodeProto] = []

    def emit(kind: str, inputs: list[str], part: str, **given: Any) -> str:
        name = part if part == out else ctx.name(out, part)
        nodes.append(onnx.helper.make_node(kind, inputs, [name], **given))
        return name

    def constant(part: str, v: NDArray[Any]) -> str:
        return edits.constant(ctx.name(out, part), np.ascontiguousarray(v))

    x = node.input[0]
    if source is not None:
        x = value.inner or x
        refuse_large(source)
        x = emit("Div", [x, constant("scale", np.array(source.scale, np.float32))], "units")
        half = np.asarray(0.5 - source.rest, np.float32)
        x = emit("Add", [x, constant("half", file_constant(half, value, value.tensor, value.shape))], "raised")
        x = emit("Floor", [x], "integers")
        if value.padded:
            x = emit_pad(ctx, emit, constant, x, value, float(op.pad_value))
    signs = layer.to_file(layer.signs.astype(np.float32))
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if layer.dense:
        acc = emit("MatMul", [x, constant("signs", signs.T if given.get("transB", 0) else signs)], "acc")
    else:
        weight = ctx.constant(node.input[1])
        assert weight is not None
        acc = emit(node.op_type, [x, constant("signs", signs.reshape(weight.shape))], "acc", **given)
    name = acc
    for k, s in enumerate(steps):
        c = constant(f"const{k}", file_constant(s.value, value, op.y, ctx.out_shape(node)))
        name = emit(s.operation.capitalize(), [name, c], out if k == len(steps) - 1 else f"step{k}")
    if not steps:
        emit("Identity", [name], out)
    edits.replaced[out] = nodes
    return acc if steps else out


def refuse_large(source: Affine) -> None:
    """Raise Refusal E0303 where float32 rounding could be taken for another integer."""
    largest = max(abs(source.mul * k - z) for k in (source.q.lo, source.q.hi) for z in (source.zero or (0,)))
    # the steps, and the scale, the division and the sum here: each may round by U, relative to the integer
    off = (source.steps + 3) * U * (largest + float(np.abs(source.rest).max()))
    if not source.exact and off >= 0.45:
        raise Refusal(
            "E0303",
            f"it reads integers up to {largest} that the file has only rounded",
            "put a BatchNorm and a sign between the two layers",
        )


def emit_pad(
    ctx: Context,
    emit: Callable[..., str],
    constant: Callable[[str, NDArray[Any]], str],
    x: str,
    value: Value,
    fill: float,
) -> str:
    """A Pad node of height and width, in the form of the model's opset."""
    top, left, bottom, right = value.pads
    before = {0: 0, 1: top, 2: left}
    after = {0: 0, 1: bottom, 2: right}
    widths = [0, *(before[a] for a in value.axes), 0, *(after[a] for a in value.axes)]
    if ctx.opset < 11:
        return emit("Pad", [x], "padded", pads=widths, value=fill)
    return emit("Pad", [x, constant("pads", np.array(widths)), constant("fill", np.array(fill, np.float32))], "padded")


def file_constant(
    v: Doubles | NDArray[np.float32], value: Value, t: Tensor, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """A constant [C or 1, H or 1, W or 1] of a tensor against the ONNX axes of `shape`, laid out like `value`."""
    c = np.asarray(v, np.float32)
    if c.size == 1:
        return c.reshape(())
    last = value.last and (len(shape) > 2 or t.pixels > 1)
    if len(shape) > 2 and c.shape[1:] == (1, 1):
        return c.reshape(-1) if last else c.reshape(-1, *[1] * (len(shape) - 2))
    full = np.broadcast_to(c, t.shape)
    return np.ascontiguousarray(full.transpose(1, 2, 0) if last else full).reshape(shape)
