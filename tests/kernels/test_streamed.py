"""Convolutions whose rows another op takes as they are made, by every kernel that makes rows."""

from dataclasses import replace

import numpy as np
import pytest

from bnncc.kernels import KERNELS
from bnncc.ops import MaxPool, NormSign, Streamed
from bnncc.target import cores
from bnncc.tensor import Elem, Tensor
from tests.kernels.bench import Case, check, run
from tests.kernels.ops import MAKERS, inputs, window

RNG = np.random.default_rng(1)
ROWS = [k.name for k in KERNELS if k.name in MAKERS and any(k.rows(MAKERS[k.name](RNG)) for _ in range(20))]
HOST_CORE = cores()["cortex-m55"]  # every kernel can be chosen for it


def pooled(rng: np.random.Generator, kernel: str, most: int = 300_000) -> Streamed:
    """A random convolution of the kernel's, and a pooling of what it gives, with windows that all meet the image."""
    chosen = next(k for k in KERNELS if k.name == kernel)
    while True:
        conv = MAKERS[kernel](rng)
        if chosen.refuses(conv) or not chosen.rows(conv) or conv.macs > most or conv.y.pixels == 1:
            continue
        g = window(rng, 4)
        g.pop("size"), g.pop("out")
        span = [(k - 1) * d + 1 for k, d in zip(g["kernel"], g["dilations"], strict=True)]
        room = [n + g["pads"][a] + g["pads"][2 + a] - span[a] for a, n in enumerate(conv.y.shape[1:])]
        if min(room) < 0:
            continue
        out = tuple(r // s + 1 for r, s in zip(room, g["strides"], strict=True))
        least = tuple((rng.random(conv.y.shape[0]) < 0.5).tolist()) if rng.random() < 0.5 else ()
        made = MaxPool(x=conv.y, y=replace(conv.y, name="pooled", shape=(conv.y.shape[0], *out)), minimum=least, **g)
        if made.slide(made.spread(np.ones((1, 1, *conv.y.shape[1:])), 0)).any(axis=(4, 5)).all():
            return Streamed.of(conv, made, int(chosen.rows(conv)))


@pytest.mark.parametrize("core", ["cortex-m0", "cortex-m4"])
def test_in_the_simulator(core, tmp_path):
    rng = np.random.default_rng([9, *core.encode()])
    cases = []
    for kernel in (k.name for k in KERNELS if k.name in ROWS and not k.mve):
        op = pooled(rng, kernel, most=20_000)
        cases.append(Case(op, kernel, tuple(inputs(rng, t) for t in op.inputs)))
    for c, stored in zip(cases, run(cases, cores()[core], tmp_path, sim=True), strict=True):
        check(c, stored)


NO_SUMS = ("real_conv", "quad_conv", "quad_conv_ram", "sbs_conv_blocks")  # real ones, or bits alone


@pytest.mark.parametrize("kernel", ROWS)
def test_pooling(kernel, tmp_path):
    rng = np.random.default_rng([6, *kernel.encode()])
    cases = []
    for _ in range(30):
        op = pooled(rng, kernel)
        cases.append(Case(op, kernel, tuple(inputs(rng, t) for t in op.inputs)))
    assert any(c.op.then.padded for c in cases)
    assert any(c.op.then.strides[0] < c.op.then.kernel[0] for c in cases), "windows overlap"
    for c, stored in zip(cases, run(cases, HOST_CORE, tmp_path), strict=True):
        check(c, stored)


@pytest.mark.parametrize("kernel", [k for k in ROWS if k not in NO_SUMS])
def test_signs_of_normalised_pixels(kernel, tmp_path):
    rng = np.random.default_rng([8, *kernel.encode()])
    chosen = next(k for k in KERNELS if k.name == kernel)
    cases = []
    while len(cases) < 12:
        conv = MAKERS[kernel](rng)
        plain = conv.integer and not conv.cut and not conv.steps
        varied = conv.y.shape[0] > 8 and abs(conv.weight.mean()) < 1  # else a pixel's values are all alike
        if chosen.refuses(conv) or not chosen.rows(conv) or conv.macs > 300_000 or not plain or not varied:
            continue
        y = Tensor("s", Elem.BIN, conv.y.shape, -1, 1, 2)
        rho = rng.normal(size=(y.shape[0], 1, 1)).astype(np.float32)
        then = NormSign(x=conv.y, y=y, epsilon=1e-5, features=False, rho=rho, falling=rng.random(rho.shape) < 0.5)
        cases.append(Case(Streamed.of(conv, then), kernel, tuple(inputs(rng, t) for t in conv.inputs)))
    for c, stored in zip(cases, run(cases, HOST_CORE, tmp_path), strict=True):
        check(c, stored)
