"""The host's end of the conversation with a board; firmware/src/protocol.h describes it.

`Session` is one open port; `measure_board` runs many inputs and is what the command line uses.
"""

import errno
import importlib
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Any, Self

from bnncc.errors import ToolError

PROTOCOL_VERSION = 1
BAUD = 115200
_CHUNK = 4096

_HEADER = struct.Struct("<BBHI")  # kind, tag, status, payload bytes
_HELLO = struct.Struct("<BBHIIIIII")


class Kind(IntEnum):
    """Requests; NONE is the answer to a frame that arrived damaged."""

    NONE = 0
    HELLO = 1
    THRESHOLD = 2
    RUN = 3


class Status(IntEnum):
    """What an answer says about its request."""

    OK = 0
    DAMAGED = 1
    UNKNOWN = 2
    LENGTH = 3
    UNSUPPORTED = 4
    FAULT = 5


COUNTERS = ("none", "dwt", "systick")
_REASONS = {
    Status.DAMAGED: "every attempt arrived damaged",
    Status.UNKNOWN: "it does not know this request",
    Status.LENGTH: "the request has not the length that this model needs",
    Status.UNSUPPORTED: "the model has no early exits",
    Status.FAULT: "its processor faulted while it ran the model, and has restarted",
}


class DamagedError(ValueError):
    """A frame whose stuffing, length or checksum is wrong."""


@dataclass(frozen=True)
class Frame:
    """One request or answer, see protocol.h. `status` is 0 in requests."""

    kind: int
    tag: int
    payload: bytes = b""
    status: int = 0


def stuff(data: bytes) -> bytes:
    """COBS: `data` without any zero byte, 1 byte longer and 1 more for each 254 bytes."""
    out = bytearray()
    for part in data.split(b"\0"):
        rest = part
        while len(rest) >= 254:
            out += b"\xff" + rest[:254]
            rest = rest[254:]
        out += bytes([len(rest) + 1]) + rest
    return bytes(out)


def unstuff(data: bytes) -> bytes:
    """The inverse of `stuff`. Raises DamagedError."""
    out = bytearray()
    position = 0
    while position < len(data):
        code = data[position]
        block = data[position + 1 : position + code]
        if code == 0 or len(block) != code - 1 or 0 in block:
            raise DamagedError("broken byte stuffing")
        out += block
        position += code
        if code < 255 and position < len(data):
            out.append(0)
    return bytes(out)


def encode(frame: Frame) -> bytes:
    """The bytes on the line, with the zero bytes around them."""
    body = _HEADER.pack(frame.kind, frame.tag, frame.status, len(frame.payload)) + frame.payload
    return b"\0" + stuff(body + struct.pack("<I", zlib.crc32(body))) + b"\0"


def decode(data: bytes) -> Frame:
    """The frame in `data`, which is what stood between two zero bytes. Raises DamagedError."""
    raw = unstuff(data)
    if len(raw) < _HEADER.size + 4:
        raise DamagedError("too short")
    body, crc = raw[:-4], struct.unpack("<I", raw[-4:])[0]
    kind, tag, status, length = _HEADER.unpack_from(body)
    payload = body[_HEADER.size :]
    if crc != zlib.crc32(body) or length != len(payload):
        raise DamagedError("checksum or length wrong")
    return Frame(kind, tag, payload, status)


@dataclass(frozen=True)
class Hello:
    """What a board says of itself. Sizes in bytes, the clock in Hz; `counter` is one of COUNTERS."""

    name: str
    fingerprint: int
    input_bytes: int
    result_bytes: int
    step_count: int
    exit_count: int
    counter: str
    clock_hz: int


@dataclass(frozen=True)
class Run:
    """One run on a board: the result struct's bytes and, where the board can count, cycles in all and of each step.

    A step that an early exit skipped has 0 cycles.
    """

    result: bytes
    cycles: int | None
    step_cycles: tuple[int, ...] | None


@dataclass(frozen=True)
class Measured:
    """The runs of a board on a row of inputs, in their order, and what the board said of itself."""

    hello: Hello
    runs: tuple[Run, ...]


