"""A small model on disk, and the command line as a function."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T

from bnncc.cli import main
from tests.nets import Net


@dataclass(frozen=True)
class Done:
    """What a command gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run `bnncc ARGS...` in this process."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["bnncc", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return Done(int(stop.value.code or 0), out, err)

    return call


def small_net(elem: int = T.UINT8, seed: int = 3) -> Net:
    """conv 3x3 -> BN -> sign -> pool -> conv -> BN -> sign -> dense -> BN over 2x8x8."""
    net = Net(np.random.default_rng(seed), (2, 8, 8), elem)
    if elem == T.FLOAT:
        net.x = net.rng.integers(0, 256, net.x.shape).astype(np.float32)
    x = net.node("Conv", net.normalise(), net.weight((20, 2, 3, 3)), pads=[1, 1, 1, 1])
    x = net.node("MaxPool", net.sign(net.batch_norm(x), "bipolar"), kernel_shape=[2, 2], strides=[2, 2])
    x = net.sign(net.batch_norm(net.node("Conv", x, net.weight((33, 20, 3, 3)), pads=[1, 1, 1, 1])), "ge_where")
    x = net.node("Gemm", net.node("Flatten", x), net.weight((5, 33 * 16)), transB=1)
    net.outputs.append(net.batch_norm(x))
    return net


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A uint8 model."""
    path = tmp_path_factory.mktemp("model") / "small-net.onnx"
    onnx.save(small_net().model(), path)
    return path


@pytest.fixture(scope="session")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with a float input that holds integers."""
    path = tmp_path_factory.mktemp("float") / "floaty.onnx"
    onnx.save(small_net(T.FLOAT).model(), path)
    return path
