"""The shape of the code: imports follow the pipeline, and the registries are complete."""

import ast
import re
from pathlib import Path

import bnncc
from bnncc.codes import CODES
from bnncc.frontend.importer import IMPORTERS
from bnncc.kernels import KERNELS
from bnncc.lower import lacking
from bnncc.ops import Streamed
from bnncc.outputs import Classify, Decide, Store
from bnncc.resources import folder
from bnncc.target import cores
from bnncc.tensor import Op

PACKAGE = Path(bnncc.__file__).parent
TESTS = Path(__file__).parent

# A module imports, at its top, only from its own line and the lines above.
PIPELINE = (
    ("codes",),
    ("errors", "resources"),
    ("files", "target", "names", "scalar"),
    ("tensor", "waits"),
    ("ops",),
    ("graph",),
    ("frontend",),
    ("passes", "layout", "outputs"),
    ("program",),
    ("view",),
    ("kernels",),
    ("plan", "memory"),
    ("lower",),
    ("ctext",),
    ("emit",),
    ("sim",),
    ("artifact",),
    ("footprint", "dump"),
    ("report",),
    ("verify",),
    ("compiler",),
    ("", "__init__"),
    ("board", "train"),
    ("cli",),
    ("__main__",),
)
RANK = {name: k for k, names in enumerate(PIPELINE) for name in names}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    """The first component below the package: "frontend", "graph"."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST, *, top_only: bool) -> set[str]:
    """The modules that are imported: everywhere, or only at the top of the file (not for type checking alone)."""
    found = set()
    for node in ast.iter_child_nodes(tree) if top_only else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = {f"bnncc.{a.name}" for a in node.names if node.module == "bnncc" and a.name in RANK}
            found |= parts or {node.module}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return found


def test_imports_follow_the_pipeline() -> None:
    wrong = []
    for path in modules():
        own = part(path)
        assert own in RANK, f"{own} has no place in PIPELINE"
        for name in imported(ast.parse(path.read_text()), top_only=True):
            if name.split(".")[0] == "bnncc":
                other = [*name.split("."), ""][1]
                if RANK.get(other, RANK[""]) > RANK[own]:
                    wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_the_compiler_never_imports_torch() -> None:
    for path in modules():
        if part(path) != "train":
            names = imported(ast.parse(path.read_text()), top_only=False)
            assert not any(n.split(".")[0] in ("torch", "onnxscript", "sklearn") for n in names), path


def leaves(cls: type[Op]) -> set[type[Op]]:
    below = cls.__subclasses__()
    return {cls} if not below else set().union(*(leaves(c) for c in below))


def test_every_op_is_complete() -> None:
    """A meaning in numpy, something that makes it, a kernel that computes it (Sign becomes a Threshold)."""
    source = "".join(p.read_text() for p in modules() if part(p) in ("frontend", "passes", "lower"))
    for op in leaves(Op):
        assert op.evaluate is not Op.evaluate, f"{op.__name__} has no numpy meaning"
        assert re.search(rf"\b{op.__name__}(\.of)?\(", source), f"nothing makes {op.__name__}"
        if op.__name__ != "Sign":
            assert any(op in k.ops or (op is Streamed and k.rows) for k in KERNELS), f"no kernel for {op.__name__}"
    assert {Store, Classify, Decide} <= leaves(Op)


def test_every_kernel_is_complete() -> None:
    names = [k.name for k in KERNELS]
    assert len(set(names)) == len(names)
    for k in KERNELS:
        assert (folder("templates") / "kernels" / k.template).is_file(), k.name
        assert k.title
        for core in cores().values():
            assert k.table in core.cost or lacking(k, core), f"[cost.{k.name}] is missing in {core.name}"
    templates = {p.name for p in (folder("templates") / "kernels").iterdir() if not p.name.startswith("_")}
    assert templates == {k.template for k in KERNELS}


def test_every_core_has_its_costs_and_machines() -> None:
    assert set(cores()) == {
        "cortex-m0",
        "cortex-m0plus",
        "cortex-m3",
        "cortex-m4",
        "cortex-m7",
        "cortex-m33",
        "cortex-m55",
    }
    for core in cores().values():
        assert core.machines
        assert set(core.cost) == {k.table for k in KERNELS if not lacking(k, core)}


def test_every_importer_is_listed_in_the_documentation() -> None:
    text = (PACKAGE.parent / "docs" / "operators.md").read_text()
    missing = [name for name in IMPORTERS if not re.search(rf"\b{name}\b", text)]
    assert not missing


def test_every_code_is_registered_once_and_raised_by_a_test() -> None:
    source = (PACKAGE / "codes.py").read_text()
    listed = re.findall(r'^    "([EW]\d{4})": \(', source, re.M)
    assert sorted(listed) == sorted(CODES), "a code is registered twice"
    tests = "".join(p.read_text() for p in TESTS.rglob("test_*.py") if p != Path(__file__))
    assert [c for c in CODES if c not in tests] == []
    used = "".join(p.read_text() for p in modules() if p.name != "codes.py")
    assert [c for c in CODES if f'"{c}"' not in used] == []
