"""The data sets of the examples, as arrays of uint8 images [N,1,H,W] and int64 labels [N]."""

import gzip
import hashlib
import os
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnncc.errors import ToolError
from bnncc.files import write_whole

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


@dataclass(frozen=True)
class Images:
    """Images and their classes. `x` is uint8 [N,1,H,W], `y` is int64 [N]."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def hold_out(self, count: int) -> tuple["Images", "Images"]:
        """All but the last `count` images, and these."""
        split = len(self) - count
        return Images(self.x[:split], self.y[:split]), Images(self.x[split:], self.y[split:])


@dataclass(frozen=True)
class DataSet:
    """A data set in its two parts. No choice may depend on the test part."""

    train: Images
    test: Images


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
    return DataSet(*(Images(x[part], y[part]) for part in map(np.sort, (train, test))))


def data_folder() -> Path:
    """Where data sets lie: $BNNCC_DATA, or ~/.cache/bnncc."""
    return Path(os.environ.get("BNNCC_DATA") or Path.home() / ".cache" / "bnncc").expanduser()


def mnist(folder: Path | None = None) -> DataSet:
    """MNIST: 28x28, bytes; 60,000 images to train, 10,000 to test.

    Reads the four official files, with or without .gz, from `folder` (default: mnist in `data_folder()`), and downloads
    those that are missing; only downloads are held to the published checksums.

    Raises:
        ToolError: E0704 a file cannot be had, E0705 a file is damaged, E0509 a download cannot be kept.
    """
    folder = folder or data_folder() / "mnist"
    images, labels, test_images, test_labels = (_read_idx(_obtain(folder, name)) for name in MNIST_SHA256)
    for pixels, classes in ((images, labels), (test_images, test_labels)):
        if pixels.ndim != 3 or classes.ndim != 1 or len(pixels) != len(classes):
            raise ToolError.of(
                "E0705",
                f"images of shape {pixels.shape} and labels of shape {classes.shape} do not belong together",
                where=str(folder),
                remedy="delete the files there, and they will be downloaded again",
            )
    return DataSet(
        train=Images(images[:, None], labels.astype(np.int64)),
        test=Images(test_images[:, None], test_labels.astype(np.int64)),
    )


def _obtain(folder: Path, name: str) -> Path:
    """The file `name` or its unpacked form in `folder`, downloaded if neither is there."""
    for path in (folder / name, folder / name.removesuffix(".gz")):
        if path.is_file():
            return path
    reasons = []
    for mirror in MNIST_MIRRORS:
        try:
            with urllib.request.urlopen(mirror + name, timeout=30) as response:
                content: bytes = response.read()
        except OSError as error:
            reasons.append(f"{mirror + name}: {error}")
            continue
        if hashlib.sha256(content).hexdigest() == MNIST_SHA256[name]:
            return write_whole(folder / name, content)
        reasons.append(f"{mirror + name}: the checksum is wrong")
    raise ToolError.of(
        "E0704",
        "MNIST is not here, and downloading it failed: " + "; ".join(reasons),
        where=str(folder / name),
        remedy=f"put the four official files {', '.join(MNIST_SHA256)} into {folder}, or set BNNCC_DATA to the folder "
        "above a folder mnist that has them",
    )


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
        raise ToolError.of(
            "E0705", f"not a readable idx file: {error}", where=str(path), remedy="delete it to download it again"
        ) from error
