import gzip
import hashlib
import io
import os
import pickle
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bnncc.errors import ToolError, UsageError
from bnncc.train import data
from bnncc.train.data import cifar, handwritten, obtain
from bnncc.train.data.obtain import Source


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

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


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


def test_sets_are_loaded_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rename(folder.with_name("mnist"))
    monkeypatch.setenv("BNNCC_DATA", str(folder.parent))
    assert len(data.load("mnist").train) == 12
    with pytest.raises(UsageError, match=r"E0712[^$]*cifar10"):
        data.load("mnits")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("read", "address"),
    [
        (data.mnist, handwritten.MIRRORS[1]),
        (data.cifar10, "https://www.cs.toronto.edu"),
        (data.speech_commands, "https://storage.googleapis.com"),
        (data.mswc, "https://mlcommons.org"),
        (data.voxforge, "repository.voxforge1.org"),
        (data.imagenet, "https://image-net.org"),
    ],
)
def test_says_where_missing_files_would_come_from_and_go_to(
    tmp_path: Path, read: Callable[[Path], data.DataSet], address: str
) -> None:
    with pytest.raises(ToolError, match="E0704") as caught:
        read(tmp_path / "place")
    for word in (address, str(tmp_path / "place"), "BNNCC_DATA"):
        assert word in str(caught.value)
    assert not list(tmp_path.rglob("*.gz"))


def test_download_is_held_to_the_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"something else"))
    for read in (data.mnist, data.cifar10):
        with pytest.raises(ToolError, match="checksum is wrong"):
            read(tmp_path / "place")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


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

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    monkeypatch.setitem(handwritten.SHA256, name, hashlib.sha256(content).hexdigest())
    assert len(data.mnist(folder).test) == 5
    assert asked == [mirror + name for mirror in handwritten.MIRRORS]
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
    parts = data.mnist(folder).with_validation()
    assert (len(parts.train), len(parts.validation)) == (11, 1)
    assert parts.with_validation() is parts


def batch(count: int, seed: int, **changes: object) -> bytes:
    """A batch of CIFAR-10 in the official form: what Python 2 pickled."""
    rng = np.random.default_rng(seed)
    content: dict[bytes, object] = {
        b"batch_label": b"testing",
        b"labels": rng.integers(0, 10, count).tolist(),
        b"data": rng.integers(0, 256, (count, 3072), np.uint8),
    }
    return pickle.dumps(content | {name.encode(): value for name, value in changes.items()}, protocol=2)


@pytest.fixture
def cifar_folder(tmp_path: Path) -> Path:
    place = tmp_path / "cifar-10-batches-py"
    place.mkdir()
    for seed, name in enumerate((*cifar.BATCHES, "test_batch")):
        (place / name).write_bytes(batch(4, seed))
    return place


def test_reads_cifar10(cifar_folder: Path) -> None:
    sets = data.cifar10(cifar_folder)
    expected = pickle.loads((cifar_folder / "data_batch_2").read_bytes(), encoding="bytes")
    assert sets.train.x.shape == (20, 3, 32, 32)
    assert sets.test.x.shape == (4, 3, 32, 32)
    assert np.array_equal(sets.train.x[4:8].reshape(4, -1), expected[b"data"])
    assert sets.train.y[4:8].tolist() == expected[b"labels"]
    assert sets.train.y.dtype == np.int64


class Harm:
    """Pickled, a call of os.mkdir."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.place),)


def test_a_pickle_that_calls_something_is_refused(cifar_folder: Path, tmp_path: Path) -> None:
    (cifar_folder / "test_batch").write_bytes(batch(4, 0, extra=Harm(tmp_path / "harm")))
    with pytest.raises(ToolError, match=r"E0705.*mkdir"):
        data.cifar10(cifar_folder)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        batch(4, 0)[:-100],
        pickle.dumps([1, 2], protocol=2),
        batch(4, 0, labels=[1, 2]),
        batch(4, 0, labels=[1, 2, 3, 10]),
        batch(4, 0, data=np.zeros((4, 3072), np.float32)),
        batch(4, 0, data=np.zeros((4, 3071), np.uint8)),
        b"c_codecs\nencode\n(X\x01\0\0\0aX\x04\0\0\0zlibtR.",
    ],
)
def test_damaged_batches_are_refused(cifar_folder: Path, content: bytes) -> None:
    (cifar_folder / "test_batch").write_bytes(content)
    with pytest.raises(ToolError, match="E0705"):
        data.cifar10(cifar_folder)


def archive(*members: tuple[str, bytes | None]) -> bytes:
    """A tar file of (name, content); a symbolic link to / where there is no content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content or b"")
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/"
            tar.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def obtained(content: bytes, place: Path, monkeypatch: pytest.MonkeyPatch, most_bytes: int = 1000) -> Path:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(content))
    source = Source(["https://example.org/a.tar.gz"], hashlib.sha256(content).hexdigest())
    return obtain.obtain_folder("It", source, place, below="top", most_bytes=most_bytes, files="files")


def test_an_archive_is_unpacked_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    content = archive(("top/one", b"1"), ("top/more/two", b"22"), (str(outside), b"3"))
    place = obtained(content, tmp_path / "data" / "set", monkeypatch)
    assert not outside.exists()
    assert (place / "more" / "two").read_bytes() == b"22"
    assert [path.name for path in place.parent.iterdir()] == ["set"]


@pytest.mark.parametrize(
    "content",
    [
        archive(("top/one", b"1"), ("../outside", b"2")),
        archive(("top/one", b"1"), ("top/link", None)),
        archive(("top/one", bytes(1001))),
        archive(("top/one", b"1"))[:-20],
        b"no archive",
    ],
    ids=["outside", "link", "large", "cut", "none"],
)
def test_a_bad_archive_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    with pytest.raises(ToolError, match="E0705"):
        obtained(content, tmp_path / "data" / "set", monkeypatch)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes: red and blue pictures, of several sizes."""
    from PIL import Image

    place = tmp_path / "imagenet"
    for part, count in (("train", 5), ("val", 2)):
        for name, colour in (("n01", (255, 0, 0)), ("n02", (0, 0, 255))):
            (place / part / name).mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (300 + 40 * k, 280), colour).save(place / part / name / f"{name}_{k}.JPEG")
    return place


def test_reads_imagenet_when_asked(image_folder: Path) -> None:
    sets = data.imagenet(image_folder)
    assert sets.classes == ("n01", "n02")
    assert sets.train.x.shape == (10, 3, 224, 224)
    assert len(sets.test) == 4
    rows = np.array([7, 0, 3])
    pixels = sets.train.x[rows]
    assert pixels.shape == (3, 3, 224, 224)
    assert pixels.dtype == np.uint8
    strongest = pixels[:, :, 112, 112].argmax(1)
    assert strongest.tolist() == [{0: 0, 1: 2}[int(y)] for y in sets.train.y[rows]]
    parts = sets.with_validation(0.2)
    assert np.array_equal(parts.validation.x[np.array([0])], sets.train.x[np.array([8])])
    seen = sets.augment(parts.train.x, rows, 0, 0)
    assert tuple(seen.shape) == (3, 3, 224, 224)


def test_a_damaged_image_is_named(image_folder: Path) -> None:
    (image_folder / "val" / "n02" / "n02_1.JPEG").write_bytes(b"\xff\xd8\xffrubbish")
    with pytest.raises(ToolError, match=r"E0705[^$]*n02_1"):
        data.imagenet(image_folder).test.x[np.arange(4)]
