"""The compiler's cycle prediction against the simulator, and how its coefficients are fitted and written."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bnncc.graph import Exits, Graph, Output
from bnncc.kernels import KERNELS
from bnncc.kernels.base import cost
from bnncc.ops import Reshape, Softmax
from bnncc.scalar import step
from bnncc.sim import calibrate
from bnncc.sim.calibrate import Fit, Sample, fit, measure_graph, non_negative_least_squares, replace_costs
from bnncc.sim.layers import Layers
from bnncc.target import cores
from bnncc.tensor import Elem

M4 = cores()["cortex-m4"]


def layers(elem: Elem, shape: tuple[int, int, int]) -> Layers:
    return Layers(np.random.default_rng(7), elem, shape)


def binary() -> Graph:
    g = layers(Elem.U8, (48, 10, 10))
    x = g.binary()
    g.pool(g.conv(x, 40, 3, pad=1), 2, 2)
    g.sum(x)
    g.map(x, ("mul", "add"))
    return g.graph()


def dense() -> Graph:
    g = layers(Elem.I8, (320, 1, 1))
    g.conv(g.conv(g.binary(), 96, 0), 10, 0, bits=False)
    return g.graph()


def image() -> Graph:
    g = layers(Elem.U8, (3, 14, 14))
    g.conv(g.input, 24, 3, pad=1)
    g.pool(g.input, 2, 2)
    return g.graph()


def real() -> Graph:
    """Real weights and epilogues; the costs of their steps are those of map."""
    g = layers(Elem.F32, (20, 9, 9))
    g.conv(g.input, 14, 3, pad=1, bits=False, storage="f32")
    g.conv(g.input, 20, 3, groups=20, bits=False, storage="i8")
    x = g.binary()
    y = g.conv(x, 20, 3, bits=False)
    conv = g.ops[-1]
    constants = np.linspace(0.5, 2, 20)
    steps = (step("mul", constants), step("add", constants), step("max", 0), step("min", 6))
    g.ops[-1] = replace(conv, y=replace(y, elem=Elem.F32), steps=steps)
    g.outputs[-1] = Output(y.name, (1, *y.shape), g.ops[-1].y)
    g.conv(x, 20, 3, groups=5, bits=False)
    return g.graph()


def norms() -> Graph:
    g = layers(Elem.I8, (48, 4, 4))
    g.norms(g.input, features=False)
    g.add(Softmax(x=g.map(g.input, ("mul",)), y=g.new(Elem.F32, g.shape)))
    g.combine([g.input, g.input])
    g.window_sum(g.input, 3, 1, 1)
    x = g.map(g.input, ("min",))
    g.add(Reshape(x=x, y=g.like(x, (x.size, 1, 1))))
    return g.graph()


def logits() -> Graph:
    g = layers(Elem.I8, (60, 1, 1))
    g.store(g.input, ("mul", "add"))
    g.outputs[0] = replace(g.outputs[0], shape=(1, 60))
    return g.graph()


def exits() -> Graph:
    g = layers(Elem.I8, (12, 1, 1))
    scale = (step("mul", 0.02),)
    g.outputs = [Output(name, (1, 12), g.input, scale) for name in ("early", "late")]
    return g.graph(Exits((0, 1), 0.0))


@pytest.mark.parametrize(
    ("graph", "forced", "kernels"),
    [
        (binary(), None, {"binary_conv", "bit_pool", "threshold", "sum", "map", "store"}),
        (dense(), "binary_dense", {"binary_dense"}),
        (image(), "table_conv", {"table_conv", "value_pool"}),
        (image(), "value_conv", {"value_conv"}),
        (real(), None, {"real_conv", "binary_conv", "grouped_conv"}),
        (norms(), None, {"normalize", "norm_sign", "softmax", "combine", "window_sum", "move"}),
        (logits(), None, {"store", "classify"}),
        (exits(), None, {"exit"}),
    ],
    ids=["binary", "dense", "table", "value", "real", "norms", "logits", "exits"],
)
def test_prediction_is_within_30_percent_of_the_simulator(graph: Graph, forced: str | None, kernels: set[str]) -> None:
    samples = measure_graph(graph, M4, forced, np.random.default_rng(8))
    assert kernels <= {s.kernel for s in samples}
    for s in samples:
        predicted = sum(cost(M4.cost, s.kernel, part) * times for part, times in s.work.items())
        assert predicted == pytest.approx(s.spent, rel=0.3), s


@pytest.mark.parametrize("outputs", [2, 32])
def test_a_window_is_unpacked_once_however_few_its_sums_are(outputs: int) -> None:
    g = layers(Elem.U8, (64, 8, 8))
    g.conv(g.binary(), outputs, 1, bits=False)
    spent = {s.kernel: (s.work, s.spent) for s in measure_graph(g.graph(), M4, "sbs_conv", np.random.default_rng(8))}
    work, cycles = spent["sbs_conv"]
    predicted = sum(cost(M4.cost, "sbs_conv", part) * times for part, times in work.items())
    assert predicted == pytest.approx(cycles, rel=0.1)
    assert cycles < 64 * 2200  # a pixel; bit by bit, unpacking alone took 1,700


def test_one_kernel_is_fitted_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From every program that has it: none is forced to concatenate."""
    g = layers(Elem.I8, (12, 3, 3))
    g.moves(g.map(g.input, ("min",), to=Elem.I8))
    monkeypatch.setattr(calibrate, "programs", lambda _: [(binary(), None), (g.graph(), "move")])
    monkeypatch.setattr(calibrate, "SHAPES", ())
    calibrate.main(["--target", "cortex-m4", "--kernel", "concat"])
    assert re.search(r"concat +2 .*\d%", capsys.readouterr().out)


