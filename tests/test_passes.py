"""Every pass keeps the meaning: the numpy reference before and after it agrees exactly, on random networks and corners."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto as T

import bnncc
from bnncc.frontend.importer import import_model
from bnncc.graph import Graph, check
from bnncc.ops import Conv, Map, MaxPool, Sign, Upsample
from bnncc.passes import PASSES, run_passes
from bnncc.scalar import Operand, Step, step
from bnncc.tensor import Elem, Op, Tensor
from tests.nets import FAMILIES, Net, finish, random_net, small_net


def samples(graph: Graph, count: int = 6) -> np.ndarray:
    r = np.random.default_rng(0)
    t = graph.input
    size = (count, *t.shape)
    return r.normal(size=size).astype(np.float32) if t.elem is Elem.F32 else r.integers(t.lo, t.hi + 1, size)


def outputs(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    return {k: v for k, v in graph.run(x).items() if k.startswith("output:")}


def stages(graph: Graph) -> list[tuple[str, Graph]]:
    seen: list[tuple[str, Graph]] = []
    run_passes(graph, lambda name, g: seen.append((name, g)))
    return seen


def agree(graph: Graph, x: np.ndarray) -> Graph:
    """Run every stage on x; all give the same outputs. Returns the last graph."""
    seen = stages(graph)
    want = outputs(graph, x)
    for name, g in seen:
        check(g)
        for k, v in outputs(g, x).items():
            assert np.array_equal(v, want[k]), f"{k} differs after {name}"
    return seen[-1][1]


@pytest.mark.parametrize("number", range(2 * len(FAMILIES)))
def test_random_networks(number: int) -> None:
    """Two of each family; ternary signs are given a value at zero, so that none is refused."""
    net = random_net(number, family=FAMILIES[number // 2])
    at_zero = 1 if number % 2 else -1
    imported = import_model(net.model(), net.options.get("input"), sign_at_zero=at_zero)
    last = agree(imported.graph, samples(imported.graph))
    assert not any(isinstance(op, Sign) for op in last.ops)
    assert [name for name, _ in stages(imported.graph)] == ["import", *(p.__name__ for p in PASSES)]
    assert not any(
        isinstance(op, MaxPool) and op.x.elem is not Elem.BIN and isinstance(last.sole_user(op.y), Sign)
        for op in last.ops
    )


def bits(name: str, shape: tuple[int, int, int]) -> Tensor:
    return Tensor(name, Elem.BIN, shape, -1, 1, 2)


def chain(*ops: Op, shape: tuple[int, int, int] = (4, 6, 6)) -> Graph:
    """A graph that reads int8 images and outputs the last op's tensor."""
    from bnncc.graph import Output

    last = ops[-1].y
    return Graph(Tensor("x", Elem.I8, shape, -128, 127), ops, (Output("out", (1, *last.shape), last),))


INPUT = Tensor("x", Elem.I8, (4, 6, 6), -128, 127)


def mapped(x: Tensor, name: str, *steps: object) -> Map:
    return Map(x=x, y=Tensor(name, Elem.F32, x.shape), steps=tuple(steps))


