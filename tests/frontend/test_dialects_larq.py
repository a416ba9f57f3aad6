"""Networks of Larq as tf2onnx writes them; data/larq tells how they were made."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import bnncc
from bnncc.frontend.source.session import session

FOLDER = Path(__file__).parent / "data" / "larq"
NETS = ("vgg", "magnitude", "residual")


@pytest.mark.parametrize("name", NETS)
def test_the_file_is_the_network_that_keras_ran(name: str) -> None:
    data = np.load(FOLDER / f"{name}.npz")
    s = session(onnx.load(FOLDER / f"{name}.onnx"))
    found = s.run(None, {"image": data["x"].astype(np.float32)})[0]
    np.testing.assert_allclose(found, data["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_larq_networks(name: str) -> None:
    c = bnncc.compile(FOLDER / f"{name}.onnx", input="u8", input_layout="nhwc")
    assert c.verify(np.load(FOLDER / f"{name}.npz")["x"][:, None].astype(np.float32)).ok
    assert c.verify(samples=16).ok
