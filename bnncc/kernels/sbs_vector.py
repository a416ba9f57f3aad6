"""Sparse bit-sliced counting with the vector extension of Armv8.1-M (MVE, Helium): 128 output channels at a time.

Lists, thresholds and counters are those of sbs.py; a row is one vector of four words. Eight rows at a time go to three
binary digits and leave one carry in memory, and so on with the carries: more digits at once do not fit eight registers.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bnncc.kernels import sbs
from bnncc.kernels.base import Array, Kernel, always
from bnncc.kernels.binary import conv
from bnncc.kernels.windows import Windows
from bnncc.ops import Conv
from bnncc.program import Parts
from bnncc.tensor import Op

LANES = 128
WORDS = LANES // 32


def refuse(op: Op) -> str:
    channels = conv(op).weight.shape[0]
    if conv(op).groups > 1:
        return f"its channels are in {conv(op).groups} groups"
    return sbs.refuse(op) or (
        f"its {channels} output channels fill one word of a vector's four" if channels <= 32 else ""
    )


def build(op: Op, name: str) -> Parts:
    c = conv(op)
    parts = sbs.build(op, name, LANES)
    weights, start, *others = parts.constants
    rows = vectors(weights.data.T)  # [blocks, rows, 4]
    if c.cut is not None:
        words = start.data.reshape(-1, *start.data.shape[-2:])  # [variants, words, digits]
        first = vectors(whole_levels(words).transpose(0, 2, 1))  # [blocks, variants, digits, 4]
        first = np.ascontiguousarray(np.moveaxis(first, 0, 1))
    else:
        first = np.zeros((max(9, -(-c.taps.bit_length() // 3) * 3), WORDS), np.uint32)
    lists = Windows.of(c).kernel[1] + 1
    carries = -(-(c.taps // 8 + lists) // 8) * 8  # a list of n leaves at most n / 8 + 1
    return replace(
        parts,
        constants=(replace(weights, data=rows), replace(start, data=first), *others),
        scratch=(*parts.scratch, ("carries", "uint32_t", carries * WORDS)),
        params={
            **parts.params,
            "blocks": rows.shape[0],
            "block": rows[0].size,
            "planes": first.shape[-2] * WORDS,
        },
        stack=0,
    )


def vectors(words: Array) -> Array:
    """[..., n, words] as [blocks, ..., n, 4], padded with zeros."""
    missing = -words.shape[-1] % WORDS
    padded = np.pad(words, [(0, 0)] * (words.ndim - 1) + [(0, missing)])
    split = padded.reshape(*words.shape[:-1], -1, WORDS)
    return np.ascontiguousarray(np.moveaxis(split, -2, 0))


def whole_levels(digits: Array) -> Array:
    """[..., digits] padded with zeros to a multiple of three."""
    return np.pad(digits, [(0, 0)] * (digits.ndim - 1) + [(0, -digits.shape[-1] % 3)])


def work(op: Op) -> Mapping[str, float]:
    """At the density that is expected."""
    c = conv(op)
    return sbs.work_at(c, c.density, LANES)


KERNELS = (
    Kernel(
        "sbs_vector",
        "sparse bit-sliced counting of the set inputs, in vectors",
        (Conv,),
        "sbs_vector.c.j2",
        refuse,
        build,
        work,
        rows=sbs.not_turned,
        worst=lambda op: sbs.worst(op, LANES),
        apart=always,
        mve=True,
    ),
)
