"""Plain torch modules through torch's exporters: what users without bnncc.train have."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnxscript import optimizer
from torch import nn

import bnncc

Tensor = torch.Tensor
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "sign": torch.sign,
    "scalar": lambda x: torch.where(x >= 0, 1.0, -1.0),
    "ones": lambda x: torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x)),
    "less": lambda x: torch.where(x < 0, -1.0, 1.0),
    "float": lambda x: (x >= 0).float() * 2 - 1,
    "detach": lambda x: (torch.where(x >= 0, 1.0, -1.0) - x.clamp(-1, 1)).detach() + x.clamp(-1, 1),
}


class Module(nn.Module):
    """Convolution, pool, zero padding, dense layers; each layer with another form of sign."""

    def __init__(self, forms: tuple[str, str, str, str], *, scaled: bool, latent: bool, mean: bool) -> None:
        super().__init__()
        self.forms, self.latent, self.mean = forms, latent, mean
        self.c1 = nn.Conv2d(2, 13, 3, padding=1, bias=False)
        self.c2 = nn.Conv2d(13, 21, 3, padding=1, bias=False)
        self.c3 = nn.Conv2d(21, 34, 3, stride=2, bias=False)
        self.d1 = nn.Linear(34 if mean else 34 * 4, 40, bias=False)
        self.d2 = nn.Linear(40, 5)
        self.norms = nn.ModuleList([nn.BatchNorm2d(13), nn.BatchNorm2d(21), nn.BatchNorm2d(34), nn.BatchNorm1d(40)])
        with torch.no_grad():
            for layer in (self.c1, self.c2, self.c3, self.d1, self.d2):
                w = torch.randint(0, 2, layer.weight.shape) * 2.0 - 1
                w *= torch.rand(w.shape if latent else (len(w), *[1] * (w.dim() - 1))) + 0.2 if scaled or latent else 1
                layer.weight.copy_(w)
            for norm in self.norms:
                norm.weight.normal_()
                norm.bias.normal_(0, 0.5)
                norm.momentum = None
            self.train()(self.example(64))  # the statistics of the network itself
            for norm in self.norms:
                norm.running_mean += torch.randn_like(norm.running_mean) * 0.1
        self.eval()

    def example(self, n: int = 1) -> Tensor:
        return torch.randint(0, 256, (n, 2, 14, 14), dtype=torch.uint8)

    def weight(self, layer: nn.Module) -> Tensor:
        return FORMS["scalar"](layer.weight) if self.latent else layer.weight

    def forward(self, x: Tensor) -> Tensor:
        x = (x.float() - 128) / 128
        a, b, c, d = (FORMS[f] for f in self.forms)
        x = a(self.norms[0](F.conv2d(x, self.weight(self.c1), padding=1)))
        x = b(self.norms[1](F.max_pool2d(F.conv2d(x, self.weight(self.c2), padding=1), 2)))
        x = c(self.norms[2](F.conv2d(x, self.weight(self.c3), stride=2)))
        x = F.adaptive_avg_pool2d(x, 1) if self.mean else F.max_pool2d(x, 2, stride=1)
        x = d(self.norms[3](F.linear(x.flatten(1), self.weight(self.d1))))
        return F.linear(x, self.weight(self.d2), self.d2.bias)


def dynamo(module: Module, path: Path) -> None:
    torch.onnx.export(module, (module.example(),), path, dynamo=True, verbose=False, external_data=False)


def dynamo_keeping(module: Module, path: Path) -> None:
    """As design notes say: not optimized, constants folded, BatchNorm kept."""
    program = torch.onnx.export(module, (module.example(),), dynamo=True, optimize=False, verbose=False)
    optimizer.fold_constants(program.model, input_size_limit=1 << 24, output_size_limit=1 << 24)
    optimizer.remove_unused_nodes(program.model)
    program.save(path, external_data=False)


def legacy(module: Module, path: Path) -> None:
    torch.onnx.export(module, (module.example(),), path, dynamo=False, opset_version=13)


MODULES = {
    "weights of +-1": {"forms": ("scalar", "ones", "less", "float"), "scaled": False, "latent": False, "mean": False},
    "weights of +-s": {"forms": ("less", "sign", "scalar", "ones"), "scaled": True, "latent": False, "mean": False},
    "latent weights": {"forms": ("float", "less", "ones", "scalar"), "scaled": False, "latent": True, "mean": False},
}


@pytest.mark.parametrize("export", [dynamo, dynamo_keeping, legacy])
@pytest.mark.parametrize("module", MODULES)
def test_exports(module: str, export: Callable[[Module, Path], None], tmp_path: Path) -> None:
    torch.manual_seed(len(module))
    torch.set_num_threads(1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    made, path = Module(**MODULES[module]), tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(made, path)
    compiled = bnncc.compile(path)
    x = made.example(24)
    v = compiled.verify(x.numpy())
    assert v.ok
    assert all(s.op.exact for s in compiled.program.steps)
    with torch.no_grad():
        agree = made(x).argmax(1).numpy() == next(iter(v.outputs_c.values())).reshape(24, -1).argmax(1)
    assert agree.mean() > 0.8  # torch rounds BatchNorm differently; a wrong layer would give one in five


@pytest.mark.parametrize("export", [dynamo_keeping, legacy])
def test_straight_through_sign(export: Callable[[Module, Path], None], tmp_path: Path) -> None:
    """(sign(x) - clamp(x)).detach() + clamp(x). torch's default dynamo export of it lacks a parameter: E0102."""
    torch.manual_seed(1)
    made, path = Module(("detach",) * 4, scaled=False, latent=False, mean=False), tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(made, path)
    compiled = bnncc.compile(path)
    v = compiled.verify(made.example(24).numpy())
    assert v.ok
    binary = [s for s in compiled.program.steps if s.op.x.elem.value == "bin" and s.cost.macs]
    assert len(binary) == 4
    assert np.isfinite(next(iter(v.outputs_c.values()))).all()