def pooled(x: Tensor, name: str, **given: object) -> MaxPool:
    c, h, w = x.shape
    y = Tensor(name, x.elem, (c, h // 2, w // 2), x.lo, x.hi, x.stride)
    return MaxPool(x=x, y=y, kernel=(2, 2), strides=(2, 2), **given)


@pytest.mark.parametrize("at_zero", [1, -1])
@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("operation", ["mul", "div", "rsub", "sub", "max", "min"])
def test_sinking_a_pool_past_falling_steps(operation: str, negate: bool, at_zero: int) -> None:
    """sign(g(max x)) is OR or AND over sign(g(x)), by channel; zero and negative constants among them."""
    value = [3.0, -2.0, 0.5, -0.25]
    first = pooled(INPUT, "p")
    scaled = mapped(
        first.y, "m", step(operation, value), step("mul", [1.0, -1.0, 0.0, -0.0]), step("add", [5.0, -5.0, 1.0, -1.0])
    )
    sign = Sign(x=scaled.y, y=bits("s", scaled.y.shape), at_zero=at_zero, negate=negate)
    graph = chain(first, scaled, sign)
    last = agree(graph, samples(graph, 40))
    assert isinstance(last.ops[-1], MaxPool)
    assert last.ops[-1].x.elem is Elem.BIN


@pytest.mark.parametrize("operation", ["mul", "div", "rsub", "max", "prelu"])
def test_values_are_pooled_before_arithmetic(operation: str) -> None:
    """max(g(x)) is g(max x), or g(min x) where g falls; zero and negative constants among them."""
    value = [3.0, 2.0, 0.5, 0.25] if operation == "prelu" else [3.0, -2.0, 0.5, -0.25]
    scaled = mapped(
        INPUT, "m", step("mul", [1.0, -1.0, 0.0, -0.5]), step(operation, value), step("add", [5.0, -5, 1, 9])
    )
    graph = chain(scaled, pooled(scaled.y, "p"))
    last = agree(graph, samples(graph, 40))
    assert [op.y.elem for op in last.ops] == [Elem.I8]
    assert isinstance(last.ops[0], MaxPool)
    assert len(last.outputs[0].steps) == 3


def test_steps_that_repeat_the_one_before_are_left_out() -> None:
    relu = step("max", 0.0)
    maps = [mapped(INPUT, "m0", step("mul", 0.01), step("add", [1.0, -1.0, 0.0, 2.0]), relu)]
    for k in range(1, 40):
        maps.append(mapped(maps[-1].y, f"m{k}", relu))
    maps.append(
        mapped(maps[-1].y, "last", step("max", 0.5), Step("round"), Step("round"), step("mul", 2.0), step("mul", 2.0))
    )
    graph = chain(*maps)
    last = agree(graph, samples(graph, 40))
    assert [s.operation for s in last.outputs[0].steps] == ["mul", "add", "max", "max", "round", "mul", "mul"]


@pytest.mark.parametrize("last_step", [Step("tanh"), Step("abs"), step("add", np.arange(144.0).reshape(4, 6, 6))])
def test_arithmetic_that_does_not_keep_the_order_comes_before_the_pool(last_step: Step) -> None:
    scaled = mapped(INPUT, "m", step("mul", 0.01), last_step)
    graph = chain(scaled, pooled(scaled.y, "p"))
    last = agree(graph, samples(graph, 40))
    assert [type(op).__name__ for op in last.ops] == ["Map", "MaxPool"]


def test_what_no_window_reaches_is_not_computed() -> None:
    """Convolutions of which a pool, and the first one's second, leave out the last row and column."""
    r = np.random.default_rng(0)
    source = Tensor("x", Elem.I8, (2, 9, 10), -128, 127)
    weight = r.choice([-1, 1], (3, 2, 2, 2)).astype(np.int8)
    first = Conv(x=source, y=Tensor("a", Elem.I16, (3, 8, 9), -1024, 1024), weight=weight, kernel=(2, 2))
    sign = Sign(x=first.y, y=bits("s", (3, 8, 9)), at_zero=1)
    weight = r.choice([-1, 1], (4, 3, 3, 3)).astype(np.int8)
    y = Tensor("b", Elem.I8, (4, 5, 5), -27, 27)
    second = Conv(x=sign.y, y=y, weight=weight, kernel=(3, 3), pads=(0, 1, 1, 1), strides=(1, 2), pad_value=-1)
    again = Sign(x=second.y, y=bits("t", y.shape), at_zero=1)
    graph = chain(first, sign, second, again, pooled(again.y, "p"))
    last = agree(replace(graph, input=source), samples(replace(graph, input=source), 40))
    assert [op.y.shape for op in last.ops] == [(3, 6, 8), (4, 4, 4), (4, 2, 2)]


def test_bits_are_upsampled() -> None:
    up = Upsample(x=INPUT, y=Tensor("u", Elem.I8, (4, 12, 18), -128, 127), factors=(2, 3))
    scaled = mapped(up.y, "m", step("mul", [2.0, -1.0, 0.5, 0.0]), step("add", [0.5, 1.0, -2.0, -0.5]))
    sign = Sign(x=scaled.y, y=bits("s", scaled.y.shape), at_zero=1)
    graph = chain(up, scaled, sign)
    last = agree(graph, samples(graph, 40))
    assert [type(op).__name__ for op in last.ops] == ["Threshold", "Upsample"]


def test_arithmetic_that_differs_between_pixels_stays_behind_the_upsampling() -> None:
    up = Upsample(x=INPUT, y=Tensor("u", Elem.I8, (4, 12, 12), -128, 127), factors=(2, 2))
    graph = chain(up, mapped(up.y, "m", step("add", np.arange(576.0).reshape(4, 12, 12))))
    assert isinstance(agree(graph, samples(graph)).ops[0], Upsample)


def test_two_pools_in_a_row_both_sink() -> None:
    first = pooled(INPUT, "p")
    second = MaxPool(x=first.y, y=Tensor("q", Elem.I8, (4, 1, 1), -128, 127), kernel=(3, 3), strides=(1, 1))
    sign = Sign(x=second.y, y=bits("s", (4, 1, 1)), at_zero=1)
    graph = chain(first, second, sign)
    last = agree(graph, samples(graph, 40))
    assert [type(op).__name__ for op in last.ops] == ["Threshold", "MaxPool", "MaxPool"]


def test_a_pool_with_another_reader_stays() -> None:
    first = pooled(INPUT, "p")
    sign = Sign(x=first.y, y=bits("s", first.y.shape), at_zero=1)
    graph = chain(first, mapped(first.y, "m", step("add", 1.0)), sign)
    last = agree(Graph(graph.input, graph.ops, (*graph.outputs, chain(first).outputs[0])), samples(graph))
    assert any(isinstance(op, MaxPool) and op.x.elem is Elem.I8 for op in last.ops)


def test_steps_that_differ_between_pixels_stay_behind_the_pool() -> None:
    first = pooled(INPUT, "p")
    added = mapped(first.y, "m", step("add", np.arange(36.0).reshape(4, 3, 3) * 5))
    sign = Sign(x=added.y, y=bits("s", added.y.shape), at_zero=1)
    graph = chain(first, added, sign)
    last = agree(graph, samples(graph, 40))
    assert isinstance(last.ops[0], MaxPool)


def test_a_map_that_feeds_an_output_and_a_sign() -> None:
    added = mapped(INPUT, "m", step("add", 3.0))
    again = mapped(added.y, "n", step("mul", -2.0))
    sign = Sign(x=again.y, y=bits("s", again.y.shape), at_zero=-1)
    graph = chain(added, again, sign)
    two = Graph(graph.input, graph.ops, (*graph.outputs, *chain(added, again).outputs[:1]))
    last = agree(two, samples(two))
    assert len(last.outputs[1].steps) == 2
    assert [type(op).__name__ for op in last.ops] == ["Threshold"]


def test_sums_of_which_float32_is_made_anyway_are_not_stored() -> None:
    """conv - normalisation - sign, and the normalised values are added later: the sign reads those, not the sums."""
    r = np.random.default_rng(0)
    weight = r.choice([-1, 1], (4, 4, 1, 1)).astype(np.int8)
    conv = Conv(x=INPUT, y=Tensor("a", Elem.I16, INPUT.shape, -512, 512), weight=weight, kernel=(1, 1))
    scaled = mapped(conv.y, "m", step("mul", [2.0, -1.0, 0.5, 0.25]), step("add", [0.5, 1.0, -2.0, -0.3]))
    sign = Sign(x=scaled.y, y=bits("s", scaled.y.shape), at_zero=1)
    second = Conv(x=sign.y, y=Tensor("b", Elem.I8, INPUT.shape, -4, 4), weight=weight, kernel=(1, 1))
    total = Map(
        x=second.y, y=Tensor("t", Elem.F32, INPUT.shape), steps=(Operand("add", 0),), others=(scaled.y,), origin=("t",)
    )
    graph = chain(conv, scaled, sign, second, total)
    last = agree(graph, samples(graph, 20))
    assert [(type(op).__name__, op.y.elem) for op in last.ops] == [
        ("Conv", Elem.F32),
        ("Threshold", Elem.BIN),
        ("Conv", Elem.F32),
    ]


def test_a_convolution_that_is_also_an_output_keeps_its_accumulator() -> None:
    net, x = small_net()
    acc = net.node("Conv", x, net.weight((6, 9, 2, 2)))
    net.outputs = [acc, net.sign(net.batch_norm(acc), "ge_where")]
    graph = import_model(net.model()).graph
    last = agree(graph, samples(graph))
    assert sum(isinstance(op, Conv) and op.cut is None for op in last.ops) == 1


def test_origins_are_joined_and_named_once() -> None:
    net, x = small_net()
    program = bnncc.compile(finish(net, x).model(), name="net").program
    origin = program.steps[0].op.origin
    assert len(set(origin)) == len(origin)
    assert any("Conv" in o for o in origin)
    assert any("BatchNormalization" in o for o in origin)


def broken(graph: Graph, **change: object) -> Graph:
    op = graph.ops[0]
    return graph.with_ops([type(op)(**{**op.__dict__, **change}), *graph.ops[1:]])


@pytest.mark.parametrize(
    "change",
    [
        {"x": Tensor("nowhere", Elem.U8, (2, 6, 6))},
        {"y": Tensor("x", Elem.I32, (9, 4, 4))},
        {"y": Tensor("y", Elem.BIN, (9, 4, 4))},
        {"weight": np.zeros((9, 2, 3, 3), np.int8)},
        {"weight": np.ones((8, 2, 3, 3), np.int8)},
    ],
)
def test_the_invariants_notice_a_broken_graph(change: dict[str, object]) -> None:
    net = Net(np.random.default_rng(0), (2, 6, 6), T.UINT8)
    net.outputs = [net.node("Conv", net.node("Cast", "x", to=T.FLOAT), net.weight((9, 2, 3, 3)))]
    graph = import_model(net.model()).graph
    check(graph)
    with pytest.raises(AssertionError):
        check(broken(graph, **change))
