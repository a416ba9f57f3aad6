"""What waiting for flash costs, as the compiler predicts it. The simulator's model, which this is short for, is sim/flash.h."""

from collections.abc import Sequence
from dataclasses import dataclass

from bnncc.target import Core, Flash

CACHED_CODE = 1024  # bytes: a cache of so many holds the loops of a kernel
# What is set aside in RAM for the code of a step by a template, and for the functions that its steps share: a little more than
# the most that gcc -O2 made of any network's, on any core.
CODE_BYTES = {
    "sbs_conv.c.j2": (2400, 1400),
    "sbs_vector.c.j2": (2400, 2400),
    "quad_conv.c.j2": (2400, 1950),
    "lut_conv.c.j2": (2100, 600),
    "binary_conv.c.j2": (1400, 1500),
    "binary_dense.c.j2": (1400, 1500),
    "grouped_conv.c.j2": (1400, 1500),
    "table_conv.c.j2": (2700, 0),
    "value_conv.c.j2": (2700, 0),
    "real_conv.c.j2": (2700, 0),
}
OTHER_CODE = (2200, 0)


@dataclass(frozen=True)
class Reads:
    """Words of constants that a step reads one by one, mostly upwards, this share of those that it passes; `span` is the
    size in bytes of what it passes again and again, `size` that of a word."""

    words: float
    share: float = 1.0
    span: int = 0
    size: int = 4


def for_constants(reads: Reads, flash: Flash | None) -> float:
    """Cycles."""
    if flash is None or not reads.words:
        return 0.0
    if not flash.data_lines:
        return reads.words * flash.wait_states
    if reads.span <= flash.data_lines * flash.line_bytes:
        return reads.span / flash.line_bytes * flash.wait_states
    per_line = flash.line_bytes / reads.size
    lines = float(1 - (1 - reads.share) ** per_line) / (reads.share * per_line)  # that one read makes necessary
    return reads.words * lines * flash.wait_states


def for_code(cycles: float, core: Core) -> float:
    """Cycles, for code that takes so many at zero wait states: straight on, line by line."""
    flash = core.flash
    if flash is None or flash.instruction_lines * flash.line_bytes >= CACHED_CODE:
        return 0.0
    lines = cycles * core.fetch / flash.line_bytes
    ahead = flash.line_bytes / core.fetch - 1 if flash.prefetch else 0.0
    return float(lines * max(0.0, flash.wait_states - max(0.0, ahead)))


def that_fit(templates: Sequence[str], room: int) -> list[int]:
    """Of steps by these templates, the most wanted first: the numbers of those whose code fits into so many bytes of RAM."""
    fitting = []
    shared: set[str] = set()
    for k, template in enumerate(templates):
        own, with_others = CODE_BYTES.get(template, OTHER_CODE)
        need = own + (0 if template in shared else with_others)
        if need <= room:
            fitting.append(k)
            shared.add(template)
            room -= need
    return fitting
