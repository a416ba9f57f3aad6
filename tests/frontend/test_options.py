"""What the options of the compiler change, against onnxruntime."""

import numpy as np
import pytest
from onnx import TensorProto as T

import bnncc
from bnncc.ops import (
    Conv,
)
from tests.frontend.forms import binary, ops, real, verified
from tests.nets import Net, finish, small_net


@pytest.mark.parametrize("at_zero", [1, -1])
def test_sign_at_zero(at_zero: int) -> None:
    """Ternary signs of integers, of rectified and of real values, the reverse of one; zeros are met, in the reference too."""
    net, x = small_net(channels=8)
    even = binary(net, x, 6)
    rectified = [net.node("Relu", y) for y in (even, real(net, x))]
    if at_zero > 0:  # -1 and 0, else 0 and +1
        rectified = [net.node("Neg", y) for y in rectified]
    signs = [net.node("Sign", y) for y in (even, *rectified)]
    signs.append(net.node("Neg", net.node("Sign", even)))
    net.outputs = [*signs, *(binary(net, s, 3) for s in signs[:3])]
    with pytest.raises(bnncc.ModelError) as caught:
        bnncc.compile(net.model())
    assert [d.code for d in caught.value.diagnostics] == ["E0304"] * 4
    c = verified(net, sign_at_zero=at_zero)
    assert len([r for _, r in c.imported.reasons if f"{at_zero:+d} instead of 0" in r]) == 4
    v = c.verify(net.x)
    assert v.given is not None
    assert v.given.differing_samples > 0, "no zero was met"
    zeros = np.stack(net.values(even)[0])[:, 0] == 0
    assert zeros.any()
    assert (v.outputs_c[signs[0]][:, 0][zeros] == at_zero).all()
    assert (v.outputs_c[signs[3]][:, 0][zeros] == -at_zero).all()


@pytest.mark.parametrize("at_zero", [1, -1])
def test_the_sign_of_an_input_that_is_all_zero(at_zero: int) -> None:
    net = Net(np.random.default_rng(0), (6,), T.FLOAT)
    bits = net.node("Sign", "x")
    net.outputs = [bits, net.node("MatMul", bits, net.weight((6, 3)))]
    x = np.concatenate([np.zeros((2, 1, 6)), -np.zeros((1, 1, 6)), net.x]).astype(np.float32)
    c = verified(net, x, sign_at_zero=at_zero)
    assert (c.verify(x).outputs_c[bits][:3] == at_zero).all()


STORED = {"f16": 2, "i8": 1}


@pytest.mark.parametrize("storage", STORED)
def test_real_weights_in_fewer_bits(storage: str) -> None:
    """The reference gets the rounded weights; how far the file's own are from that is told, not judged."""
    net, x = small_net()
    y = net.sign(net.batch_norm(real(net, x, 16, 2, pads=[1, 1, 1, 1])), "ge_where")
    y = net.node("ConvTranspose", y, net.const(net.rng.normal(size=(16, 4, 2, 2))), strides=[2, 2], group=2)
    b = net.const(net.rng.normal(size=5))
    size = int(np.prod(net.shape_of(y)))
    for given in ({"transB": 1, "alpha": -0.5}, {}):
        shape = (5, size) if given else (size, 5)
        net.outputs.append(net.node("Gemm", net.node("Flatten", y), net.const(net.rng.normal(size=shape)), b, **given))
    full, small = verified(net), verified(net, real_weights=storage)
    assert not full.imported.reasons
    assert [r for _, r in small.imported.reasons] == [f"its weights are stored as {storage}"] * 4
    v = small.verify(net.x)
    assert v.given is not None
    assert v.given.largest_difference > 0
    weights = sum(op.weight.size for op in ops(full, Conv) if not op.binary)
    saved = full.program.flash_bytes - small.program.flash_bytes
    assert 0.9 * weights * (4 - STORED[storage]) <= saved <= weights * (4 - STORED[storage])


def test_weights_that_half_precision_holds_need_no_edit_of_their_values() -> None:
    net, x = small_net()
    w = net.rng.normal(size=(5, 9, 2, 2)).astype(np.float16).astype(np.float32)
    net.outputs.append(net.node("Conv", x, net.const(w)))
    v = verified(net, real_weights="f16").verify(net.x)
    assert v.given is not None
    assert v.given.differing_samples == 0


def test_weights_that_half_precision_does_not_hold() -> None:
    net, x = small_net()
    w = net.rng.normal(size=(5, 9, 2, 2))
    w[0, 0, 0, 0] = 65536
    net.outputs.append(net.node("Conv", x, net.const(w)))
    with pytest.raises(bnncc.ModelError, match="E0306"):
        bnncc.compile(net.model(), real_weights="f16")
    verified(net, real_weights="i8")


def test_binary_weights_are_not_stored_otherwise() -> None:
    net, x = small_net()
    net = finish(net, x)
    assert verified(net, real_weights="i8").files == verified(net).files
