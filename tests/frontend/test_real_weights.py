"""--real-weights: float weights in less flash, and a reference that has the same rounded ones."""

import numpy as np
import pytest

import bnncc
from bnncc.errors import ModelError
from tests.nets import Net


def dense_net(largest: float = 1.0) -> Net:
    """A real layer behind bits: x [6, 5, 5] -> sign -> Conv 3x3 with float weights."""
    net = Net(np.random.default_rng(8), (6, 5, 5))
    x = net.sign(net.normalise(), "ge_where")
    weight = net.rng.normal(size=(7, 6, 3, 3)).astype(np.float32)
    weight[0, 0, 0, 0] = largest
    net.outputs.append(net.node("Conv", x, net.const(weight), kernel_shape=[3, 3]))
    return net


@pytest.mark.parametrize(("storage", "bytes_each"), [("f32", 4), ("f16", 2), ("i8", 1)])
def test_flash_and_what_it_does_to_the_outputs(storage: str, bytes_each: int) -> None:
    net = dense_net()
    compiled = bnncc.compile(net.model(), "cortex-m7", name="net", real_weights=storage)
    scales = 4 * 7 if storage == "i8" else 0
    (layer,) = [row for row in compiled.report["layers"] if row["kernel"] == "real_conv"]
    assert layer["flash_bytes"] == 7 * 54 * bytes_each + scales
    verdict = compiled.verify(net.x)
    assert verdict.ok
    if storage == "f32":
        assert verdict.given is None
    else:
        assert verdict.given is not None
        assert 0 < verdict.given.largest_difference < 0.5


def test_a_weight_beyond_f16_is_refused() -> None:
    with pytest.raises(ModelError, match="E0306"):
        bnncc.compile(dense_net(1e6).model(), "cortex-m7", name="net", real_weights="f16")
    assert bnncc.compile(dense_net(1e6).model(), "cortex-m7", name="net", real_weights="i8").report["totals"]["cycles"]


@pytest.mark.parametrize("storage", ["f16", "i8"])
def test_weights_that_would_all_become_zero_are_refused(storage: str) -> None:
    net = dense_net()
    name = net.nodes[-1].input[1]
    net.constants[name] = net.constants[name] * np.float32(1e-44 if storage == "i8" else 1e-9)
    with pytest.raises(ModelError, match="E0306"):
        bnncc.compile(net.model(), name="net", real_weights=storage)


@pytest.mark.parametrize("given", [{"sign_at_zero": 2}, {"real_weights": "f64"}, {"input_layout": "chwn"}])
def test_arguments_that_compile_does_not_know(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        bnncc.compile(dense_net().model(), name="net", **given)