class Session:
    """An open conversation with the board at `port`, which nobody else can open meanwhile. A context manager.

    `timeout` is the number of seconds in which an answer must have arrived, the time on the line not counted. Each
    request is tried three times. Raises ToolError: E0602 pyserial missing, E0605 no such port, E0606 in use, E0607
    silence or unplugged, E0608 other firmware, E0609 the board refused or failed.
    """

    ATTEMPTS = 3

    def __init__(self, port: str, *, timeout: float = 10.0) -> None:
        self.port = port
        self.timeout = timeout
        self._serial = _open(port)
        self._tag = 0
        self._received = bytearray()
        self._hello: Hello | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the port to others."""
        self._serial.close()

    def hello(self) -> Hello:
        """Ask the board which model it runs."""
        # A simulated board notices within a second that its port was opened: short waits, and more of them.
        answer = self._ask(Kind.HELLO, timeout=min(self.timeout, 4.0))
        if len(answer) >= 1 and answer[0] != PROTOCOL_VERSION:
            raise self._error(
                "E0608",
                f"the firmware speaks version {answer[0]} of the protocol, this bnncc version {PROTOCOL_VERSION}",
                "flash the model again with this bnncc",
            )
        if len(answer) < _HELLO.size or answer[1] >= len(COUNTERS):
            raise self._error("E0608", "the board's greeting is not the runner's", "flash the model again")
        _, counter, _, clock, input_bytes, result_bytes, steps, exits, fingerprint = _HELLO.unpack_from(answer)
        name = answer[_HELLO.size :].decode("utf-8", "replace")
        self._hello = Hello(name, fingerprint, input_bytes, result_bytes, steps, exits, COUNTERS[counter], clock)
        return self._hello

    def expect(self, name: str, fingerprint: int) -> Hello:
        """`hello`, refused with E0608 unless it is the model `name` with that fingerprint (`pio.fingerprint`)."""
        hello = self.hello()
        if (hello.name, hello.fingerprint) != (name, fingerprint):
            what = f"the model {hello.name!r}" if hello.name != name else f"another version of {name!r}"
            raise self._error("E0608", f"the board runs {what}", "flash the model with `bnncc flash`")
        return hello

    def set_threshold(self, entropy: float) -> None:
        """Set the exits' entropy threshold in nats. E0609 if the model has no exits."""
        self._ask(Kind.THRESHOLD, struct.pack("<f", entropy))

    def run(self, data: bytes) -> Run:
        """Run the model on one input, its bytes as the C takes them. E0609 if their number is wrong."""
        hello = self._hello or self.hello()
        answer = self._ask(Kind.RUN, data)
        head = struct.Struct(f"<Q{hello.step_count}I")
        if len(answer) != head.size + hello.result_bytes:
            raise self._error("E0608", "the answer has not the length that it announced", "flash the model again")
        total, *steps = head.unpack_from(answer)
        if hello.counter == "none":
            return Run(answer[head.size :], None, None)
        return Run(answer[head.size :], total, tuple(steps))

    def _ask(self, kind: Kind, payload: bytes = b"", *, timeout: float | None = None) -> bytes:
        """The payload of the answer. A late answer to an earlier request has another tag and is dropped."""
        self._tag = self._tag % 255 + 1
        request = encode(Frame(kind, self._tag, payload))
        seconds = self.timeout if timeout is None else timeout
        damaged = False
        for _ in range(self.ATTEMPTS):
            self._write(request)
            # The operating system takes the bytes at once; the line needs 10 bit times for each.
            for answer in self._answers(time.monotonic() + seconds + 10 * len(request) / BAUD):
                if (answer.kind, answer.tag, answer.status) == (Kind.NONE, 0, Status.DAMAGED):
                    damaged = True
                    break
                if (answer.kind, answer.tag) == (kind, self._tag):
                    return self._checked(kind, answer)
        if damaged:
            raise self._error("E0609", f"{kind.name.lower()}: {_REASONS[Status.DAMAGED]}", "check cable and baud rate")
        raise self._error(
            "E0607",
            f"no answer within {self.ATTEMPTS} x {seconds:g} s",
            "reset the board, or flash the model with `bnncc flash`",
        )

    def _checked(self, kind: Kind, answer: Frame) -> bytes:
        if answer.status == Status.OK:
            return answer.payload
        known = answer.status in _REASONS
        reason = _REASONS[Status(answer.status)] if known else f"status {answer.status}"
        raise self._error("E0609", f"{kind.name.lower()}: {reason}", "flash the model again; check the input's size")

    def _answers(self, deadline: float) -> Iterator[Frame]:
        """The undamaged frames that arrive until `deadline`."""
        while True:
            end = self._received.find(0)
            if end < 0:
                seconds = deadline - time.monotonic()
                if seconds <= 0:
                    return
                self._received += self._read(seconds)
                continue
            data = bytes(self._received[:end])
            del self._received[: end + 1]
            try:
                frame = decode(data)
            except DamagedError:  # noise, or the empty space between two frames
                continue
            yield frame

    def _read(self, seconds: float) -> bytes:
        """What is there, after waiting up to `seconds` for the first byte."""
        try:
            self._serial.timeout = seconds
            first: bytes = self._serial.read(1)
            self._serial.timeout = 0
            return first + bytes(self._serial.read(4096)) if first else b""
        except OSError as error:
            raise self._unplugged(error) from error

    def _write(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), _CHUNK):  # the write timeout is for one chunk, whatever the input's size
                self._serial.write(data[start : start + _CHUNK])
        except OSError as error:
            raise self._unplugged(error) from error

    def _unplugged(self, error: OSError) -> ToolError:
        return self._error("E0607", f"the port failed: {error}", "plug the board in; flash it again if simulated")

    def _error(self, code: str, message: str, remedy: str) -> ToolError:
        return ToolError.of(code, message, where=self.port, remedy=remedy)


def _open(port: str) -> Any:
    """The serial port, held exclusively. Raises ToolError E0602, E0605, E0606."""
    try:
        serial: Any = importlib.import_module("serial")
    except ImportError as error:
        raise ToolError.of("E0602", "pyserial is not installed", remedy="pip install 'bnncc[board]'") from error
    try:
        return serial.Serial(port, BAUD, write_timeout=30.0, exclusive=True)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EBUSY):
            raise ToolError.of(
                "E0606", "another program has the port open", where=port, remedy="close the serial monitor"
            ) from error
        remedy = "connect the board; if the port is there, let your user open it (group dialout)"
        raise ToolError.of("E0605", f"cannot open the port: {error}", where=port, remedy=remedy) from error


def measure_board(
    port: str,
    name: str,
    fingerprint: int,
    inputs: Iterable[bytes],
    *,
    threshold: float | None = None,
    timeout: float = 10.0,
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """Run the model `name` on the board at `port` on each of `inputs` (the bytes of one sample, as the C takes them).

    `threshold` is the exits' entropy threshold in nats; None leaves what the board has. `progress` is called with the
    number of samples done. The results are raw: view them with the model's `result_dtype`. Raises ToolError.
    """
    runs: list[Run] = []
    with Session(port, timeout=timeout) as session:
        hello = session.expect(name, fingerprint)
        if threshold is not None:
            session.set_threshold(threshold)
        for data in inputs:
            runs.append(session.run(data))
            if progress:
                progress(len(runs))
    return Measured(hello, tuple(runs))
