"""Programs function by function: known calls and instructions, every kind of symbol, and what is refused."""

import subprocess
from pathlib import Path

import pytest

from bnncc.errors import BnnccError
from bnncc.sim.build import build_elf
from bnncc.sim.elf import functions
from bnncc.sim.profile import NO_FUNCTION, Profile, machine_for, profile
from bnncc.sim.qemu import build_for_first_machine
from bnncc.target import Core, cores

each_core = pytest.mark.parametrize("core", cores().values(), ids=lambda core: core.name)
RAM = '__attribute__((section(".ramfunc"), noinline))'

# leaf: 2 instructions, 3 cycles and more for bx; outer calls leaf twice; again calls itself n times; tail jumps to leaf.
ASSEMBLY = r"""
    .syntax unified
    .text
    .p2align 2
    .thumb_func
    .global leaf
leaf:
    adds r0, r0, #1
    bx lr
    .p2align 2
    .type outer, %function
    .global outer
outer:
    push {r4, lr}
    movs r4, #2
outer_loop:
    bl leaf
    subs r4, r4, #1
    bne outer_loop
    pop {r4, pc}
    .type tail, %function
    .global tail
tail:
    nop
    b leaf
    .size tail, . - tail
    .type again, %function
    .global again, also_again
    .type also_again, %function
again:
also_again:
    push {lr}
    subs r0, r0, #1
    beq 1f
    bl again
1:  pop {pc}
    .size again, . - again
    .size also_again, . - also_again
"""
MAIN = f"""
int leaf(int), outer(int), tail(int), again(int);
{RAM} int in_ram(int x) {{ return x * 3 + 1; }}
int main(void)
{{
    volatile int x = 0;
    for (int i = 0; i < 5; i++)
        x = outer(x);
    x = tail(x);
    x = leaf(x);
    x = again(4);
    x = again(2);
    x = in_ram(x);
    return 0;
}}
"""


def build(core: Core, folder: Path, main: str = MAIN, assembly: str = ASSEMBLY) -> Path:
    elf = folder / "program.elf"
    (folder / "main.c").write_text(main)
    (folder / "code.S").write_text(assembly)
    build_for_first_machine([folder / "main.c", folder / "code.S"], core, elf)
    return elf


def run(core: Core, folder: Path, symbol: str | None = None, timeout: float = 60) -> Profile:
    return profile(folder / "program.elf", core, symbol=symbol, cwd=folder, timeout=timeout)


@each_core
def test_functions_of_a_program(core: Core, tmp_path: Path) -> None:
    build(core, tmp_path)
    found = run(core, tmp_path)
    rows = {r.name: r for r in found.rows}
    assert {n: (rows[n].calls, rows[n].instructions) for n in ("leaf", "outer", "tail", "again", "in_ram")} == {
        "leaf": (5 * 2 + 2, 12 * 2),
        "outer": (5, 5 * (2 + 2 * 3 + 1)),
        "tail": (1, 2),
        "again": (4 + 2, 3 * 5 + 1 * 4 + 1 * 5 + 1 * 4),
        "in_ram": (1, rows["in_ram"].instructions),
    }
    assert rows["main"].calls == rows["start"].calls == 1
    assert rows["in_ram"].address >= core.machines[0].ram[0]
    assert found.instructions == sum(r.instructions for r in found.rows)
    assert {"outer_loop", "also_again"} & set(rows) == set()
    if not core.timing:
        assert (found.cycles, found.model) == (0, None)
        return
    assert found.cycles > found.instructions
    assert found.model.startswith("estimated, zero wait states")
    branch = 1 + {"cortex-m0": 2}.get(core.name, 1)
    assert rows["leaf"].cycles == 12 * (1 + branch)


@each_core
def test_one_function_with_what_it_calls(core: Core, tmp_path: Path) -> None:
    build(core, tmp_path)
    whole = {r.name: r for r in run(core, tmp_path).rows}
    for name, calls, inner in (("outer", 5, 10), ("again", 2, 0), ("tail", 1, 1), ("leaf", 12, 0)):
        found = run(core, tmp_path, name)
        rows = {r.name: r for r in found.rows}
        assert found.calls == calls
        assert set(rows) == {name, "leaf"} if inner else {name}
        assert (rows[name].calls, rows[name].instructions) == (whole[name].calls, whole[name].instructions)
        assert abs(rows[name].cycles - whole[name].cycles) <= rows[name].calls
        if inner:
            assert rows["leaf"].calls == inner
            assert found.instructions == rows[name].instructions + 2 * inner
    assert run(core, tmp_path, "also_again").rows[0].name == "also_again"
    start = run(core, tmp_path, "start")
    assert start.calls == 1
    assert start.instructions == sum(r.instructions for r in whole.values())


def test_function_that_is_not_called(tmp_path: Path) -> None:
    core = cores()["cortex-m4"]
    build(core, tmp_path, "int leaf(int); int main(int c, char **v) { return v && c == 77 ? leaf(1) : 0; }")
    found = run(core, tmp_path, "leaf")
    assert (found.calls, found.instructions, found.rows) == (0, 0, [])


def test_symbols_of_hand_written_code(tmp_path: Path) -> None:
    found = {f.name: f for f in functions(build(cores()["cortex-m4"], tmp_path))}
    assert found["leaf"].end == found["outer"].address  # no size: up to the next function
    assert found["outer"].end == found["tail"].address
    assert found["tail"].end == found["tail"].address + 2 + 4
    assert found["again"].address == found["also_again"].address
    assert "outer_loop" not in found


