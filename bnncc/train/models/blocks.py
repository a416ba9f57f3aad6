"""What several networks are built of."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn

from bnncc.train.layers import BinaryConv2d, BinaryLinear, ChannelNorm, Normalize, Sign

Norm = Literal["batch", "channels", "features"]
"""Batch normalisation; layer normalisation over the channels of a pixel; layer normalisation over the whole tensor."""

Activation = Literal["sign", "relu"]

Order = Literal["pool-norm-sign", "norm-pool-sign", "norm-sign-pool"]
"""Where a block pools. Of signs, a maximum is nearly always +1 (Alizadeh, section 3.4)."""


def _norm2d(kind: Norm, channels: int, height: int, width: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return ChannelNorm(channels) if kind == "channels" else nn.LayerNorm([channels, height, width])


def conv_block(
    shape: Sequence[int],
    outputs: int,
    kernel: int,
    *,
    padding: int = 0,
    pool: bool = False,
    norm: Norm = "batch",
    order: Order = "pool-norm-sign",
) -> tuple[nn.Sequential, tuple[int, int, int]]:
    """Convolution, [2x2 max-pool], normalisation, sign on [C,H,W] = `shape`; with it the shape that comes out."""
    block = nn.Sequential()
    inputs, height, width = shape
    height, width = height + 2 * padding - kernel + 1, width + 2 * padding - kernel + 1
    block.add_module("conv", BinaryConv2d(inputs, outputs, kernel, padding=padding))
    for layer in order.split("-"):
        if layer == "norm":
            block.add_module("norm", _norm2d(norm, outputs, height, width))
        elif layer == "sign":
            block.add_module("sign", Sign())
        elif pool:
            block.add_module("pool", nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    return block, (outputs, height, width)


def dense_block(
    inputs: int, outputs: int, *, norm: Norm = "batch", activation: Activation | None = "sign", dropout: float = 0
) -> nn.Sequential:
    """Flatten, [dropout], dense layer, normalisation, activation (none for logits)."""
    block = nn.Sequential()
    block.add_module("flatten", nn.Flatten())
    if dropout:
        block.add_module("dropout", nn.Dropout(dropout))
    block.add_module("dense", BinaryLinear(inputs, outputs))
    block.add_module("norm", nn.BatchNorm1d(outputs) if norm == "batch" else nn.LayerNorm(outputs))
    if activation is not None:
        block.add_module(activation, Sign() if activation == "sign" else nn.ReLU())
    return block


class FeedForward(nn.Sequential):
    """A chain of blocks, built one by one; it keeps the shape that the next one gets.

    Raises:
        ValueError: an unknown `norm` or `order`.
    """

    def __init__(self, shape: Sequence[int], norm: Norm = "batch", order: Order = "pool-norm-sign") -> None:
        super().__init__()
        for value, known in ((norm, get_args(Norm)), (order, get_args(Order))):
            if value not in known:
                raise ValueError(f"{value!r} is none of {', '.join(known)}")
        self.norm, self.order = norm, order
        self.shape = tuple(shape)
        self.add_module("normalize", Normalize(128, 128))

    def add_conv(self, outputs: int, kernel: int, *, padding: int = 0, pool: bool = False) -> None:
        block, self.shape = conv_block(
            self.shape, outputs, kernel, padding=padding, pool=pool, norm=self.norm, order=self.order
        )
        self.add_module(f"block{len(self)}", block)

    def add_dense(self, outputs: int, *, activation: Activation = "sign", dropout: float = 0) -> None:
        block = dense_block(_size(self.shape), outputs, norm=self.norm, activation=activation, dropout=dropout)
        self.add_module(f"block{len(self)}", block)
        self.shape = (outputs,)

    def add_head(self, classes: int, *, dropout: float = 0) -> None:
        block = dense_block(_size(self.shape), classes, norm=self.norm, activation=None, dropout=dropout)
        self.add_module("head", block)


def _size(shape: Sequence[int]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


class ExitNet(nn.Module):
    """A stem and a chain of blocks, with exits after some of them: [N,C,H,W] -> logits [N,classes] for each exit.

    With a single exit it returns a tensor, otherwise a tuple in order of depth. Blocks after the last exit are left
    out, so that `exits=(4,)` is the network that ends where the exit after block 4 of a larger one is.
    An exit is a mean over the pixels and a dense layer, binary unless `binary_head` is false.
    """

    def __init__(
        self,
        normalize: nn.Module | None,
        stem: nn.Module,
        blocks: Sequence[tuple[nn.Module, int]],
        end: nn.Module,
        *,
        exits: Sequence[int],
        classes: int,
        binary_head: bool = True,
    ) -> None:
        """`blocks` go with their output channels; `end` comes before the exit after the last block of all."""
        super().__init__()
        if not exits or exits[0] < 1 or exits[-1] > len(blocks) or any(a >= b for a, b in pairwise(exits)):
            raise ValueError(f"exits {tuple(exits)}: give rising numbers of blocks, from 1 to {len(blocks)}")
        self.exits = tuple(exits)
        self.normalize = nn.Identity() if normalize is None else normalize
        self.stem = stem
        for number, (block, channels) in enumerate(blocks[: exits[-1]], 1):
            self.add_module(f"block{number}", block)
            if number in exits:
                head = nn.Sequential()
                if number == len(blocks):
                    head.add_module("end", end)
                head.add_module("pool", nn.AdaptiveAvgPool2d(1))
                head.add_module("flatten", nn.Flatten())
                dense = BinaryLinear(channels, classes) if binary_head else nn.Linear(channels, classes)
                head.add_module("dense", dense)
                self.add_module(f"exit{exits.index(number) + 1}", head)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.stem(self.normalize(x))
        outputs: list[Tensor] = []
        for number in range(1, self.exits[-1] + 1):
            x = self.get_submodule(f"block{number}")(x)
            if number in self.exits:
                outputs.append(self.get_submodule(f"exit{len(outputs) + 1}")(x))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
