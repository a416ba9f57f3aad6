"""CIFAR-10."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from bnncc.train.data.augment import pad_crop_flip
from bnncc.train.data.obtain import Source, damaged, data_folder, obtain_folder
from bnncc.train.data.sets import DataSet, Images

SOURCE = Source(
    ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"],
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = tuple(f"data_batch_{k}" for k in range(1, 6))
MOST_BYTES = 200 << 20  # the six files take 186,000,000 bytes


def cifar10(folder: Path | None = None) -> DataSet:
    """CIFAR-10: 3x32x32 RGB, bytes; 50,000 images to train, 10,000 to test. Training augments with `pad_crop_flip`.

    Reads the official Python files from `folder` (default: cifar-10-batches-py in `data_folder()`), and downloads them
    if there is no such folder; only downloads are held to the checksum.

    Raises:
        ToolError: E0704 the files cannot be had, E0705 a file is damaged, E0509 a download cannot be kept.
    """
    folder = obtain_folder(
        "CIFAR-10",
        SOURCE,
        folder or data_folder() / "cifar-10-batches-py",
        below="cifar-10-batches-py",
        most_bytes=MOST_BYTES,
        files="the official files data_batch_1 to data_batch_5 and test_batch",
    )
    batches = [_read_batch(folder / name) for name in BATCHES]
    train = Images(np.concatenate([b.x for b in batches]), np.concatenate([b.y for b in batches]))
    return DataSet(train, _read_batch(folder / "test_batch"), classes=CLASSES, augment=pad_crop_flip)


def _read_batch(path: Path) -> Images:
    """A pickled dictionary with uint8 rows [N,3072], channel by channel, under "data", and their classes under "labels"."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large")
        batch = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        rows, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"], np.int64)
        if rows.dtype != np.uint8 or rows.shape != (len(labels), 3072):
            raise ValueError(f"{rows.dtype} data of shape {rows.shape} for {len(labels)} labels")
        if not ((labels >= 0) & (labels < len(CLASSES))).all():
            raise ValueError("labels are not in 0..9")
        return Images(rows.reshape(-1, 3, 32, 32), labels)
    except Exception as error:  # a damaged pickle can raise almost anything
        raise damaged(path, error, "delete the folder to download it again") from error


class _Unpickler(pickle.Unpickler):
    """Makes arrays, numbers, strings and containers of them, and refuses the rest: a pickle can call anything."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): _empty,
            ("numpy._core.multiarray", "_reconstruct"): _empty,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _latin1,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return allowed[module, name]


def _empty(*_: object) -> np.ndarray[Any, Any]:
    """An array that its pickled state then fills. The shape that is asked for here says nothing, and may be huge."""
    return np.empty(0, np.uint8)


def _latin1(text: str, encoding: str) -> bytes:
    """How pickles that Python 2 is to read write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding}")
    return text.encode("latin1")
