"""The timing rules, each by a piece of assembly that runs in the simulator and whose cost was worked out by hand."""

from pathlib import Path

import pytest

from bnncc.sim.count import IDLE, Counts, count_elf
from bnncc.sim.cycles import Timing
from bnncc.sim.elf import marks
from bnncc.sim.qemu import build_for_first_machine
from bnncc.target import cores

# Assembly -> (instructions, cycles). r4 points to RAM whose first word is its own address, r6 to flash, r5 is 8; each
# piece begins at an address 0 mod 4, after a nop.
Pieces = dict[str, tuple[int, int]]

EVERY_CORE: Pieces = {
    "adds r0, r0, #1": (1, 1),
    "muls r0, r1, r0": (1, 1),
    "ldr r0, [r4]": (1, 2),
    "ldm r4!, {r0, r1, r2}": (1, 4),
    "stm r4!, {r0, r1, r2}": (1, 4),
    "push {r0, r1}; nop; pop {r0, r1}": (3, 7),
    "cmp r4, r4; bne 1f; 1:": (2, 2),
}

ARMV7M: Pieces = {
    "ldr r0, [r4]; ldr r1, [r4, #4]": (2, 3),
    "ldr r0, [r4]; ldr r1, [r0]": (2, 4),
    "; ".join(f"ldr r0, [r4, #{4 * i}]" for i in range(9)): (9, 10),
    "ldr r0, [r4]; ldr r1, [r6]": (2, 4),
    "ldr r0, [r6]; ldr r1, [r6, #4]; ldr r2, [r4]": (3, 5),
    "ldr r0, [r4]; nop; ldr r1, [r6]": (3, 5),
    "adds r4, r4, #0; ldr r0, [r4]": (2, 4),
    "adds r4, r4, #0; ldm r4, {r0, r1}": (2, 5),
    "adds r4, r4, #0; nop; ldr r0, [r4]": (3, 4),
    "ldr r0, [r4]; str r0, [r4, #4]": (2, 2),
    "ldr r0, [r4]; str r0, [r0, #4]": (2, 3),
    "str r0, [r4, #4]": (1, 1),
    "str r0, [r4, r5]": (1, 2),
    "ldr r0, [r4]; str r0, [r4, r5]": (2, 4),
    "str r0, [r4, r5]; ldr r0, [r4]": (2, 5),
    "str r0, [r4, #4]; nop; ldr r0, [r4]": (3, 4),
    "str r0, [r4, #4]; str r0, [r4, #8]": (2, 2),
    "str r0, [r4, #4]; ldr r0, [r4]": (2, 4),
    "str r0, [r4, #4]; ldm r4, {r0, r1}": (2, 5),
    "ldrd r0, r1, [r4]": (1, 3),
    "strd r0, r1, [r4, #8]": (1, 3),
    "b 1f; nop; 1:": (1, 2),
    "cmp r4, r4; beq 1f; nop; 1:": (2, 3),
    "cbz r5, 1f; 1:": (1, 1),
    "bl function_bx": (2, 4),
    "bl function_pop": (3, 8),
    "movs r0, #5; 1: subs r0, #1; bne 1b": (11, 1 + 5 * 2 + 4),
    "cmp r4, r4; it eq; addeq r0, r0, #1": (3, 2),
    "cmp r4, r4; it ne; addne r0, r0, #1": (3, 2),
    "cmp r4, r4; it eq; ldreq r0, [r4]": (3, 3),
    "cmp r4, r4; it ne; ldrne r0, [r4]": (3, 2),
    "cmp r4, r4; ite eq; ldreq r0, [r4]; ldrne r0, [r4, #4]": (4, 4),
    "cmp r4, r4; it eq; streq r0, [r4, r5]": (3, 3),
    "cmp r4, r4; it ne; strne r0, [r4, r5]": (3, 2),
    "cmp r4, r4; it ne; ldmne r4, {r0, r1, r2}": (3, 2),
    "cmp r4, r4; it ne; popne {r0, pc}": (3, 2),
    "cmp r4, r4; it eq; beq 1f; nop; 1:": (3, 3),
    "movs r0, #0; tbb [pc, r0]; .byte 1, 0; 1:": (2, 4),
    "bl 2f; ldr r0, [r4]; b 1f; 2: push {lr}; ldr pc, [sp], #4; 1:": (5, 2 + 2 + 4 + 2 + 2),
    "dsb": (1, 1),
    "ldr r0, [r4]; add.w r1, r1, #1; add.w r1, r1, #1; add.w r1, r1, #1; add.w r1, r1, #1": (5, 7),
    "ldr.w r0, [r4]; add.w r1, r1, #1; add.w r1, r1, #1; add.w r1, r1, #1": (4, 5),
    "ldr r0, [r4]" + 7 * "; add.w r1, r1, #1": (8, 10),
    "nop; add.w r1, r1, #1; add.w r1, r1, #1; add.w r1, r1, #1": (4, 4),
    "b 1f; .p2align 2; nop; 1: add.w r1, r1, #1; add.w r1, r1, #1; add.w r1, r1, #1": (4, 6),
    "udiv r0, r5, r5": (1, 12),
}

