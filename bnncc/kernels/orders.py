"""The order in which the reference sums real values, which the C follows so that it rounds alike.

onnxruntime's float32 sums on x86-64 with AVX2 and FMA, by measurement: a matrix product multiplies and adds with one rounding,
some taps at a time; where it has a single row or column, products are rounded by themselves, and summed in fours or in
eight interleaved sums.
"""

from dataclasses import dataclass

from bnncc.ops import Conv

PACKED_BLOCK = 256  # taps that a product with constant weights sums at a time


@dataclass(frozen=True)
class Order:
    """`block` taps are summed at a time, with one rounding a tap where `fused`; 0: eight interleaved sums.

    Of those, how they are added up depends on the output's place: `place` is "channel" (within its group) or "pixel".
    """

    block: int
    fused: bool
    place: str = ""


FOURS = Order(4, fused=False)


def block(columns: int) -> int:
    """Taps that a matrix product with so many columns sums at a time."""
    return 128 if columns > 64 else 256 if columns > 32 else 512 if columns > 16 else 1024


def order(op: Conv) -> Order:
    """How the reference sums for a convolution of real values or weights."""
    outputs, pixels = op.y.shape[0] // op.groups, op.y.pixels
    if op.sparse:  # each tap's sum over the channels comes first there, which is not followed
        return Order(block(op.x.pixels), fused=True)
    if op.order == "packed":
        return Order(PACKED_BLOCK, fused=True)
    if op.order in ("rows", "columns"):
        if pixels == 1:
            return FOURS if op.order == "rows" else Order(0, fused=False, place="channel")
        return Order(block(outputs), fused=True) if outputs > 1 else Order(0, fused=False, place="pixel")
    if outputs == 1:
        return Order(0, fused=False, place="pixel") if full_width(op) else FOURS
    return Order(block(pixels), fused=True) if pixels > 1 else Order(0, fused=False, place="channel")


def full_width(op: Conv) -> bool:
    """Whether a plain window over one channel is as wide as the image: the reference then needs no patches."""
    plain = op.strides == op.dilations == (1, 1) and not any(op.pads)
    return plain and op.weight.shape[1] == 1 and op.kernel[1] == op.x.shape[2] and op.taps > 1
