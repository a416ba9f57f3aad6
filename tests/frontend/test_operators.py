"""Every operator and form that is lowered, against onnxruntime: one network for each group of forms, each form an output of it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

import bnncc
from bnncc.ops import (
    Combine,
    Concat,
    Conv,
    Map,
    Normalize,
    NormSign,
    Pad,
    Slice,
    SumPool,
    Threshold,
    Transpose,
    Upsample,
)
from bnncc.tensor import Elem, Op
from tests.nets import Net, finish, small_net

Build = Callable[[Net, str], str]
Forms = Mapping[str, Build]


def ints(net: Net, *values: int) -> str:
    return net.const(values, np.int64)


def binary(net: Net, x: str, out: int = 7, kernel: int = 1, **given: Any) -> str:
    """A convolution with weights of -1 and +1, over all channels."""
    return net.node("Conv", x, net.weight((out, net.shape_of(x)[0], kernel, kernel)), **given)


def real(net: Net, x: str, out: int = 7, kernel: int = 1, **given: Any) -> str:
    """The same with real weights."""
    return net.node("Conv", x, net.const(net.rng.normal(size=(out, net.shape_of(x)[0], kernel, kernel))), **given)


def verified(net: Net | onnx.ModelProto, x: np.ndarray | None = None, **options: Any) -> bnncc.Compiled:
    """The network compiled; the C gives what onnxruntime gives, and every output varies over the samples."""
    compiled = bnncc.compile(net.model() if isinstance(net, Net) else net, name="net", **options)
    verdict = compiled.verify(net.x if x is None and isinstance(net, Net) else x)
    wrong = [f"{s.kernel} [{s.origin}]: {s.mismatches} of {s.values}" for s in verdict.steps if s.mismatches]
    assert verdict.ok, (wrong, verdict.outputs)
    still = [name for name, v in verdict.outputs_c.items() if not np.ptp(v)]
    assert not still, f"constant outputs {still} prove nothing"
    return compiled


def checked(
    net: Net, x: str, forms: Forms, *, signs: bool = False, **options: Any
) -> tuple[bnncc.Compiled, dict[str, str]]:
    """Each form applied to x as an output (and its sign behind a BatchNorm as another); the compiled net, and their names."""
    names = {form: build(net, x) for form, build in forms.items()}
    net.outputs = list(names.values())
    if signs:
        net.outputs += [net.sign(net.batch_norm(y), "ge_where") for y in names.values()]
        assert min(net.mixed()) > 0.5, "channels that are constant prove little"
    return verified(net, **options), names


def ops(c: bnncc.Compiled, kind: type[Op]) -> list[Any]:
    return [s.op for s in c.program.steps if isinstance(s.op, kind)]


def elements(c: bnncc.Compiled, names: Iterable[str]) -> list[Elem]:
    """The types of the tensors behind the outputs."""
    by_name = {o.name: o.tensor.elem for o in c.program.graph.outputs}
    return [by_name[n] for n in names]


# sums and products of tensors -----------------------------------------------------------------------------------------

INTEGER_SUMS: Forms = {
    "bits": lambda n, x: n.node("Add", x, n.node("Neg", binary(n, x, 9))),
    "accumulators": lambda n, x: n.node("Add", binary(n, x), binary(n, x)),
    "a difference": lambda n, x: n.node("Sub", binary(n, x), binary(n, x, 7)),
    "with a bias": lambda n, x: n.node("Add", n.node("Add", binary(n, x), n.const(3.0)), binary(n, x)),
    "biases by channel": lambda n, x: n.node(
        "Add", n.node("Add", binary(n, x), n.const(np.arange(7).reshape(7, 1, 1))), binary(n, x)
    ),
    "with its half": lambda n, x: n.node("Add", n.node("Mul", binary(n, x), n.const(0.5)), binary(n, x)),
    "less its quarter": lambda n, x: n.node("Sub", binary(n, x), n.node("Div", binary(n, x), n.const(-4.0))),
    "three": lambda n, x: n.node("Sum", binary(n, x), binary(n, x), binary(n, x)),
    "with itself": lambda n, x: n.node("Add", *[binary(n, x)] * 2),
    "a pool": lambda n, x: n.node(
        "Add",
        n.node("MaxPool", binary(n, x), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        binary(n, x, 7, 3, pads=[1, 1, 1, 1]),
    ),
}


def test_sums_of_integers_are_integers() -> None:
    net, x = small_net()
    c, names = checked(net, x, INTEGER_SUMS, signs=True)
    assert all(s.op.exact for s in c.program.steps)
    assert all(e.is_integer for e in elements(c, names.values()))
    assert len(ops(c, Combine)) == len(INTEGER_SUMS) + 1, "a sum of three is two"
    assert not ops(c, Map)


def test_a_residual_stream_stays_in_integers() -> None:
    """Three blocks x + conv(sign(norm(x))) from the first layer's sums on."""
    net = Net(np.random.default_rng(5), (2, 6, 6))
    x = binary(net, net.normalise(), 12, 3)
    for _ in range(3):
        x = net.node("Add", x, binary(net, net.sign(net.batch_norm(x), "ge_where"), 12, 3, pads=[1, 1, 1, 1]))
    c = verified(finish(net, net.sign(net.batch_norm(x), "ge_where")))
    assert all(s.op.exact for s in c.program.steps)
    assert len(ops(c, Combine)) == 3
    assert all(op.y.elem.is_integer for op in ops(c, Combine))
    assert not ops(c, Map)


