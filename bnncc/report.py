"""report.json: what was compiled, one row a step, and the totals. docs/report.md documents every key."""

from typing import Any

from bnncc.artifact import Artifact
from bnncc.footprint import footprint
from bnncc.graph import needed
from bnncc.memory import load, picture
from bnncc.ops import Conv, Streamed, SumPool, Threshold
from bnncc.outputs import Classify, Decide, Store
from bnncc.passes.polarity import Calibration
from bnncc.program import Program, Step
from bnncc.scalar import gamma
from bnncc.tensor import Op

CYCLE_MODEL = "estimated, zero wait states"


def figures(estimate: float | None, unit: str, prefix: str = "") -> dict[str, int | None]:
    """An estimate under the name of its unit, null under the other's."""
    names = ("cycles", "instructions")
    return {f"{prefix}{n}": None if estimate is None or n != unit else round(estimate) for n in names}


def near(op: Op) -> int:
    """Channels in which the file's own inexact float sum may decide a bit otherwise than the canonical form."""
    return op.cut.near if isinstance(op, Conv | Threshold) and op.cut else 0


def sum_tolerance(op: Op) -> float | None:
    """How far a float32 sum of the layer can be from the reference's, relative to the sum of its terms' magnitudes."""
    if isinstance(op, Conv) and not op.integer:
        return 2 * gamma(op.taps)
    if isinstance(op, SumPool) and not op.exact:
        return 2 * gamma(op.taps_per_channel)
    return None


def exact_output(program: Program, name: str) -> bool:
    """Whether every step that the output depends on is exact."""
    output = next(o for o in program.graph.outputs if o.name == name)
    store = next(s.op for s in program.steps if isinstance(s.op, Store) and s.op.output.name == name)
    return store.exact and all(op.exact for op in needed(program.graph, [output.tensor]))


def density(op: Op, calibration: Calibration | None) -> dict[str, Any]:
    """The share of +1 among the binary inputs of a layer: expected, and measured before channels were negated."""
    if not isinstance(op, Conv) or not op.of_bits:
        return {"density": None, "density_before": None, "negated_channels": None}
    return {
        "density": round(op.density, 4),
        "density_before": round(float(calibration.densities[op.y.name].mean()), 4) if calibration else None,
        "negated_channels": len(op.x.negated),
    }


def row(program: Program, step: Step, calibration: Calibration | None, *, waits: bool) -> dict[str, Any]:
    op = step.op.conv if isinstance(step.op, Streamed) else step.op
    return {
        "step": step.index,
        "origin": list(step.op.origin),
        "operation": type(step.op).__name__.lower(),
        "kernel": step.kernel,
        "rows_taken_by": step.then.kernel if step.then else None,
        "input": None if isinstance(op, Classify | Decide) else f"{op.x.elem.value}{list(op.x.shape)}",
        "output": None if isinstance(op, Classify | Decide | Store) else f"{op.y.elem.value}{list(step.op.y.shape)}",
        "macs": step.cost.macs,
        "binary_macs": step.cost.macs if isinstance(op, Conv) and op.x.elem.value == "bin" else 0,
        "flash_bytes": step.flash_bytes,
        "scratch_bytes": step.parts.scratch_bytes,
        "ram_bytes": load(program, step),
        **figures(step.cost.estimate, step.cost.unit),
        **figures(step.cost.worst, step.cost.unit, "worst_"),
        "waiting_cycles": round(step.cost.estimate + step.cost.waiting) if waits else None,
        "code_in_ram": step.in_ram,
        "copied_bytes": step.copied_bytes,
        **density(op, calibration),
        "exact": step.op.exact,
        "sum_tolerance": sum_tolerance(op),
        "real_valued": step.reason or None,
        "channels_near_file_rounding": near(op),
        "considered": [
            {"kernel": c.kernel, **figures(c.estimate, step.cost.unit), "refused": c.refusal or None}
            for c in step.considered
        ],
    }


def make_report(compiled: Artifact) -> dict[str, Any]:
    """The report of a compilation; `bnncc.compile(...).report`."""
    program, target = compiled.program, compiled.target
    size = footprint(compiled)
    board = target.board
    flash_model = target.core.flash
    ram = size["context_bytes"] + size["result_bytes"] + (size["ram_code_bytes"] or 0)
    flash = program.flash_bytes + (size["code_bytes"] or 0) + (size["library_bytes"] or 0)
    too_large = (
        []
        if board is None
        else [
            n for n, need, have in (("flash", flash, board.flash_bytes), ("RAM", ram, board.ram_bytes)) if need > have
        ]
    )
    return {
        "name": compiled.name,
        "target": target.name,
        "core": target.core.name,
        "board": None
        if board is None
        else {
            "flash_bytes": board.flash_bytes,
            "ram_bytes": board.ram_bytes,
            "clock_hz": board.clock_hz,
            "too_large_for": too_large,
        },
        "input": {
            "name": compiled.imported.input_name,
            "shape": list(compiled.imported.input_shape),
            "type": program.graph.input.elem.value,
            "layout": "nhwc" if program.nhwc else "nchw",
            "bytes": program.graph.input.size * compiled.input_dtype.itemsize,
        },
        "outputs": [
            {"name": o.name, "shape": list(o.shape), "exact": exact_output(program, o.name)}
            for o in program.graph.outputs
        ],
        "exits": None
        if program.exits is None
        else {
            "outputs": [program.graph.outputs[k].name for k in program.exits.outputs],
            "rule": "entropy",
            "threshold": program.exits.threshold,
        },
        "calibration": None if compiled.calibration is None else {"samples": compiled.calibration.samples},
        "layers": [row(program, s, compiled.calibration, waits=target.core.flash is not None) for s in program.steps],
        "totals": {
            "macs": sum(s.cost.macs for s in program.steps),
            **figures(sum(s.cost.estimate for s in program.steps), target.core.unit),
            **figures(sum(s.cost.bound for s in program.steps), target.core.unit, "worst_"),
            "cycle_model": CYCLE_MODEL if target.core.timing else None,
            "waiting_cycles": round(sum(s.cost.estimate + s.cost.waiting for s in program.steps))
            if flash_model
            else None,
            "waiting_cycle_model": f"estimated, {flash_model}" if flash_model else None,
            "constant_bytes": program.flash_bytes,
            "code_bytes": size["code_bytes"],
            "ram_code_bytes": size["ram_code_bytes"],
            "library_bytes": size["library_bytes"],
            "flash_bytes": flash,
            "arena_bytes": program.arena_bytes,
            "arena_lower_bound": program.arena_bound,
            "context_bytes": size["context_bytes"],
            "result_bytes": size["result_bytes"],
            "ram_bytes": ram,
            "worst_stack_bytes": size["stack_bytes"],
            "worst_stack_without": size["stack_without"],
        },
        "memory": {
            "buffers": [
                {"name": b.name, "offset": b.offset, "bytes": b.bytes, "first_step": b.first, "last_step": b.last}
                for b in program.buffers
            ],
            "picture": picture(program),
        },
        "toolchain": size["toolchain"],
        "exact": all(s.op.exact for s in program.steps),
        "reference_differs": [{"node": n, "reason": r} for n, r in compiled.imported.reasons],
        "warnings": [{"code": w.code, "message": w.message, "where": w.where} for w in compiled.warnings],
    }
