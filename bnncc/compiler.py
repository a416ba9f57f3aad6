"""compile(): the whole way from an ONNX model to C, and what is known of the result."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from bnncc.dump import Dump
from bnncc.emit import adapter, emit, result_dtype
from bnncc.errors import Diagnostic, ModelError, ToolError
from bnncc.frontend.importer import Imported, import_model
from bnncc.graph import Elem
from bnncc.layout import C_TYPES, DTYPES
from bnncc.lower import lower
from bnncc.names import model_name
from bnncc.passes import run_passes
from bnncc.program import Program
from bnncc.report import make_report
from bnncc.target import Target, find_target

if TYPE_CHECKING:
    from bnncc.verify.verdicts import Verification


@dataclass(frozen=True)
class Compiled:
    """A compiled model: its files, and all that verification, measurement and reports need to know."""

    name: str
    target: Target
    imported: Imported
    program: Program
    files: Mapping[str, str]

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        return self.imported.warnings

    @property
    def input_dtype(self) -> "np.dtype[Any]":
        """The type of one input value in C."""
        return DTYPES[C_TYPES[self.program.graph.input.elem]]

    @property
    def result_dtype(self) -> "np.dtype[np.void]":
        """NAME_result as a numpy structured dtype."""
        return result_dtype(self.program)

    @cached_property
    def report(self) -> dict[str, Any]:
        """The content of report.json (docs/report.md): one row a step, totals, the exactness of each layer."""
        return make_report(self)

    def write(self, folder: "str | os.PathLike[str]") -> list[Path]:
        """Write the C files, model.h for generic drivers, and report.json into `folder`; all of them or none.

        Returns their paths. Raises ToolError E0509 if the folder cannot be written.
        """
        texts = {**self.files, "model.h": adapter(self.name), "report.json": json.dumps(self.report, indent=2) + "\n"}
        return write_all(Path(folder), texts)

    def verify(self, x: "np.ndarray[Any, Any] | None" = None, *, samples: int = 32, on: str = "host") -> "Verification":
        """Run the C beside onnxruntime on x [N, ...] (ONNX layout; random without it) and judge by the contract."""
        from bnncc.verify.judge import verify

        return verify(self, x, samples=samples, on=on)


def write_all(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write every file or none: new ones go to temporary names, old ones are kept until all are in place.

    Raises ToolError E0509; the folder is then as it was.
    """
    existed = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".bnncc-") as scratch:
            for name, text in texts.items():
                (Path(scratch) / name).write_text(text, encoding="utf-8", newline="\n")
            swap_in(Path(scratch), folder, list(texts))
    except OSError as e:
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise ToolError.of(
            "E0509",
            f"cannot write into {folder}: {e.strerror or e}",
            remedy="check the path, its rights and the space on the disk",
        ) from None
    return [folder / name for name in texts]


def swap_in(scratch: Path, folder: Path, names: list[str]) -> None:
    """Move the files from `scratch` into `folder`; if one cannot be, put back what stood there and raise its OSError."""
    moved: list[str] = []
    try:
        for name in names:
            if (folder / name).exists():
                (folder / name).replace(scratch / f"{name}.old")
            moved.append(name)
            (scratch / name).replace(folder / name)
    except OSError:
        for name in moved:
            (folder / name).unlink(missing_ok=True)
            if (scratch / f"{name}.old").exists():
                (scratch / f"{name}.old").rename(folder / name)
        raise


def compile(
    model: "str | os.PathLike[str] | onnx.ModelProto",
    target: str = "cortex-m4",
    *,
    name: str | None = None,
    input: str | None = None,
    input_layout: str = "nchw",
    require_binary: bool = False,
    dump: "str | os.PathLike[str] | None" = None,
    kernel: str | None = None,
) -> Compiled:
    """Compile an ONNX model for a core or a board.

    input ("u8", "i8", "f32"): the type the C takes for a float ONNX input; bytes then mean float(byte).
    input_layout ("nchw", "nhwc"): the order in which the C takes an image. require_binary refuses real-valued layers.
    dump: a folder for the graph after every pass, the choice of kernels and the memory map. kernel forces one (for tests).
    Raises ModelError, UsageError.
    """
    found = find_target(target)
    file = "model.onnx" if isinstance(model, onnx.ModelProto) else Path(model).name
    chosen = model_name(name, Path(file).stem)
    imported = import_model(model, input)
    record = Dump(Path(dump)) if dump is not None else None
    graph = run_passes(imported.graph, record.graph if record else None)
    program = lower(graph, found.core, chosen, nhwc=input_layout == "nhwc", forced=kernel)
    if record:
        record.program(program, imported)
        record.write()
    if require_binary:
        refuse_real(program)
    return Compiled(chosen, found, imported, program, emit(program, file, found.core.name))


def refuse_real(program: Program) -> None:
    """Raise ModelError E0305 with every layer that works on real values."""
    real = [s for s in program.steps if s.reason]
    if real:
        remedy = "binarize the input of this layer, or compile without --require-binary"
        if program.graph.input.elem is Elem.F32:
            remedy = "say --input u8 or i8 if the input holds integers; " + remedy
        raise ModelError(
            *(
                Diagnostic("E0305", f"the layer works on real values: {s.reason}", ", ".join(s.op.origin), remedy)
                for s in real
            )
        )
