"""ImageNet, and other folders of images with a folder a class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bnncc.train.data.augment import square_crop_flip
from bnncc.train.data.obtain import damaged, data_folder, not_available
from bnncc.train.data.sets import DataSet, Images

SIZE, SQUARE = 224, 256  # pixels
KINDS = (".jpeg", ".jpg", ".png")


class ImageFiles:
    """Image files as RGB bytes, read when asked for: `x[rows]` gives their middles, uint8 [B,3,size,size]."""

    dtype = np.dtype(np.uint8)

    def __init__(self, paths: Sequence[Path], size: int = SIZE, square: int = SQUARE) -> None:
        self.paths, self.size, self.square = paths, size, square

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), 3, self.size, self.size

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> "ImageFiles | NDArray[np.uint8]":
        if isinstance(rows, slice):
            return ImageFiles(self.paths[rows], self.size, self.square)
        edge = (self.square - self.size) // 2
        return self.squares(rows)[:, :, edge : edge + self.size, edge : edge + self.size]

    def squares(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The largest squares in the middle of the images, scaled to `square` pixels: [B,3,square,square].

        Raises:
            ToolError: E0705 a file is no image.
        """
        return np.stack([self._square(self.paths[row]) for row in rows])

    def _square(self, path: Path) -> NDArray[np.uint8]:
        try:
            with Image.open(path) as image:
                image.draft("RGB", (self.square, self.square))  # a JPEG is decoded at the smallest scale that suffices
                edge = min(image.size)
                left, top = (image.width - edge) // 2, (image.height - edge) // 2
                box = (left, top, left + edge, top + edge)
                scaled = image.convert("RGB").resize((self.square,) * 2, Image.Resampling.BILINEAR, box)
                return np.asarray(scaled).transpose(2, 0, 1)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise damaged(path, error) from error


def imagenet(folder: Path | None = None) -> DataSet:
    """ImageNet (ILSVRC 2012): 3x224x224 RGB, bytes, read when needed. Training augments with `square_crop_flip`.

    Reads train/<class>/* and val/<class>/* (.JPEG, .jpg, .png) from `folder` (default: imagenet in `data_folder()`). The
    classes are numbered in the order of their names. The val folder is the test part, since the publisher's test labels
    are secret; validation comes from train.

    Raises:
        ToolError: E0704 it is not there.
    """
    folder = folder or data_folder() / "imagenet"
    classes = sorted(path.name for path in folder.glob("train/*/"))
    parts = {part: [_files(folder / part / name) for name in classes] for part in ("train", "val")}
    for part, files in parts.items():
        if not any(files):
            raise not_available(
                "ImageNet",
                folder,
                f"there is no {part}/<class>/*.JPEG, and it is not downloaded by itself: https://image-net.org gives it to "
                "registered users",
                "train/<class>/*.JPEG and val/<class>/*.JPEG",
            )
    train, test = (
        Images(
            ImageFiles([path for files in of_classes for path in files]),
            np.repeat(np.arange(len(classes), dtype=np.int64), [len(files) for files in of_classes]),
        )
        for of_classes in parts.values()
    )
    return DataSet(_mixed(train), test, classes=tuple(classes), augment=square_crop_flip)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in KINDS)


def _mixed(images: Images) -> Images:
    """The images in a fixed random order, so that the last of them are of all classes."""
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(images))
    return Images(ImageFiles([images.x.paths[row] for row in order]), images.y[order])
