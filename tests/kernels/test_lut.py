"""Tables of partial sums: full lanes, every division of a layer, and when the compiler takes them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bnncc
from bnncc.kernels.lut import MOST_TRIPLES, Places, Sums
from bnncc.lower import NO_LIMIT, Ram, lower
from bnncc.ops import Conv
from bnncc.scalar import Cut
from bnncc.sim.bench import SHAPES, Shape, layer
from bnncc.target import cores
from bnncc.tensor import Elem
from tests.kernels.bench import Case
from tests.kernels.ops import conv, inputs, tensor
from tests.kernels.test_kernels import HOST_CORE, run_all

LENET = Path(__file__).parents[2] / "examples" / "mnist" / "lenet5.onnx"


def layer_of(rng: np.random.Generator, channels: int, out: int, side: tuple[int, int], **given: object) -> Conv:
    """A convolution to bits, with random thresholds and some channels inverted."""
    g = {"kernel": (3, 3), "strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "pad_value": 0, **given}
    pad_value = g.pop("pad_value")
    span = [(k - 1) * d + 1 for k, d in zip(g["kernel"], g["dilations"], strict=True)]
    size = [(n + g["pads"][k] + g["pads"][k + 2] - span[k]) // g["strides"][k] + 1 for k, n in enumerate(side)]
    op = conv(rng, Elem.BIN, channels, out, {"size": side, "out": size, **g})
    spread = int(np.sqrt(op.taps)) + 1
    cut = Cut(rng.integers(-spread, spread + 1, (1, out)), rng.random((1, out)) < 0.3)
    y = tensor("y", Elem.BIN, op.y.shape)
    x = replace(op.x, negated=())
    weight = rng.choice(np.array([-1, 1], np.int8), op.weight.shape)
    return replace(op, x=x, y=y, cut=cut, steps=(), others=(), pad_value=pad_value, weight=weight)


def layers(rng: np.random.Generator) -> list[Conv]:
    """With all that divides them differently: rows, lookups of a column of the window, shared rows of tables."""
    pointwise = {"kernel": (1, 1), "pads": (0, 0, 0, 0)}
    return [
        layer_of(rng, 85, 33, (16, 3)),  # as many triples as fit
        layer_of(rng, 90, 5, (5, 4)),
        layer_of(rng, 7, 40, (33, 2)),
        layer_of(rng, 12, 20, (16, 3), kernel=(5, 5), pads=(2, 2, 2, 2), pad_value=1),
        layer_of(rng, 64, 70, (24, 3), **pointwise),
        layer_of(rng, 31, 32, (1, 20), kernel=(1, 5), pads=(0, 2, 0, 2)),
        layer_of(rng, 33, 10, (20, 7), strides=(2, 2), pad_value=-1),
        layer_of(rng, 10, 12, (18, 5), dilations=(2, 1), pads=(2, 1, 2, 1)),
    ]


@pytest.mark.parametrize("where", ["host", "cortex-m4"])
def test_every_division_of_a_layer(where: str, tmp_path: Path) -> None:
    """With random weights, to bits and to sums, and with all weights +1; all inputs -1 and all +1 are among the samples: then lanes
    are full."""
    rng = np.random.default_rng(1)
    ops = layers(rng)
    ops += [replace(op, cut=None, y=tensor("y", Elem.I32, op.y.shape)) for op in ops]
    ops += [replace(op, weight=np.ones_like(op.weight)) for op in ops]
    core = HOST_CORE if where == "host" else cores()[where]
    run_all([Case(op, "lut_conv", (inputs(rng, op.x),)) for op in ops], core, tmp_path, sim=where != "host")


def test_the_divisions_differ() -> None:
    ops = layers(np.random.default_rng(1))
    places = [Places.of(op) for op in ops]
    sums = [Sums.of(op, p.windows) for op, p in zip(ops, places, strict=True)]
    assert {(p.columns, p.passes > 1) for p in places} == {(1, False), (1, True), (2, False), (2, True)}
    assert max(s.triples for s in sums) == MOST_TRIPLES
    assert any(s.sets > op.kernel[1] for s, op in zip(sums, ops, strict=True))
    assert {p.words - p.windows.kernel[0] for p in places} == {0, 1, 2}  # words of an entry beside those of its rows
    assert any(p.windows.image[1:] != op.x.shape[1:] for p, op in zip(places, ops, strict=True))


C64 = next(s for s in SHAPES if s.name == "64-64")
ROOM = Ram(40_000, 40_000)


def chosen(core: str, ram: Ram, shape: Shape = C64) -> str:
    return lower(layer(shape, 0.5), cores()[core], "m", ram=ram).steps[1].kernel


def test_it_is_taken_where_a_budget_has_room() -> None:
    assert chosen("cortex-m4", ROOM) == "lut_conv"
    assert chosen("cortex-m4", NO_LIMIT) == "sbs_conv"
    assert chosen("cortex-m4", Ram(20_000, 20_000)) == "sbs_conv"  # its tables alone have 20 kB
    assert chosen("cortex-m4", Ram(40_000, 20_000)) == "sbs_conv"
    assert chosen("cortex-m4", replace(ROOM, constants=10_000)) == "sbs_conv"  # its stream alone has 15 kB
    assert chosen("cortex-m4", replace(ROOM, asked=False)) == "sbs_conv"  # a board's RAM, which is others' too
    assert chosen("cortex-m3", ROOM) == "sbs_conv"
    step = lower(layer(C64, 0.5), cores()["cortex-m4"], "m").steps[1]
    assert "RAM budget" in next(c.refusal for c in step.considered if c.kernel == "lut_conv")


def test_it_is_not_taken_where_few_inputs_are_set() -> None:
    assert lower(layer(C64, 0.25), cores()["cortex-m4"], "m", ram=ROOM).steps[1].kernel == "sbs_conv"


def test_a_budget_makes_a_network_faster_and_leaves_its_outputs() -> None:
    plain, roomy = (bnncc.compile(LENET, "sim-cortex-m4", ram_budget=budget) for budget in (None, 40_000))
    assert "lut_conv" not in {r["kernel"] for r in plain.report["layers"]}
    assert "lut_conv" in {r["kernel"] for r in roomy.report["layers"]}
    assert roomy.report["totals"]["cycles"] < plain.report["totals"]["cycles"]
    assert plain.report["totals"]["ram_bytes"] < roomy.report["totals"]["context_bytes"] <= 40_000
    assert roomy.verify(samples=4).ok
    assert roomy.verify(samples=1, on="sim").ok
