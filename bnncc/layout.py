"""How a tensor lies in memory. The element type alone decides, so kernels never negotiate.

BIN is pixel-major: a pixel's channel bits, channel 0 in bit 0, in the smallest of 8, 16 or 32*k bits that holds them;
padding bits are 0. Everything else is pixel-major with one C value an element. Buffers are whole 32-bit words.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.tensor import Elem, Tensor

Array = NDArray[Any]

C_TYPES = {Elem.U8: "uint8_t", Elem.I8: "int8_t", Elem.I16: "int16_t", Elem.I32: "int32_t", Elem.F32: "float"}
DTYPES: dict[str, "np.dtype[Any]"] = {
    "uint8_t": np.dtype(np.uint8),
    "int8_t": np.dtype(np.int8),
    "uint16_t": np.dtype(np.uint16),
    "int16_t": np.dtype(np.int16),
    "uint32_t": np.dtype(np.uint32),
    "int32_t": np.dtype(np.int32),
    "float": np.dtype(np.float32),
}
MEMBERS = {
    "uint8_t": "u8",
    "int8_t": "i8",
    "uint16_t": "u16",
    "int16_t": "i16",
    "uint32_t": "u32",
    "int32_t": "i32",
    "float": "f32",
}


@dataclass(frozen=True)
class Unit:
    """A pixel of C binary channels: `words` values of `c_type`, `bits` bits each."""

    c_type: str
    bits: int
    words: int

    @property
    def dtype(self) -> "np.dtype[Any]":
        return DTYPES[self.c_type]


def unit(channels: int) -> Unit:
    """The unit that holds `channels` bits."""
    if channels <= 8:
        return Unit("uint8_t", 8, 1)
    if channels <= 16:
        return Unit("uint16_t", 16, 1)
    return Unit("uint32_t", 32, -(-channels // 32))


def c_type(tensor: Tensor) -> str:
    """The C type of the tensor's storage elements."""
    return unit(tensor.shape[0]).c_type if tensor.elem is Elem.BIN else C_TYPES[tensor.elem]


def elements(tensor: Tensor) -> int:
    """How many values of `c_type` the tensor takes."""
    c, h, w = tensor.shape
    return h * w * unit(c).words if tensor.elem is Elem.BIN else c * h * w


def storage_bytes(kind: str, count: int) -> int:
    """Bytes of `count` values, rounded up to whole words."""
    return -(-DTYPES[kind].itemsize * count // 4) * 4


def pack_bits(bits: Array, u: Unit) -> Array:
    """Booleans [..., C] as [..., words] of the unit's type."""
    padded = np.zeros((*bits.shape[:-1], u.words * u.bits), np.uint8)
    padded[..., : bits.shape[-1]] = bits
    packed = np.packbits(padded, axis=-1, bitorder="little")
    return packed.view(u.dtype.newbyteorder("<")).astype(u.dtype)


def pack(tensor: Tensor, x: Array) -> Array:
    """Values [N, C, H, W] as stored: [N, elements] of the C type."""
    pixels = np.moveaxis(x, 1, -1)
    if tensor.elem is Elem.BIN:
        return pack_bits(np.ascontiguousarray(pixels > 0), unit(tensor.shape[0])).reshape(len(x), -1)
    return np.ascontiguousarray(pixels).reshape(len(x), -1).astype(DTYPES[C_TYPES[tensor.elem]])


def unpack(tensor: Tensor, stored: Array) -> Array:
    """The inverse of `pack`: [N, elements] -> [N, C, H, W]."""
    c, h, w = tensor.shape
    if tensor.elem is not Elem.BIN:
        pixels = stored.reshape(len(stored), h, w, c).astype(tensor.elem.dtype)
        return np.moveaxis(pixels, -1, 1)
    u = unit(c)
    raw = np.ascontiguousarray(stored.reshape(len(stored), h, w, u.words)).view(np.uint8)
    bits = np.unpackbits(raw, axis=-1, bitorder="little")[..., :c]
    return np.moveaxis(np.where(bits > 0, 1, -1), -1, 1)
