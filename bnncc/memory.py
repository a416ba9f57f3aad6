"""The arena over time, as text: one line a step, the arena from left to right."""

from bnncc.program import Buffer, Program, Step

WIDTH = 64  # columns that stand for the arena
MARKS = {"o": "output", "*": "output in an input's place", "i": "input", "s": "scratch", "-": "kept for a later step"}


def picture(program: Program) -> list[str]:
    """The lines of the picture; what a mark stands for is in the first ones."""
    size = program.arena_bytes
    reached = "which is its lower bound" if size == program.arena_bound else f"lower bound {program.arena_bound:,}"
    marks = ", ".join(f"{mark} {meaning}" for mark, meaning in MARKS.items())
    loads = [load(program, s) for s in program.steps]
    lines = [
        f"arena {size:,} bytes, {reached}; a column is {size / WIDTH:,.1f} bytes",
        marks,
        f"step     bytes  {'0':<{WIDTH - len(f'{size:,}')}}{size:,}",
    ]
    for step, used in zip(program.steps, loads, strict=True):
        peak = "  peak" if used == max(loads) > 0 else ""
        lines.append(f"{step.index:4} {used:9,} |{row(program, step)}| {step.kernel}{peak}")
    return lines


def load(program: Program, step: Step) -> int:
    """Bytes of the arena in use during a step; an output in an input's place counts once."""
    return sum(b.bytes for b in alive(program, step)) - sum(
        program.buffer(step.op.y.name).bytes for _ in program.overwritten(step)
    )


def alive(program: Program, step: Step) -> list[Buffer]:
    return [b for b in program.buffers if b.first <= step.index <= b.last]


def row(program: Program, step: Step) -> str:
    """The arena during a step, a character a column; the smallest buffers are drawn last, so that they are seen."""
    cells = [" "] * WIDTH
    size = max(program.arena_bytes, 1)
    for b in sorted(alive(program, step), key=lambda b: (-b.bytes, b.first)):
        begin = min(b.offset * WIDTH // size, WIDTH - 1)
        end = max(begin + 1, -(-(b.offset + b.bytes) * WIDTH // size))
        cells[begin:end] = mark(program, step, b) * (end - begin)
    return "".join(cells)


def mark(program: Program, step: Step, b: Buffer) -> str:
    if b.tensor is None:
        return "s"
    if b.name == program.holder(step.op.y.name):
        return "*" if program.overwritten(step) else "o"
    return "i" if any(b.name == t.name for t in step.op.inputs) else "-"
