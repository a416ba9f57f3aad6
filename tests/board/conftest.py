"""A toy model, the firmware with it, and the simulated boards that run it; every board is stopped at the end."""

import ctypes
import subprocess
from collections.abc import Callable, Iterator

import pytest
from toy_board import RESULT_BYTES, TOY

from bnncc.board import pio
from bnncc.target import Board, boards


@pytest.fixture(scope="session")
def board() -> Board:
    return boards()["sim-cortex-m4"]


@pytest.fixture(scope="session")
def flashed(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pio.Flashed]:
    """The simulated board with the toy model on it, uploaded by PlatformIO."""
    base = tmp_path_factory.mktemp("flashed")
    port = str(base / "port")
    yield pio.flash(TOY, "toy", board, workdir=base / "build", port=port)
    assert pio.stop(board, port=port)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes, float], bytes]:
    """The toy model on the host: (input, entropy threshold) -> the bytes of its result."""
    library = tmp_path_factory.mktemp("toy") / "toy.so"
    subprocess.run(["gcc", "-O2", "-ffp-contract=off", "-shared", "-fPIC", TOY / "toy.c", "-o", library], check=True)
    functions = ctypes.CDLL(str(library))

    def run(data: bytes, threshold: float) -> bytes:
        context = ctypes.create_string_buffer(20)
        result = ctypes.create_string_buffer(RESULT_BYTES)
        functions.toy_init(context)
        ctypes.c_float.from_buffer(context).value = threshold
        functions.toy_run(context, data, result)
        return result.raw

    return run
