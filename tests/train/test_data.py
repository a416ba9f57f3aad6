import gzip
import io
import urllib.error
from pathlib import Path

import numpy as np
import pytest

from bnncc.errors import ToolError
from bnncc.train import data


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small MNIST in the official form, half of it unpacked."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("t10k", 5)):
        images, labels = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> io.BytesIO:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(data.urllib.request, "urlopen", refuse)


def test_digits_are_split_once_and_for_all() -> None:
    first, second = data.digits(), data.digits()
    assert first.train.x.shape == (1437, 1, 8, 8)
    assert first.test.y.shape == (360,)
    assert first.train.x.dtype == np.uint8
    assert first.train.x.max() == 16
    assert np.array_equal(first.test.x, second.test.x)
    assert np.bincount(first.test.y).min() >= 34
    assert len(np.unique(np.concatenate([first.train.x, first.test.x]), axis=0)) == 1797


def test_reads_mnist_packed_or_not(folder: Path) -> None:
    sets = data.mnist(folder)
    assert sets.train.x.shape == (12, 1, 28, 28)
    assert sets.test.y.tolist() == [0, 1, 2, 3, 4]
    assert sets.test.y.dtype == np.int64


def test_folder_comes_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNNCC_DATA", str(folder.parent))
    assert data.data_folder() == folder.parent
    monkeypatch.delenv("BNNCC_DATA")
    assert data.data_folder() == Path.home() / ".cache" / "bnncc"


@pytest.mark.usefixtures("offline")
def test_says_where_the_missing_file_would_come_from_and_go_to(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="E0704") as caught:
        data.mnist(tmp_path / "mnist")
    for word in (*data.MNIST_MIRRORS, str(tmp_path / "mnist"), "BNNCC_DATA", "no network"):
        assert word in str(caught.value)


def test_download_is_held_to_the_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"something else"))
    with pytest.raises(ToolError, match="checksum is wrong"):
        data.mnist(tmp_path)
    assert not list(tmp_path.iterdir())


def test_download_falls_back_to_the_next_mirror_and_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "t10k-images-idx3-ubyte.gz"
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    asked = []

    def serve(url: str, **_: object) -> io.BytesIO:
        asked.append(url)
        if len(asked) == 1:
            raise urllib.error.URLError("no network")
        return io.BytesIO(content)

    monkeypatch.setattr(data.urllib.request, "urlopen", serve)
    monkeypatch.setitem(data.MNIST_SHA256, name, data.hashlib.sha256(content).hexdigest())
    assert len(data.mnist(folder).test) == 5
    assert asked == [mirror + name for mirror in data.MNIST_MIRRORS]
    assert (folder / name).read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08", b"\0\0\x0d\x01" + bytes(8), idx(np.zeros((5, 28, 28)))[:-1], idx(np.zeros((6, 28, 28)))],
)
def test_damaged_files_are_refused(folder: Path, content: bytes) -> None:
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ToolError, match="E0705"):
        data.mnist(folder)


def test_a_broken_gzip_is_refused(folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ToolError, match="E0705"):
        data.mnist(folder)


def test_holds_out_the_last_images(folder: Path) -> None:
    rest, held_out = data.mnist(folder).train.hold_out(2)
    assert rest.x.shape == (10, 1, 28, 28)
    assert held_out.y.tolist() == [0, 1]
