"""What waiting for flash costs, as the compiler predicts it. The simulator's model, which this is short for, is sim/flash.h."""

from dataclasses import dataclass

from bnncc.target import Core, Flash

CACHED_CODE = 1024  # bytes: a cache of so many holds the loops of a kernel
CODE_BYTES = 1024  # of RAM that are set aside for the code of a step that runs there


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
