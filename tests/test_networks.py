"""Whole random networks, from ONNX to C, against onnxruntime.

The 200 of an ordinary run are always the same; `pytest tests/test_networks.py --networks 5000` draws as many new ones.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, Verbosity, given, reject, seed, settings
from hypothesis import strategies as st

import bnncc
from bnncc.graph import Conv, Elem
from bnncc.target import cores
from bnncc.verify import harness
from tests.nets import MIXED, random_net

ALWAYS = 200
GROUPS = 8  # so that pytest-xdist can share them out
seeds = st.integers(0, 2**32 - 1)


def check(number: int, *, target: str = "cortex-m4", on: str = "host", **limits: int) -> bnncc.Compiled:
    """Compile and verify the network called `number`; its layers must do something for that to mean anything."""
    net = random_net(number, **limits)
    try:
        compiled = bnncc.compile(net.model(), target, name="net", **net.options)
    except bnncc.ModelError as e:  # the BatchNorm in front of a ternary Sign gives zero for an integer by chance
        if e.diagnostics[0].code != "E0304":
            raise
        reject()
    binary = [s for s in compiled.program.steps if isinstance(s.op, Conv) and s.op.x.elem is Elem.BIN]
    assert len(binary) >= 2
    assert min(net.mixed()) >= MIXED
    verdict = compiled.verify(samples=12, on=on)
    assert verdict.ok, f"random_net({number}): {verdict}"
    exact = all(s.op.exact for s in compiled.program.steps)
    assert not exact or (verdict.left_out == 0 and all(o.largest_error == 0 for o in verdict.outputs))
    return compiled


@pytest.mark.parametrize("group", range(GROUPS))
def test_random_networks(group: int, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the host under ASan and UBSan (unoptimised: that builds twice as fast)."""
    monkeypatch.setattr(harness, "OPTIMIZATION", "-O0")
    wanted = pytestconfig.getoption("networks")

    @settings(
        max_examples=-(-(wanted or ALWAYS) // GROUPS),
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(seeds)
    def one(number: int) -> None:
        check(number)

    (one if wanted else seed(group)(one))()


@pytest.mark.parametrize("core", cores())
def test_on_every_core(core: str) -> None:
    """In QEMU; small enough for the M0's 16 KiB as a rule, else on a larger machine."""
    for number in (1, 2, 3):
        check(number, target=core, on="sim", max_channels=24)


def test_the_networks_are_varied() -> None:
    """What random_net is there for does occur among its first networks."""
    nets = [random_net(n) for n in range(60)]
    kinds = [{node.op_type for node in net.nodes} for net in nets]
    assert set.union(*kinds) >= {
        "MaxPool",
        "Pad",
        "GlobalAveragePool",
        "ReduceMean",
        "Gemm",
        "MatMul",
        "Sign",
        "BipolarQuant",
    }
    assert any(net.metadata for net in nets)
    assert any(len(net.outputs) > 1 and not net.metadata for net in nets)
    assert {net.options.get("input") for net in nets} == {None, "u8", "i8"}
    assert {net.options.get("input_layout") for net in nets} == {None, "nhwc"}
    attributes = [{a.name: a for a in node.attribute} for net in nets for node in net.nodes]
    assert any("auto_pad" in a for a in attributes)
    assert any("ceil_mode" in a and a["ceil_mode"].i for a in attributes)
    assert any("pads" in a and np.ptp(a["pads"].ints) for a in attributes)
