"""Reading a model file, and the files beside it that hold its data."""

import stat
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError

from bnncc.errors import ModelError, UsageError
from bnncc.frontend.source.limits import MAX_ELEMENTS, MAX_FILE
from bnncc.frontend.source.messages import messages
from bnncc.frontend.source.text import first_line, printable


def read(path: Path) -> onnx.ModelProto:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for, and some devices never end
            raise UsageError.of("E0101", f"{path} is no file", remedy="give the path to the model's .onnx file")
        if about.st_size >= MAX_FILE:
            raise ModelError.of(
                "E0102", f"{path} is larger than an ONNX file can be", remedy="check the path to the model"
            )
        model = onnx.ModelProto()
        model.ParseFromString(path.read_bytes())
    except FileNotFoundError:
        raise UsageError.of(
            "E0101", f"cannot read {path}: no such file", remedy="check the path to the model"
        ) from None
    except OSError as e:
        raise UsageError.of(
            "E0101", f"cannot read {path}: {e.strerror or e}", remedy="check the file and its rights"
        ) from None
    except ValueError as e:  # the path itself: a NUL
        raise UsageError.of("E0101", f"cannot read {str(path)!r}: {e}", remedy="check the path to the model") from None
    except DecodeError as e:
        raise ModelError.of(
            "E0102", f"{path} is not a readable ONNX file ({first_line(e)})", remedy="export the model again"
        ) from None
    _read_external(model, path)
    return model


def _read_external(model: onnx.ModelProto, path: Path) -> None:
    """Replace every reference to another file by what is there. Only files below the model's own folder are read."""
    room = 4 * MAX_ELEMENTS
    for tensor in messages(model):
        if not isinstance(tensor, onnx.TensorProto) or tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        given = {e.key: e.value for e in tensor.external_data}
        location = given.get("location", "")
        try:
            data = _slice_of_file(path.parent, location, given.get("offset", "0"), given.get("length"), room)
        except (OSError, ValueError, RuntimeError) as e:  # RuntimeError: links in a circle
            reason = e.strerror if isinstance(e, OSError) and e.strerror else e
            raise ModelError.of(
                "E0106",
                f"tensor {printable(tensor.name)} keeps its data in the file {printable(location)!r}, which cannot be read: {reason}",
                where=path.name,
                remedy="keep the model and its data in one folder",
            ) from None
        room -= len(data)
        tensor.raw_data = data
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def _slice_of_file(folder: Path, location: str, offset: str, length: str | None, room: int) -> bytes:
    """Bytes of the file `location` in or below `folder`. Raises OSError, ValueError with the reason."""
    relative = PurePosixPath(location)
    if not location or relative.is_absolute() or ".." in relative.parts or "\\" in location:
        raise ValueError("it must be a path within the model's folder")
    target = folder / relative
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ValueError("it leads out of the model's folder")
    about = target.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is no file")
    begin = _number(offset)
    size = about.st_size - begin if length is None else _number(length)
    if size < 0 or begin + size > about.st_size:
        raise ValueError(f"bytes {begin} to {begin + size} are wanted and it has {about.st_size}")
    if size > room:
        raise ValueError(f"the model's data exceed {4 * MAX_ELEMENTS} bytes")
    with target.open("rb") as file:
        file.seek(begin)
        return file.read(size)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(f"{printable(text)!r} is no offset or length")
    return int(text)