def chosen(net: Net, x: str, high: str, low: str) -> str:
    """One of two values by comparing x with a constant a channel, as torch.where writes RPReLU."""
    return net.node("Where", net.node("Greater", x, net.const(net.rng.normal(size=(1, 7, 1, 1)))), high, low)


PRODUCTS: Forms = {
    "scales that differ": lambda n, x: n.node("Add", n.node("Mul", binary(n, x), n.const(0.3)), binary(n, x)),
    "norms": lambda n, x: n.node("Add", n.batch_norm(binary(n, x)), n.batch_norm(binary(n, x))),
    "real and integer": lambda n, x: n.node("Add", real(n, x), binary(n, x)),
    "real": lambda n, x: n.node("Sub", real(n, x), real(n, x)),
    "a product": lambda n, x: n.node("Mul", binary(n, x), binary(n, x)),
    "a quotient": lambda n, x: n.node("Div", binary(n, x), binary(n, x)),  # of sums of nine bits, never zero
    "the larger": lambda n, x: n.node("Max", binary(n, x), binary(n, x)),
    "the smallest": lambda n, x: n.node("Min", binary(n, x), real(n, x), binary(n, x)),
    "a square": lambda n, x: n.node("Pow", real(n, x), n.const(2.0)),
    "a gate": lambda n, x: n.node("Mul", binary(n, x), n.node("Sigmoid", real(n, n.node("GlobalAveragePool", x)))),
    "a gate in front": lambda n, x: n.node("Mul", n.node("Tanh", binary(n, n.node("GlobalMaxPool", x))), real(n, x)),
    "less a channel's mean": lambda n, x: n.node("Sub", *[y := binary(n, x), n.node("GlobalAveragePool", y)]),
    "one or the other": lambda n, x: chosen(n, y := binary(n, x), real(n, x), n.node("Mul", y, n.const(0.3))),
    "one or a constant": lambda n, x: chosen(n, y := binary(n, x), y, n.const(n.rng.normal(size=(1, 7, 1, 1)))),
    "a constant or the other": lambda n, x: chosen(n, y := real(n, x), n.const(0.25), y),
    "a channel's mean less it": lambda n, x: n.node("Sub", n.node("GlobalAveragePool", y := binary(n, x)), y),
}


def test_sums_and_products_of_real_values() -> None:
    checked(*small_net(), PRODUCTS)


# concatenation and its opposites --------------------------------------------------------------------------------------


def split(number: int, *sizes: int, axis: int = 1) -> Build:
    def build(net: Net, x: str) -> str:
        y = net.node("Split", x, ints(net, *sizes), outputs=len(sizes), axis=axis)
        return y if number == 0 else f"{y}_{number}"

    return build


def in_sequence(net: Net, x: str, sizes: str, position: int) -> str:
    """A part as torch writes it with optimize=False."""
    return net.node("SequenceAt", net.node("SplitToSequence", x, sizes, axis=1), net.const(position, np.int64))


def take(net: Net, x: str, *ranges: tuple[int, int, int, int]) -> str:
    """Slices, (axis, start, end, step) each."""
    axes, starts, ends, steps = (ints(net, *column) for column in zip(*ranges, strict=True))
    return net.node("Slice", x, starts, ends, axes, steps)


def written(net: Net, x: str, start: int, new: str, *, swapped: bool) -> str:
    """x[:, start:start + k] = new, as torch's legacy exporter writes it or (swapped) the newer one."""
    index = np.arange(start, start + net.shape_of(new)[0])
    if not swapped:
        pairs = np.stack([0 * index, index], axis=-1)[None]
        return net.node("ScatterND", x, net.const(pairs, np.int64), new)
    x, new = (net.node("Transpose", v, perm=[1, 0, 2, 3]) for v in (x, new))
    y = net.node("ScatterND", x, net.const(index[:, None], np.int64), new)
    return net.node("Transpose", y, perm=[1, 0, 2, 3])


def added(net: Net, x: str, start: int, end: int, *, swapped: bool) -> str:
    """x[:, start:end] += y: what is added is written back twice."""
    x = binary(net, x, 8)
    new = net.node("Add", take(net, x, (1, start, end, 1)), binary(net, x, end - start))
    y = written(net, x, start, new, swapped=swapped)
    again = take(net, y, (1, start, end, 1)) if swapped else new
    return written(net, y, start, again, swapped=swapped)


