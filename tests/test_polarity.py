"""Rare ones: negating channels changes no output, bits are the negative where the tensor says so, densities are what runs give."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto as T

import bnncc
from bnncc.frontend.importer import import_model
from bnncc.graph import Graph, Output
from bnncc.kernels import KERNELS
from bnncc.ops import Concat, Conv, Map, MaxPool, NormSign, Pad, Reshape, Slice, Threshold, Transpose, Upsample
from bnncc.passes import run_passes
from bnncc.passes.polarity import make_ones_rare, measure_densities
from bnncc.scalar import Cut, step
from bnncc.target import cores
from bnncc.tensor import Elem, Op, Tensor, bits
from tests.kernels.ops import MAKERS
from tests.nets import FAMILIES, Net, random_net

IMAGES = Tensor("x", Elem.I8, (4, 6, 6), -128, 127)


def images(count: int = 8) -> np.ndarray:
    return np.random.default_rng(1).integers(-128, 128, (count, *IMAGES.shape))


def agree(graph: Graph, x: np.ndarray) -> Graph:
    """Calibrates on x and runs before and after on it; returns the graph with rare ones."""
    calibration = measure_densities(graph, x)
    rare = make_ones_rare(graph, calibration)
    before, after = graph.run(x), rare.run(x)
    for op in rare.ops:
        assert np.array_equal(after[op.y.name], before[op.y.name] * op.y.signs, equal_nan=True), op.y.name
    for o in graph.outputs:
        assert np.array_equal(after[f"output:{o.name}"], before[f"output:{o.name}"], equal_nan=True)
    found = measure_densities(rare, x).densities
    work = Counter[str]()
    for op in rare.ops:
        if isinstance(op, Conv) and op.of_bits:
            assert op.density == pytest.approx(found[op.y.name].mean())
            work.update(before=op.macs * calibration.densities[op.y.name].mean(), after=op.macs * op.density)
    assert work["after"] <= work["before"] * (1 + 1e-9)
    return rare


def rare_ones(number: int, family: str) -> Graph:
    net = random_net(number, family=family)
    imported = import_model(net.model(), net.options.get("input"), sign_at_zero=1)
    graph = run_passes(imported.graph)
    return agree(graph, graph.input.from_reference({graph.input.twin: net.x}))


@pytest.mark.parametrize("family", FAMILIES)
def test_random_networks(family: str) -> None:
    for number in range(4):
        rare_ones(number, family)


def test_channels_are_negated_through_every_op() -> None:
    """Among random networks, by what makes the bits."""
    ops = [
        op for family in ("shuffle", "layernorm", "mixed", "tf") for k in range(8) for op in rare_ones(k, family).ops
    ]
    makers = Counter(type(op) for op in ops if op.y.negated)
    assert set(makers) >= {Conv, Threshold, NormSign, MaxPool, Concat}


def threshold(x: Tensor, name: str, levels: list[int]) -> Threshold:
    return Threshold(x=x, y=bits(name, x.shape), cut=Cut(np.array([levels]), np.zeros((1, len(levels)), bool)))


def dense(x: Tensor, name: str, **given: object) -> Conv:
    weight = np.random.default_rng(2).choice([-1, 1], (3, *x.shape)).astype(np.int8)
    return Conv(x=x, y=Tensor(name, Elem.I32, (3, 1, 1), -x.size, x.size), weight=weight, kernel=x.shape[1:], **given)


MOSTLY = [-128, 100, -50, 60]  # the levels of channels that are mostly +1, -1, +1, -1


def with_outputs(*ops: Op, outputs: tuple[Tensor, ...] = ()) -> Graph:
    chosen = outputs or (ops[-1].y,)
    return Graph(IMAGES, ops, tuple(Output(t.name, (1, *t.shape), t) for t in chosen))


def moves(x: Tensor) -> list[Op]:
    c, h, w = x.shape
    return [
        Slice(x=x, y=bits("y", (2, h, w)), start=(1, 0, 0)),
        Upsample(x=x, y=bits("y", (c, 2 * h, w)), factors=(2, 1)),
        Reshape(x=x, y=bits("y", (c * h * w, 1, 1))),
        Transpose(x=x, y=bits("y", (c, w, h)), axes=(0, 2, 1)),
        MaxPool(x=x, y=bits("y", (c, 3, 3)), kernel=(2, 2), strides=(2, 2), minimum=(False, True, False, True)),
        Concat(x=x, others=(x,), y=bits("y", (2 * c, h, w))),
    ]


@pytest.mark.parametrize("number", range(6))
def test_moves_carry_the_polarity_along(number: int) -> None:
    first = threshold(IMAGES, "b", MOSTLY)
    move = moves(first.y)[number]
    rare = agree(with_outputs(first, move, dense(move.y, "d")), images())
    expected = (2,) if isinstance(move, Slice) else (0, 2)
    if not isinstance(move, MaxPool):
        assert rare.ops[0].y.negated == expected
    assert rare.ops[1].y.negated
    assert rare.ops[2].density < 0.5  # type: ignore[attr-defined]


def test_channels_that_meet_are_negated_together() -> None:
    """Behind a transposition that makes pixels of channels, one channel holds bits of all."""
    first = threshold(IMAGES, "b", [-128, -100, -50, 60])
    turned = Transpose(x=first.y, y=bits("y", (6, 4, 6)), axes=(1, 0, 2))
    rare = agree(with_outputs(first, turned, dense(turned.y, "d")), images())
    assert rare.ops[0].y.negated == (0, 1, 2, 3)
    assert rare.ops[1].y.negated == tuple(range(6))


def test_groups_and_real_weights_compensate() -> None:
    first = threshold(IMAGES, "b", MOSTLY)
    r = np.random.default_rng(3)
    grouped = Conv(
        x=first.y,
        y=Tensor("g", Elem.I8, (6, 6, 6), -18, 18),
        weight=r.choice([-1, 1], (6, 2, 3, 3)).astype(np.int8),
        kernel=(3, 3),
        pads=(1, 1, 1, 1),
        groups=2,
    )
    real = Conv(
        x=first.y, y=Tensor("r", Elem.F32, (5, 6, 6)), weight=r.normal(size=(5, 4, 1, 1)).astype("f4"), kernel=(1, 1)
    )
    rare = agree(with_outputs(first, grouped, real, outputs=(grouped.y, real.y)), images())
    assert rare.ops[0].y.negated == (0, 2)


@pytest.mark.parametrize("pad_value", [-1, 1])
def test_padding_is_negated_too(pad_value: int) -> None:
    first = threshold(IMAGES, "b", MOSTLY)
    conv = Conv(
        x=first.y,
        y=Tensor("y", Elem.I8, (5, 6, 6), -36, 36),
        kernel=(3, 3),
        pads=(1, 1, 1, 1),
        pad_value=pad_value,
        weight=np.random.default_rng(5).choice([-1, 1], (5, 4, 3, 3)).astype(np.int8),
    )
    rare = agree(with_outputs(first, conv), images())
    assert rare.ops[0].y.negated == (0, 2)
    assert rare.ops[1].padding.tolist() == [-pad_value, pad_value, -pad_value, pad_value]  # type: ignore[attr-defined]


def readers(x: Tensor) -> list[tuple[Op, ...]]:
    """What cannot take negated bits."""
    same = {"kernel": (3, 3), "pads": (1, 1, 1, 1), "weight": np.ones((4, 1, 3, 3), np.int8)}
    framed = Pad(x=x, y=bits("y", (4, 8, 8)), before=(0, 1, 1), value=-1)
    wide = Concat(x=x, others=(IMAGES,), y=Tensor("y", Elem.I8, (8, 6, 6), -128, 127))
    return [
        (Map(x=x, y=Tensor("y", Elem.F32, x.shape), steps=(step("add", 1.0),)),),
        (Conv(x=x, y=Tensor("y", Elem.I8, (4, 6, 6), -9, 9), pad_value=1, groups=4, **same),),  # type: ignore[arg-type]
        (framed, dense(framed.y, "z")),
        (wide,),
    ]


@pytest.mark.parametrize("number", range(4))
def test_other_readers_keep_the_polarity(number: int) -> None:
    first = threshold(IMAGES, "b", MOSTLY)
    reader = readers(first.y)[number]
    last = dense(first.y, "d")
    rare = agree(with_outputs(first, *reader, last, outputs=(reader[-1].y, last.y)), images())
    assert not any(op.y.negated for op in rare.ops)
    assert rare.ops[-1].density == pytest.approx(0.5, abs=0.2)  # type: ignore[attr-defined]


def test_bits_that_are_an_output_keep_their_polarity() -> None:
    first = threshold(IMAGES, "b", MOSTLY)
    last = dense(first.y, "d")
    assert not agree(with_outputs(first, last, outputs=(first.y, last.y)), images()).ops[0].y.negated


def test_the_density_is_that_of_the_windows() -> None:
    """A pixel of the border is in fewer windows, padding in none."""
    x = images(1)
    x[:] = 0
    x[:, :, 0, 0] = 1
    first = threshold(IMAGES, "b", [1, 1, 1, 1])
    conv = Conv(
        x=first.y,
        y=Tensor("y", Elem.I8, (1, 6, 6), -36, 36),
        kernel=(3, 3),
        pads=(1, 1, 1, 1),
        weight=np.ones((1, 4, 3, 3), np.int8),
    )
    (density,) = measure_densities(with_outputs(first, conv), x).densities.values()
    assert density == pytest.approx(np.full(4, 4 / 16**2))


def test_many_samples_are_taken_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    first = threshold(IMAGES, "b", MOSTLY)
    graph = with_outputs(first, dense(first.y, "d"))
    at_once = measure_densities(graph, images(50))
    sizes = []
    run = Graph.run
    monkeypatch.setattr(Graph, "run", lambda g, x: sizes.append(len(x)) or run(g, x))
    monkeypatch.setattr("bnncc.passes.polarity.BATCH_VALUES", 7 * (144 + 144 + 3))
    in_batches = measure_densities(graph, images(50))
    assert sizes == [7] * 7 + [1]
    assert at_once.samples == in_batches.samples == 50
    assert np.array_equal(at_once.densities["d"], in_batches.densities["d"])


def skewed() -> tuple[Net, np.ndarray]:
    """A network whose bits are nearly all +1 in every layer, with its calibration data."""
    net = Net(np.random.default_rng(4), (2, 8, 8), T.UINT8)
    x = net.normalise()
    for given, made in ((2, 16), (16, 40), (40, 64)):
        x = net.node("Conv", x, net.weight((made, given, 3, 3)), pads=[1, 1, 1, 1])
        x = net.sign(net.node("Add", net.batch_norm(x), net.const(1.2)), "ge_where")
    net.outputs.append(net.node("Gemm", net.node("Flatten", x), net.weight((5, 64 * 64)), transB=1))
    return net, net.x


def test_rare_ones_are_faster_and_verified() -> None:
    net, x = skewed()
    plain, rare = bnncc.compile(net.model()), bnncc.compile(net.model(), calibrate=x)
    assert rare.verify(x).ok
    before, after = plain.report, rare.report
    assert after["totals"]["cycles"] < 0.8 * before["totals"]["cycles"]
    assert before["calibration"] is None
    assert after["calibration"] == {"samples": len(x)}
    layers = [r for r in after["layers"] if r["density"] is not None]
    assert len(layers) == 3
    for row in layers:
        assert row["density_before"] > 0.7
        assert row["density"] < 0.3
        assert row["negated_channels"] > 10
    assert {r["density"] for r in before["layers"]} == {None, 0.5}
    assert {r["density_before"] for r in before["layers"]} == {None}
    assert "channels negated" in rare.files[f"{rare.name}.c"]
    worst = [r for r in after["layers"] if r["worst_cycles"] is not None]
    assert any(r["kernel"] == "sbs_conv" for r in worst)
    assert all(r["worst_cycles"] > r["cycles"] for r in worst)
    costs = cores()["cortex-m4"].cost
    bounds = [r["worst_cycles"] or r["cycles"] * (1 + costs[r["kernel"]]["margin"]) for r in after["layers"]]
    assert after["totals"]["worst_cycles"] == pytest.approx(sum(bounds), abs=len(bounds))


def test_verification_judges_the_negated_bits() -> None:
    """If a tensor were not what it says, its step would fail."""
    net, x = skewed()
    rare = bnncc.compile(net.model(), calibrate=x)
    step_ = next(s for s in rare.program.steps if s.op.y.negated)
    wrong = replace(step_, op=replace(step_.op, y=replace(step_.op.y, negated=())))
    steps = tuple(wrong if s is step_ else s for s in rare.program.steps)
    other = bnncc.Compiled(rare.name, rare.target, rare.imported, replace(rare.program, steps=steps), rare.files)
    verdict = other.verify(x)
    assert not verdict.ok
    assert [v.step for v in verdict.steps if v.mismatches] == [step_.index]


def test_worst_is_a_bound() -> None:
    """Of the work at any density; every part of it has a cost."""
    rng = np.random.default_rng(6)
    for kernel in (k for k in KERNELS if k.worst):
        for _ in range(100):
            op = MAKERS[kernel.name](rng)
            if kernel.refuses(op):
                continue
            assert kernel.worst is not None
            most = kernel.worst(op)
            for density in np.linspace(0, 1, 21):
                work = kernel.work(replace(op, density=density))
                assert all(work[part] <= most[part] * (1 + 1e-9) for part in work)
