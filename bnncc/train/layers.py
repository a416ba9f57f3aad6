"""Layers of binarized networks. Their weights are the binary values themselves, unless `bnncc.train.latents` puts latent
weights under them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BIPOLAR_QUANT = "qonnx.custom_op.general::BipolarQuant"
"""The QONNX operator that a sign becomes in ONNX: inputs x and scale, +scale where x >= 0 and -scale elsewhere."""

_watched: list[Tensor] | None = None


@contextmanager
def watch_signs() -> Iterator[list[Tensor]]:
    """While it lasts, the inputs of all calls of `sign` are appended to the list it gives, in order."""
    global _watched  # noqa: PLW0603
    before, _watched = _watched, []
    try:
        yield _watched
    finally:
        _watched = before


class _SignSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: float, polynomial: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.clip, ctx.polynomial = clip, polynomial
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        distance = ctx.saved_tensors[0].abs()
        passed = gradient * (distance <= ctx.clip)
        return passed * (2 - 2 * distance).clamp(min=0) if ctx.polynomial else passed, None, None


def straight_through_sign(x: Tensor, clip: float, polynomial: bool) -> Tensor:
    """`sign` of what is no activation: it is not watched, and no node of an export."""
    result: Tensor = _SignSTE.apply(x, clip, polynomial)  # type: ignore[no-untyped-call]
    return result


def sign(x: Tensor, *, clip: float = 1, polynomial: bool = False) -> Tensor:
    """+1 where x >= 0, so at zero too, and -1 elsewhere.

    The gradient passes straight through where |x| <= `clip` only (`math.inf`: everywhere). With `polynomial` it is
    multiplied by max(0, 2 - 2|x|) as well: the slope of Bi-Real Net's piecewise polynomial.

    In an ONNX export a sign is one `BIPOLAR_QUANT` node.
    """
    if torch.onnx.is_in_onnx_export():
        scale = torch.ones((), dtype=x.dtype)
        return torch.onnx.ops.symbolic(BIPOLAR_QUANT, (x, scale), dtype=x.dtype, shape=x.shape, version=1)
    if _watched is not None:
        _watched.append(x.detach())
    return straight_through_sign(x, clip, polynomial)


class Sign(nn.Module):
    """`sign` as a layer. `real`, if set, is what it does instead (`bnncc.train.latents.full_precision`)."""

    real: Callable[[Tensor], Tensor] | None = None

    def __init__(self, *, clip: float = 1, polynomial: bool = False) -> None:
        super().__init__()
        self.clip, self.polynomial = clip, polynomial

    def forward(self, x: Tensor) -> Tensor:
        return self.real(x) if self.real is not None else sign(x, clip=self.clip, polynomial=self.polynomial)

    def extra_repr(self) -> str:
        return f"clip={self.clip}, polynomial={self.polynomial}"


def _per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(-1, *(1,) * (x.ndim - 2))


class RSign(Sign):
    """The sign of x - threshold, with a learned threshold for each channel: [N,C,...] -> the same shape (ReActNet)."""

    def __init__(self, channels: int, *, clip: float = 1, polynomial: bool = False) -> None:
        super().__init__(clip=clip, polynomial=polynomial)
        self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - _per_channel(self.threshold, x))


class RPReLU(nn.Module):
    """A PReLU whose kink each channel learns to shift: [N,C,...] -> the same shape (ReActNet).

    With v = x - before: v + after where v >= 0, slope * v + after elsewhere.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))
        self.after = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        bent = functional.prelu(x - _per_channel(self.before, x), self.slope)
        return bent + _per_channel(self.after, x)


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


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel: [N,C,H,W] -> the same shape, with C scales and offsets."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Blur(nn.Module):
    """A fixed 3x3 low-pass, [1,2,1] by [1,2,1] over 16, of each channel: [N,C,H,W] -> [N,C,ceil(H/2),ceil(W/2)]."""

    kernel: Tensor

    def __init__(self, channels: int, *, stride: int = 2) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.stride = stride
        self.register_buffer("kernel", torch.outer(line, line).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel, stride=self.stride, padding=1, groups=len(self.kernel))


