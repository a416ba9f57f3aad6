"""Waiting for flash: pieces of code whose reads of lines can be counted by hand, under every kind of flash."""

from pathlib import Path

import pytest

from bnncc.sim.count import count_elf
from bnncc.sim.elf import symbols
from bnncc.sim.qemu import build_for_first_machine
from bnncc.target import Flash, boards, cores

W = 5
# Each function begins at an address 0 mod 64 in flash, unless it lies in RAM.
CODE = r"""
    .syntax unified
    .macro function name
    .p2align 6
    .thumb_func
    .global \name
    .type \name, %function
\name:
    .endm
    .text
    function straight       @ 64 16-bit instructions and bx: 8 lines of 16 bytes and the first halfword of a ninth
    .rept 64
    nop
    .endr
    bx lr
    function wide           @ 32 32-bit instructions and bx: the same lines in half as many cycles
    .rept 32
    nop.w
    .endr
    bx lr
    function loop           @ 2 lines, 100 times
    movs r0, #100
1:  .rept 12
    nop
    .endr
    subs r0, #1
    bne 1b
    bx lr
    .p2align 6
    function lookups        @ 1 line, and 16 words of constants: 4 lines
    movs r1, #16
1:  ldr r2, [r0]
    adds r0, #4
    subs r1, #1
    bne 1b
    bx lr
    function same           @ the same word 16 times
    movs r1, #16
1:  ldr r2, [r0]
    subs r1, #1
    bne 1b
    bx lr
    .p2align 6
table:
    .fill 64, 4, 7
    .section .ramfunc, "ax"
    function in_ram
    .rept 64
    nop
    .endr
    bx lr
"""
CALLS = """
void straight(void), wide(void), loop(void), lookups(const void *), same(const void *), in_ram(void);
extern const int table[];
int main(void) {{ {} ; return 0; }}
"""
PLAIN = Flash(W, 16)
AHEAD = Flash(W, 16, prefetch=True)
ART = Flash(W, 16, prefetch=True, instruction_lines=64, data_lines=8)


def waited(name: str, flash: Flash | None, folder: Path, calls: int = 1, argument: str = "") -> list[int]:
    """The cycles waited in each of some calls."""
    (folder / "main.c").write_text(CALLS.format("; ".join(calls * [f"{name}({argument})"])))
    (folder / "code.S").write_text(CODE + ".text\n.global table\n")
    core, elf = cores()["cortex-m4"], folder / "program.elf"
    machine = build_for_first_machine([folder / "main.c", folder / "code.S"], core, elf)
    start = symbols(elf)[name].address
    main = symbols(elf)["main"]
    marks = [(start, 0), *((a, 0xFFFFFFFF) for a in range(main.address, main.address + main.size, 2))]
    return [int(w) for w in count_elf(elf, machine, marks, flash=flash, cwd=folder)[1].waited(1)[:, 0]]


def test_nothing_is_waited_for_without_wait_states(tmp_path: Path) -> None:
    assert waited("straight", None, tmp_path) == [0]
    assert waited("straight", Flash(0, 16), tmp_path) == [0]


def test_straight_code(tmp_path: Path) -> None:
    assert waited("straight", PLAIN, tmp_path, 2) == [9 * W, 9 * W]
    assert waited("straight", Flash(W, 4), tmp_path) == [33 * W]
    # 8 cycles a line: reading the next one takes 6
    assert waited("straight", AHEAD, tmp_path, 2) == [W, W]
    # 4 cycles a line: 2 cycles too few, 8 times
    assert waited("wide", AHEAD, tmp_path, 2) == [W + 8 * 2, W + 8 * 2]
    # the lines that were waited for are kept
    assert waited("wide", ART, tmp_path, 2) == [W + 8 * 2, 0]
    assert waited("wide", Flash(W, 16, prefetch=True, instruction_lines=4), tmp_path, 2)[1] > W


def test_loops(tmp_path: Path) -> None:
    assert waited("loop", PLAIN, tmp_path) == [100 * 2 * W]
    assert waited("loop", AHEAD, tmp_path) == [100 * W]
    assert waited("loop", ART, tmp_path) == [W]


def test_constants(tmp_path: Path) -> None:
    assert waited("lookups", PLAIN, tmp_path, argument="table") == [W + 16 * W]
    assert waited("lookups", ART, tmp_path, 2, argument="table") == [W + 4 * W, 0]
    assert waited("same", PLAIN, tmp_path, argument="table") == [W + 16 * W]
    assert waited("same", ART, tmp_path, argument="table") == [W + W]
    ram = "(void *)0x20010000"
    assert waited("lookups", PLAIN, tmp_path, argument=ram) == [W]


def test_code_in_ram(tmp_path: Path) -> None:
    assert waited("in_ram", PLAIN, tmp_path) == [0]


@pytest.mark.parametrize("board", [b for b in boards().values() if b.flash], ids=lambda b: b.name)
def test_boards_say_what_they_model(board) -> None:  # type: ignore[no-untyped-def]
    assert board.flash.line_bytes in (8, 16, 32)
    assert 1 <= board.flash.wait_states <= 8
    assert str(board.flash).startswith(f"{board.flash.wait_states} wait states, ")
