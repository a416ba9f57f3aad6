"""Packing: what lies where, and there and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnncc.layout import c_type, elements, pack, storage_bytes, unit, unpack
from bnncc.tensor import RANGES, Elem, Tensor


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(list(Elem)), st.integers(1, 100), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1)
)
def test_there_and_back(elem, c, h, w, seed):
    r = np.random.default_rng(seed)
    t = Tensor("t", elem, (c, h, w))
    if elem is Elem.F32:
        x = r.normal(size=(3, c, h, w)).astype(np.float32)
    else:
        lo, hi = RANGES.get(elem, (-1, 1))
        x = r.choice([-1, 1], (3, c, h, w)) if elem is Elem.BIN else r.integers(lo, hi + 1, (3, c, h, w))
    stored = pack(t, x)
    assert stored.shape == (3, elements(t))
    assert np.array_equal(unpack(t, stored), x)


@pytest.mark.parametrize(
    ("channels", "kind", "bits", "words"),
    [
        (1, "uint8_t", 8, 1),
        (8, "uint8_t", 8, 1),
        (9, "uint16_t", 16, 1),
        (16, "uint16_t", 16, 1),
        (17, "uint32_t", 32, 1),
        (32, "uint32_t", 32, 1),
        (33, "uint32_t", 32, 2),
        (97, "uint32_t", 32, 4),
    ],
)
def test_units(channels, kind, bits, words):
    u = unit(channels)
    assert (u.c_type, u.bits, u.words) == (kind, bits, words)
    assert c_type(Tensor("t", Elem.BIN, (channels, 2, 2))) == kind


def test_channel_0_is_bit_0_and_padding_is_0():
    t = Tensor("t", Elem.BIN, (35, 1, 2))
    x = -np.ones((1, 35, 1, 2), int)
    x[0, 0, 0, 0] = x[0, 33, 0, 0] = x[0, 31, 0, 1] = 1
    assert pack(t, x).tolist() == [[1, 2, 1 << 31, 0]]
    assert pack(t, np.ones((1, 35, 1, 2), int)).tolist() == [[0xFFFFFFFF, 7, 0xFFFFFFFF, 7]]


def test_values_are_pixel_major():
    t = Tensor("t", Elem.U8, (2, 1, 3))
    assert pack(t, np.arange(6).reshape(1, 2, 1, 3)).tolist() == [[0, 3, 1, 4, 2, 5]]


@pytest.mark.parametrize(
    ("kind", "count", "size"), [("uint8_t", 1, 4), ("uint8_t", 5, 8), ("uint16_t", 2, 4), ("float", 3, 12)]
)
def test_buffers_are_whole_words(kind, count, size):
    assert storage_bytes(kind, count) == size
