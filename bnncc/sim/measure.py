"""A generated model measured in the simulator: instructions and estimated cycles of each step, stack, results."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.sim.build import sim_folder
from bnncc.sim.count import count_elf
from bnncc.sim.cycles import Timing
from bnncc.sim.elf import marks, symbols
from bnncc.sim.qemu import build_for_first_machine
from bnncc.target import Core, Flash


@dataclass(frozen=True)
class Measurement:
    """What N runs of a model executed.

    Instructions are exact: those of NAME_run and all that it calls. The columns 0..S-1 of [N, S + 1] arrays are the
    model's steps; the last column is the rest of a run, before its first step and after its last.
    """

    machine: str
    note: str  # what is special about the machine, or ""
    model: str | None  # the label that every figure in cycles must carry; None if the core's cycles are not modelled
    instructions: NDArray[np.int64]  # [N, S + 1]
    cycles: NDArray[np.int64] | None  # [N, S + 1], zero wait states; None if they are not modelled
    waited: NDArray[np.int64]  # [N, S + 1], cycles more spent waiting for flash; 0 if no flash was given
    waiting: str | None  # the label of figures in cycles with those waited, None without
    stack_bytes: int  # the deepest stack of a run below its caller's, by the words it overwrote
    results: NDArray[np.uint8]  # [N, sizeof(result)], the raw bytes of NAME_result

    @property
    def run_instructions(self) -> NDArray[np.int64]:
        """[N]: instructions of each run."""
        return np.asarray(self.instructions.sum(axis=1), np.int64)

    @property
    def run_cycles(self) -> NDArray[np.int64] | None:
        """[N]: estimated cycles of each run; None if they are not modelled."""
        return None if self.cycles is None else np.asarray(self.cycles.sum(axis=1), np.int64)

    @property
    def estimates(self) -> NDArray[np.int64]:
        """[N, S + 1]: what the compiler predicts, in the core's unit: cycles, or instructions if cycles are not modelled."""
        return self.instructions if self.cycles is None else self.cycles


def measure(
    folder: Path,
    name: str,
    core: Core,
    inputs: NDArray[Any],
    *,
    step_count: int,
    result_bytes: int,
    exit_threshold: float | None = None,
    flash: Flash | None = None,
) -> Measurement:
    """Run the generated model `name` in `folder` (NAME.h, NAME.c, model.h) on `inputs` in the simulator.

    `inputs` is [N, INPUT_COUNT] of the model's own input type; `exit_threshold` (nats) replaces the model's; waiting
    for `flash` is simulated.
    Raises what `build_elf`, `run_elf` and `plugin` do.
    """
    defines: dict[str, str | None] = {f"{name.upper()}_STEP": "BNNCC_MARK"}
    if exit_threshold is not None:
        defines["EXIT_THRESHOLD_BITS"] = f"0x{int(np.float32(exit_threshold).view(np.uint32)):08x}"
    timing = Timing.of(core)
    with tempfile.TemporaryDirectory(prefix="bnncc-") as scratch:
        cwd = Path(scratch)
        (cwd / "inputs.bin").write_bytes(np.ascontiguousarray(inputs).tobytes())
        elf = cwd / "measure.elf"
        sources = [sim_folder() / "measure.c", sim_folder() / "profiled.c"]
        machine = build_for_first_machine(sources, core, elf, include=[folder], defines=defines)
        begin = symbols(elf)[f"{name}_run"].address
        run, counts = count_elf(elf, machine, [(begin, step_count), *marks(elf)], flash=flash, cwd=cwd)
        return Measurement(
            machine=run.machine,
            note=run.note,
            model=timing.statement if timing else None,
            instructions=counts.instructions(step_count + 1),
            cycles=timing.per_run(counts, step_count + 1) if timing else None,
            waited=counts.waited(step_count + 1),
            waiting=timing.waiting(flash) if timing and flash else None,
            stack_bytes=int.from_bytes((cwd / "stack.bin").read_bytes(), "little"),
            results=np.fromfile(cwd / "results.bin", np.uint8).reshape(-1, result_bytes),
        )
