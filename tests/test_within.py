"""Bits that are made where a concatenation has them: no step is left of it."""

import numpy as np
import pytest

import bnncc
from bnncc.memory import load, picture
from bnncc.ops import Concat
from tests.nets import Net

SAME = {"pads": [1, 1, 1, 1]}


def inception(last: int) -> tuple[Net, list[str]]:
    """Branches on the signs of 64 channels: convolutions, grouped and depthwise ones, a pool, signs of sums, `last` channels."""
    net = Net(np.random.default_rng(last), (3, 9, 8))
    x = sign(net, net.node("Conv", net.normalise(), net.weight((64, 3, 3, 3)), **SAME))
    sums = net.node("Conv", x, net.weight((64, 64, 3, 3)), **SAME)
    branches = [
        sign(net, net.node("Conv", x, net.weight((32, 64, 1, 1)))),
        sign(net, net.node("Conv", x, net.weight((64, 1, 3, 3)), group=64, **SAME)),
        sign(net, net.node("Conv", x, net.weight((64, 16, 3, 3)), group=4, **SAME)),
        net.node("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], **SAME),
        sign(net, net.node("Add", sums, net.const(np.linspace(-9, 9, 64).reshape(64, 1, 1)))),
        sign(net, net.node("Conv", x, net.weight((last, 64, 3, 3)), **SAME)),
    ]
    both = net.node("Concat", *branches, axis=1)
    net.outputs = [sign(net, net.node("Conv", both, net.weight((32, 288 + last, 3, 3)))), sums]
    return net, branches


def sign(net: Net, x: str) -> str:
    return net.sign(x, "ge_where")


def copies(c: bnncc.Compiled) -> int:
    return sum(isinstance(s.op, Concat) for s in c.program.steps)


@pytest.mark.parametrize("on", ["host", "sim"])
def test_parts_are_made_in_their_place(on: str) -> None:
    net, branches = inception(24)
    c = bnncc.compile(net.model(), name="net")
    assert copies(c) == 0
    makers = [s for s in c.program.steps if s.op.y.name in branches]
    assert {s.kernel for s in makers} == {"sbs_conv", "depthwise_conv", "grouped_conv", "bit_pool", "threshold"}
    begins = [c.program.buffer(b).offset for b in branches]
    assert list(np.diff(begins)) == [4, 8, 8, 8, 8]
    whole = c.program.placed[c.program.holder(branches[0])]
    assert (whole.bytes, whole.first) == (4 * 10 * 9 * 8, makers[0].index)
    assert c.program.arena_bytes == max(load(c.program, s) for s in c.program.steps)
    assert all("o" in line for line in picture(c.program)[3:] if line.split()[0] in {str(s.index) for s in makers})
    assert c.verify(samples=4, on=on).ok


def test_a_part_of_half_a_word_is_copied_and_so_are_the_others() -> None:
    c = bnncc.compile(inception(10)[0].model(), name="net")
    assert copies(c) == 1
    assert not c.program.within


def test_a_part_that_something_else_reads_is_copied() -> None:
    net, branches = inception(64)
    net.outputs.append(sign(net, net.node("Conv", branches[0], net.weight((8, 32, 1, 1)))))
    assert copies(bnncc.compile(net.model(), name="net")) == 1
