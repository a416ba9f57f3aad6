"""The C's side: build the generated code with a driver, feed it samples, read back what every step and run gave."""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.artifact import Artifact
from bnncc.ctext import environment
from bnncc.emit import arguments, fields, place
from bnncc.errors import ModelError, ToolError
from bnncc.layout import DTYPES, c_type, elements, pack, storage_bytes, unpack
from bnncc.outputs import Classify, Decide, Store
from bnncc.program import Program
from bnncc.resources import folder
from bnncc.sim.qemu import build_for_first_machine, run_elf
from bnncc.tensor import Tensor

Array = NDArray[Any]
OPTIMIZATION = "-O1"  # of the host build
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


@dataclass
class Outcome:
    """What the C gave: per step with a counterpart in the reference its output [N, C, H, W]; and the results of whole runs."""

    steps: dict[int, Array]
    whole: NDArray[np.void]  # never stopping at an exit
    stopped: NDArray[np.void] | None  # with the model's exit threshold
    machine: str


def given_buffers(compiled: Artifact, index: int) -> list[Tensor]:
    """Arena inputs of a step that the reference knows."""
    op = compiled.program.steps[index].op
    if isinstance(op, Classify | Decide | Store):
        return []
    known = {t.name: t for t in op.inputs if t.twin and t.name != compiled.program.graph.input.name}
    return list(known.values())


def checked_tensor(compiled: Artifact, index: int) -> Tensor | None:
    """The tensor a step makes, if the reference knows it."""
    op = compiled.program.steps[index].op
    return None if isinstance(op, Classify | Decide | Store) or not op.y.twin else op.y


def driver_source(compiled: Artifact, *, inject: bool) -> str:
    """The C driver for this model. With `inject`, each step starts from the reference's values instead of the C's own."""
    program = compiled.program
    names = {o.name: f.name for o, f in zip(program.graph.outputs, fields(program), strict=True)}

    def view(t: Tensor) -> dict[str, object]:
        return {"place": place(program, t.name), "bytes": stored_size(program, t)}

    steps = []
    for step in program.steps:
        if isinstance(step.op, Classify | Decide | Store):
            continue
        checked = checked_tensor(compiled, step.index)
        scratch = [f"step{step.index}:{part}" for part, _, _ in step.parts.scratch]
        steps.append(
            {
                "given": [view(t) for t in given_buffers(compiled, step.index)] if inject else [],
                "poisoned": [
                    *([] if program.overwritten(step) or program.apart(step.op.y) else [view(step.op.y)]),
                    *({"place": place(program, s), "bytes": program.buffer(s).bytes} for s in scratch),
                ],
                "call": f"{program.name}_step{step.index}({arguments(program, step, names)})",
                "result": view(checked) if checked else None,
            }
        )
    return (
        environment()
        .get_template("verify.c.j2")
        .render(name=program.name, input_count=program.graph.input.size, exits=program.exits is not None, steps=steps)
    )


def host_compiler() -> str:
    """gcc or clang. Raises ToolError E0510."""
    for name in ("gcc", "clang"):
        if shutil.which(name):
            return name
    raise ToolError.of(
        "E0510", "no host C compiler: neither gcc nor clang is installed", remedy="sudo apt-get install gcc"
    )


