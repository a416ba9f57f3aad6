"""Where data sets lie, and how they get there."""

import hashlib
import os
import tarfile
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from bnncc.errors import ToolError
from bnncc.files import whole_file

BLOCK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A file to download: addresses that are tried in order, and the sha256 that its content must have."""

    urls: Sequence[str]
    sha256: str


class _NotHad(Exception):
    """Why an address did not give the file."""


def data_folder() -> Path:
    """Where data sets lie: $BNNCC_DATA, or ~/.cache/bnncc."""
    return Path(os.environ.get("BNNCC_DATA") or Path.home() / ".cache" / "bnncc").expanduser()


def not_available(title: str, folder: Path, reason: str, files: str) -> ToolError:
    """E0704, for a data set that is not in `folder`; `files` says what belongs there."""
    return ToolError.of(
        "E0704",
        f"{title} is not here: {reason}",
        where=str(folder),
        remedy=f"put {files} into {folder}, or set BNNCC_DATA to the folder above a folder {folder.name} that has them",
    )


def damaged(path: Path, reason: object, remedy: str = "") -> ToolError:
    """E0705, for a file that is not what its publisher describes."""
    return ToolError.of("E0705", f"not a readable file: {reason}", where=str(path), remedy=remedy)


def download(title: str, source: Source, file: BinaryIO, place: Path, files: str) -> None:
    """Write the content of `source` to `file`, which is empty, checked, with a progress bar on standard error.

    Raises:
        ToolError: E0704 no address gives the file; the message names them all and `place`, the folder for `files`.
    """
    reasons = []
    for url in source.urls:
        try:
            _fetch(url, source.sha256, file)
            return
        except _NotHad as reason:
            reasons.append(f"{url}: {reason}")
    raise not_available(title, place, "downloading it failed: " + "; ".join(reasons), files)


def obtain_file(title: str, source: Source, path: Path, files: str) -> Path:
    """`path`, downloaded if it is not there. Raises ToolError E0704 (see `download`), E0509 it cannot be kept."""
    if not path.is_file():
        with whole_file(path) as file:
            download(title, source, file, path.parent, files)
    return path


def obtain_folder(title: str, source: Source, folder: Path, *, below: str, most_bytes: int, files: str) -> Path:
    """`folder`; if it is not there, what the tar file `source` holds in its folder `below`, downloaded and unpacked.

    Raises:
        ToolError: E0704 (see `download`), E0705 the archive is damaged, unpacks to more than `most_bytes` or would write
            outside of its folder, E0509 the disk refused.
    """
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        archive, unpacked = Path(scratch) / "archive", Path(scratch) / "unpacked"
        with archive.open("w+b") as file:
            download(title, source, file, folder, files)
        unpack(archive, unpacked, most_bytes)
        (unpacked / below).replace(folder)
    return folder


def unpack(archive: Path, folder: Path, most_bytes: int) -> None:
    """Unpack the ordinary files of a tar file. Raises ToolError E0705: see `obtain_folder`."""
    total = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                total += max(member.size, 0)
                if total > most_bytes:
                    raise ValueError(f"it unpacks to more than {most_bytes:,} bytes")
                if not (member.isfile() or member.isdir()):
                    raise ValueError(f"{member.name} is neither a file nor a folder")
                tar.extract(member, folder, filter="data")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise damaged(archive, error) from error


def _fetch(url: str, sha256: str, file: BinaryIO) -> None:
    digest = hashlib.sha256()
    file.seek(0)
    file.truncate()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with _opened(url) as response, Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        length = getattr(response, "length", None)
        bar = progress.add_task(url.rpartition("/")[2], total=length)
        while block := _block(response):
            digest.update(block)
            file.write(block)
            progress.advance(bar, len(block))
    if digest.hexdigest() != sha256:
        raise _NotHad("the checksum is wrong")


def _opened(url: str) -> IO[bytes]:
    try:
        response: IO[bytes] = urllib.request.urlopen(url, timeout=30)
    except (OSError, HTTPException) as error:
        raise _NotHad(error) from error
    return response


def _block(response: IO[bytes]) -> bytes:
    try:
        return response.read(BLOCK)
    except (OSError, HTTPException) as error:
        raise _NotHad(error) from error
