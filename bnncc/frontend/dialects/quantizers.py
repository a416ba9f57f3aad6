"""The operators of QONNX, Brevitas and FINN, each in operators of ONNX: its own meaning, as qonnx executes it."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.frontend.dialects.call import Call, attribute
from bnncc.frontend.dialects.draft import Array, Draft
from bnncc.frontend.source.text import printable

CHANNELS_LAST = "qonnx.custom_op.channels_last"
MAX_THRESHOLDS = 255  # of one MultiThreshold: 8 bits
RANK_LAYOUTS = {2: "NC", 3: "NWC", 4: "NCHW"}  # where MultiThreshold finds the channels if it is not told


def limits(bits: Array, *, signed: bool, narrow: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The smallest and the largest integer of `bits` bits; a narrow range leaves out one value at the end."""
    if signed:
        half = 2.0 ** (bits - 1)
        lo, hi = -half + narrow, half - 1
    else:
        lo, hi = 0.0 * bits, 2.0**bits - 1 - narrow
    return lo.astype(np.float32), hi.astype(np.float32)


def bipolar_quant(c: Call) -> str:
    x, scale = c.node.input
    if c.model.constant(scale) is not None:
        c.parameters("scale")
    return c.apply("Mul", c.sign(x), scale, 1)


def quant(c: Call) -> str:
    """x / scale + zero point, clamped and rounded, then back."""
    x, scale, zero, _ = c.node.input
    signed, narrow = c.flag("signed"), c.flag("narrow")
    step, _, width = c.parameters("scale", "zero point", "bit width")
    c.positive(step)
    bits = c.bits(width, "bit width")
    binary = signed & (bits == 1)
    y = c.apply("Add", c.apply("Div", x, scale, 1), zero, 0)
    if binary.all():
        y = c.sign(y)
    elif binary.any():
        c.refuse("E0201", "its bit width is 1 for some channels and larger for others", "use one bit width")
    else:
        y = c.clamp(y, *limits(bits, signed=signed, narrow=narrow))
        y = c.rounded(y, str(attribute(c.node, "rounding_mode", "ROUND")).upper(), signed=signed)
    return c.apply("Mul", c.apply("Sub", y, zero, 0), scale, 1)


def trunc(c: Call) -> str:
    """Integers made less precise: by the difference of two bit widths, or by the quotient of two scales."""
    x, scale, zero = c.node.input[:3]
    mode = str(attribute(c.node, "rounding_mode", "FLOOR")).upper()
    y = c.rounded(c.apply("Add", c.apply("Div", x, scale, 1), zero, 0), "ROUND", signed=True)
    if len(c.node.input) == 5:
        step, _, wide, narrow = c.parameters("scale", "zero point", "input bit width", "output bit width")
        c.positive(step)
        shift = c.bits(wide, "input bit width") - c.bits(narrow, "output bit width")
        y = c.rounded(c.apply("Div", y, c.const(2.0**shift), 1), mode, signed=True)
        return c.apply("Mul", c.apply("Sub", y, zero, 0), scale, 1)
    what = ("scale", "zero point", "input bit width", "output scale", "output bit width")
    step, origin, _, out, width = c.parameters(*what)
    divisor = 2 ** np.round(np.log2(c.positive(out).astype(np.float32) / c.positive(step).astype(np.float32)))
    signed = c.flag("signed", 1)
    y = c.apply("Div", y, c.const(divisor), 1)
    y = c.clamp(y, *limits(c.bits(width, "output bit width"), signed=signed, narrow=c.flag("narrow", 0)))
    y = c.rounded(y, mode, signed=signed)
    return c.apply("Mul", c.apply("Sub", y, c.const(origin / divisor), 0), c.node.input[4], 1)


def multi_threshold(c: Call) -> str:
    """How many of its channel's thresholds x reaches, times out_scale plus out_bias."""
    x = c.node.input[0]
    thresholds = c.parameter(1, "table of thresholds")
    if thresholds.ndim != 2 or thresholds.shape[1] > MAX_THRESHOLDS:
        c.refuse(
            "E0201",
            f"its thresholds have shape {list(thresholds.shape)}",
            f"use [channels, 1 to {MAX_THRESHOLDS}] thresholds",
        )
    scale, bias = c.number("out_scale", 1.0), c.number("out_bias", 0.0)
    layout = str(attribute(c.node, "data_layout", "")) or RANK_LAYOUTS.get(c.rank(), "NC")
    channel = layout.index("C") if "C" in layout else 1
    shape = (-1,) + (1,) * (len(layout) - channel - 1) if len(thresholds) > 1 else ()
    columns = [column.reshape(shape) for column in thresholds.T]
    reached = [c.at_least(x, c.const(column)) for column in columns]
    if len(reached) == 1:
        return c.add("Where", reached[0], c.const(scale + bias), c.const(bias))
    count = c.add("Cast", reached[0], to=onnx.TensorProto.FLOAT)
    for r in reached[1:]:
        count = c.add("Add", count, c.add("Cast", r, to=onnx.TensorProto.FLOAT))
    return c.apply("Add", c.apply("Mul", count, c.const(scale), 1), c.const(bias), 0)


def debug_marker(c: Call) -> str:
    return str(c.node.input[0])


def channels_last(c: Call) -> str:
    """The standard operator of the same name between two transpositions; a convolution's weights are transposed too."""
    inputs = list(c.node.input)
    rank = c.rank()
    first, last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    for k in range(2 if c.node.op_type == "Conv" else 1):
        inputs[k] = c.add("Transpose", inputs[k], perm=first)
    given = {a.name: onnx.helper.get_attribute_value(a) for a in c.node.attribute}
    return c.add("Transpose", c.add(c.node.op_type, *inputs, **given), perm=last)


Write = Callable[[Call], str]
OPERATORS: Mapping[str, tuple[tuple[int, ...], Write]] = {  # the numbers of inputs that it can have
    "BipolarQuant": ((2,), bipolar_quant),
    "DebugMarker": ((1,), debug_marker),
    "IntQuant": ((4,), quant),
    "MultiThreshold": ((2,), multi_threshold),
    "Quant": ((4,), quant),
    "Trunc": ((5, 6), trunc),
}
CHANNELS_LAST_OPERATORS: Mapping[str, tuple[tuple[int, ...], Write]] = {
    "BatchNormalization": ((5,), channels_last),
    "Conv": ((2, 3), channels_last),
    "MaxPool": ((1,), channels_last),
}


def rewritten(draft: Draft, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The standard nodes that take the place of a node of a dialect. Raises ModelError."""
    c = Call(draft, node)
    table = CHANNELS_LAST_OPERATORS if node.domain == CHANNELS_LAST else OPERATORS
    if node.op_type not in table:
        c.refuse(
            "E0201",
            f"the operator {printable(f'{node.domain}::{node.op_type}')} is not supported",
            "see docs/operators.md for what is; export before FINN's own transformations",
        )
    counts, write = table[node.op_type]
    if len(node.input) not in counts or not all(node.input) or len(node.output) != 1:
        c.refuse("E0102", f"it has {len(node.input)} inputs and {len(node.output)} outputs", "export the model again")
    y = write(c)
    if not c.nodes or y != c.nodes[-1].output[0]:
        c.add("Identity", y)
    c.nodes[-1].output[0] = node.output[0]
    return c.nodes