def test_code_without_symbols(tmp_path: Path) -> None:
    core = cores()["cortex-m4"]
    elf = build(core, tmp_path)

    subprocess.run(["arm-none-eabi-strip", str(elf)], check=True)
    found = run(core, tmp_path)
    assert [r.name for r in found.rows] == [NO_FUNCTION]
    with pytest.raises(BnnccError, match="has no symbols") as error:
        run(core, tmp_path, "leaf")
    assert error.value.diagnostics[0].code == "E0411"


def refused(core: str, elf: Path, why: str) -> None:
    with pytest.raises(BnnccError, match=why) as error:
        profile(elf, cores()[core], cwd=elf.parent, timeout=10)
    assert (error.value.exit_code, error.value.diagnostics[0].code) == (2, "E0410")


def test_programs_that_the_target_cannot_run(tmp_path: Path) -> None:
    refused("cortex-m4", tmp_path / "nothing.elf", "no such file")
    refused("cortex-m4", tmp_path, "a folder")
    (tmp_path / "text.elf").write_text("int main(void);")
    refused("cortex-m4", tmp_path / "text.elf", "is no ELF file")
    (tmp_path / "short.elf").write_bytes(b"\x7fELF\x01\x01")
    refused("cortex-m4", tmp_path / "short.elf", "is no ELF file")
    refused("cortex-m4", Path("/bin/true").resolve(), "another processor")

    m3 = build(cores()["cortex-m3"], tmp_path)
    (tmp_path / "half.elf").write_bytes(m3.read_bytes()[:600])
    refused("cortex-m3", tmp_path / "half.elf", "damaged")
    a9 = ["arm-none-eabi-gcc", "-mcpu=cortex-a9", "-nostdlib", "-Wl,-e,0", "-o", str(tmp_path / "a9.elf")]
    subprocess.run([*a9, str(tmp_path / "code.S")], check=True)
    refused("cortex-m3", tmp_path / "a9.elf", "for a Cortex-A")
    subprocess.run(
        ["arm-none-eabi-gcc", "-mcpu=cortex-m3", "-c", str(tmp_path / "main.c"), "-o", str(tmp_path / "main.o")],
        check=True,
    )
    refused("cortex-m3", tmp_path / "main.o", "not a linked program")
    refused("cortex-m0", m3, "Thumb-2")
    refused("cortex-m33", m3, "does not lie in the memory")
    assert machine_for(m3, cores()["cortex-m4"]).qemu == "mps2-an386"
    (tmp_path / "late.ld").write_text("SECTIONS { .text 0x1000 : { *(.text) } }")
    late = [
        "-mcpu=cortex-m3",
        "-mthumb",
        "-nostdlib",
        "-T",
        str(tmp_path / "late.ld"),
        "-o",
        str(tmp_path / "late.elf"),
    ]
    subprocess.run(["arm-none-eabi-gcc", *late, str(tmp_path / "code.S")], check=True)
    refused("cortex-m3", tmp_path / "late.elf", "no vector table at 0x0")


def test_machine_is_chosen_by_the_stack_too(tmp_path: Path) -> None:
    core = cores()["cortex-m0"]
    (tmp_path / "main.c").write_text("int main(void) { return 0; }")
    for machine in core.machines:
        elf = build_elf([tmp_path / "main.c"], core, machine, tmp_path / "program.elf")
        assert machine_for(elf, core) is machine


def test_no_such_function(tmp_path: Path) -> None:
    build(cores()["cortex-m4"], tmp_path)
    with pytest.raises(BnnccError, match="did you mean outer") as error:
        run(cores()["cortex-m4"], tmp_path, "outre")
    assert (error.value.exit_code, error.value.diagnostics[0].code) == (2, "E0411")
    with pytest.raises(BnnccError, match="leave out --symbol"):
        run(cores()["cortex-m4"], tmp_path, "zzzzzzzzzz")


def test_program_that_does_not_end(tmp_path: Path) -> None:
    build(cores()["cortex-m4"], tmp_path, "int main(void) { for (;;) { } }")
    with pytest.raises(BnnccError, match=r"did not end within 1 s.*\n.*\n.*semihosting") as error:
        run(cores()["cortex-m4"], tmp_path, timeout=1)
    assert (error.value.exit_code, error.value.diagnostics[0].code) == (3, "E0505")


def test_program_that_faults(tmp_path: Path) -> None:
    build(cores()["cortex-m0"], tmp_path, 'int main(void) { __asm__(".short 0xe841, 0x2300"); return 0; }')
    with pytest.raises(BnnccError, match="faults on Thumb-2") as error:
        run(cores()["cortex-m0"], tmp_path)
    assert (error.value.exit_code, error.value.diagnostics[0].code) == (1, "E0504")


def test_program_that_locks_up_is_told_without_its_registers(tmp_path: Path) -> None:
    (tmp_path / "code.S").write_text(
        ".syntax unified\n.section .vectors\n.word 0x20004000, reset + 1\n.text\n.thumb_func\nreset: udf #0\n"
    )
    options = ["-mcpu=cortex-m4", "-mthumb", "-nostdlib", "-T", "examples/cycles/machine.ld"]
    subprocess.run(
        ["arm-none-eabi-gcc", *options, "-o", str(tmp_path / "code.elf"), str(tmp_path / "code.S")], check=True
    )
    with pytest.raises(BnnccError, match="crashed on mps2-an386:\nqemu: fatal: Lockup") as error:
        profile(tmp_path / "code.elf", cores()["cortex-m4"], cwd=tmp_path, timeout=10)
    assert "R00" not in str(error.value)