PARTS: Forms = {
    "room for channels": lambda n, x: n.node(
        "Concat", n.const(np.zeros((1, 2, 4, 4))), x, n.const(np.zeros((1, 3, 4, 4))), axis=1
    ),
    "the last channels, added to": lambda n, x: added(n, x, 5, 8, swapped=True),
    "the first channels, added to": lambda n, x: added(n, x, 0, 3, swapped=False),
    "channels between": lambda n, x: written(n, x, 2, binary(n, x, 3), swapped=True),
    "all channels": lambda n, x: written(n, x, 0, binary(n, x, 9), swapped=False),
    "bits": lambda n, x: n.node("Concat", x, x, axis=1),
    "bits and their opposites": lambda n, x: n.node("Concat", x, n.node("Neg", x), axis=1),
    "bits of other layers": lambda n, x: n.node(
        "Concat",
        x,
        n.sign(n.batch_norm(binary(n, x)), "ge_where"),
        n.sign(n.batch_norm(binary(n, x, 40)), "bipolar"),
        axis=-3,
    ),
    "sums": lambda n, x: n.node("Concat", binary(n, x), binary(n, x, 3), x, axis=1),
    "real and integer": lambda n, x: n.node("Concat", binary(n, x), real(n, x, 3), axis=1),
    "vectors": lambda n, x: n.node("Concat", n.node("Flatten", x), n.node("Flatten", binary(n, x)), axis=1),
    "pooled vectors": lambda n, x: n.node(
        "Concat", *(n.node("Flatten", n.node(kind, x)) for kind in ("GlobalAveragePool", "GlobalMaxPool")), axis=-1
    ),
    "channels": lambda n, x: take(n, x, (1, 2, 7, 1)),
    "every second channel": lambda n, x: take(n, binary(n, x), (1, 1, 7, 2)),
    "all but the last": lambda n, x: take(n, binary(n, x), (1, 0, -1, 1)),
    "a crop": lambda n, x: take(n, x, (2, 1, 3, 1), (3, -3, 1 << 40, 1)),
    "every second pixel": lambda n, x: take(n, real(n, x), (3, 0, 9, 2), (2, 1, 9, 2)),
    "features": lambda n, x: take(n, n.node("Flatten", x), (1, 5, 90, 1)),
    "first part": split(0, 4, 5),
    "last part": split(2, 1, 3, 5),
    "rows": split(1, 1, 3, axis=2),
    "a chunk of a sequence": lambda n, x: in_sequence(n, x, ints(n, 4, 5), 1),
    "its last chunk": lambda n, x: in_sequence(n, binary(n, x), ints(n, 2, 5), -1),
    "what is left of equal chunks": lambda n, x: in_sequence(n, x, n.const(4, np.int64), 2),
    "one channel": lambda n, x: n.node("Gather", binary(n, x), ints(n, 5), axis=1),
    "one channel, dropped": lambda n, x: n.node(
        "Gather", n.node("Flatten", n.node("GlobalMaxPool", binary(n, x))), ints(n, 2, 4, 6), axis=1
    ),
    "one row": lambda n, x: n.node("Gather", x, n.const(-1, np.int64), axis=2),
    "even channels": lambda n, x: n.node("Gather", x, ints(n, 0, 2, 4, 6, 8), axis=1),
}


def test_parts_and_wholes() -> None:
    c, names = checked(*small_net(), PARTS)
    real_ones = {
        "room for channels",
        "bits and their opposites",
        "real and integer",
        "pooled vectors",
        "every second pixel",
    }
    for form, elem in zip(names, elements(c, names.values()), strict=True):
        assert elem.is_integer == (form not in real_ones), form
    assert ops(c, Concat)
    assert ops(c, Slice)


def test_layers_over_concatenated_bits() -> None:
    """A densely connected network: what grows is bits."""
    net, x = small_net()
    for _ in range(3):
        made = net.batch_norm(binary(net, x, 6, 3, pads=[1, 1, 1, 1]))
        x = net.node("Concat", x, net.sign(made, "ge_where"), axis=1)
    c = verified(finish(net, x))
    assert [op.x.elem for op in ops(c, Conv)[1:]] == [Elem.BIN] * 4


def test_a_shuffle_of_channels() -> None:
    net, x = small_net(channels=12)
    halves = [net.sign(net.batch_norm(binary(net, split(k, 6, 6)(net, x), 6)), "ge_where") for k in (0, 1)]
    y = net.node("Concat", *halves, axis=1)
    y = net.node("Reshape", y, ints(net, 1, 2, 6, 4, 4))
    y = net.node("Reshape", net.node("Transpose", y, perm=[0, 2, 1, 3, 4]), ints(net, 1, -1, 4, 4))
    net.outputs = [y, binary(net, y)]
    c = verified(net)
    assert all(s.op.exact for s in c.program.steps)


