"""Flash, library and stack of a C file as the cross compiler makes it."""

from pathlib import Path

import pytest

from bnncc.errors import ModelError
from bnncc.sim.footprint import footprint
from bnncc.target import Core, cores

each_core = pytest.mark.parametrize("core", cores().values(), ids=lambda core: core.name)

TEXT = """
extern float sqrtf(float), logf(float);
const unsigned char weights[1000] = {1};
static __attribute__((noinline)) int leaf(const int *x) { volatile int room[50]; room[0] = *x; return room[0]; }
static __attribute__((noinline)) int shallow(const int *x) { volatile int room[10]; room[0] = *x; return room[0]; }
int entry(int x);
int entry(int x) { return leaf(&x) + shallow(&x) + weights[x]; }
float other(float x);
float other(float x) { return logf(x); }
"""


@each_core
def test_footprint(core: Core, tmp_path: Path) -> None:
    source = tmp_path / "unit.c"
    source.write_text(TEXT)
    found = footprint(source, core, "entry")
    assert found.symbols["weights"] == 1000
    assert 1000 < sum(found.symbols.values()) <= found.flash_bytes < 1200
    assert 200 + 4 < found.stack_bytes < 260  # leaf's room and x, and saved registers
    assert found.library_calls == ()
    assert 100 < found.library_bytes < 10_000  # logf
    assert footprint(source, core, "other").library_calls == ("logf",)


def test_recursion_counts_once(tmp_path: Path) -> None:
    source = tmp_path / "unit.c"
    source.write_text(
        "static __attribute__((noinline)) int odd(int x);\n"
        "__attribute__((noinline)) int even(int x) { volatile int a[8]; a[0] = x; return odd(a[0] - 1) + a[0]; }\n"
        "static int odd(int x) { volatile int a[8]; a[0] = x; return x ? even(a[0] - 1) + a[0] : 0; }\n"
    )
    assert 64 <= footprint(source, cores()["cortex-m4"], "even").stack_bytes < 128


def test_c_that_does_not_compile(tmp_path: Path) -> None:
    source = tmp_path / "unit.c"
    source.write_text("int entry(void) { return unknown_name; }")
    with pytest.raises(ModelError) as error:
        footprint(source, cores()["cortex-m4"], "entry")
    assert error.value.diagnostics[0].code == "E0502"
