"""MNIST, and scikit-learn's digits."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnncc.train.data.obtain import Source, damaged, data_folder, obtain_file
from bnncc.train.data.sets import DataSet, Images

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
FIGURES = tuple("0123456789")
AGAIN = "delete it to download it again"


def digits() -> DataSet:
    """scikit-learn's handwritten digits: 8x8, values 0..16; 1,437 to train, 360 to test.

    The split is fixed, with equal shares of the classes. Source: UCI, Optical Recognition of Handwritten Digits.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    x = bunch.images.astype(np.uint8)[:, None]
    y = bunch.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(y)), test_size=360, random_state=0, stratify=y)
    train, test = np.sort(train), np.sort(test)
    return DataSet(Images(x[train], y[train]), Images(x[test], y[test]), classes=FIGURES)


def mnist(folder: Path | None = None) -> DataSet:
    """MNIST: 28x28, bytes; 60,000 images to train, 10,000 to test.

    Reads the four official files, with or without .gz, from `folder` (default: mnist in `data_folder()`), and downloads
    those that are missing; only downloads are held to the published checksums.

    Raises:
        ToolError: E0704 a file cannot be had, E0705 a file is damaged, E0509 a download cannot be kept.
    """
    folder = folder or data_folder() / "mnist"
    images, labels, test_images, test_labels = (_read_idx(_file(folder, name)) for name in SHA256)
    for pixels, classes in ((images, labels), (test_images, test_labels)):
        if pixels.ndim != 3 or classes.ndim != 1 or len(pixels) != len(classes):
            reason = f"images of shape {pixels.shape} and labels of shape {classes.shape} do not belong together"
            raise damaged(folder, reason, "delete the files there, and they will be downloaded again")
    return DataSet(
        train=Images(images[:, None], labels.astype(np.int64)),
        test=Images(test_images[:, None], test_labels.astype(np.int64)),
        classes=FIGURES,
    )


def _file(folder: Path, name: str) -> Path:
    """The file `name` or its unpacked form in `folder`, downloaded if neither is there."""
    unpacked = folder / name.removesuffix(".gz")
    if unpacked.is_file():
        return unpacked
    source = Source([mirror + name for mirror in MIRRORS], SHA256[name])
    return obtain_file("MNIST", source, folder / name, f"the four official files {', '.join(SHA256)}")


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """An array of bytes in the idx format: 00 00 08, the rank, the dimensions as big-endian uint32, then the values."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        if len(content) < 4 or content[:3] != b"\0\0\x08":
            raise ValueError("it does not begin as an idx file of bytes does")
        shape = np.frombuffer(content, ">u4", content[3], 4).astype(int)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise damaged(path, error, AGAIN) from error
