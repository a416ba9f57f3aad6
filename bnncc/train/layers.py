"""Layers of binarized networks. Their weights are the binary values themselves: there are no latent weights."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

BIPOLAR_QUANT = "qonnx.custom_op.general::BipolarQuant"
"""The QONNX operator that a sign becomes in ONNX: inputs x and scale, +scale where x >= 0 and -scale elsewhere."""


class _SignSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return gradient * (x.abs() <= 1)


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, so at zero too, and -1 elsewhere; the gradient passes straight through where |x| <= 1 only.

    In an ONNX export it is one `BIPOLAR_QUANT` node.
    """
    if torch.onnx.is_in_onnx_export():
        scale = torch.ones((), dtype=x.dtype)
        return torch.onnx.ops.symbolic(BIPOLAR_QUANT, (x, scale), dtype=x.dtype, shape=x.shape, version=1)
    result: Tensor = _SignSTE.apply(x)  # type: ignore[no-untyped-call]
    return result


class Sign(nn.Module):
    """`sign` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return sign(x)


class Normalize(nn.Module):
    """(x - mean) / scale in float32, of an integer or a float x.

    With a whole `mean` and a power of two as `scale` this is exact on bytes, and so is the network that follows.
    """

    def __init__(self, mean: float = 128, scale: float = 128) -> None:
        super().__init__()
        self.mean, self.scale = float(mean), float(scale)

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.float32) - self.mean) / self.scale

    def extra_repr(self) -> str:
        return f"mean={self.mean}, scale={self.scale}"


def _random_signs(weight: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(torch.randint_like(weight, 2) * 2 - 1)


class BinaryConv2d(nn.Conv2d):
    """A 2D convolution [N,Cin,H,W] -> [N,Cout,H',W'] with weights -1 and +1 and no bias. It pads with zeros."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)

    def reset_parameters(self) -> None:
        """Draw each weight from -1 and +1."""
        _random_signs(self.weight)


class BinaryLinear(nn.Linear):
    """A dense layer [N,Cin] -> [N,Cout] with weights -1 and +1 and no bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Draw each weight from -1 and +1."""
        _random_signs(self.weight)


def binary_layers(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """The layers of `model` with binary weights, each with its path in the model."""
    for path, layer in model.named_modules():
        if isinstance(layer, BinaryConv2d | BinaryLinear):
            yield path, layer


def binary_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that hold -1 and +1, each once: those for `Bop`."""
    weights = {id(layer.weight) for _, layer in binary_layers(model)}
    return [parameter for parameter in model.parameters() if id(parameter) in weights]


def real_parameters(model: nn.Module) -> list[nn.Parameter]:
    """All the other parameters (of batch normalisation, of real layers), each once: those for Adam."""
    binary = {id(parameter) for parameter in binary_parameters(model)}
    return [parameter for parameter in model.parameters() if id(parameter) not in binary]
