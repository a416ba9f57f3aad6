"""Nayak's binary autoencoder."""

from torch import Tensor, nn

from bnncc.train.layers import BinaryConv2d, BinaryConvTranspose2d, Normalize, Sign


class DenoisingAutoencoder(nn.Module):
    """A binary autoencoder for CIFAR-10: [N,3,H,W] of bytes -> the image in (-1,1), [N,3,H,W]; H and W multiples of 8.

    Encoder: 3x3 convolutions of 32, 16, 8, each with batch normalisation and max-pooling. Decoder: 3x3 transposed
    convolutions of 8, 16, 32, each with batch normalisation and nearest upsampling by 2, and one of 3 with batch
    normalisation and tanh. Signs stand before all of them but the first of each half: the 8 x H/8 x W/8 code is real.
    `width` stands for the 8. 13,824 binary weights.
    """

    def __init__(self, *, channels: int = 3, width: int = 8) -> None:
        super().__init__()
        self.normalize = Normalize(128, 128)
        self.encoder = nn.Sequential()
        inputs = channels
        for number, outputs in enumerate((4 * width, 2 * width, width), 1):
            if number > 1:
                self.encoder.add_module(f"sign{number}", Sign())
            self.encoder.add_module(f"conv{number}", BinaryConv2d(inputs, outputs, 3, padding=1))
            self.encoder.add_module(f"norm{number}", nn.BatchNorm2d(outputs))
            self.encoder.add_module(f"pool{number}", nn.MaxPool2d(2))
            inputs = outputs
        self.decoder = nn.Sequential()
        for number, outputs in enumerate((width, 2 * width, 4 * width, channels), 1):
            if number > 1:
                self.decoder.add_module(f"up{number}", nn.Upsample(scale_factor=2, mode="nearest"))
                self.decoder.add_module(f"sign{number}", Sign())
            self.decoder.add_module(f"conv{number}", BinaryConvTranspose2d(inputs, outputs, 3, padding=1))
            self.decoder.add_module(f"norm{number}", nn.BatchNorm2d(outputs))
            inputs = outputs
        self.decoder.add_module("tanh", nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.decoder(self.encoder(self.normalize(x)))
        return image
