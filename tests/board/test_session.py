"""Talking to a board: the simulated one that PlatformIO flashed, and ports on which something is wrong."""

import importlib
import os
import pty
import struct
import sys
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from bnncc.board.pio import Flashed
from bnncc.board.serial import Frame, Hello, Kind, Run, Session, Status, decode, encode, measure_board
from bnncc.errors import ToolError

pyserial = importlib.import_module("serial")


@pytest.fixture
def session(flashed: Flashed) -> Iterator[Session]:
    with Session(flashed.port) as opened:
        yield opened


def test_hello_tells_the_model(session: Session, flashed: Flashed) -> None:
    assert session.hello() == Hello("toy", flashed.fingerprint, 8, 44, 3, 2, "none", 25_000_000)
    assert session.expect("toy", flashed.fingerprint) == session.hello()


def test_results_are_those_of_the_host(flashed: Flashed, toy: Callable[[bytes, float], bytes]) -> None:
    inputs = [sample.tobytes() for sample in np.random.default_rng(1).integers(0, 255, (100, 8), dtype=np.uint8)]
    done: list[int] = []
    measured = measure_board(flashed.port, "toy", flashed.fingerprint, inputs, threshold=0.3, progress=done.append)
    # QEMU counts no cycles, and the firmware says so instead of giving numbers.
    assert measured.runs == tuple(Run(toy(data, 0.3), None, None) for data in inputs)
    assert {struct.unpack_from("<i", run.result, 4)[0] for run in measured.runs} == {0, 1}
    assert done == list(range(1, 101))


def test_the_threshold_stays_until_it_is_changed(session: Session, toy: Callable[[bytes, float], bytes]) -> None:
    data = bytes([100] * 8)
    for threshold in (0.0, 1.0, 0.39):
        session.set_threshold(threshold)
        for _ in range(2):
            assert session.run(data).result == toy(data, threshold)


def raw_answers(port: str, line: bytes, count: int) -> list[Frame]:
    """Put bytes on the line and read `count` answers."""
    with pyserial.Serial(port, 115200, timeout=5, exclusive=True) as raw:
        raw.write(line)
        received: list[bytes] = []
        while len(received) < count:
            part = raw.read_until(b"\0")
            assert part.endswith(b"\0")
            if part != b"\0":
                received.append(part[:-1])
    return [decode(part) for part in received]


HELLO = encode(Frame(Kind.HELLO, 9))
DAMAGED = (Kind.NONE, 0, Status.DAMAGED)


@pytest.mark.parametrize(
    "noise",
    [b"\x07garbage", encode(Frame(Kind.RUN, 4, bytes(8)))[:-6], encode(Frame(Kind.RUN, 4, b"\1" * 5000)), b"\xff" * 3],
    ids=["garbage", "a frame that never ends", "a frame too long", "a block too long"],
)
def test_noise_costs_one_answer_and_no_more(flashed: Flashed, noise: bytes) -> None:
    damaged, hello = raw_answers(flashed.port, noise + HELLO, 2)
    assert (damaged.kind, damaged.tag, damaged.status) == DAMAGED
    assert (hello.kind, hello.tag, hello.status) == (Kind.HELLO, 9, Status.OK)


def test_a_session_starts_on_a_dirty_line(flashed: Flashed, toy: Callable[[bytes, float], bytes]) -> None:
    with pyserial.Serial(flashed.port, 115200, exclusive=True) as raw:
        raw.write(b"\x21\x01\x01half a frame")
    with Session(flashed.port) as session:
        session.set_threshold(0.5)
        assert session.run(bytes(8)).result == toy(bytes(8), 0.5)


def test_requests_that_make_no_sense_are_refused(flashed: Flashed, session: Session) -> None:
    with pytest.raises(ToolError, match="E0609"):
        session.run(b"seven..")
    with pytest.raises(ToolError, match="not the length"):
        session.run(b"")
    session.close()
    unknown, long_hello = raw_answers(flashed.port, encode(Frame(77, 5)) + encode(Frame(Kind.HELLO, 6, b"x")), 2)
    assert (unknown.kind, unknown.tag, unknown.status) == (77, 5, Status.UNKNOWN)
    assert (long_hello.kind, long_hello.tag, long_hello.status) == (Kind.HELLO, 6, Status.LENGTH)


def test_a_fault_is_reported_and_the_board_restarts(session: Session, toy: Callable[[bytes, float], bytes]) -> None:
    session.set_threshold(0.0)
    with pytest.raises(ToolError, match="faulted"):
        session.run(bytes([255] * 8))
    assert session.run(bytes(8)).result == toy(bytes(8), 0.5)  # the threshold is the model's own again


