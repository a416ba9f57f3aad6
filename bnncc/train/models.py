"""The networks of the examples.

Order in a block: convolution, [max-pool], batch normalisation, sign. All weights are binary and there are no biases.
The first convolution reads the normalised input, which is no sign; a last batch normalisation scales the logits. All
of this is exact in integers once compiled.
"""

from torch import Tensor, nn

from bnncc.train.layers import BinaryConv2d, BinaryLinear, Normalize, Sign


def _conv_block(inputs: int, outputs: int, kernel: int, *, padding: int = 0, pool: bool = False) -> nn.Sequential:
    block = nn.Sequential()
    block.add_module("conv", BinaryConv2d(inputs, outputs, kernel, padding=padding))
    if pool:
        block.add_module("pool", nn.MaxPool2d(2))
    block.add_module("norm", nn.BatchNorm2d(outputs))
    block.add_module("sign", Sign())
    return block


def _dense_block(inputs: int, outputs: int) -> nn.Sequential:
    block = nn.Sequential()
    block.add_module("flatten", nn.Flatten())
    block.add_module("dense", BinaryLinear(inputs, outputs))
    block.add_module("norm", nn.BatchNorm1d(outputs))
    block.add_module("sign", Sign())
    return block


def _head(inputs: int, classes: int) -> nn.Sequential:
    head = nn.Sequential()
    head.add_module("flatten", nn.Flatten())
    head.add_module("dense", BinaryLinear(inputs, classes))
    head.add_module("norm", nn.BatchNorm1d(classes))
    return head


class DigitsNet(nn.Module):
    """Three exits for 8x8 images of values 0..16: [N,1,8,8] -> three times [N,10], logits in order of depth.

    The exits follow the first and the second convolution and the dense layer: they come after 4 %, 66 % and all of the
    multiply-adds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize(8, 8)
        self.block1 = _conv_block(1, 32, 3, padding=1)
        self.exit1 = _head(32 * 8 * 8, 10)
        self.block2 = _conv_block(32, 32, 3, padding=1, pool=True)
        self.exit2 = _head(32 * 4 * 4, 10)
        self.block3 = _conv_block(32, 64, 3, padding=1, pool=True)
        self.block4 = _dense_block(64 * 2 * 2, 128)
        self.exit3 = _head(128, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        whole = self.block1(self.normalize(x))
        half = self.block2(whole)
        return self.exit1(whole), self.exit2(half), self.exit3(self.block4(self.block3(half)))


class LeNet5(nn.Module):
    """The LeNet5 of Nayak's table for MNIST, without padding: [N,1,28,28] of bytes -> logits [N,10]."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize(128, 128)
        self.block1 = _conv_block(1, 20, 5)
        self.block2 = _conv_block(20, 20, 5, pool=True)
        self.block3 = _conv_block(20, 50, 5)
        self.block4 = _conv_block(50, 50, 5, pool=True)
        self.block5 = _dense_block(50, 500)
        self.head = _head(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = self.block4(self.block3(self.block2(self.block1(self.normalize(x)))))
        logits: Tensor = self.head(self.block5(features))
        return logits
