"""Outputs in the place of inputs, and the picture of the arena over time."""

from pathlib import Path

import numpy as np
from onnx import TensorProto as T

import bnncc
from bnncc.graph import Graph, Output
from bnncc.lower import lower
from bnncc.memory import load, picture
from bnncc.ops import Concat, Map, MaxPool
from bnncc.scalar import Step, step
from bnncc.target import cores
from bnncc.tensor import Elem, Tensor
from tests.nets import Net


def residual() -> bnncc.Compiled:
    """Two binary convolutions, each added to a stream of real values, behind a real one: y = x + s * conv(sign(x))."""
    r = np.random.default_rng(3)
    net = Net(r, (2, 6, 6), T.FLOAT)
    x = net.node("Conv", "x", net.const(r.normal(size=(16, 2, 3, 3))), pads=[1, 1, 1, 1])
    for _ in range(2):
        bits = net.node("Where", net.node("GreaterOrEqual", x, net.const(0.0)), net.const(1.0), net.const(-1.0))
        y = net.node("Conv", bits, net.weight((16, 16, 3, 3)), pads=[1, 1, 1, 1])
        x = net.node("Add", net.node("Mul", y, net.const(0.25)), x)
    net.outputs = [x]
    return bnncc.compile(net.model(), name="residual", kernel="binary_conv")


def test_a_residual_stream_stays_where_it_is() -> None:
    c = residual()
    added = [s for s in c.program.steps if s.op.others]
    assert [c.program.overwritten(s) for s in added] == [(1,), (1,)]
    stream = {c.program.buffer(t.name).offset for s in added for t in (s.op.y, s.op.others[0])}
    assert len(stream) == 1
    for s in added:
        signature = next(line for line in c.files["residual.c"].splitlines() if f"void residual_step{s.index}(" in line)
        assert "const float *x1, float *y" in signature, "neither may be `restrict`"
        assert "const uint16_t *restrict x" in signature
    assert c.program.arena_bytes == c.program.arena_bound < 2 * 4 * 16 * 36
    assert c.verify(samples=8).ok


def test_parts_are_made_one_after_the_other() -> None:
    """Four maps of the input and their pools, given level by level: only one map is alive at a time."""
    x = Tensor("x", Elem.I8, (2, 8, 8), -128, 127)
    maps = [Map(x=x, y=Tensor(f"m{k}", Elem.F32, x.shape), steps=(step("mul", 1 + k), Step("tanh"))) for k in range(4)]
    pools = [MaxPool(x=m.y, y=Tensor(f"p{m.y.name}", Elem.F32, (2, 1, 1)), kernel=(8, 8)) for m in maps]
    y = Tensor("y", Elem.F32, (8, 1, 1))
    both = Concat(x=pools[0].y, others=tuple(p.y for p in pools[1:]), y=y)
    graph = Graph(x, (*maps, *pools, both), (Output("out", (1, 8, 1, 1), y),))
    program = lower(graph, cores()["cortex-m4"], "net")
    assert [s.kernel for s in program.steps] == [*["map", "value_pool"] * 4, "concat", "store"]
    assert program.arena_bytes == program.arena_bound < 2 * maps[0].y.size * 4


def test_what_a_pool_drops_is_never_stored() -> None:
    """A convolution of 3 x 3 behind another, pooled 2 x 2: two rows of its output are kept, and its last column is not computed."""
    r = np.random.default_rng(3)
    net = Net(r, (1, 17, 15))
    x = net.sign(net.node("Conv", net.normalise(), net.weight((32, 1, 3, 3))), "ge_where")
    x = net.sign(net.node("Conv", x, net.weight((40, 32, 3, 3))), "ge_where")
    net.outputs = [net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])]
    c = bnncc.compile(net.model(), name="net", kernel="binary_conv")
    first, second, _ = c.program.steps
    assert second.then is not None
    assert second.then.kernel == "bit_pool"
    assert second.op.conv.y.shape == (40, 12, 10)
    rows = c.program.buffer("step1:rows")
    assert rows.bytes == 2 * 10 * 2 * 4
    inputs, pooled = c.program.buffer(first.op.y.name), c.program.buffer(second.op.y.name)
    scratch = sum(c.program.buffer(f"step1:{name}").bytes for name, _, _ in second.parts.scratch)
    assert load(c.program, second) == inputs.bytes + pooled.bytes + scratch
    assert c.program.arena_bytes == c.program.arena_bound
    assert c.verify(samples=8).ok


PICTURE = """\
arena 2,396 bytes, which is its lower bound; a column is 37.4 bytes
o output, * output in an input's place, i input, s scratch, - kept for a later step
step     bytes  0                                                          2,396
   0     2,376 |ooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooosss| real_conv
   1     2,376 |iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiooo| threshold
   2     2,396 |*************************************************************iis| binary_conv  peak
   3     2,376 |iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiooo| threshold
   4     2,396 |*************************************************************iis| binary_conv  peak
   5     2,304 |iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii  | store"""


def test_the_picture() -> None:
    program = residual().program
    assert "\n".join(picture(program)) == PICTURE
    assert max(load(program, s) for s in program.steps) == program.arena_bytes


def test_no_line_is_longer_than_a_page() -> None:
    wide = bnncc.compile(Path(__file__).parents[1] / "examples" / "digits" / "digits.onnx")
    assert all(len(line) <= 100 for line in picture(wide.program))