def test_another_model_is_noticed(session: Session, flashed: Flashed) -> None:
    with pytest.raises(ToolError, match=r"E0608.*the model 'toy'"):
        session.expect("digits", flashed.fingerprint)
    with pytest.raises(ToolError, match=r"E0608.*another version of 'toy'"):
        session.expect("toy", flashed.fingerprint ^ 1)


def test_a_port_has_one_user(session: Session) -> None:
    with pytest.raises(ToolError, match="E0606"):
        Session(session.port)


def test_no_such_port() -> None:
    with pytest.raises(ToolError, match="E0605"):
        Session("/dev/no-such-port")


def test_pyserial_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(ToolError, match="E0602"):
        Session("/dev/ttyACM0")


@contextmanager
def fake_board(*answers: Callable[[Frame], list[Frame] | bytes]) -> Iterator[str]:
    """A pty on which the requests are answered by `answers` in turn, and the rest with silence. Gives the port."""
    master, slave = pty.openpty()
    tty.setraw(master)
    tty.setraw(slave)

    def serve() -> None:
        remaining = list(answers)
        received = b""
        while chunk := os.read(master, 4096):
            *parts, received = (received + chunk).split(b"\0")
            for request in [decode(part) for part in parts if part]:
                if not remaining:
                    continue
                answer = remaining.pop(0)(request)
                os.write(master, answer if isinstance(answer, bytes) else b"".join(map(encode, answer)))

    def serve_until_hung_up() -> None:
        with suppress(OSError):  # reading fails once the last user of the other end has closed it
            serve()

    thread = threading.Thread(target=serve_until_hung_up, daemon=True)
    thread.start()
    try:
        yield os.ttyname(slave)
    finally:
        os.close(slave)
        thread.join(timeout=10)
        os.close(master)
        assert not thread.is_alive()


def hello_answer(version: int = 1, counter: int = 1) -> Callable[[Frame], list[Frame]]:
    payload = struct.pack("<BBHIIIIII", version, counter, 0, 180_000_000, 2, 3, 2, 0, 7) + b"fake"
    return lambda request: [Frame(request.kind, request.tag, payload)]


def test_cycles_of_a_board_that_counts() -> None:
    run = struct.pack("<QII", 2**33, 5, 0) + b"abc"
    with (
        fake_board(hello_answer(), lambda request: [Frame(request.kind, request.tag, run)]) as port,
        Session(port) as session,
    ):
        assert session.run(b"xy") == Run(b"abc", 2**33, (5, 0))


def test_late_answers_are_dropped_and_lost_ones_asked_for_again() -> None:
    late = Frame(Kind.HELLO, 200, b"\1late")
    with (
        fake_board(
            lambda _: [Frame(0, 0, status=Status.DAMAGED)],
            lambda request: b"\0noise\0" + encode(late) + encode(hello_answer()(request)[0]),
        ) as port,
        Session(port) as session,
    ):
        assert session.hello().name == "fake"


def test_silence() -> None:
    with fake_board() as port, Session(port, timeout=0.05) as session, pytest.raises(ToolError, match="E0607"):
        session.hello()


def test_a_line_that_damages_everything() -> None:
    with (
        fake_board(*[lambda _: [Frame(0, 0, status=Status.DAMAGED)]] * 3) as port,
        Session(port) as session,
        pytest.raises(ToolError, match=r"E0609.*damaged"),
    ):
        session.hello()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (hello_answer(version=2), "version 2"),
        (hello_answer(counter=9), "greeting"),
        (lambda request: [Frame(request.kind, request.tag, b"\1short")], "greeting"),
    ],
)
def test_other_firmware(answer: Callable[[Frame], list[Frame]], reason: str) -> None:
    with fake_board(answer) as port, Session(port) as session, pytest.raises(ToolError, match=rf"E0608.*{reason}"):
        session.hello()


def test_an_answer_of_another_length() -> None:
    with (
        fake_board(hello_answer(), lambda request: [Frame(request.kind, request.tag, b"ok")]) as port,
        Session(port) as session,
        pytest.raises(ToolError, match=r"E0608.*length"),
    ):
        session.run(b"xy")


def test_an_unknown_status() -> None:
    with (
        fake_board(lambda request: [Frame(request.kind, request.tag, status=99)]) as port,
        Session(port) as session,
        pytest.raises(ToolError, match=r"E0609.*status 99"),
    ):
        session.hello()
