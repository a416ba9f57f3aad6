"""compile(): the whole way from an ONNX model to C, and what is known of the result."""

import json
import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bnncc.artifact import Artifact
from bnncc.dump import Dump
from bnncc.emit import adapter, emit
from bnncc.errors import Diagnostic, ModelError, UsageError
from bnncc.files import write_all
from bnncc.frontend.importer import Imported, import_model
from bnncc.graph import Graph
from bnncc.kernels import KERNELS
from bnncc.lower import Ram, lower
from bnncc.names import model_name
from bnncc.passes import run_passes
from bnncc.passes.polarity import Calibration, make_ones_rare, measure_densities
from bnncc.program import Program, exits_bytes
from bnncc.report import make_report
from bnncc.target import Target, find_target
from bnncc.tensor import Elem
from bnncc.verify.inputs import check_inputs, load_inputs
from bnncc.verify.judge import verify
from bnncc.verify.verdicts import Verification

STORAGES = ("f32", "f16", "i8")
ALL_KERNELS = tuple(k.name for k in KERNELS)


class Compiled(Artifact):
    """What compile() returns: the generated files with their report, ready to be written and verified."""

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

    def verify(self, x: "np.ndarray[Any, Any] | None" = None, *, samples: int = 32, on: str = "host") -> Verification:
        """Run the C beside onnxruntime on x [N, ...] (ONNX layout; random without it) and judge by the contract."""
        return verify(self, x, samples=samples, on=on)


def compile(
    model: "str | os.PathLike[str] | onnx.ModelProto",
    target: str = "cortex-m4",
    *,
    name: str | None = None,
    input: str | None = None,
    input_layout: str | None = None,
    require_binary: bool = False,
    sign_at_zero: int = 0,
    real_weights: str = "f32",
    calibrate: "np.ndarray[Any, Any] | str | os.PathLike[str] | None" = None,
    dump: "str | os.PathLike[str] | None" = None,
    kernel: str | None = None,
    ram_budget: int | None = None,
    wait_states: int | None = None,
) -> Compiled:
    """Compile an ONNX model for a core or a board.

    input ("u8", "i8", "f32"): the type the C takes for a float ONNX input; bytes then mean float(byte).
    input_layout ("nchw", "nhwc"): the order in which the C takes an image, that of the model by default.
    require_binary refuses real-valued layers. sign_at_zero (+1, -1): what a ternary Sign gives at zero, which is refused
    where it can be reached otherwise. real_weights ("f32", "f16", "i8"): how weights that are not binary are stored.
    calibrate: samples [N, ...] (ONNX layout), or a .npy or .npz of them: channels of bits that are mostly +1 are negated, and cycles
    predicted for the densities that this gives. dump: a folder for the graph after every pass, the choice of kernels and the
    memory map. kernel forces one (for tests).
    ram_budget: bytes that the context may take, the board's RAM by default: kernels that take much of it to be faster are
    considered, slower ones with less scratch are chosen until it fits, and E0307 is raised if it cannot.
    wait_states: of the flash, those of the board by default; with some, code and weights that are read most lie in RAM
    where that pays.
    Raises ModelError, UsageError; ValueError for an argument that is none of these.
    """
    if sign_at_zero not in (-1, 0, 1) or real_weights not in STORAGES or input_layout not in (None, "nchw", "nhwc"):
        raise ValueError(f"compile() does not know {sign_at_zero=}, {real_weights=} or {input_layout=}")
    if kernel is not None and kernel not in ALL_KERNELS:
        raise UsageError.of(
            "E0412", f"there is no kernel called '{kernel}'", remedy=f"choose of {', '.join(ALL_KERNELS)}"
        )
    found = find_target(target)
    file = "model.onnx" if isinstance(model, onnx.ModelProto) else Path(model).name
    chosen = model_name(name, Path(file).stem)
    imported = import_model(model, input, sign_at_zero=sign_at_zero, real_weights=real_weights)
    record = Dump(Path(dump)) if dump is not None else None
    nhwc = imported.graph.input.channels_last if input_layout is None else input_layout == "nhwc"
    graph = run_passes(imported.graph, record.graph if record else None)
    calibration = None
    if calibrate is not None:
        graph, calibration = calibrated(imported, graph, calibrate)
        if record:
            record.graph("make_ones_rare", graph)
    core = replace(found.core, flash=found.flash(wait_states))
    board = found.board
    # The application has the other half of a board's flash and RAM, and the stack.
    if ram_budget is not None:
        most = max(0, ram_budget - exits_bytes(graph))
        ram = Ram(most, most, board.flash_bytes // 2 if board else None)
    elif board:
        ram = Ram(board.ram_bytes, board.ram_bytes // 2, asked=False)
    else:
        ram = Ram()
    program = lower(graph, core, chosen, nhwc=nhwc, forced=kernel, ram=ram)
    if record:
        record.program(program, imported)
        record.write()
    if ram_budget is not None and program.context_bytes > ram_budget:
        raise ModelError.of(
            "E0307",
            f"the context takes at least {program.context_bytes} bytes, beyond the budget of {ram_budget}",
            remedy="raise --ram-budget; `bnncc compile --memory` shows which step needs it",
        )
    if require_binary:
        refuse_real(program)
    return Compiled(
        chosen, Target(core, found.board), imported, program, emit(program, file, found.core.name), calibration, kernel
    )


def calibrated(
    imported: Imported, graph: Graph, given: "np.ndarray[Any, Any] | str | os.PathLike[str]"
) -> tuple[Graph, Calibration]:
    """The graph with set bits made rare by the samples given. Raises UsageError as check_inputs and load_inputs do."""
    x = check_inputs(
        imported,
        graph.input.elem,
        given if isinstance(given, np.ndarray) else load_inputs(Path(given), imported.input_name),
    )
    calibration = measure_densities(graph, graph.input.from_reference({graph.input.twin: x}))
    return make_ones_rare(graph, calibration), calibration


def refuse_real(program: Program) -> None:
    """Raise ModelError E0305 with every layer that works on real values."""
    real = [s for s in program.steps if s.reason]
    if real:
        remedy = "binarize the input of this layer, or compile without --require-binary"
        if program.graph.input.elem is Elem.F32:
            remedy = "say --input u8 or i8 if the input holds integers; " + remedy
        raise ModelError(
            *(Diagnostic("E0305", f"the layer works on real values: {s.reason}", s.op.where, remedy) for s in real)
        )
