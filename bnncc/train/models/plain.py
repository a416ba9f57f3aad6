"""Networks without shortcuts."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from bnncc.train.layers import Normalize
from bnncc.train.models.blocks import Activation, FeedForward, Norm, Order, conv_block, dense_block

Padding = Literal["valid", "same"]


class DigitsNet(nn.Module):
    """Three exits for 8x8 images of values 0..16: [N,1,8,8] -> three times [N,10], logits in order of depth.

    The exits follow the first and the second convolution and the dense layer: they come after 4 %, 66 % and all of the
    multiply-adds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize(8, 8)
        self.block1, shape = conv_block((1, 8, 8), 32, 3, padding=1)
        self.exit1 = dense_block(32 * 8 * 8, 10, activation=None)
        self.block2, shape = conv_block(shape, 32, 3, padding=1, pool=True)
        self.exit2 = dense_block(32 * 4 * 4, 10, activation=None)
        self.block3, _ = conv_block(shape, 64, 3, padding=1, pool=True)
        self.block4 = dense_block(64 * 2 * 2, 128)
        self.exit3 = dense_block(128, 10, activation=None)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        whole = self.block1(self.normalize(x))
        half = self.block2(whole)
        return self.exit1(whole), self.exit2(half), self.exit3(self.block4(self.block3(half)))


class LeNet5(FeedForward):
    """LeNet5 as in Nayak's table or in the code: [N,C,H,W] of bytes = [N, *shape] -> logits [N,10].

    "table": 5x5 convolutions of 20, 20 with max-pooling, 50, 50 with max-pooling; dense 500, 10.
    "code": 20 with max-pooling, 50 with max-pooling; dense 500, 10. `width` stands for the 20.
    The code pads ("same"). Binary weights for MNIST without padding: 128,000 (table), 430,500 (code).
    """

    def __init__(
        self,
        variant: Literal["table", "code"] = "table",
        *,
        shape: Sequence[int] = (1, 28, 28),
        padding: Padding = "valid",
        width: int = 20,
        classes: int = 10,
    ) -> None:
        super().__init__(shape)
        border = 2 if padding == "same" else 0
        for outputs in (width, width * 5 // 2):
            if variant == "table":
                self.add_conv(outputs, 5, padding=border)
            self.add_conv(outputs, 5, padding=border, pool=True)
        self.add_dense(width * 25)
        self.add_head(classes)


class BinaryNet(FeedForward):
    """BinaryNet for CIFAR-10: [N,3,32,32] of bytes -> logits [N,10].

    3x3 convolutions of 128, 128 with max-pooling, 256, 256 with max-pooling, 512, 512 with max-pooling; dense 1024,
    1024, 10; `width` stands for the 128. All convolutions pad but, with "valid", the first: as Helwegen and Nayak have
    it, with 10,352,000 binary weights. With "same", as Courbariaux and Vaessen have it, there are 14,022,016; that is
    also Nayak's ConvNet. `norm` "channels" is Nayak's network with layer normalisation; `order` is where blocks pool.
    """

    def __init__(
        self,
        *,
        padding: Padding = "valid",
        norm: Norm = "batch",
        order: Order = "pool-norm-sign",
        shape: Sequence[int] = (3, 32, 32),
        width: int = 128,
        classes: int = 10,
    ) -> None:
        super().__init__(shape, norm, order)
        for factor in (1, 2, 4):
            self.add_conv(factor * width, 3, padding=0 if factor == 1 and padding == "valid" else 1)
            self.add_conv(factor * width, 3, padding=1, pool=True)
        self.add_dense(8 * width)
        self.add_dense(8 * width)
        self.add_head(classes)


class FullyCon(FeedForward):
    """Nayak's FullyCon for MNIST: [N,1,28,28] of bytes -> logits [N,10]; three dense layers of `width`.

    36,806,656 binary weights. While it trains, dropout takes a fifth of the input and half of the activations.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), width: int = 4096, classes: int = 10) -> None:
        super().__init__(shape)
        self.add_dense(width, dropout=0.2)
        self.add_dense(width, dropout=0.5)
        self.add_dense(width, dropout=0.5)
        self.add_head(classes, dropout=0.5)


class MLP(FeedForward):
    """Alizadeh's network for MNIST: [N,1,28,28] of bytes -> logits [N,10]; three dense layers of `width`.

    10,014,720 binary weights. The activations are signs, or with "relu", as in the released networks, real.
    """

    def __init__(
        self,
        activation: Activation = "sign",
        *,
        shape: Sequence[int] = (1, 28, 28),
        width: int = 2048,
        classes: int = 10,
    ) -> None:
        super().__init__(shape)
        for _ in range(3):
            self.add_dense(width, activation=activation)
        self.add_head(classes)


class VaessenNet(FeedForward):
    """Vaessen's small network: [N, *shape] of bytes -> logits [N,10].

    3x3 convolutions without padding of 32 with max-pooling, 64 with max-pooling, 64; dense 64, 10; `width` stands for
    the 32. Binary weights: 122,336 for CIFAR-10's [3,32,32], 93,088 for MNIST's [1,28,28]. `norm` and `order` are as in
    `BinaryNet`.
    """

    def __init__(
        self,
        *,
        norm: Norm = "batch",
        order: Order = "pool-norm-sign",
        shape: Sequence[int] = (3, 32, 32),
        width: int = 32,
        classes: int = 10,
    ) -> None:
        super().__init__(shape, norm, order)
        self.add_conv(width, 3, pool=True)
        self.add_conv(2 * width, 3, pool=True)
        self.add_conv(2 * width, 3)
        self.add_dense(2 * width)
        self.add_head(classes)
