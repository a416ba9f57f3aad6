"""The papers' networks, narrow, from torch to C and against onnxruntime; examples/networks does it at full width."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from torch import nn

import bnncc
from bnncc.target import boards
from bnncc.train.layers import binary_layers, binary_parameters
from bnncc.verify import harness
from bnncc.verify.verdicts import Verification
from examples.networks.networks import NETWORKS, Network, export, random_model, structured_inputs
from examples.networks.table import fitting

SAMPLES = 2
SIMULATED = {"autoencoder", "binarynet_channels", "lenet5_table", "quicknet"}


@pytest.fixture(autouse=True)
def quick_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ASan and UBSan, unoptimised: that builds twice as fast."""
    monkeypatch.setattr(harness, "OPTIMIZATION", "-O0")


def smaller(network: Network) -> Network:
    """The deep networks on smaller inputs; they take any size."""
    channels, height, _ = network.shape
    return network if height < 98 else replace(network, shape=(channels, 50, 36))


def refute(verdict: Verification) -> list[str]:
    """What contradicts the contract. How many samples rounding takes out of the comparison, two cannot tell."""
    wrong = [f"step {s.step} {s.kernel}: {s.mismatches} of {s.values}" for s in verdict.steps if s.mismatches]
    wrong += [f"{o.name}: {o.mismatched_samples} samples" for o in verdict.outputs if o.mismatched_samples]
    if verdict.exits and verdict.exits.mismatched_samples:
        wrong.append(f"{verdict.exits.mismatched_samples} decisions at exits")
    return wrong + [f"{verdict.wrong_classes} classes"] * (verdict.wrong_classes > 0)


def exported_whole(model: nn.Module, graph: onnx.GraphProto) -> None:
    """Every normalisation is a node of its own, every binary weight takes a bit."""
    norms = sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm) for m in model.modules())
    assert sum(node.op_type in ("BatchNormalization", "LayerNormalization") for node in graph.node) == norms
    packed = {i.name: onnx.numpy_helper.to_array(i).size for i in graph.initializer if i.name.endswith("/packed")}
    assert packed.keys() == {f"{name}.weight/packed" for name, _ in binary_layers(model)}
    assert sum(packed.values()) <= sum(p.numel() for p in binary_parameters(model)) / 5


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_every_network_compiles_and_agrees(network: Network, tmp_path: Path) -> None:
    network = smaller(network)
    model, path = random_model(network, reduced=True), tmp_path / "net.onnx"
    export(network, model, path)
    exported_whole(model, onnx.load(path).graph)
    x = structured_inputs(network, SAMPLES, seed=1)[:, None]
    compiled = bnncc.compile(path, "cortex-m7")
    verdict = compiled.verify(x)
    assert refute(verdict) == []
    assert verdict.left_out < SAMPLES
    for z in verdict.outputs_c.values():
        assert (z.std(axis=0) > 0).any()  # the network is not stuck
    if network.name in SIMULATED:
        assert refute(compiled.verify(x[:1], on="sim")) == []
    if network.name == "quicknet":
        stored = bnncc.compile(path, "cortex-m7", real_weights="i8")
        assert stored.program.flash_bytes < compiled.program.flash_bytes
        verdict = stored.verify(x[:1])
        assert refute(verdict) == []
        assert verdict.given is not None


def test_the_boards_that_fit() -> None:
    """Both sizes count; the simulated board is none; a size that is just met is enough."""
    assert fitting(0, 0)[0] == "nucleo_g071rb"
    assert set(fitting(0, 0)) == {b.name for b in boards().values() if not b.simulated}
    assert "nucleo_g071rb" in fitting(131072, 36864)
    assert "nucleo_g071rb" not in fitting(131073, 36864)
    assert "nucleo_g071rb" not in fitting(131072, 36865)
    assert fitting(1 << 30, 0) == []
