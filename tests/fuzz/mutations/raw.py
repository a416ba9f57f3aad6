"""Mutations of a file's bytes."""

import random

from tests.fuzz.mutations.draft import LIMIT


def mutate_bytes(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, str]:
    """Flipped, cut, repeated, moved or foreign bytes; `other` is another model to take some from."""
    b = bytearray(data)
    how = rng.choice(
        ("flip", "flip", "flip", "set", "set", "cut", "truncate", "repeat", "splice", "noise", "varint", "random")
    )
    for _ in range(rng.choice((1, 1, 2, 4, 30))):
        at = rng.randrange(len(b) + 1) if rng.random() < 0.7 else rng.randrange(min(400, len(b) + 1))
        size = rng.choice((1, 2, 4, 8, 50, 400))
        if how == "flip" and at < len(b):
            b[at] ^= 1 << rng.randrange(8)
        elif how == "set" and at < len(b):
            b[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif how == "cut":
            del b[at : at + size]
        elif how == "truncate":
            del b[at:]
        elif how == "repeat":
            b[at:at] = b[at : at + size] * rng.choice((1, 2, 50))
        elif how == "splice":
            start = rng.randrange(len(other) + 1)
            b[at : at + size] = other[start : start + size]
        elif how == "noise":
            b[at : at + size] = rng.randbytes(size)
        elif how == "varint":
            b[at : at + 1] = rng.choice((b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x07", b"\x80" * 11, b"\xff\xff\x03"))
        elif how == "random":
            b = bytearray(rng.randbytes(rng.choice((0, 1, 10, 1000, 100_000))))
            break
        if len(b) > LIMIT:
            break
    return bytes(b), f"bytes: {how}"
