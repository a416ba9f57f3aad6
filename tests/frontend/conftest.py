"""What the tests of the frontend share."""

import onnx
import pytest

from tests.nets import finish, small_net


@pytest.fixture(scope="module")
def good() -> onnx.ModelProto:
    net, x = small_net()
    return finish(net, x).model()