# convolutions ---------------------------------------------------------------------------------------------------------


def weights(net: Net, kind: str, *shape: int) -> str:
    return net.weight(shape) if kind == "binary" else net.const(net.rng.normal(size=shape) / 4)


CONVS: dict[str, Callable[[Net, str, str], str]] = {
    "groups": lambda n, x, k: n.node("Conv", x, weights(n, k, 9, 4, 3, 3), group=3, pads=[1, 0, 1, 2]),
    "a channel each": lambda n, x, k: n.node("Conv", x, weights(n, k, 12, 1, 3, 3), group=12, pads=[1, 1, 1, 1]),
    "two for each channel": lambda n, x, k: n.node("Conv", x, weights(n, k, 24, 1, 2, 2), group=12, strides=[2, 1]),
    "dilated": lambda n, x, k: n.node("Conv", x, weights(n, k, 5, 12, 2, 2), dilations=[2, 3], pads=[1, 2, 0, 1]),
    "a bias": lambda n, x, k: n.node("Conv", x, weights(n, k, 6, 6, 1, 1), n.const(n.rng.normal(size=6)), group=2),
    "transposed": lambda n, x, k: n.node("ConvTranspose", x, weights(n, k, 12, 5, 2, 2), strides=[2, 2]),
    "transposed, cropped": lambda n, x, k: n.node(
        "ConvTranspose", x, weights(n, k, 12, 5, 3, 4), strides=[2, 3], pads=[1, 0, 1, 2], output_padding=[1, 0]
    ),
    "transposed by groups": lambda n, x, k: n.node(
        "ConvTranspose", x, weights(n, k, 12, 2, 3, 3), n.const(np.arange(6)), group=3, strides=[2, 2]
    ),
    "transposed to a shape": lambda n, x, k: n.node(
        "ConvTranspose", x, weights(n, k, 12, 4, 3, 3), strides=[2, 2], output_shape=[8, 8], auto_pad="SAME_LOWER"
    ),
    "transposed, dilated": lambda n, x, k: n.node("ConvTranspose", x, weights(n, k, 12, 3, 2, 2), dilations=[2, 1]),
    "a matrix at each pixel": lambda n, x, k: n.node(
        "MatMul", n.node("Transpose", x, perm=[0, 2, 3, 1]), weights(n, k, 12, 5)
    ),
    "the whole image": lambda n, x, k: n.node("Gemm", n.node("Flatten", x), weights(n, k, 6, 192), transB=1, alpha=0.5),
}


@pytest.mark.parametrize("of", ["bits", "bytes", "real values"])
@pytest.mark.parametrize("kind", ["binary", "real"])
def test_convolutions(kind: str, of: str) -> None:
    net, x = small_net(channels=12)
    if of == "bytes":
        net = Net(np.random.default_rng(7), (12, 4, 4))
        x = net.node("Cast", "x", to=T.FLOAT)
    elif of == "real values":
        x = real(net, x, 12)
    forms = {f: (lambda n, y, b=build: b(n, y, kind)) for f, build in CONVS.items()}
    c, _ = checked(net, x, forms)
    exact = kind == "binary" and of != "real values"
    assert all(s.op.exact for s in c.program.steps) == exact
    layers = [op for op in ops(c, Conv) if op.y.name != x]
    assert sum(op.binary == (kind == "binary") for op in layers) >= len(CONVS)