M3: Pieces = {
    "mla r0, r5, r5, r5": (1, 2),
    "umull r0, r1, r5, r5": (1, 5),
    "smlal r0, r1, r5, r5": (1, 7),
}

M4: Pieces = {
    "mla r0, r5, r5, r5": (1, 1),
    "umull r0, r1, r5, r5": (1, 1),
    "smlal r0, r1, r5, r5": (1, 1),
    "umaal r0, r1, r5, r5": (1, 1),
    "vadd.f32 s0, s1, s2": (1, 1),
    "vmul.f32 s0, s1, s2": (1, 1),
    "vmla.f32 s0, s1, s2": (1, 3),
    "vadd.f32 s0, s1, s2; vadd.f32 s3, s0, s1": (2, 3),
    "vadd.f32 s0, s1, s2; nop; vadd.f32 s3, s0, s1": (3, 3),
    "vadd.f32 s0, s1, s2; vstr s0, [r4, #4]": (2, 4),
    "vmul.f32 s0, s1, s2; vmla.f32 s0, s1, s2": (2, 4),
    "vmul.f32 s0, s1, s2; vmla.f32 s3, s0, s2": (2, 5),
    "vmla.f32 s0, s1, s2; vmov r0, s0": (2, 5),
    "vldr s0, [r4]; vadd.f32 s1, s0, s0": (2, 3),
    "vmov r0, s0": (1, 1),
    "vmov r0, r1, s0, s1": (1, 2),
    "vmov d0, r0, lr": (1, 2),
    "vdiv.f32 s0, s1, s2": (1, 14),
    "vsqrt.f32 s0, s1": (1, 14),
    "vcvt.f32.s32 s0, s0": (1, 1),
    "vmov s0, r5": (1, 1),
    "vldr s0, [r4]": (1, 2),
    "vstr s0, [r4, #4]": (1, 2),
    "vldr d0, [r4]": (1, 3),
    "vpush {s0-s3}; vpop {s0-s3}": (2, 10),
    "vldmia r4, {s0-s3}": (1, 5),
    "vcmp.f32 s0, s0; vmrs APSR_nzcv, fpscr": (2, 2),
}


def armv6m(taken: int, call: int, bx: int, pop_pc: int) -> Pieces:
    """`pop_pc` is for one register, pc."""
    return {
        "str r0, [r4, #4]": (1, 2),
        "str r0, [r4, r5]": (1, 2),
        "ldr r0, [r4]; ldr r1, [r4, #4]": (2, 4),
        "ldr r0, [r4]; str r0, [r4, #4]": (2, 4),
        "adds r4, r4, #0; ldr r0, [r4]": (2, 3),
        "b 1f; nop; 1:": (1, taken),
        "bl function_bx": (2, call + bx),
        "bl function_pop": (3, call + 2 + pop_pc),
        "movs r0, #5; 1: subs r0, #1; bne 1b": (11, 1 + 5 * 2 + 4 * (taken - 1)),
        "mrs r0, primask": (1, 4 - (taken == 2)),
    }


