"""How much a file may ask for."""

from collections.abc import Iterable

MAX_ELEMENTS = 1 << 27  # of any one tensor, and of all constants together: 512 MiB in float32
MAX_VALUES = 1 << 23  # of any one tensor that the input decides: as bits, the memory of the largest microcontrollers
MAX_FILE = 1 << 31  # bytes; protobuf can hold no more


def elements(shape: Iterable[int]) -> int:
    """The number of elements, without overflow."""
    n = 1
    for d in shape:
        n *= int(d)
    return n