class _RandomSigns:
    """What layers with weights -1 and +1 begin with."""

    weight: Tensor

    def reset_parameters(self) -> None:
        """Draw each weight from -1 and +1."""
        with torch.no_grad():
            self.weight.copy_(torch.randint_like(self.weight, 2) * 2 - 1)


class BinaryConv1d(_RandomSigns, nn.Conv1d):
    """A 1D convolution [N,Cin,L] -> [N,Cout,L'] with weights -1 and +1 and no bias. It pads with zeros."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False)


class BinaryConv2d(_RandomSigns, nn.Conv2d):
    """A 2D convolution [N,Cin,H,W] -> [N,Cout,H',W'] with weights -1 and +1 and no bias.

    It pads with `padding_value`: zeros, which count for nothing, or -1 or +1, which keep the input binary.
    With `groups` equal to `in_channels` it is depthwise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        padding_value: float = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False)
        self.border = padding if isinstance(padding, tuple) else (padding, padding)
        self.padding_value = float(padding_value)

    def forward(self, x: Tensor) -> Tensor:
        if self.padding_value == 0:
            return super().forward(x)
        height, width = self.border
        padded = functional.pad(x, (width, width, height, height), value=self.padding_value)
        return functional.conv2d(padded, self.weight, None, self.stride, 0, self.dilation, self.groups)

    def extra_repr(self) -> str:
        usual: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{usual}, padding_value={self.padding_value}"


class BinaryConvTranspose2d(_RandomSigns, nn.ConvTranspose2d):
    """A transposed 2D convolution [N,Cin,H,W] -> [N,Cout,H',W'] with weights -1 and +1 and no bias.

    H' = (H - 1)·stride - 2·padding + dilation·(kernel - 1) + output_padding + 1, and W' likewise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        dilation: int | tuple[int, int] = 1,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias=False,
            dilation=dilation,
        )


class BinaryLinear(_RandomSigns, nn.Linear):
    """A dense layer [N,Cin] -> [N,Cout] with weights -1 and +1 and no bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)


BinaryLayer = BinaryConv1d | BinaryConv2d | BinaryConvTranspose2d | BinaryLinear


def binary_layers(model: nn.Module) -> Iterator[tuple[str, BinaryLayer]]:
    """The layers of `model` with binary weights, each with its path in the model."""
    for path, layer in model.named_modules():
        if isinstance(layer, BinaryLayer):
            yield path, layer


def binary_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that hold -1 and +1, each once: those for `Bop`. Latent weights are not among them."""
    weights = {id(layer._parameters.get("weight")) for _, layer in binary_layers(model)}
    return [parameter for parameter in model.parameters() if id(parameter) in weights]


def real_parameters(model: nn.Module) -> list[nn.Parameter]:
    """All the other parameters (of batch normalisation, of real layers, latent weights), each once: those for Adam."""
    binary = {id(parameter) for parameter in binary_parameters(model)}
    return [parameter for parameter in model.parameters() if id(parameter) not in binary]


def set_norm_momentum(model: nn.Module, *, torch: float | None = None, keras: float | None = None) -> None:
    """Set the momentum of batch normalisation's running statistics, in either of the two conventions.

    `torch` is the weight of the new batch, running = (1 - torch) * running + torch * batch; `keras`, as in Keras and in
    the papers, that of the old: keras = 1 - torch. torch's default is 0.1, a Keras momentum of 0.9; Keras's is 0.99.

    Raises:
        ValueError: not exactly one is given, or it is not in [0, 1].
    """
    if (torch is None) == (keras is None):
        raise ValueError("give the momentum in one convention: torch=, or keras=")
    given = torch if torch is not None else keras
    assert given is not None
    if not 0 <= given <= 1:
        raise ValueError(f"the momentum must be in [0, 1], not {given}")
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = given if torch is not None else 1 - given