SEQUENCES: Forms = {
    "binary": lambda n, x: n.node("Conv", x, n.weight((5, 6, 3)), pads=[1, 1]),
    "binary by groups": lambda n, x: n.node("Conv", x, n.weight((9, 2, 4)), group=3, strides=[2], dilations=[2]),
    "real": lambda n, x: n.node("Conv", x, n.const(n.rng.normal(size=(5, 6, 3))), auto_pad="SAME_UPPER"),
    "transposed": lambda n, x: n.node("ConvTranspose", x, n.weight((6, 4, 2)), strides=[2]),
    "largest": lambda n, x: n.node("MaxPool", x, kernel_shape=[3], strides=[2], pads=[1, 0]),
    "means": lambda n, x: n.node("AveragePool", x, kernel_shape=[3], strides=[2], pads=[1, 1]),
    "the mean": lambda n, x: n.node("GlobalAveragePool", x),
    "the mean, dropping": lambda n, x: n.node("ReduceMean", x, ints(n, -1), keepdims=0),
    "the mean over channels": lambda n, x: n.node("ReduceMean", x, ints(n, 1)),
    "a matrix at each time": lambda n, x: n.node("MatMul", n.node("Transpose", x, perm=[0, 2, 1]), n.weight((6, 5))),
    "twice as long": lambda n, x: n.node(
        "Resize",
        x,
        "",
        n.const([1, 1, 2]),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "longer": lambda n, x: n.node("Pad", x, ints(n, 0, 0, 2, 0, 0, 1), n.const(-1.0)),
    "part": lambda n, x: take(n, x, (2, 3, 9, 1)),
    "flat": lambda n, x: n.node("Flatten", x),
    "an image": lambda n, x: n.node("Conv", n.node("Unsqueeze", x, ints(n, 2)), n.weight((5, 6, 1, 3))),
}


def test_sequences() -> None:
    net = Net(np.random.default_rng(2), (3, 14))
    x = net.node("Conv", net.normalise(), net.weight((6, 3, 3)))
    checked(net, net.sign(net.batch_norm(x), "ge_where"), SEQUENCES)


# pools and reductions -------------------------------------------------------------------------------------------------


def average(**given: Any) -> Build:
    return lambda n, x: n.node("AveragePool", x, kernel_shape=[2, 3], **given)


def reduce(kind: str, *axes: int, **given: Any) -> Build:
    """ReduceSum takes its axes as an input from opset 13, the others from opset 18."""
    return lambda n, x: n.node(kind, x, ints(n, *axes), **given)


POOLS: Forms = {
    "plain": average(),
    "strides": average(strides=[2, 1]),
    "without the border": average(pads=[1, 1, 0, 2], count_include_pad=0),
    "with the border": average(pads=[1, 1, 0, 2], count_include_pad=1),
    "a last window that is cut": average(strides=[5, 2], ceil_mode=1),
    "cut, without the border": average(strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    "cut, with the border": average(strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1),
    "the same size": average(auto_pad="SAME_UPPER"),
    "the same size, lower": average(auto_pad="SAME_LOWER", count_include_pad=1),
    "the whole": lambda n, x: n.node("GlobalAveragePool", x),
    "largest": lambda n, x: n.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0], ceil_mode=1),
    "largest, dilated": lambda n, x: n.node("MaxPool", x, kernel_shape=[2, 2], dilations=[2, 3]),
    "mean over both": reduce("ReduceMean", 2, 3),
    "mean over height": reduce("ReduceMean", -2),
    "mean over width, dropping": reduce("ReduceMean", 3, keepdims=0),
    "mean over channels": reduce("ReduceMean", 1),
    "sum": reduce("ReduceSum", 2, 3),
    "sum over width": reduce("ReduceSum", 3, keepdims=0),
    "sum over channels": reduce("ReduceSum", 1),
    "maximum": reduce("ReduceMax", 2, 3, keepdims=0),
    "maximum over height": reduce("ReduceMax", 2),
}  # fmt: skip


@pytest.mark.parametrize("of", ["bits", "sums", "real values"])
def test_pools_and_reductions(of: str) -> None:
    net, x = small_net(size=8)
    given = {"bits": lambda: x, "sums": lambda: binary(net, x), "real values": lambda: real(net, x)}[of]()
    always = ("maximum",) if of == "bits" else ()  # of so many bits one is +1
    c, _ = checked(net, given, {k: form for k, form in POOLS.items() if k not in always})
    assert all(op.exact == (of != "real values") for op in ops(c, SumPool))


# normalisation --------------------------------------------------------------------------------------------------------


def parts(net: Net, x: str, axis: tuple[int, ...], *, inverse: str = "", behind: str = "") -> str:
    """A layer normalisation in single nodes; `behind` a variance without the axis comes what gives it back."""
    centred = net.node("Sub", x, net.node("ReduceMean", x, ints(net, *axis)))
    squared = net.node("Mul", centred, centred) if inverse else net.node("Pow", centred, net.const(2.0))
    variance = net.node("ReduceMean", squared, ints(net, *axis), keepdims=0 if behind else 1)
    if behind:
        shape = [1, *net.shape_of(x)]
        shape[axis[0]] = 1
        variance = net.node("Reshape", variance, ints(net, *shape))
    if behind == "Expand":
        variance = net.node(behind, variance, ints(net, *shape))
    spread = net.node("Add", variance, net.const(1e-3))
    root = net.node("Sqrt", spread)
    if inverse == "Reciprocal":
        return net.node("Mul", centred, net.node("Reciprocal", root))
    if inverse == "Div":
        return net.node("Mul", net.node("Div", net.const(1.0), root), centred)
    return net.node("Div", centred, root)


def norm(net: Net, x: str, axis: int, *, bias: bool = True, zero: bool = False) -> str:
    shape = net.shape_of(x)[axis - 1 :] if axis > 0 else net.shape_of(x)[axis:]
    gamma = net.rng.choice([-1, 1], shape) * net.rng.uniform(0.5, 2, shape)
    if zero:
        gamma.reshape(-1)[0] = 0
    inputs = [net.const(gamma), *([net.const(net.rng.normal(size=shape) / 2)] if bias else [])]
    return net.node("LayerNormalization", x, *inputs, axis=axis, epsilon=1e-3)


