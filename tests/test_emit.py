"""The generated C as text and as something that compilers and linkers take."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto as T

import bnncc
from bnncc.sim.build import COMPILER
from bnncc.target import cores
from bnncc.verify.harness import SANITIZERS, WARNINGS
from tests.nets import Net, random_net

GOLDEN = Path(__file__).parent / "golden"
PEDANTIC = ("-std=c99", *WARNINGS)


def small(seed: int = 1, name: str = "digits", target: str = "cortex-m4", **options: str) -> bnncc.Compiled:
    """Fixed numbers, nothing calibrated: uint8 image -> convolution -> sign -> pool -> dense layer with BatchNorm."""
    r = np.random.default_rng(seed)
    net = Net(r, (1, 6, 6), T.UINT8)
    x = net.node("Conv", net.normalise(), net.weight((5, 1, 3, 3)), pads=[1, 1, 1, 1])
    bn = [
        net.const(v)
        for v in (np.array([1, -1, 0.5, 2, -3]), r.integers(-2, 3, 5) / 4, r.integers(-9, 9, 5) / 8, np.ones(5))
    ]
    x = net.node("MaxPool", net.node("BatchNormalization", x, *bn), kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Where", net.node("GreaterOrEqual", x, net.const(0.0)), net.const(1.0), net.const(-1.0))
    x = net.node("MatMul", net.node("Flatten", x), net.const(r.choice([-1.0, 1.0], (45, 4))))
    net.outputs = [net.node("Add", x, net.const([0.5, -1.25, 3.0, 0.1]))]
    return bnncc.compile(net.model(), target, name=name, **options)


def exits(name: str = "early") -> bnncc.Compiled:
    """A random network with early exits."""
    net = next(n for n in map(random_net, range(100)) if n.metadata)
    return bnncc.compile(net.model(), name=name, **net.options)


def test_golden_files(pytestconfig: pytest.Config) -> None:
    """A change of the generated C is seen here first; `pytest tests/test_emit.py --regenerate` accepts it."""
    for name, text in small().files.items():
        path = GOLDEN / name
        if pytestconfig.getoption("regenerate"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.read_text() == text, f"{name} differs from {path}"


def test_compiling_again_gives_the_same_bytes(tmp_path: Path) -> None:
    for number in range(5):
        net = random_net(number)
        model = net.model()
        a, b = (bnncc.compile(model, name="net", **net.options) for _ in range(2))
        assert dict(a.files) == dict(b.files)
    first, second = (small().write(tmp_path / k) for k in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_no_path_and_no_date() -> None:
    for text in small().files.values():
        assert str(Path.cwd()) not in text
        assert not re.search(r"/(tmp|home|root|work|usr)/", text)
        assert not re.search(r"20\d\d-\d\d|\d\d:\d\d", text)


def test_the_order_in_which_one_reads() -> None:
    code = small().files["digits.c"]
    places = [
        code.index(s)
        for s in ("Memory map", '#include "digits.h"', "_weights.h", "Step 0", "Step 1", "digits_init(", "digits_run(")
    ]
    assert places == sorted(places)
    header = small().files["digits.h"]
    places = [
        header.index(s)
        for s in ("#include <stdint.h>", "INPUT_COUNT 36", "digits_context;", "digits_result;", "void digits_init(")
    ]
    assert places == sorted(places)
    assert header.index("digits_run(&context") < places[0], "the header opens with a usage example"


def test_symbols_carry_the_models_name() -> None:
    for text in small().files.values():
        names = re.findall(r"^(?:static )?(?:const )?\w+ \*?(\w+)[\[(]", text, re.M)
        assert names or "digits_input" in text
        assert all(n.startswith(("digits_", "DIGITS_")) for n in names)
        assert all(n.startswith("DIGITS_") for n in re.findall(r"#define (\w+)", text))


def compilers() -> list[tuple[str, ...]]:
    cross = [(COMPILER, *core.flags) for core in cores().values()]
    return [("gcc",), ("clang",), ("gcc", "-O3"), *cross]


def compile_c(command: tuple[str, ...], source: Path) -> None:
    done = subprocess.run(
        [*command, *PEDANTIC, "-O2", "-c", str(source), "-o", str(source.with_suffix(".o"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:2000]


@pytest.mark.parametrize("command", compilers(), ids=lambda c: "-".join(c)[:60])
def test_clean_under_every_compiler(command: tuple[str, ...], tmp_path: Path) -> None:
    assert shutil.which(command[0])
    nets = [random_net(n) for n in range(6)]
    compiled = [small(), exits(), *(bnncc.compile(n.model(), name=f"net{k}", **n.options) for k, n in enumerate(nets))]
    for c in compiled:
        for name, text in c.files.items():
            (tmp_path / name).write_text(text)
        compile_c(command, tmp_path / f"{c.name}.c")


MAIN = """
#include <stdio.h>
#include <string.h>
{includes}
static one_context a; static two_context b, c;
static one_input x[ONE_INPUT_COUNT]; static two_input y[TWO_INPUT_COUNT];
int main(void)
{{
    one_result r; two_result s, t;
    memset(&a, 0xa5, sizeof a); memset(&b, 0x5a, sizeof b); memset(&c, 0xff, sizeof c);
    one_init(&a); two_init(&b); two_init(&c);
    for (int i = 0; i < ONE_INPUT_COUNT; i++) x[i] = (one_input)(i * 7 % 256);
    for (int i = 0; i < TWO_INPUT_COUNT; i++) y[i] = (two_input)(i * 11 % 256);
    two_run(&b, y, &s); one_run(&a, x, &r); two_run(&c, y, &t);
    for (int i = 0; i < 4; i++) printf("%.9g %.9g %.9g\\n", (double)r.{field}[i], (double)s.{field}[i], (double)t.{field}[i]);
    return 0;
}}
"""


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("main", ["main.c", "main.cpp"])
def test_two_models_in_one_program(compiler: str, main: str, tmp_path: Path) -> None:
    """Each in its own object; one program, in C or C++, includes both headers and runs them in turn on three contexts."""
    models = [small(1, "one"), small(2, "two")]
    for m in models:
        for name, text in m.files.items():
            (tmp_path / name).write_text(text)
        compile_c((compiler, *SANITIZERS), tmp_path / f"{m.name}.c")
    field = models[0].result_dtype.names[-1]
    (tmp_path / main).write_text(
        MAIN.format(includes='#include "one.h"\n#include "two.h"\n#include "one.h"', field=field)
    )
    plus = main.endswith("cpp")
    command = [{"gcc": "g++", "clang": "clang++"}[compiler], "-std=c++11"] if plus else [compiler, "-std=c99"]
    command += [
        *SANITIZERS,
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        str(tmp_path / main),
        str(tmp_path / "one.o"),
        str(tmp_path / "two.o"),
    ]
    done = subprocess.run([*command, "-lm", "-o", str(tmp_path / "main")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
    rows = np.array(
        [line.split() for line in subprocess.check_output([str(tmp_path / "main")], text=True).splitlines()], float
    )
    want = []
    for m, factor in zip(models, (7, 11), strict=True):
        x = (np.arange(36) * factor % 256).astype(np.uint8).reshape(1, 1, 1, 6, 6)
        want.append(next(iter(m.verify(x).outputs_c.values())).ravel())
    assert np.array_equal(rows.T.astype(np.float32), np.stack([want[0], want[1], want[1]]))


def test_the_profiling_hook_sees_every_step(tmp_path: Path) -> None:
    """NAME_STEP(k) before step k, NAME_STEP(STEP_COUNT) at the end, also where a run stops at an exit."""
    c = exits()
    for name, text in c.files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "main.c").write_text(
        """#include <stdio.h>
        #define EARLY_STEP(step) printf("%d ", (int)(step))
        #include "early.c"
        static early_context context; static early_input x[EARLY_INPUT_COUNT]; static early_result result;
        int main(void) { early_init(&context);
          context.exit_threshold = -1.0f; early_run(&context, x, &result); printf("%d\\n", (int)result.exit_index);
          context.exit_threshold = 1e30f; early_run(&context, x, &result); printf("%d\\n", (int)result.exit_index); return 0; }"""
    )
    subprocess.run(["gcc", "-std=c99", str(tmp_path / "main.c"), "-lm", "-o", str(tmp_path / "main")], check=True)
    last, first = (
        [int(v) for v in line.split()]
        for line in subprocess.check_output([str(tmp_path / "main")], text=True).splitlines()
    )
    count = len(c.program.steps)
    assert last == [*range(count + 1), len(c.program.exits.outputs) - 1]
    decision = next(s.index for s in c.program.steps if s.kernel == "exit")
    assert first == [*range(decision + 1), count, 0]


def test_nothing_after_an_exit_is_needed_before_it() -> None:
    """Steps between two decisions only serve the later one."""
    c = exits()
    steps = c.program.steps
    for k, index in enumerate(c.program.exits.outputs):
        until = next(s.index for s in steps if s.kernel == "exit" and s.op.exit == k)
        wanted = {c.program.graph.outputs[i].tensor.name for i in c.program.exits.outputs[: k + 1]}
        assert index in c.program.exits.outputs
        for s in reversed(steps[: until + 1]):
            if s.kernel not in ("exit", "store"):
                assert s.op.y.name in wanted, f"step {s.index} runs before exit {k}, which does not need it"
                wanted.add(s.op.x.name)
