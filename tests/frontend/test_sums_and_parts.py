"""Sums, products and parts of tensors, against onnxruntime."""

import numpy as np

from bnncc.ops import (
    Combine,
    Concat,
    Conv,
    Map,
    Slice,
)
from bnncc.tensor import Elem
from tests.frontend.forms import Build, Forms, binary, checked, elements, ints, ops, real, take, verified
from tests.nets import Net, finish, small_net

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


def split(number: int, *sizes: int, axis: int = 1) -> Build:
    def build(net: Net, x: str) -> str:
        y = net.node("Split", x, ints(net, *sizes), outputs=len(sizes), axis=axis)
        return y if number == 0 else f"{y}_{number}"

    return build


def in_sequence(net: Net, x: str, sizes: str, position: int) -> str:
    """A part as torch writes it with optimize=False."""
    return net.node("SequenceAt", net.node("SplitToSequence", x, sizes, axis=1), net.const(position, np.int64))


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
    "all in order": lambda n, x: n.node(
        "Gather",
        n.node("Reshape", n.node("GlobalMaxPool", binary(n, x)), ints(n, -1)),
        n.const(np.arange(7).reshape(1, 7, 1, 1), np.int64),
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