class Driver:
    """A built driver in a folder of its own; use as a context manager."""

    def __init__(self, compiled: Artifact, on: str, *, inject: bool = True) -> None:
        self.compiled, self.on, self.inject = compiled, on, inject
        self.machine = ""

    def __enter__(self) -> "Driver":
        self.scratch = tempfile.TemporaryDirectory(prefix="bnncc-verify-")
        self.folder = Path(self.scratch.name)
        for name, text in self.compiled.files.items():
            (self.folder / name).write_text(text, encoding="utf-8")
        source = self.folder / "driver.c"
        source.write_text(driver_source(self.compiled, inject=self.inject), encoding="utf-8")
        try:
            self.build(source)
        except BaseException:
            self.scratch.cleanup()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.scratch.cleanup()

    def build(self, source: Path) -> None:
        if self.on == "sim":
            core = self.compiled.target.core
            self.elf = self.folder / "driver.elf"
            self.sim_machine = build_for_first_machine([source], core, self.elf, include=[self.folder])
            note = f" ({self.sim_machine.note})" if self.sim_machine.note else ""
            self.machine = f"QEMU {self.sim_machine.qemu} for {core.name}{note}"
            return
        cc = host_compiler()
        command = [cc, "-std=c99", OPTIMIZATION, "-g", *WARNINGS, "-Wno-unused-function", *SANITIZERS]
        command += [f"-I{folder('firmware') / 'sim'}", str(source), "-o", str(self.folder / "driver"), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ModelError.of(
                "E0309",
                f"{cc} refused the generated C:\n{done.stderr[-1500:]}",
                remedy="report this as a defect of bnncc, with the model",
            )
        self.machine = f"host, {cc} with ASan and UBSan"

    def run(self, inputs: Array, reference: Mapping[str, Array]) -> Outcome:
        """Run samples [N, C, H, W] as the Graph has them; `reference` holds values by ONNX name, [N, 1, ...]."""
        records = [input_bytes(self.compiled, inputs)]
        layout: list[tuple[int, Tensor]] = []
        for step in self.compiled.program.steps:
            if self.inject:
                records += [
                    stored_bytes(t, t.from_reference(reference)) for t in given_buffers(self.compiled, step.index)
                ]
            checked = checked_tensor(self.compiled, step.index)
            if checked is not None:
                layout.append((step.index, checked))
        data = np.uint32(len(inputs)).tobytes() + np.concatenate(records, axis=1).tobytes()
        (self.folder / "in.bin").write_bytes(data)
        self.execute()
        return self.parse(len(inputs), layout)

    def execute(self) -> None:
        if self.on == "sim":
            run_elf(self.elf, self.sim_machine, cwd=self.folder, timeout=3600)
            return
        done = subprocess.run(
            [str(self.folder / "driver")],
            cwd=self.folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise ModelError.of(
                "E0310",
                f"the generated C failed under the sanitizers (status {done.returncode}):\n{done.stderr[:1500]}",
                remedy="report this as a defect of bnncc, with the model",
            )

    def parse(self, n: int, layout: list[tuple[int, Tensor]]) -> Outcome:
        raw = np.fromfile(self.folder / "out.bin", np.uint8)
        result = self.compiled.result_dtype
        sizes = [stored_size(self.compiled.program, t) for _, t in layout]
        runs = 2 if self.compiled.program.exits else 1
        total = sum(sizes) + runs * result.itemsize
        rows = raw.reshape(n, total)
        steps: dict[int, Array] = {}
        at = 0
        for (index, t), size in zip(layout, sizes, strict=True):
            stored = taken_together(self.compiled.program, t, rows[:, at : at + size])
            values = unpack(t, stored)
            if not np.array_equal(pack(t, values), stored) and t.elem.is_integer:
                raise ModelError.of(
                    "E0310", f"step {index} leaves padding bits set", remedy="report this as a defect of bnncc"
                )
            steps[index] = values
            at += size
        structs = [
            np.ascontiguousarray(rows[:, at + k * result.itemsize : at + (k + 1) * result.itemsize]).view(result)[:, 0]
            for k in range(runs)
        ]
        return Outcome(steps, structs[0], structs[1] if runs == 2 else None, self.machine)


def stored_size(program: Program, t: Tensor) -> int:
    """The bytes of the arena from a tensor's first pixel to its last."""
    return storage_bytes(c_type(t), elements(t)) + 4 * program.apart(t) * (t.pixels - 1)


def taken_together(program: Program, t: Tensor, raw: Array) -> Array:
    """A tensor as `pack` gives it, of the bytes [N, stored_size] of the arena: without the words of other tensors behind each pixel."""
    kind, apart = DTYPES[c_type(t)], program.apart(t)
    if not apart:
        return np.ascontiguousarray(raw[:, : elements(t) * kind.itemsize]).view(kind)
    words = np.pad(np.ascontiguousarray(raw).view(kind), [(0, 0), (0, apart)])  # behind the last one nothing was stored
    return words.reshape(len(raw), t.pixels, -1)[:, :, :-apart].reshape(len(raw), -1)


def input_bytes(compiled: Artifact, inputs: Array) -> NDArray[np.uint8]:
    """Inputs [N, C, H, W] as NAME_run takes them, as bytes [N, ...]."""
    order = np.moveaxis(inputs, 1, -1) if compiled.program.nhwc else inputs
    flat = np.ascontiguousarray(order.reshape(len(inputs), -1).astype(compiled.input_dtype))
    return flat.view(np.uint8)


def stored_bytes(t: Tensor, values: Array) -> NDArray[np.uint8]:
    """Values [N, C, H, W] as the arena holds them, as bytes [N, ...] of whole words."""
    stored = np.ascontiguousarray(pack(t, values))
    raw = stored.view(np.uint8).reshape(len(values), -1)
    padded = np.full((len(values), storage_bytes(c_type(t), elements(t))), 0xA5, np.uint8)
    padded[:, : raw.shape[1]] = raw
    return padded