ARMV7M = EVERY_CORE | ARMV7M
PIECES = {
    "cortex-m0": EVERY_CORE | armv6m(taken=3, call=4, bx=3, pop_pc=5),
    "cortex-m0plus": EVERY_CORE | armv6m(taken=2, call=3, bx=2, pop_pc=4),
    "cortex-m3": ARMV7M | M3,
    "cortex-m4": ARMV7M | M4,
    "cortex-m7": ARMV7M | M4,
    "cortex-m33": ARMV7M | M4,
}

FUNCTIONS = """
#include "mark.h"
__asm__(".syntax unified\\n.p2align 2\\n.thumb_func\\nfunction_bx: bx lr\\n"
        ".thumb_func\\nfunction_pop: push {lr}\\npop {pc}\\n"
        ".thumb_func\\nfunction_long: .rept 3000\\nnop\\n.endr\\nbx lr\\n"
        ".p2align 10\\n.thumb_func\\nfunction_page: movs r0, #3\\n.rept 508\\nnop\\n.endr\\n"
        "1: nop\\nsubs r0, #1\\nbne 1b\\nbx lr\\n");
static void *memory[16];
static const int constants[2] = {1, 2};
"""


def count_pieces(core_name: str, pieces: list[str], folder: Path) -> Counts:
    """Run the pieces one after the other, each in the region of its index and in a run of its own."""
    core = cores()[core_name]
    floats = ', "s0", "s1", "s2", "s3"' if core.fpu else ""
    text = FUNCTIONS + "int main(void)\n{\n    memory[0] = memory;\n"
    for region, piece in enumerate(pieces):
        lines = f".p2align 2; nop; nop; bnncc_mark {region}; {piece}; bnncc_mark {IDLE}; nop".replace(";", "\\n")
        text += f"""    {{
        register void **r4 __asm__("r4") = memory;
        register int r5 __asm__("r5") = 8;
        register const int *r6 __asm__("r6") = constants;
        __asm__ volatile(".syntax unified\\n{lines}" : "+r"(r4), "+r"(r5)
                         : "r"(r6) : "r0", "r1", "r2", "lr", "cc", "memory"{floats});
    }}
"""
    source, elf = folder / "pieces.c", folder / "pieces.elf"
    source.write_text(text + "    return 0;\n}\n")
    machine = build_for_first_machine([source], core, elf)
    return count_elf(elf, machine, marks(elf), cwd=folder)[1]


@pytest.mark.parametrize("name", PIECES)
def test_rules(name: str, tmp_path: Path) -> None:
    pieces = PIECES[name]
    counts = count_pieces(name, list(pieces), tmp_path)
    instructions = counts.instructions(len(pieces)).diagonal()
    cycles = Timing.of(cores()[name]).per_run(counts, len(pieces)).diagonal()
    found = {piece: (int(i), int(c)) for piece, i, c in zip(pieces, instructions, cycles, strict=True)}
    assert {piece: cost for piece, cost in found.items() if cost != pieces[piece]} == {}


@pytest.mark.parametrize("name", PIECES)
def test_code_across_pages_is_counted_once(name: str, tmp_path: Path) -> None:
    """QEMU cuts blocks at every KiB; the branch in function_page is the last instruction before a cut."""
    counts = count_pieces(name, ["bl function_long", "bl function_page"], tmp_path)
    timing = Timing.of(cores()[name])
    assert counts.instructions(2).diagonal().tolist() == [1 + 3000 + 1, 1 + 1 + 508 + 3 * 3 + 1]
    call = 2 + 2 * timing.refill + timing.link
    assert timing.per_run(counts, 2).diagonal().tolist() == [call + 3000, call + 1 + 508 + 3 * 3 + 2 * timing.refill]


@pytest.mark.parametrize("name", PIECES)
def test_every_figure_is_labelled(name: str) -> None:
    statement = Timing.of(cores()[name]).statement
    assert statement.startswith("estimated, zero wait states (")
    assert ("Cortex-M4 rules" in statement) == (name in ("cortex-m4", "cortex-m7", "cortex-m33"))
