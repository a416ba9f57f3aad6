"""Building and running bare programs: every core, files, and every way in which it can fail."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from bnncc.errors import BnnccError, ModelError, ToolError
from bnncc.sim import build, run_program
from bnncc.sim.qemu import run_elf
from bnncc.target import Core, Machine, cores

each_core = pytest.mark.parametrize("core", cores().values(), ids=lambda core: core.name)


def source(folder: Path, text: str) -> list[Path]:
    path = folder / "main.c"
    path.write_text(text + "\n")
    return [path]


def code_of(error: pytest.ExceptionInfo[BnnccError]) -> str:
    return error.value.diagnostics[0].code


@each_core
def test_files_floats_and_initial_memory(core: Core, tmp_path: Path) -> None:
    text = """
        #include <math.h>
        #include "port.h"
        static volatile float x = 1.5f;
        static volatile int zero;
        int main(void)
        {
            char bytes[16];
            port_file file = port_open("in.bin", PORT_READ);
            const size_t count = port_read(file, bytes, sizeof bytes);
            port_close(file);
            file = port_open("out.bin", PORT_WRITE);
            const float y = expf(x) + logf(x);
            port_write(file, bytes, count);
            port_write(file, &y, sizeof y);
            port_close(file);
            port_print("done");
            return zero;
        }"""
    (tmp_path / "in.bin").write_bytes(b"abcde")
    run = run_program(source(tmp_path, text), core, cwd=tmp_path)
    assert (run.machine, run.note, run.output) == (core.machines[0].qemu, core.machines[0].note, "done\n")
    written = (tmp_path / "out.bin").read_bytes()
    assert written[:5] == b"abcde"
    assert struct.unpack("<f", written[5:])[0] == pytest.approx(4.8871542)


@each_core
def test_overflow_of_the_stack_is_noticed(core: Core, tmp_path: Path) -> None:
    text = """
        static volatile int variable = 7;
        static int deeper(volatile int *above)
        {
            volatile int here[64];
            here[0] = *above;
            return deeper(here) + here[0];
        }
        int main(void) { return deeper(&variable); }"""
    with pytest.raises(ModelError, match="the stack overflowed") as error:
        run_program(source(tmp_path, text), core, cwd=tmp_path, timeout=60)
    assert code_of(error) == "E0504"


@each_core
def test_fault_is_reported_with_its_address(core: Core, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"fault: exception 0x00000003 at pc 0x[01]") as error:
        run_program(
            source(tmp_path, "int main(void) { *(volatile int *)0x2F000000 = 1; return 0; }"), core, cwd=tmp_path
        )
    assert code_of(error) == "E0504"


@pytest.mark.parametrize("name", ["cortex-m0", "cortex-m0plus"])
@pytest.mark.parametrize("room", [64, 64 * 1024])
def test_unaligned_access_faults_where_the_core_has_none(name: str, room: int, tmp_path: Path) -> None:
    text = f"""
        static volatile char memory[{room}];
        int main(void) {{ return *(volatile int *)&memory[(unsigned)memory[0] + 1]; }}"""
    core = cores()[name]
    machine = core.machines[room > core.machines[0].ram[1]]
    with pytest.raises(ModelError, match=f"on {machine.qemu}:\nfault"):
        run_program(source(tmp_path, text), core, cwd=tmp_path)


def test_failure_of_the_program_is_shown(tmp_path: Path) -> None:
    text = '#include "port.h"\nint main(void) { port_open("missing.bin", PORT_READ); return 0; }'
    with pytest.raises(ModelError, match=r"missing\.bin: cannot be opened") as error:
        run_program(source(tmp_path, text), cores()["cortex-m4"], cwd=tmp_path)
    assert code_of(error) == "E0504"


def test_program_without_end_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as error:
        run_program(source(tmp_path, "int main(void) { for (;;) ; }"), cores()["cortex-m4"], cwd=tmp_path, timeout=1)
    assert code_of(error) == "E0505"


def test_c_that_does_not_compile(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown_name") as error:
        run_program(source(tmp_path, "int main(void) { return unknown_name; }"), cores()["cortex-m4"], cwd=tmp_path)
    assert code_of(error) == "E0502"


def test_program_too_large_for_every_machine(tmp_path: Path) -> None:
    text = "static volatile char memory[8 << 20]; int main(void) { return memory[0]; }"
    with pytest.raises(ModelError, match="RAM") as error:
        run_program(source(tmp_path, text), cores()["cortex-m4"], cwd=tmp_path)
    assert code_of(error) == "E0503"


def test_machine_that_qemu_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as error:
        run_elf(tmp_path / "program.elf", Machine("no-such-machine", (0, 1), (0, 1)), cwd=tmp_path)
    assert code_of(error) == "E0506"


def test_missing_tool_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ToolError, match="apt-get install gcc-arm-none-eabi") as error:
        build.tool(build.COMPILER)
    assert code_of(error) == "E0501"


def test_missing_newlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\necho 'fatal error: cannot read spec file nano.specs' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(compiler))
    with pytest.raises(ToolError, match="libnewlib-arm-none-eabi") as error:
        run_program(source(tmp_path, ""), cores()["cortex-m4"], cwd=tmp_path)
    assert code_of(error) == "E0501"


STRICT = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]


@each_core
def test_firmware_compiles_without_a_warning(core: Core, tmp_path: Path) -> None:
    toy = Path(__file__).with_name("toy")
    for path in build.sim_folder().glob("*.c"):
        includes = [f"-I{build.sim_folder()}", f"-I{toy}", "-DTOY_STEP=BNNCC_MARK"]
        build.cross_compile(core, [*STRICT, *includes, "-c", str(path), "-o", str(tmp_path / "unit.o")])


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_drivers_find_the_same_files_on_the_host(compiler: str, tmp_path: Path) -> None:
    text = """
        #include "port.h"
        int main(void)
        {
            char bytes[4];
            port_file file = port_open("file.bin", PORT_WRITE);
            port_write(file, "abc", 3);
            port_close(file);
            file = port_open("file.bin", PORT_READ);
            if (port_read(file, bytes, sizeof bytes) != 3)
                port_fail("short");
            port_close(file);
            port_print("done");
            port_open("missing.bin", PORT_READ);
            return 0;
        }"""
    program = tmp_path / "program"
    command = [compiler, *STRICT, f"-I{build.sim_folder()}", str(source(tmp_path, text)[0]), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "done\n")
    assert "missing.bin" in done.stderr
    assert (tmp_path / "file.bin").read_bytes() == b"abc"
