"""Networks of Brevitas, exported by its own exporters, cleaned and converted by qonnx, against qonnx's execution of the file."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import brevitas.nn as qnn
import brevitas.quant as quantizers
import numpy as np
import onnx
import pytest
import torch
from brevitas.core.bit_width import BitWidthImplType
from brevitas.core.quant import QuantType
from brevitas.core.restrict_val import RestrictValueType
from brevitas.core.scaling import ScalingImplType
from brevitas.core.stats import StatsOp
from brevitas.core.zero_point import ZeroZeroPoint
from brevitas.export import export_qonnx
from brevitas.quant.solver import ActQuantSolver, WeightQuantSolver
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.util.cleanup import cleanup_model
from torch import nn

import bnncc
from bnncc.frontend import dialects
from bnncc.frontend.source.session import session


class Binary(WeightQuantSolver):
    """Weights of -1 and +1."""

    quant_type = QuantType.BINARY
    bit_width_impl_type = BitWidthImplType.CONST
    bit_width = 1
    signed = True
    narrow_range = True
    zero_point_impl = ZeroZeroPoint
    restrict_scaling_type = RestrictValueType.FP
    scaling_impl_type = ScalingImplType.CONST
    scaling_init = 1.0
    scaling_per_output_channel = False


class BinaryByMean(Binary):
    """Times the mean magnitude of the latent weights."""

    scaling_impl_type = ScalingImplType.STATS
    scaling_stats_op = StatsOp.AVE


class BinaryByChannelMean(BinaryByMean):
    scaling_per_output_channel = True


class Bipolar(ActQuantSolver):
    quant_type = QuantType.BINARY
    bit_width_impl_type = BitWidthImplType.CONST
    bit_width = 1
    signed = True
    narrow_range = True
    zero_point_impl = ZeroZeroPoint
    restrict_scaling_type = RestrictValueType.FP
    scaling_impl_type = ScalingImplType.CONST
    scaling_init = 1.0
    min_val = -1.0
    max_val = 1.0


class BipolarScaled(Bipolar):
    scaling_init = 0.3


def sequence(weight: type, act: type) -> nn.Sequential:
    """Convolutions with zero padding and a pool, dense layers, BatchNorm in between."""
    return nn.Sequential(
        qnn.QuantConv2d(3, 12, 3, padding=1, bias=False, weight_quant=weight),
        nn.BatchNorm2d(12),
        qnn.QuantIdentity(act_quant=act),
        qnn.QuantConv2d(12, 20, 3, padding=1, bias=False, weight_quant=weight),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(20),
        qnn.QuantIdentity(act_quant=act),
        nn.Flatten(),
        qnn.QuantLinear(20 * 16, 24, bias=False, weight_quant=weight),
        nn.BatchNorm1d(24),
        qnn.QuantIdentity(act_quant=act),
        qnn.QuantLinear(24, 5, bias=False, weight_quant=weight),
    )


def shifting() -> nn.Sequential:
    """Activations of 4 bits, averaged and shortened to 3: Quant and Trunc."""
    act = quantizers.Uint8ActPerTensorFloat.let(bit_width=4)
    return nn.Sequential(
        qnn.QuantConv2d(3, 12, 3, bias=False, weight_quant=Binary),
        nn.BatchNorm2d(12),
        qnn.QuantReLU(act_quant=act, return_quant_tensor=True),
        qnn.TruncAvgPool2d(2, 2, trunc_quant=quantizers.TruncTo8bit.let(bit_width=3), return_quant_tensor=False),
        nn.Flatten(),
        qnn.QuantLinear(12 * 9, 5, bias=False, weight_quant=quantizers.Int8WeightPerChannelFloat.let(bit_width=2)),
    )


BINARY = {
    "plain": lambda: sequence(Binary, Bipolar),
    "mean": lambda: sequence(BinaryByMean, BipolarScaled),
    "channel mean": lambda: sequence(BinaryByChannelMean, Bipolar),
    "library": lambda: sequence(quantizers.SignedBinaryWeightPerTensorConst, quantizers.SignedBinaryActPerTensorConst),
}
MORE_BITS = {
    "ternary": lambda: sequence(
        quantizers.SignedTernaryWeightPerTensorConst, quantizers.SignedTernaryActPerTensorConst
    ),
    "binary by 2 bits": lambda: sequence(Binary, quantizers.Int8ActPerTensorFloat.let(bit_width=2)),
    "4 bits": lambda: sequence(
        quantizers.Int8WeightPerChannelFloat.let(bit_width=4), quantizers.Uint8ActPerTensorFloat.let(bit_width=4)
    ),
    "trunc": shifting,
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And qonnx's models of an IR version that onnxruntime reads, whatever onnx is at."""
    monkeypatch.setattr(onnx, "IR_VERSION", 10)
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
        yield
    logging.disable(logging.NOTSET)