def last(build: Build) -> Build:
    """The form between two transpositions, on channels that come last."""
    return lambda n, x: n.node("Transpose", build(n, n.node("Transpose", x, perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2])


NORMS: Forms = {
    "channels": last(lambda n, x: norm(n, x, -1)),
    "channels without a bias": last(lambda n, x: norm(n, x, 3, bias=False)),
    "a channel that counts for nothing": last(lambda n, x: norm(n, x, -1, zero=True)),
    "all features": lambda n, x: norm(n, n.node("Flatten", x), 1),
    "all features of an image": lambda n, x: norm(n, x, 1),
    "channels in parts": lambda n, x: parts(n, x, (1,)),
    "channels in parts, times": lambda n, x: parts(n, x, (1,), inverse="Reciprocal"),
    "channels in parts, over": lambda n, x: parts(n, x, (1,), inverse="Div"),
    "last channels in parts": last(lambda n, x: parts(n, x, (-1,))),
    "torch's variance": lambda n, x: parts(n, x, (1,), behind="Reshape"),
    "torch's variance of last channels": last(lambda n, x: parts(n, x, (-1,), behind="Expand")),
    "one group": lambda n, x: n.node(
        "InstanceNormalization", n.node("Reshape", x, ints(n, 1, 1, -1)), n.const([0.75]), n.const([0.25])
    ),
    "features in parts": lambda n, x: parts(n, x, (1, 2, 3)),
}


@pytest.mark.parametrize("of", ["sums", "real values"])
def test_layer_normalisations(of: str) -> None:
    net, x = small_net()
    c, _ = checked(net, binary(net, x) if of == "sums" else real(net, x), NORMS)
    assert len(ops(c, Normalize)) == len(NORMS)


@pytest.mark.parametrize("at_zero", [True, False])
def test_the_sign_of_a_layer_norm_of_integers_needs_no_root(at_zero: bool) -> None:
    net, x = small_net()
    x = binary(net, x, 8)
    form = "GreaterOrEqual" if at_zero else "Greater"
    for build in NORMS.values():
        bit = net.node(form, build(net, x), net.const(0.0))
        net.outputs.append(net.node("Where", bit, net.const(1.0), net.const(-1.0)))
    c = verified(net)
    assert len(ops(c, NormSign)) == len(NORMS)
    assert not ops(c, Normalize)


def test_thresholds_that_differ_from_pixel_to_pixel() -> None:
    """More kinds of pixels than 16 bits can number."""
    net = Net(np.random.default_rng(0), (3, 270, 270), samples=2)
    levels = net.const(net.rng.integers(1, 255, (1, 3, 270, 270)) - 0.5)
    bit = net.node("GreaterOrEqual", net.node("Cast", "x", to=T.FLOAT), levels)
    net.outputs = [net.node("Where", bit, net.const(1.0), net.const(-1.0))]
    c = verified(net)
    assert any(s.op.cut.classes.max() > 1 << 16 for s in c.program.steps if isinstance(s.op, Threshold))


# activations ----------------------------------------------------------------------------------------------------------


def column(net: Net, low: float, high: float) -> str:
    return net.const(net.rng.uniform(low, high, (7, 1, 1)))


ACTIVATIONS: Forms = {
    "Relu": lambda n, x: n.node("Relu", x),
    "LeakyRelu": lambda n, x: n.node("LeakyRelu", x, alpha=0.1),
    "PRelu": lambda n, x: n.node("PRelu", x, n.const(0.25)),
    "PRelu by channel": lambda n, x: n.node("PRelu", x, column(n, 0, 0.5)),
    "PRelu that turns round": lambda n, x: n.node("PRelu", x, column(n, -0.5, 0.5)),
    "RPRelu": lambda n, x: n.node(
        "Add", n.node("PRelu", n.node("Sub", x, column(n, -1, 1)), column(n, 0, 0.5)), column(n, -1, 1)
    ),
    "Relu6": lambda n, x: n.clip(x, 0.0, 6.0),
    "Clip by vectors": lambda n, x: n.node("Clip", x, n.const([-1.5]), n.const([2.5])),
    "Clip from below": lambda n, x: n.clip(x, -1.5, None),
    "Clip from above": lambda n, x: n.clip(x, None, 2.5),
    "Hardtanh": lambda n, x: n.clip(x, -1.0, 1.0),
    "HardSigmoid": lambda n, x: n.node("HardSigmoid", x, alpha=0.1, beta=0.4),
    "Round": lambda n, x: n.node("Round", n.node("Mul", x, n.const(0.5))),
    "Floor": lambda n, x: n.node("Floor", n.node("Mul", x, n.const(0.3))),
    "Ceil": lambda n, x: n.node("Ceil", n.node("Mul", x, n.const(0.3))),
    "Abs": lambda n, x: n.node("Abs", x),
    "Neg": lambda n, x: n.node("Neg", x),
}


@pytest.mark.parametrize("of", ["sums", "real values"])
def test_activations(of: str) -> None:
    net, x = small_net()
    c, _ = checked(net, binary(net, x) if of == "sums" else real(net, x), ACTIVATIONS)
    assert all(op.exact for op in ops(c, Map))


@pytest.mark.parametrize("of", ["sums", "real values"])
def test_signs_of_activations(of: str) -> None:
    """They become thresholds; what is not monotone is computed before it is compared."""
    net, x = small_net()
    x = binary(net, x) if of == "sums" else real(net, x)
    for build in ACTIVATIONS.values():
        shifted = net.batch_norm(build(net, x))
        net.outputs.append(
            net.node("Where", net.node("Less", shifted, net.const(0.0)), net.const(-1.0), net.const(1.0))
        )
    c = verified(net)
    assert 1 <= len(ops(c, Map)) <= 3, "Abs, and PReLU in two forms where a slope is negative"


OUTPUTS: Forms = {
    "Sigmoid": lambda n, x: n.node("Sigmoid", x),
    "Tanh": lambda n, x: n.node("Tanh", x),
    "Softmax": lambda n, x: n.node("Softmax", n.node("Flatten", n.node("GlobalMaxPool", x))),
    "Softmax over features": lambda n, x: n.node("Softmax", n.node("Flatten", x), axis=1),
    "LogSoftmax": lambda n, x: n.node("LogSoftmax", n.node("Flatten", n.node("GlobalAveragePool", x)), axis=-1),
    "Softmax over channels": lambda n, x: n.node("Softmax", x, axis=1),
    "Softmax over the width": lambda n, x: n.node("Softmax", x),
    "Softmax over channels between swaps": lambda n, x: n.node(
        "Transpose", n.node("Softmax", n.node("Transpose", x, perm=[0, 3, 2, 1]), axis=3), perm=[0, 3, 2, 1]
    ),
    "Softmax over last channels": lambda n, x: n.node("Softmax", n.node("Transpose", x, perm=[0, 2, 3, 1])),
}


@pytest.mark.parametrize("of", ["sums", "real values"])
def test_outputs_with_exponentials(of: str) -> None:
    net, x = small_net()
    checked(net, binary(net, x) if of == "sums" else real(net, x), OUTPUTS)


@pytest.mark.parametrize("scale", [0.25, 0.3])
@pytest.mark.parametrize("signed", [0, 1])
def test_quantised_activations_are_integers(signed: int, scale: float) -> None:
    """QONNX Quant: the next binary layer sums integers of few bits."""
    net, x = small_net()
    y = net.node("Identity", net.batch_norm(binary(net, x, 8)))
    net.outputs.append(net.node("Conv", y, net.weight((5, 8, 2, 2)), pads=[1, 0, 0, 1]))
    model = net.model()
    quant = next(n for n in model.graph.node if n.op_type == "Identity")
    quant.op_type, quant.domain = "Quant", "qonnx.custom_op.general"
    quant.input.extend(["scale", "zero", "bits"])
    given = {"signed": signed, "narrow": 0, "rounding_mode": "ROUND"}
    quant.attribute.extend(h.make_attribute(k, v) for k, v in given.items())
    values = (("scale", scale), ("zero", 0), ("bits", 4))
    model.graph.initializer.extend(nh.from_array(np.array(v, np.float32), k) for k, v in values)
    model.opset_import.append(h.make_opsetid(quant.domain, 1))
    c = verified(model, net.x)
    quantised = ops(c, Conv)[-1].x
    assert quantised.elem in (Elem.U8, Elem.I8)
    assert (quantised.lo, quantised.hi) == ((-8, 7) if signed else (0, 15))
    assert all(s.op.exact for s in c.program.steps)


@pytest.mark.parametrize(
    ("kind", "zero", "per_channel"), [(np.int8, 0, False), (np.uint8, 3, False), (np.int8, -5, True)]
)
def test_quantize_and_dequantize(kind: type, zero: int, per_channel: bool) -> None:
    """Brevitas' QCDQ: fewer bits by a Clip between the two."""
    net, x = small_net()
    y = net.batch_norm(binary(net, x, 8))
    scale = net.const(net.rng.uniform(0.2, 0.6, 8) if per_channel else 0.3)
    zeros = net.const(np.full(8, zero) if per_channel else zero, kind)
    y = net.node("QuantizeLinear", y, scale, zeros, axis=1)
    if not zero:
        y = net.node("Clip", y, net.const(-4, kind), net.const(3, kind))
    y = net.node("DequantizeLinear", y, scale, zeros, axis=1)
    net.outputs = [y, net.node("Conv", y, net.weight((5, 8, 2, 2)), pads=[1, 0, 0, 1])]
    c = verified(net)
    last = ops(c, Conv)[-1].x
    assert last.elem.is_integer != per_channel, "one scale for all channels keeps integers"
    if not zero:
        assert (last.lo, last.hi) == (-4, 3)


# moving values --------------------------------------------------------------------------------------------------------


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


# channels last, as tf2onnx writes it ----------------------------------------------------------------------------------


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


# how exporters write shapes -------------------------------------------------------------------------------------------


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


# what the options change ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_zero", [1, -1])
def test_sign_at_zero(at_zero: int) -> None:
    """Ternary signs of integers, of rectified and of real values, the reverse of one; zeros are met, in the reference too."""
    net, x = small_net(channels=8)
    even = binary(net, x, 6)
    rectified = [net.node("Relu", y) for y in (even, real(net, x))]
    if at_zero > 0:  # -1 and 0, else 0 and +1
        rectified = [net.node("Neg", y) for y in rectified]
    signs = [net.node("Sign", y) for y in (even, *rectified)]
    signs.append(net.node("Neg", net.node("Sign", even)))
    net.outputs = [*signs, *(binary(net, s, 3) for s in signs[:3])]
    with pytest.raises(bnncc.ModelError) as caught:
        bnncc.compile(net.model())
    assert [d.code for d in caught.value.diagnostics] == ["E0304"] * 4
    c = verified(net, sign_at_zero=at_zero)
    assert len([r for _, r in c.imported.reasons if f"{at_zero:+d} instead of 0" in r]) == 4
    v = c.verify(net.x)
    assert v.given is not None
    assert v.given.differing_samples > 0, "no zero was met"
    zeros = np.stack(net.values(even)[0])[:, 0] == 0
    assert zeros.any()
    assert (v.outputs_c[signs[0]][:, 0][zeros] == at_zero).all()
    assert (v.outputs_c[signs[3]][:, 0][zeros] == -at_zero).all()


@pytest.mark.parametrize("at_zero", [1, -1])
def test_the_sign_of_an_input_that_is_all_zero(at_zero: int) -> None:
    net = Net(np.random.default_rng(0), (6,), T.FLOAT)
    bits = net.node("Sign", "x")
    net.outputs = [bits, net.node("MatMul", bits, net.weight((6, 3)))]
    x = np.concatenate([np.zeros((2, 1, 6)), -np.zeros((1, 1, 6)), net.x]).astype(np.float32)
    c = verified(net, x, sign_at_zero=at_zero)
    assert (c.verify(x).outputs_c[bits][:3] == at_zero).all()


STORED = {"f16": 2, "i8": 1}


@pytest.mark.parametrize("storage", STORED)
def test_real_weights_in_fewer_bits(storage: str) -> None:
    """The reference gets the rounded weights; how far the file's own are from that is told, not judged."""
    net, x = small_net()
    y = net.sign(net.batch_norm(real(net, x, 16, 2, pads=[1, 1, 1, 1])), "ge_where")
    y = net.node("ConvTranspose", y, net.const(net.rng.normal(size=(16, 4, 2, 2))), strides=[2, 2], group=2)
    b = net.const(net.rng.normal(size=5))
    size = int(np.prod(net.shape_of(y)))
    for given in ({"transB": 1, "alpha": -0.5}, {}):
        shape = (5, size) if given else (size, 5)
        net.outputs.append(net.node("Gemm", net.node("Flatten", y), net.const(net.rng.normal(size=shape)), b, **given))
    full, small = verified(net), verified(net, real_weights=storage)
    assert not full.imported.reasons
    assert [r for _, r in small.imported.reasons] == [f"its weights are stored as {storage}"] * 4
    v = small.verify(net.x)
    assert v.given is not None
    assert v.given.largest_difference > 0
    weights = sum(op.weight.size for op in ops(full, Conv) if not op.binary)
    saved = full.program.flash_bytes - small.program.flash_bytes
    assert 0.9 * weights * (4 - STORED[storage]) <= saved <= weights * (4 - STORED[storage])


def test_weights_that_half_precision_holds_need_no_edit_of_their_values() -> None:
    net, x = small_net()
    w = net.rng.normal(size=(5, 9, 2, 2)).astype(np.float16).astype(np.float32)
    net.outputs.append(net.node("Conv", x, net.const(w)))
    v = verified(net, real_weights="f16").verify(net.x)
    assert v.given is not None
    assert v.given.differing_samples == 0


def test_weights_that_half_precision_does_not_hold() -> None:
    net, x = small_net()
    w = net.rng.normal(size=(5, 9, 2, 2))
    w[0, 0, 0, 0] = 65536
    net.outputs.append(net.node("Conv", x, net.const(w)))
    with pytest.raises(bnncc.ModelError, match="E0306"):
        bnncc.compile(net.model(), real_weights="f16")
    verified(net, real_weights="i8")


def test_binary_weights_are_not_stored_otherwise() -> None:
    net, x = small_net()
    net = finish(net, x)
    assert verified(net, real_weights="i8").files == verified(net).files
