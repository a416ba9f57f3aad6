"""The data sets of the papers, read from their publishers' files, and what is done to training samples."""

from collections.abc import Callable
from functools import partial

from bnncc.errors import UsageError
from bnncc.train.data.cifar import cifar10
from bnncc.train.data.folders import imagenet
from bnncc.train.data.handwritten import digits, mnist
from bnncc.train.data.obtain import data_folder
from bnncc.train.data.sets import Augment, DataSet, Images
from bnncc.train.data.speech import FOUR_WORDS, mswc, speech_commands, voxforge

__all__ = [
    "SETS",
    "Augment",
    "DataSet",
    "Images",
    "cifar10",
    "data_folder",
    "digits",
    "imagenet",
    "load",
    "mnist",
    "mswc",
    "speech_commands",
    "voxforge",
]

SETS: dict[str, Callable[[], DataSet]] = {
    "cifar10": cifar10,
    "digits": digits,
    "imagenet": imagenet,
    "mnist": mnist,
    "mswc": mswc,
    "speech_commands": speech_commands,
    "speech_commands_4w": partial(speech_commands, words=FOUR_WORDS, others=False),
    "voxforge": voxforge,
}


def load(name: str) -> DataSet:
    """The data set `name` of `SETS`. It has a validation part only where its publisher has: see `with_validation`.

    Raises:
        UsageError: E0712 there is no such data set.
        ToolError: E0704 it cannot be had, E0705 a file is damaged, E0509 the disk refused.
    """
    if name not in SETS:
        raise UsageError.of("E0712", f"there is no data set {name!r}", remedy=f"take one of {', '.join(SETS)}")
    return SETS[name]()
