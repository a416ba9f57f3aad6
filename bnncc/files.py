"""Writing a file, or a set of files, whole or not at all."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bnncc.errors import ToolError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that stands at `path` once the block ends; if the block fails, what was there before does.

    Raises:
        ToolError: E0509 the disk refused. An OSError of the block is taken for that.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w+b") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise _refused(path, error) from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> Path:
    """Write `content` to `path`, making its folder; a failure leaves what was there before. Returns the path.

    Raises:
        ToolError: E0509 the disk refused.
    """
    with whole_file(path) as file:
        file.write(content)
    return path


def write_all(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write every file or none: new ones go to temporary names, old ones are kept until all are in place.

    Raises ToolError E0509; the folder is then as it was.
    """
    existed = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".bnncc-") as scratch:
            for name, text in texts.items():
                (Path(scratch) / name).write_text(text, encoding="utf-8", newline="\n")
            swap_in(Path(scratch), folder, list(texts))
    except OSError as e:
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise _refused(folder, e) from None
    return [folder / name for name in texts]


def swap_in(scratch: Path, folder: Path, names: list[str]) -> None:
    """Move the files from `scratch` into `folder`; if one cannot be, put back what stood there and raise its OSError."""
    moved: list[str] = []
    try:
        for name in names:
            if (folder / name).exists():
                (folder / name).replace(scratch / f"{name}.old")
            moved.append(name)
            (scratch / name).replace(folder / name)
    except OSError:
        for name in moved:
            (folder / name).unlink(missing_ok=True)
            if (scratch / f"{name}.old").exists():
                (scratch / f"{name}.old").rename(folder / name)
        raise


def _refused(path: Path, error: OSError) -> ToolError:
    return ToolError.of(
        "E0509",
        f"cannot write {path}: {error.strerror or error}",
        remedy="check the path, its rights and the space on the disk",
    )
