"""Whole random networks, from ONNX to C, against onnxruntime.

Those of an ordinary run are always the same; `pytest tests/test_networks.py --networks 5000` draws as many new ones, and
`python -m tests.nets` runs as many in parallel and tells what they covered.
"""

import random
from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from bnncc.frontend.source.session import session
from bnncc.target import cores
from bnncc.verify import harness
from bnncc.verify.verdicts import LEFT_OUT_LIMIT
from tests.nets import FAMILIES, MIXED, OPSETS, Net, random_net
from tests.nets.check import check, left_out_share

ALWAYS = 10  # of each family
REFUSED = 0.05  # of the networks, at most, are refused because a ternary Sign can meet zero


@pytest.fixture(autouse=True)
def quick_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ASan and UBSan, unoptimised: that builds twice as fast."""
    monkeypatch.setattr(harness, "OPTIMIZATION", "-O0")


def seeds(config: pytest.Config) -> Iterator[int]:
    wanted = config.getoption("networks")
    for k in range(-(-wanted // len(FAMILIES)) if wanted else ALWAYS):
        yield random.getrandbits(32) if wanted else k


@pytest.mark.parametrize("family", FAMILIES)
def test_random_networks(family: str, pytestconfig: pytest.Config) -> None:
    outcomes = [check(number, family=family) for number in seeds(pytestconfig)]
    failures = {o.seed: o.failure for o in outcomes if o.failure}
    assert not failures
    assert sum(o.zero for o in outcomes) <= max(1, REFUSED * len(outcomes))
    samples = sum(o.samples for o in outcomes)
    assert left_out_share(outcomes) <= LEFT_OUT_LIMIT, f"of {samples} samples"


@pytest.mark.parametrize("core", cores())
def test_on_every_core(core: str) -> None:
    """In QEMU; small enough for the M0's 16 KiB as a rule, else on a larger machine."""
    for number, family in enumerate(("chain", "residual", "decoder"), 1):
        assert not check(number, family=family, target=core, on="sim", max_channels=24).failure


@pytest.fixture(scope="module")
def nets() -> list[Net]:
    """Some of each family, as they are drawn."""
    return [random_net(n, family=f) for f in FAMILIES for n in range(12)]


def test_every_file_is_valid(nets: list[Net]) -> None:
    """For onnx and for onnxruntime, whatever the opset; and its layers' channels take both values."""
    for net in nets[::3]:
        model = net.model()
        onnx.checker.check_model(model, full_check=True)
        net.bare = False  # operators without a definition are bnncc's business
        for value in session(net.model()).run(None, {"x": net.x[0]}):
            assert np.isfinite(value).all()
        assert min(net.mixed()) >= MIXED


def test_the_same_number_is_the_same_network() -> None:
    for family in FAMILIES:
        a, b = (random_net(5, family=family).model().SerializeToString() for _ in range(2))
        assert a == b


OPERATORS = {
    "Add", "AveragePool", "BatchNormalization", "BipolarQuant", "BitwiseAnd", "Cast", "Clip", "Concat", "Conv",
    "ConvTranspose", "DequantizeLinear", "Div", "Dropout", "Expand", "Flatten", "Gather", "Gemm", "GlobalAveragePool",
    "GlobalMaxPool", "Greater", "GreaterOrEqual", "Identity", "LayerNormalization", "LeakyRelu", "Less",
    "LessOrEqual", "LogSoftmax", "MatMul", "Max", "MaxPool", "Min", "Mul", "MultiThreshold", "Not", "PRelu", "Pad",
    "Pow", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Shape", "Sigmoid", "Sign", "Slice",
    "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Transpose", "Unsqueeze", "Upsample", "Where",
}  # fmt: skip


def test_the_networks_are_varied(nets: list[Net]) -> None:
    """What random_net is there for does occur among its first networks."""
    nodes = [node for net in nets for node in net.nodes]
    assert {node.op_type for node in nodes} == OPERATORS
    assert {net.opset for net in nets} == set(OPSETS)
    assert {net.batch for net in nets} == {"", "batch", "unk__6"}
    for flag in ("listed", "inferred", "inlined", "metadata", "last"):
        assert {bool(getattr(net, flag)) for net in nets} == {False, True}, flag
    assert any(len(net.outputs) > 1 and not net.metadata for net in nets)
    assert {len(net.shape) for net in nets} == {1, 2, 3}
    assert {net.options.get("input") for net in nets} == {None, "u8", "i8"}
    assert {net.options.get("input_layout") for net in nets} == {None, "nchw", "nhwc"}
    assert {net.options.get("sign_at_zero") for net in nets} == {None, -1, 1}
    assert {net.options.get("real_weights") for net in nets} == {None, "f16", "i8"}
    attributes = [(node.op_type, {a.name: a for a in node.attribute}) for node in nodes]
    assert any("auto_pad" in a for _, a in attributes)
    assert any("ceil_mode" in a and a["ceil_mode"].i for _, a in attributes)
    assert any("pads" in a and np.ptp(a["pads"].ints) for _, a in attributes)
    for kind in ("Conv", "ConvTranspose"):
        here = [a for k, a in attributes if k == kind]
        assert any("group" in a and a["group"].i > 1 for a in here)
        assert any("dilations" in a and max(a["dilations"].ints) > 1 for a in here)
    assert any("output_padding" in a for _, a in attributes)
    assert sum(net.attempts - 1 for net in nets) < 0.05 * len(nets)
