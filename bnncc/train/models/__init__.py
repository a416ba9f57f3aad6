"""The networks of the examples and of the papers that bnncc reproduces.

Order in a block of the plain ones: convolution, [max-pool], normalisation, sign. Their weights are all binary and there
are no biases; the first convolution reads the normalised bytes, which are no signs; a last normalisation scales the
logits. All of that is exact in integers once compiled. The deep ones have real layers and real shortcuts as well.

Every builder has a `width` (or `growth`), which scales all layers: the papers' networks are the defaults.
"""

from bnncc.train.models.autoencoder import DenoisingAutoencoder
from bnncc.train.models.concatenating import BinaryDenseNet, MeliusNet
from bnncc.train.models.plain import MLP, BinaryNet, DigitsNet, FullyCon, LeNet5, VaessenNet
from bnncc.train.models.residual import BiRealNet, QuickNet

__all__ = [
    "MLP",
    "BiRealNet",
    "BinaryDenseNet",
    "BinaryNet",
    "DenoisingAutoencoder",
    "DigitsNet",
    "FullyCon",
    "LeNet5",
    "MeliusNet",
    "QuickNet",
    "VaessenNet",
]
