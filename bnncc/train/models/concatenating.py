"""Networks whose blocks append channels to their input."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bnncc.train.layers import BinaryConv2d, Sign
from bnncc.train.models.blocks import ExitNet


class _Branch(nn.Module):
    """Batch normalisation, sign, binary 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.sign = Sign(clip=1.3)
        self.conv = BinaryConv2d(inputs, outputs, 3, padding=1)

    def branch(self, x: Tensor) -> Tensor:
        features: Tensor = self.conv(self.sign(self.norm(x)))
        return features


class _Append(_Branch):
    """The input with the branch's channels after it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.branch(x)), 1)


class _Improve(_Branch):
    """The input with the branch added to its last channels."""

    def forward(self, x: Tensor) -> Tensor:
        added = self.branch(x)
        kept = x.shape[1] - added.shape[1]
        return torch.cat((x[:, :kept], x[:, kept:] + added), 1)


def _transition(inputs: int, outputs: int, *, ceil: bool) -> nn.Sequential:
    """Batch normalisation, 2x2 max-pooling, ReLU, a real 1x1 convolution; `ceil` keeps an odd edge."""
    transition = nn.Sequential()
    transition.add_module("norm", nn.BatchNorm2d(inputs))
    transition.add_module("pool", nn.MaxPool2d(2, ceil_mode=ceil))
    transition.add_module("relu", nn.ReLU())
    transition.add_module("conv", nn.Conv2d(inputs, outputs, 1, bias=False))
    return transition


def _sections(
    growth: int, lengths: Sequence[int], widths: Sequence[int], *, improve: bool
) -> list[tuple[nn.Module, int]]:
    """The blocks of all sections, with their output channels; the first block of a section begins with a transition.

    `lengths` are blocks a section; `widths` the channels with which the sections begin.
    """
    blocks: list[tuple[nn.Module, int]] = []
    channels = widths[0]
    for section, (length, width) in enumerate(zip(lengths, widths, strict=True)):
        for number in range(length):
            block = nn.Sequential()
            if section > 0 and number == 0:
                block.add_module("transition", _transition(channels, width, ceil=improve))
                channels = width
            block.add_module("dense", _Append(channels, growth))
            channels += growth
            if improve:
                block.add_module("improve", _Improve(channels, growth))
            blocks.append((block, channels))
    return blocks


def _end(channels: int) -> nn.Sequential:
    end = nn.Sequential()
    end.add_module("norm", nn.BatchNorm2d(channels))
    end.add_module("relu", nn.ReLU())
    return end


class BinaryDenseNet(ExitNet):
    """BinaryDenseNet-28: [N,channels,H,W] -> logits [N,classes], one for each exit.

    A real stem (7x7 of 64 with stride 2, batch normalisation, ReLU, 3x3 max-pooling with stride 2); sections of 6, 6, 6
    and 5 blocks, each of which appends 64 channels; transitions to 160, 192 and 256 channels; batch normalisation and
    ReLU before the last exit, at 576 channels. `growth` stands for the 64 and scales all the others.
    `exits` and `normalize` are as in `BiRealNet`, of 23 blocks.

    One channel, 12 classes and exit 23 only: 4,555,136 parameters, batch normalisation's scales and offsets included.
    Every further exit adds as many weights as its block has channels, times the classes.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 12,
        *,
        exits: Sequence[int] = (3, 6, 12, 18, 23),
        growth: int = 64,
        normalize: nn.Module | None = None,
    ) -> None:
        stem = nn.Sequential()
        stem.add_module("conv", nn.Conv2d(channels, growth, 7, stride=2, padding=3, bias=False))
        stem.add_module("norm", nn.BatchNorm2d(growth))
        stem.add_module("relu", nn.ReLU())
        stem.add_module("pool", nn.MaxPool2d(3, stride=2, padding=1))
        widths = [growth * width // 64 for width in (64, 160, 192, 256)]
        blocks = _sections(growth, (6, 6, 6, 5), widths, improve=False)
        super().__init__(normalize, stem, blocks, _end(blocks[-1][1]), exits=exits, classes=classes)


class MeliusNet(ExitNet):
    """MeliusNet-22: [N,channels,H,W] -> logits [N,classes], one for each exit.

    A real stem (3x3 of 32 with stride 2, 3x3 of 32 in 4 groups, 3x3 of 64 in 8 groups, each with batch normalisation and
    ReLU; 2x2 max-pooling); sections of 4, 5, 4 and 4 blocks, each of which appends 64 channels and then improves them;
    transitions to 160, 224 and 256 channels; batch normalisation and ReLU before the last exit, at 512 channels.
    `growth`, a multiple of 16, stands for the 64 and scales all the others.
    `exits` and `normalize` are as in `BiRealNet`, of 17 blocks.

    One channel, 12 classes and exit 17 only: 6,437,152 parameters, batch normalisation's scales and offsets included.
    Every further exit adds as many weights as its block has channels, times the classes.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 12,
        *,
        exits: Sequence[int] = (2, 4, 9, 13, 17),
        growth: int = 64,
        normalize: nn.Module | None = None,
    ) -> None:
        half = growth // 2
        convolutions = (
            nn.Conv2d(channels, half, 3, stride=2, padding=1, bias=False),
            nn.Conv2d(half, half, 3, padding=1, groups=4, bias=False),
            nn.Conv2d(half, growth, 3, padding=1, groups=8, bias=False),
        )
        stem = nn.Sequential()
        for number, convolution in enumerate(convolutions, 1):
            stem.add_module(f"conv{number}", convolution)
            stem.add_module(f"norm{number}", nn.BatchNorm2d(convolution.out_channels))
            stem.add_module(f"relu{number}", nn.ReLU())
        stem.add_module("pool", nn.MaxPool2d(2, ceil_mode=True))
        widths = [growth * width // 64 for width in (64, 160, 224, 256)]
        blocks = _sections(growth, (4, 5, 4, 4), widths, improve=True)
        super().__init__(normalize, stem, blocks, _end(blocks[-1][1]), exits=exits, classes=classes)