def test_every_core_has_the_same_cost_tables() -> None:
    common = {k.name for k in KERNELS if not (k.mve or k.dsp)}
    keys = {n: {k: set(table) for k, table in c.cost.items() if k in common} for n, c in cores().items()}
    assert all(k == keys["cortex-m4"] for k in keys.values())


def test_least_squares_without_a_bound_is_exact() -> None:
    a = np.array([[1.0, 0, 2], [0, 3, 1], [4, 1, 0], [1, 1, 1]])
    assert non_negative_least_squares(a, a @ [1.0, 2, 3]) == pytest.approx([1, 2, 3])


def test_least_squares_stops_at_zero() -> None:
    a = np.array([[1.0, 1], [1, 2], [1, 3]])
    assert non_negative_least_squares(a, np.array([3.0, 2, 1])) == pytest.approx([2, 0])  # unbounded: [4, -1]


def test_a_fit_recovers_the_coefficients() -> None:
    made = fit([Sample("k", {"call": 1, "loop": n}, 50 + 7 * n) for n in (10, 100, 1000)], "k")
    assert made.coefficients == pytest.approx({"call": 50, "loop": 7})
    assert np.abs(made.errors).max() < 1e-6


def test_a_layer_counts_by_its_weight() -> None:
    once = [Sample("k", {"loop": 1}, 1), Sample("k", {"loop": 1}, 2, weight=3)]
    again = [once[0], *3 * [replace(once[1], weight=1)]]
    assert fit(once, "k").coefficients == pytest.approx(fit(again, "k").coefficients)
    assert len(fit(once, "k").errors) == 2


def test_kernels_with_the_same_loops_share_their_coefficients() -> None:
    samples = [Sample("binary_conv", {"pixel": n, "word": 3 * n}, 8 * n) for n in (10, 100)]
    samples += [Sample("binary_dense", {"word": n}, 2.2 * n) for n in (10, 100)]
    conv, dense = fit(samples, "binary_conv"), fit(samples, "binary_dense")
    assert set(dense.coefficients) == {"word"}
    assert conv.coefficients["word"] == dense.coefficients["word"]
    assert len(dense.errors) == 2


def test_writing_replaces_the_costs_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = calibrate.folder("targets") / "cores" / "cortex-m7.toml"
    copy = tmp_path / "cores" / source.name
    copy.parent.mkdir()
    copy.write_text(source.read_text())
    monkeypatch.setattr(calibrate, "folder", lambda _: tmp_path)
    monkeypatch.setattr(calibrate, "fit_core", lambda *_: {"sum": Fit({"call": 1.5}, np.array([0.1, -0.3]))})
    calibrate.main(["--target", "cortex-m7"])
    assert copy.read_text() == source.read_text()
    calibrate.main(["--target", "cortex-m7", "--write"])
    before, after = tomllib.loads(source.read_text()), tomllib.loads(copy.read_text())
    assert after["cost"] == {**before["cost"], "sum": {"call": 1.5, "margin": 0.429}}  # 1 / (1 - 0.3)
    assert {**before, "cost": None} == {**after, "cost": None}
    assert source.read_text().split("\n[timing]")[1] == copy.read_text().split("\n[timing]")[1]
    assert "dual issue is not modelled" in copy.read_text().split("[cost.")[0]
    assert "20.0%  30.0%" in capsys.readouterr().out


def test_replacing_costs_keeps_what_follows() -> None:
    heading = "# Cycles of each kernel's loops: "
    text = f"a = 1\n\n{heading}old\n\n[cost.sum]\ncall = 1\n\n[cost.map]\nadd = 2\n\n# what follows\n[timing]\n"
    new = replace_costs(text, [f"{heading}new", "# fitted\n[cost.sum]\ncall = 3"])
    assert (
        new
        == f"a = 1\n\n{heading}new\n\n# fitted\n[cost.sum]\ncall = 3\n\n[cost.map]\nadd = 2\n\n# what follows\n[timing]\n"
    )