def trained(build: Callable[[], nn.Sequential]) -> nn.Sequential:
    """A few steps on random pixels: enough for statistics and weights that are not the initial ones."""
    torch.manual_seed(7)
    net = build().train()
    x = torch.randint(0, 256, (64, 3, 8, 8)).float()
    y = x.mean((2, 3)).argmax(1)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def exported(build: Callable[[], nn.Sequential], path: Path, *, dynamo: bool) -> ModelWrapper:
    export_qonnx(trained(build), torch.zeros(1, 3, 8, 8), export_path=str(path), dynamo=dynamo)
    return ModelWrapper(str(path)).transform(InferShapes())


def pixels(n: int) -> np.ndarray:
    return np.random.default_rng(11).integers(0, 256, (n, 1, 3, 8, 8)).astype(np.float32)


def agree(path: Path, wrapper: ModelWrapper, *, require_binary: bool) -> None:
    """The C computes what the reference computes, and the reference what qonnx computes."""
    c = bnncc.compile(path, input="u8", require_binary=require_binary)
    reference = session(c.imported.given)
    for x in pixels(4):
        given = x.transpose(0, 2, 3, 1) if c.imported.input_shape[-1] == 3 else x
        expected = execute_onnx(wrapper, {wrapper.graph.input[0].name: given})[wrapper.graph.output[0].name]
        np.testing.assert_array_equal(reference.run(None, {c.imported.input_name: given})[0], expected)
    assert c.verify(samples=16).ok


@pytest.mark.parametrize(
    ("name", "dynamo"), [*((name, False) for name in BINARY), ("plain", True), ("channel mean", True)]
)
def test_binary_networks(name: str, dynamo: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    wrapper = exported(BINARY[name], path, dynamo=dynamo)
    assert {n.domain for n in wrapper.graph.node} == {"", "qonnx.custom_op.general"}
    agree(path, wrapper, require_binary=True)


@pytest.mark.parametrize("name", ["plain", "channel mean"])
def test_cleaned_by_qonnx(name: str, tmp_path: Path) -> None:
    wrapper = cleanup_model(exported(BINARY[name], tmp_path / "net.onnx", dynamo=False))
    wrapper.save(str(tmp_path / "clean.onnx"))
    agree(tmp_path / "clean.onnx", wrapper, require_binary=True)


@pytest.mark.parametrize(("name", "dynamo"), [*((name, False) for name in MORE_BITS), ("4 bits", True)])
def test_more_bits(name: str, dynamo: bool, tmp_path: Path) -> None:
    wrapper = exported(MORE_BITS[name], tmp_path / "net.onnx", dynamo=dynamo)
    kinds = {n.op_type for n in wrapper.graph.node if n.domain}
    assert ("Trunc" if name == "trunc" else "Quant") in kinds
    agree(tmp_path / "net.onnx", wrapper, require_binary=False)


@pytest.mark.parametrize(("name", "inputs_too"), [("channel mean", False), ("channel mean", True), ("4 bits", True)])
def test_converted_to_channels_last(name: str, inputs_too: bool, tmp_path: Path) -> None:
    wrapper = cleanup_model(exported((BINARY | MORE_BITS)[name], tmp_path / "net.onnx", dynamo=False))
    wrapper = wrapper.transform(ConvertToChannelsLastAndClean(make_input_channels_last=inputs_too))
    assert any(n.domain == dialects.CHANNELS_LAST for n in wrapper.graph.node)
    wrapper.save(str(tmp_path / "last.onnx"))
    agree(tmp_path / "last.onnx", wrapper, require_binary=name in BINARY)
