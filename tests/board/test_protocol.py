"""Frames: Python's coder, and the firmware's, compiled for the host, against Python's."""

import ctypes
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnncc.board import serial
from bnncc.board.serial import DamagedError, Frame, decode, encode, stuff, unstuff
from bnncc.resources import folder

# Zeros and runs longer than a block of 254 are what byte stuffing is about.
data = st.lists(
    st.one_of(
        st.binary(max_size=20), st.builds(bytes, st.integers(250, 520)), st.builds(b"\1".__mul__, st.integers(250, 520))
    ),
    max_size=3,
).map(b"".join)
u8 = st.integers(0, 255)
frames = st.builds(Frame, kind=u8, tag=u8, payload=data, status=st.integers(0, 65535))


@given(data)
def test_stuffing_removes_zeros_and_is_undone(raw: bytes) -> None:
    stuffed = stuff(raw)
    assert 0 not in stuffed
    assert len(stuffed) <= len(raw) + 1 + len(raw) // 254
    assert unstuff(stuffed) == raw


@given(frames)
def test_frame_survives_the_line(frame: Frame) -> None:
    line = encode(frame)
    assert (line[0], line[-1], 0 in line[1:-1]) == (0, 0, False)
    assert decode(line[1:-1]) == frame


@given(frames, st.data())
def test_a_changed_or_missing_byte_is_noticed(frame: Frame, draw: st.DataObject) -> None:
    line = encode(frame)[1:-1]
    position = draw.draw(st.integers(0, len(line) - 1))
    changed = bytes([line[position] ^ draw.draw(st.integers(1, 255))])
    for damaged in (
        line[:position],
        line[:position] + line[position + 1 :],
        line[:position] + changed + line[position + 1 :],
    ):
        with pytest.raises(DamagedError):
            decode(damaged)


@given(st.binary(max_size=600))
def test_noise_is_damaged(noise: bytes) -> None:
    with pytest.raises(DamagedError):
        decode(noise)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = tmp_path_factory.mktemp("shim") / "frame.so"
    source = folder("firmware") / "src"
    sanitize = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    here = Path(__file__).parent
    subprocess.run(
        [
            "gcc",
            "-std=c99",
            *sanitize,
            "-shared",
            "-fPIC",
            f"-I{source}",
            source / "frame.c",
            here / "frame_shim.c",
            "-o",
            library,
        ],
        check=True,
    )
    functions = ctypes.CDLL(str(library))
    functions.shim_encode.restype = functions.shim_decode.restype = ctypes.c_size_t
    return functions


@given(frame=frames, piece=st.integers(1, 300))
def test_firmware_encodes_the_same(shim: ctypes.CDLL, frame: Frame, piece: int) -> None:
    out = ctypes.create_string_buffer(4096)
    size = ctypes.c_size_t(piece)
    length = shim.shim_encode(frame.kind, frame.tag, frame.status, frame.payload, len(frame.payload), size, out)
    assert out.raw[:length] == encode(frame)


@given(
    pieces=st.lists(
        st.one_of(
            frames.map(encode),
            st.binary(max_size=40),  # noise
            st.builds(lambda frame, cut: encode(frame)[:-cut], frames, st.integers(1, 30)),  # frames that never end
        ),
        max_size=6,
    ),
    payload_max=st.integers(0, 600),
)
def test_firmware_finds_the_same_frames_among_noise(shim: ctypes.CDLL, pieces: list[bytes], payload_max: int) -> None:
    line = b"".join(pieces)
    expected = b""
    for part in line.split(b"\0")[:-1]:
        if not part:
            continue
        try:
            frame = decode(part)
        except DamagedError:
            frame = None
        if frame is None or len(frame.payload) > payload_max:
            expected += b"\0"
        else:
            expected += bytes([1, frame.kind, frame.tag]) + len(frame.payload).to_bytes(2, "little") + frame.payload
    capacity = 8 + payload_max + 4
    buffer = ctypes.create_string_buffer(capacity + 1)
    buffer.raw = b"\xa5" * (capacity + 1)
    out = ctypes.create_string_buffer(2 * len(line) + 64)
    length = shim.shim_decode(line, ctypes.c_size_t(len(line)), buffer, ctypes.c_size_t(capacity), out)
    assert out.raw[:length] == expected
    assert buffer.raw[-1] == 0xA5


def test_both_ends_agree_on_the_numbers() -> None:
    text = (folder("firmware") / "src" / "protocol.h").read_text(encoding="utf-8")
    constants = {name: int(value) for name, value in re.findall(r"\b([A-Z_]+) = (\d+)", text)}
    assert constants.pop("PROTOCOL_VERSION") == serial.PROTOCOL_VERSION
    expected = {f"KIND_{kind.name}": kind.value for kind in serial.Kind}
    expected |= {f"STATUS_{status.name}": status.value for status in serial.Status}
    expected |= {f"COUNTER_{name.upper()}": number for number, name in enumerate(serial.COUNTERS)}
    assert constants == expected
