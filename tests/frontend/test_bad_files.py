"""ONNX files are untrusted: whatever is in them gives a diagnostic or correct C, never a traceback. Here the files."""

import os
import random
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto as T

import bnncc
from tests.frontend.untrusted import changed, code_of


def test_paths(tmp_path: Path) -> None:
    assert code_of(tmp_path / "missing.onnx") == "E0101"
    assert code_of(tmp_path) == "E0101"
    assert code_of(str(tmp_path / ("x" * 300))) == "E0101"
    assert code_of("null\0byte.onnx") == "E0101"
    os.mkfifo(tmp_path / "pipe.onnx")  # which would be waited for
    assert code_of(tmp_path / "pipe.onnx") == "E0101"
    assert code_of("/dev/zero") == "E0101"
    with (tmp_path / "large.onnx").open("wb") as sparse:
        sparse.truncate(1 << 31)
    assert code_of(tmp_path / "large.onnx") == "E0102"


def test_random_bytes(tmp_path: Path) -> None:
    r = random.Random(1)
    for length in (1, 10, 100, 1000, 100_000):
        (tmp_path / "noise.onnx").write_bytes(r.randbytes(length))
        assert code_of(tmp_path / "noise.onnx") == "E0102"


@pytest.mark.parametrize("suffix", [".onnx", ".json", ".textproto", ".onnxtxt", ""])
@pytest.mark.parametrize("data", [b"", b"\x00", b"hello\n", b"{}", b"\xff" * 100, bytes(range(256))])
def test_files_that_are_no_model(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    assert code_of(path) == "E0102"


def test_truncated_files(good: onnx.ModelProto, tmp_path: Path) -> None:
    data = good.SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in [*range(0, 200, 7), *range(200, len(data), 311), len(data) - 1]:
        path.write_bytes(data[:length])
        assert code_of(path).startswith("E01"), length


def test_damaged_files(good: onnx.ModelProto, tmp_path: Path) -> None:
    """A few bytes changed anywhere: refused, or compiled (a damaged weight is a weight)."""
    data = good.SerializeToString()
    path = tmp_path / "damaged.onnx"
    r = random.Random(4)
    codes = set()
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(r.choice((1, 1, 3, 30))):
            changed[r.randrange(len(data)) if r.random() < 0.7 else r.randrange(400)] = r.randrange(256)
        path.write_bytes(changed)
        codes.add(code_of(path))
    assert len(codes) > 3


def test_missing_external_data(good: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "outside.onnx"
    onnx.save_model(
        changed(good, lambda _: None),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="weights",
        size_threshold=0,
    )
    assert code_of(path) == ""
    (tmp_path / "weights").unlink()
    assert code_of(path) == "E0106"


def external(good: onnx.ModelProto, folder: Path, location: str, **more: str) -> Path:
    """The model in `folder`, one of its parameters said to be in another file."""
    model = changed(good, lambda _: None)
    tensor = model.graph.initializer[2]
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_is_read(good: onnx.ModelProto, tmp_path: Path) -> None:
    data = good.graph.initializer[2].raw_data
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights").write_bytes(b"12345678" + data + b"rest")
    path = external(good, tmp_path, "sub/weights", offset="8", length=str(len(data)))
    assert bnncc.compile(path, name="net").files == bnncc.compile(good, name="net").files | {
        k: v.replace("model.onnx", path.name) for k, v in bnncc.compile(good, name="net").files.items()
    }


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "sub/../../secret",
        "/etc/passwd",
        "/dev/zero",
        "link",
        "folder/secret",
        "pipe",
        "circle",
        "sub",
        ".",
        "",
        "a\0b",
        "x" * 300,
    ],
)
def test_external_data_outside_of_the_folder(good: onnx.ModelProto, tmp_path: Path, location: str) -> None:
    """Neither by a path nor by a link; and what is no file is not waited for."""
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(good.graph.initializer[2].raw_data)
    (home / "link").symlink_to("../secret")
    (home / "folder").symlink_to("..")
    (home / "circle").symlink_to("circle")
    os.mkfifo(home / "pipe")
    assert code_of(external(good, home, location)) == "E0106"


@pytest.mark.parametrize(
    "range_",
    [
        {"offset": "4"}, {"offset": "-4"}, {"offset": str(1 << 62)}, {"offset": "1" * 30}, {"offset": "one"}, {"offset": "٣"},
        {"length": "3"}, {"length": "-1"}, {"length": str(1 << 40)}, {"offset": "4", "length": "4"}, {"length": ""},
    ],
)  # fmt: skip
def test_external_data_of_the_wrong_size(good: onnx.ModelProto, tmp_path: Path, range_: dict[str, str]) -> None:
    (tmp_path / "weights").write_bytes(good.graph.initializer[2].raw_data)
    assert code_of(external(good, tmp_path, "weights")) == ""
    assert code_of(external(good, tmp_path, "weights", **range_)) in ("E0102", "E0106")


def test_a_model_in_memory_has_no_external_data(good: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(good.graph.initializer[2].raw_data)
    assert code_of(onnx.load(external(good, tmp_path, "weights"), load_external_data=False)) == "E0106"


def test_a_model_in_memory_is_left_as_it_is(good: onnx.ModelProto) -> None:
    model = changed(good, lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_value"))
    model.graph.node[1].name = model.graph.node[0].name
    before = model.SerializeToString(deterministic=True)
    bnncc.compile(model, name="net")
    assert model.SerializeToString(deterministic=True) == before


def test_what_onnxruntime_does_not_ask_for_either(good: onnx.ModelProto) -> None:
    """Nodes in any order, and outputs without a shape, as torch and tf2onnx write them."""
    loose = onnx.ModelProto()
    loose.CopyFrom(good)
    del loose.graph.node[:]
    loose.graph.node.extend(reversed(good.graph.node))
    for output in loose.graph.output:
        output.type.tensor_type.ClearField("shape")
    compiled = bnncc.compile(loose, name="net")
    assert compiled.files == bnncc.compile(good, name="net").files
    assert compiled.verify(samples=4).ok
