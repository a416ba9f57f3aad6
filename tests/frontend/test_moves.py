"""What moves values, and how exporters write layouts and shapes, against onnxruntime."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import numpy_helper as nh

from bnncc.ops import (
    Pad,
    Slice,
    Transpose,
    Upsample,
)
from tests.frontend.forms import Build, Forms, binary, checked, ints, ops, real, verified
from tests.nets import Net, small_net


def enlarged(factors: list[float], mode: str = "asymmetric", nearest: str = "floor", **given: Any) -> Build:
    return lambda n, x: n.node(
        "Resize",
        x,
        "",
        n.const([1, 1, *factors]),
        mode="nearest",
        coordinate_transformation_mode=mode,
        nearest_mode=nearest,
        **given,
    )


def pad(*widths: int, value: float = 0.0) -> Build:
    return lambda n, x: n.node("Pad", x, ints(n, *widths), n.const(value))


def then(first: Build, second: Build) -> Build:
    return lambda n, x: second(n, first(n, x))


BORDER = (0, 0, 1, 2, 0, 0, 0, 1)
MOVES: Forms = {
    "twice": enlarged([2, 2]),
    "higher": enlarged([3, 1]),
    "half_pixel": enlarged([2, 3], "half_pixel", "round_prefer_floor"),
    "half": enlarged([0.5, 0.5]),
    "half of half_pixel": enlarged([0.5, 0.5], "half_pixel", "round_prefer_ceil"),
    "to a size": lambda n, x: n.node(
        "Resize", x, "", "", ints(n, 1, 9, 8, 12), mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    ),
    "a border of 0": pad(*BORDER),
    "a border of 1": pad(*BORDER, value=1.0),
    "a border of a half": pad(*BORDER, value=0.5),
    "more channels": pad(0, 2, 0, 0, 0, 1, 0, 0),
    "more channels of 1": pad(0, 1, 0, 1, 0, 1, 1, 0, value=1.0),
    "layer behind a border of 1": then(pad(*BORDER, value=1.0), lambda n, x: binary(n, x, 5, 2)),
    "layer behind a border of a half": then(pad(*BORDER, value=0.5), lambda n, x: binary(n, x, 5, 2)),
    "layer behind two borders": then(pad(*BORDER, value=-1.0), lambda n, x: binary(n, x, 5, 2, pads=[1, 1, 1, 1])),
    "real layer behind a border of 1": then(pad(*BORDER, value=1.0), lambda n, x: real(n, x, 5, 2)),
    "layer behind more channels": then(pad(0, 2, 0, 0, 0, 0, 0, 0, value=-1.0), lambda n, x: binary(n, x, 5)),
    "pool behind a border": then(pad(*BORDER, value=-1.0), lambda n, x: n.node("MaxPool", x, kernel_shape=[2, 2])),
    "pointwise behind a border": then(pad(*BORDER), lambda n, x: n.node("Add", n.node("Mul", x, n.const(3)), n.const(1))),
    "height and width swapped": lambda n, x: n.node("Transpose", x, perm=[0, 1, 3, 2]),
    "all turned": lambda n, x: n.node("Transpose", x, perm=[0, 3, 1, 2]),
    "layer over turned axes": lambda n, x: binary(n, n.node("Transpose", x, perm=[0, 2, 1, 3]), 5),
    "channels last": lambda n, x: n.node("Transpose", x, perm=[0, 2, 3, 1]),
    "channels last, flat": lambda n, x: n.node("Flatten", n.node("Transpose", x, perm=[0, 2, 3, 1])),
    "layer over last channels, flat": lambda n, x: n.node(
        "MatMul", n.node("Flatten", n.node("Transpose", x, perm=[0, 2, 3, 1])), n.weight((144, 5))
    ),
    "other axes": lambda n, x: n.node("Reshape", x, ints(n, 1, 4, 9, 4)),
    "layer over other axes": lambda n, x: binary(n, n.node("Reshape", x, ints(n, 1, 18, 2, -1)), 5),
    "a sequence": lambda n, x: n.node("Conv", n.node("Reshape", x, ints(n, 1, 9, -1)), n.weight((5, 9, 3))),
}  # fmt: skip


@pytest.mark.parametrize("of", ["bits", "sums"])
def test_moves(of: str) -> None:
    net, x = small_net()
    c, _ = checked(net, x if of == "bits" else binary(net, x, 9), MOVES)
    for kind in (Upsample, Slice, Pad, Transpose):
        assert ops(c, kind), f"no {kind.__name__}"


@pytest.mark.parametrize("layout", ["nhwc", "nchw", None])
def test_channels_last(layout: str | None) -> None:
    """The input [1, H, W, C] turned once, constants along the last axis, turned back at the end."""
    net = Net(np.random.default_rng(4), (8, 8, 3))
    x = net.node(
        "Sub", net.node("Div", net.node("Cast", "x", to=T.FLOAT), net.const(128.0)), net.const([1.0, 0.5, 0.25])
    )
    x = binary(net, net.node("Transpose", x, perm=[0, 3, 1, 2]), 10, 3, auto_pad="SAME_UPPER")
    x = net.node("MaxPool", net.sign(net.batch_norm(x), "ge_where"), kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Transpose", net.batch_norm(binary(net, x, 12, 3)), perm=[0, 2, 3, 1])
    x = net.node("Add", x, net.const(net.rng.normal(size=12)))
    x = net.node("Where", net.at_least(x, net.const(0.0)), net.const(1.0), net.const(-1.0))
    net.outputs = [x, net.node("MatMul", net.node("Reshape", x, ints(net, -1, 48)), net.weight((48, 5)))]
    c = verified(net, input_layout=layout)
    assert c.program.nhwc == (layout != "nchw"), "the model's own layout is the default"
    assert all(s.op.exact for s in c.program.steps)


def test_shapes_that_are_computed_from_a_symbolic_batch() -> None:
    """x.view(x.size(0), -1) as torch exports it, and a Reshape to what Shape, Slice, Gather and arithmetic give."""
    net, x = small_net()
    net.batch = "batch"
    size = net.node("Gather", net.node("Shape", x), net.const(0, np.int64), axis=0)
    rows = net.node("Concat", net.node("Unsqueeze", size, ints(net, 0)), ints(net, -1), axis=0)
    net.outputs.append(net.node("MatMul", net.node("Reshape", x, rows), net.weight((144, 4))))
    whole = net.node("Shape", x)
    spatial = net.node("Slice", whole, ints(net, 2), ints(net, 4), ints(net, 0))
    area = net.node("ReduceProd", spatial, keepdims=1)
    wanted = net.node("Concat", net.node("Shape", x, start=0, end=2), area, axis=0)
    net.outputs.append(net.node("Conv", net.node("Reshape", x, wanted), net.weight((4, 9, 3))))
    double = net.node("Concat", net.node("Shape", x, end=2), net.node("Mul", spatial, ints(net, 2, 2)), axis=0)
    resized = net.node(
        "Resize", x, "", "", double, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    net.outputs.append(resized)
    eight = net.node("Slice", net.node("Shape", resized), ints(net, 2), ints(net, 3), ints(net, 0))
    none = net.node("ConstantOfShape", eight, value=nh.from_array(np.zeros(1, np.int64)))
    net.outputs.append(binary(net, net.node("Pad", x, net.node("Mul", none, ints(net, 2)))))
    c = verified(net)
    assert {n.op_type for n in c.imported.given.graph.node} >= {"Reshape", "Resize"}


def old_conv(net: Net, x: str) -> str:
    y = net.node("Pad", x, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=-1.0)
    return net.node("Conv", y, net.weight((5, 9, 3, 3)))


OPSET_9: Forms = {
    "Upsample": lambda n, x: n.node("Upsample", x, n.const([1, 1, 2, 2]), mode="nearest"),
    "Slice": lambda n, x: n.node("Slice", x, starts=[1, 0], ends=[7, 3], axes=[1, 2]),
    "Slice without axes": lambda n, x: n.node("Slice", x, starts=[0, 2], ends=[1, 9]),
    "Clip": lambda n, x: n.node("Clip", binary(n, x), min=-2.0, max=3.0),
    "Pad": old_conv,
    "Squeeze": lambda n, x: n.node("Squeeze", n.node("GlobalMaxPool", binary(n, x)), axes=[2, 3]),
    "Unsqueeze": lambda n, x: n.node("Unsqueeze", n.node("Flatten", binary(n, x)), axes=[2]),
    "Split": lambda n, x: n.node("Split", x, outputs=2, axis=1, split=[4, 5]),
    "ReduceMean": lambda n, x: n.node("ReduceMean", x, axes=[2, 3], keepdims=0),
    "ReduceSum": lambda n, x: n.node("ReduceSum", x, axes=[3]),
    "Softmax": lambda n, x: n.node("Softmax", n.node("Flatten", binary(n, x))),
    "Dropout": lambda n, x: n.node("Dropout", binary(n, x), ratio=0.3),
    "Gemm": lambda n, x: n.node("Gemm", n.node("Flatten", x), n.weight((4, 144)), n.const(np.arange(4)), transB=1),
    "AveragePool": lambda n, x: n.node("AveragePool", x, kernel_shape=[2, 2], pads=[1, 1, 0, 0]),
    "BatchNormalization": lambda n, x: n.batch_norm(binary(n, x)),
}


def test_opset_9() -> None:
    net = Net(np.random.default_rng(9), (2, 6, 6), opset=9, ir=4)
    x = net.sign(net.batch_norm(binary(net, net.normalise(), 9, 3)), "lt_where")
    checked(net, x, OPSET_9)
