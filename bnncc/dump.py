"""--dump: the graph after every pass, every kernel considered, the memory map, as text to read and compare."""

from collections.abc import Sequence
from pathlib import Path

from bnncc.files import write_all
from bnncc.frontend.importer import Imported
from bnncc.graph import Graph
from bnncc.memory import picture
from bnncc.ops import Conv, Map, MaxPool, Sign, Window
from bnncc.program import Program
from bnncc.scalar import Operand, Step
from bnncc.tensor import Op, Tensor


class Dump:
    """Collects the stages of one compilation and writes them all at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.texts: dict[str, str] = {}
        self.binaries: dict[str, bytes] = {}

    def graph(self, stage: str, graph: Graph) -> None:
        number = len(self.texts)
        self.texts[f"{number:02}-{stage}.txt"] = graph_text(graph)

    def program(self, program: Program, imported: Imported) -> None:
        self.texts["kernels.txt"] = kernels_text(program)
        self.texts["memory.txt"] = memory_text(program)
        if imported.reasons:
            self.texts["reference.txt"] = "".join(f"{node}: {why}\n" for node, why in imported.reasons)
            self.binaries["reference.onnx"] = imported.reference.SerializeToString(deterministic=True)

    def write(self) -> None:
        write_all(self.folder, self.texts)
        for name, data in self.binaries.items():
            (self.folder / name).write_bytes(data)


def tensor_text(t: Tensor) -> str:
    bounds = f" in {t.lo}..{t.hi}" + (f" step {t.stride}" if t.stride != 1 else "") if t.elem.is_integer else ""
    negated = f", negated in {len(t.negated)} channels" if t.negated else ""
    return f"{t.name!r} {t.elem.value}{list(t.shape)}{bounds}{negated}"


def steps_text(op: Op, steps: Sequence[Step | Operand]) -> str:
    shown = (s.value.ravel()[:3].tolist() if isinstance(s, Step) else repr(op.others[s.index].name) for s in steps)
    return "; ".join(f"{s.operation} {right}" for s, right in zip(steps, shown, strict=True))


def op_text(op: Op) -> str:
    details = []
    if isinstance(op, Window):
        up = f" up {op.up}" if op.sparse else ""
        details.append(f"kernel {op.kernel} strides {op.strides} pads {op.pads} dilations {op.dilations}{up}")
    if isinstance(op, Conv):
        weights = "" if op.binary else f", {op.storage} weights"
        details.append(
            f"{op.groups} group(s){weights}, pad value {op.pad_value}, input {op.mul} * x - {op.zero or 0}"
            + (", to bits" if op.cut else "")
            + (f", density {op.density:.3g}" if op.of_bits else "")
        )
    if isinstance(op, Conv | Map):
        details.append(steps_text(op, op.steps))
    if isinstance(op, MaxPool) and op.minimum:
        details.append(f"minimum in {sum(op.minimum)} channels")
    if isinstance(op, Sign):
        details.append(f"at zero {op.at_zero}" + (", negated" if op.negate else ""))
    inputs = ", ".join(repr(t.name) for t in op.inputs)
    return f"{tensor_text(op.y)}\n    = {type(op).__name__}({inputs}) {'; '.join(details)}\n    from {', '.join(op.origin)}\n"


def graph_text(graph: Graph) -> str:
    lines = [f"input {tensor_text(graph.input)}\n", *(op_text(op) for op in graph.ops)]
    lines += [f"output {o.name!r} = {o.tensor.name!r} then {[s.operation for s in o.steps]}\n" for o in graph.outputs]
    return "".join(lines)


def kernels_text(program: Program) -> str:
    lines = []
    for s in program.steps:
        lines.append(f"step {s.index} {type(s.op).__name__} from {', '.join(s.op.origin)}: {s.kernel}\n")
        lines += [
            f"    {c.kernel}: "
            + (f"refused, {c.refusal}" if c.estimate is None else f"about {c.estimate:.0f} {s.cost.unit}")
            + "\n"
            for c in s.considered
        ]
    return "".join(lines)


def memory_text(program: Program) -> str:
    lines = [*picture(program), ""]
    lines += [
        f"{b.offset:8} {b.bytes:8} bytes, steps {b.first}..{b.last}: {b.name!r}"
        for b in sorted(program.buffers, key=lambda b: (b.offset, b.first))
    ]
    return "\n".join(lines) + "\n"
