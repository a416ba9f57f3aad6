"""Networks whose blocks add to a real shortcut."""

from collections.abc import Sequence

from torch import Tensor, nn

from bnncc.train.layers import BinaryConv2d, Blur, Sign
from bnncc.train.models.blocks import ExitNet

BLOCKS = 16
"""Four sections of four blocks each, in both networks."""


class _BiRealBlock(nn.Module):
    """Sign, binary 3x3 convolution, batch normalisation, added to the shortcut.

    Where the width changes, the convolution has stride 2, and the shortcut a 2x2 mean, a real 1x1 convolution and batch
    normalisation.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut = nn.Sequential()
        stride = 1 if inputs == outputs else 2
        if stride == 2:
            # a window that reaches over an odd edge averages what lies inside
            self.shortcut.add_module("pool", nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False))
            self.shortcut.add_module("conv", nn.Conv2d(inputs, outputs, 1, bias=False))
            self.shortcut.add_module("norm", nn.BatchNorm2d(outputs))
        self.sign = Sign(polynomial=True)
        self.conv = BinaryConv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.norm(self.conv(self.sign(x))) + self.shortcut(x)
        return total


class BiRealNet(ExitNet):
    """Bi-Real-18: [N,channels,H,W] -> logits [N,classes], one for each exit.

    A real 7x7 convolution of 64 with stride 2, batch normalisation, 3x3 max-pooling with stride 2; 16 blocks, four each
    of 64, 128, 256 and 512 channels; `width` stands for the 64.
    `exits` are the numbers of the blocks followed by one. The input is float32 features, or, with a `normalize` layer,
    what that one takes. For ImageNet: channels 3, classes 1000, exits (16,), binary_head false (the last layer is then
    real, with a bias), `Normalize()`.

    One channel, 12 classes and exit 16 only: 11,176,384 parameters, batch normalisation's scales and offsets included.
    Every further exit adds as many weights as its block has channels, times the classes.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 12,
        *,
        exits: Sequence[int] = (2, 4, 8, 12, 16),
        width: int = 64,
        binary_head: bool = True,
        normalize: nn.Module | None = None,
    ) -> None:
        stem = nn.Sequential()
        stem.add_module("conv", nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False))
        stem.add_module("norm", nn.BatchNorm2d(width))
        stem.add_module("pool", nn.MaxPool2d(3, stride=2, padding=1))
        blocks: list[tuple[nn.Module, int]] = []
        inputs = width
        for number in range(BLOCKS):
            outputs = width << number // 4
            blocks.append((_BiRealBlock(inputs, outputs), outputs))
            inputs = outputs
        super().__init__(normalize, stem, blocks, nn.Identity(), exits=exits, classes=classes, binary_head=binary_head)


class _QuickBlock(nn.Module):
    """Sign, binary 3x3 convolution padded with +1, ReLU, batch normalisation, added to the input.

    Where the width changes, a real transition comes first: ReLU, 2x2 max-pooling with stride 1, a blur with stride 2,
    a 1x1 convolution, batch normalisation.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.transition = nn.Sequential()
        if inputs != outputs:
            self.transition.add_module("relu", nn.ReLU())
            self.transition.add_module("pool", nn.MaxPool2d(2, stride=1))
            self.transition.add_module("blur", Blur(inputs))
            self.transition.add_module("conv", nn.Conv2d(inputs, outputs, 1, bias=False))
            self.transition.add_module("norm", nn.BatchNorm2d(outputs))
        self.sign = Sign(clip=1.25)
        self.conv = BinaryConv2d(outputs, outputs, 3, padding=1, padding_value=1)
        self.relu = nn.ReLU()
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transition(x)
        total: Tensor = self.norm(self.relu(self.conv(self.sign(x)))) + x
        return total


class QuickNet(ExitNet):
    """QuickNet: [N,channels,H,W] -> logits [N,classes], one for each exit.

    A real stem (3x3 of 16 with stride 2, batch normalisation, ReLU; 3x3 depthwise with stride 2, batch normalisation
    without scale and offset; 1x1 of 64, batch normalisation); 16 blocks, four each of 64, 128, 256 and 512 channels;
    a ReLU before the last exit; `width` stands for the 64. `exits` and `normalize` are as in `BiRealNet`.

    One channel, 12 classes and exit 16 only: 12,722,880 parameters, batch normalisation's scales and offsets included,
    the 4,032 fixed values of the blurs not. Every further exit adds as many weights as its block has channels, times the
    classes.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 12,
        *,
        exits: Sequence[int] = (2, 4, 8, 12, 16),
        width: int = 64,
        normalize: nn.Module | None = None,
    ) -> None:
        quarter = width // 4
        stem = nn.Sequential()
        stem.add_module("conv1", nn.Conv2d(channels, quarter, 3, stride=2, padding=1, bias=False))
        stem.add_module("norm1", nn.BatchNorm2d(quarter))
        stem.add_module("relu", nn.ReLU())
        stem.add_module("conv2", nn.Conv2d(quarter, quarter, 3, stride=2, padding=1, groups=quarter, bias=False))
        stem.add_module("norm2", nn.BatchNorm2d(quarter, affine=False))
        stem.add_module("conv3", nn.Conv2d(quarter, width, 1, bias=False))
        stem.add_module("norm3", nn.BatchNorm2d(width))
        blocks: list[tuple[nn.Module, int]] = []
        inputs = width
        for number in range(BLOCKS):
            outputs = width << number // 4
            blocks.append((_QuickBlock(inputs, outputs), outputs))
            inputs = outputs
        super().__init__(normalize, stem, blocks, nn.ReLU(), exits=exits, classes=classes)
