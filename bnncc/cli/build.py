"""bnncc compile."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bnncc.cli.options import (
    Calibrate,
    Input,
    InputLayout,
    Json,
    Kernel,
    Model,
    Name,
    RamBudget,
    RealWeights,
    SignAtZero,
    Storage,
    Target,
    WaitStates,
    compiled,
)
from bnncc.cli.show import (
    NOT_MODELLED,
    console,
    diagnostics_json,
    print_diagnostics,
    print_json,
    print_table,
    shortened,
)
from bnncc.compiler import Compiled
from bnncc.errors import Diagnostic


def compile_command(
    model: Model,
    target: Target = "cortex-m4",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Where to write; a folder called as the model by default."),
    ] = None,
    name: Name = None,
    input_type: Input = None,
    input_layout: InputLayout = None,
    sign_at_zero: SignAtZero = None,
    real_weights: RealWeights = Storage.f32,
    calibrate: Calibrate = None,
    dump: Annotated[
        Path | None,
        typer.Option("--dump", metavar="DIR", help="Write the graph after every pass, kernel choices, memory map."),
    ] = None,
    require_binary: Annotated[
        bool, typer.Option("--require-binary", help="Refuse layers that work on real values.")
    ] = False,
    ram_budget: RamBudget = None,
    wait_states: WaitStates = None,
    kernel: Kernel = None,
    memory: Annotated[bool, typer.Option("--memory", help="Show the memory over time, a line a step.")] = False,
    json: Json = False,
) -> None:
    """Compile a model to C: NAME.h, NAME.c, NAME_weights.h, model.h and report.json, all of them or none.

    Example: bnncc compile digits.onnx --target cortex-m4 -o build
    """
    done = compiled(
        model,
        target,
        name,
        input_type,
        input_layout,
        sign_at_zero,
        real_weights,
        calibrate=calibrate,
        require_binary=require_binary,
        dump=dump,
        ram_budget=ram_budget,
        wait_states=wait_states,
        kernel=kernel,
    )
    folder = out if out is not None else Path(done.name)
    files = done.write(folder)
    warnings = [*done.warnings, *size_warnings(done)]
    if json:
        print_json(
            {
                "ok": True,
                "files": [str(f) for f in files],
                "diagnostics": diagnostics_json(warnings),
                "report": done.report,
            }
        )
        return
    print_report(done.report)
    if calibrate:
        print_densities(done.report)
    if memory:
        print_lines(done.report["memory"]["picture"])
    print_diagnostics(warnings)
    console.print(f"written to {folder}: {', '.join(f.name for f in files)}", highlight=False, markup=False)


def size_warnings(done: Compiled) -> list[Diagnostic]:
    """W0402 if the board is too small."""
    board, totals = done.report["board"], done.report["totals"]
    if board is None or not board["too_large_for"]:
        return []
    text = ", ".join(
        f"{what} {totals[f'{what.lower()}_bytes']:,} of {board[f'{what.lower()}_bytes']:,} bytes"
        for what in board["too_large_for"]
    )
    return [
        Diagnostic(
            "W0402",
            f"the model is too large for {done.target.name}: {text}",
            "",
            "use a larger board or a smaller model",
        )
    ]


def print_report(report: dict[str, Any]) -> None:
    """One row a layer, then the totals."""
    t = report["totals"]
    unit = "cycles" if t["cycle_model"] else "instructions"
    model = t["cycle_model"] or f"estimated; {NOT_MODELLED}"
    varies = any(r[f"worst_{unit}"] for r in report["layers"])
    rows = [
        (
            r["step"],
            shortened(r["origin"]),
            r["kernel"],
            r["macs"] or None,
            r["flash_bytes"],
            r["ram_bytes"],
            r[unit],
            *([r[f"worst_{unit}"]] if varies else []),
            "exact" if r["exact"] else "close",
        )
        for r in report["layers"]
    ]
    columns = [
        ("step", "right"),
        ("from", "left"),
        ("kernel", "left"),
        ("MACs", "right"),
        ("flash", "right"),
        ("RAM", "right"),
        (unit, "right"),
        *([("worst", "right")] if varies else []),
        ("result", "left"),
    ]
    title = f"{report['name']} for {report['target']}"
    print_table(title, columns, rows, f"flash and RAM in bytes; {unit} {model}, predicted by the compiler")
    code = (
        "unknown without arm-none-eabi-gcc"
        if t["code_bytes"] is None
        else f"{t['code_bytes']:,} code, {t['library_bytes']:,} library"
    )
    stack = (
        "unknown without arm-none-eabi-gcc" if t["worst_stack_bytes"] is None else f"{t['worst_stack_bytes']:,} bytes"
    )
    if t["worst_stack_without"]:
        stack += f" plus that of {', '.join(t['worst_stack_without'])}"
    hot = [str(r["step"]) for r in report["layers"] if r["code_in_ram"]]
    copied = [f"{r['step']} ({r['copied_bytes']:,} bytes)" for r in report["layers"] if r["copied_bytes"]]
    in_ram = "" if t["ram_code_bytes"] in (0, None) else f", code {t['ram_code_bytes']:,}"
    lines = [
        f"flash  {t['flash_bytes']:,} bytes: {t['constant_bytes']:,} constants, {code}",
        f"RAM    {t['ram_bytes']:,} bytes: context {t['context_bytes']:,} (arena {t['arena_bytes']:,}, "
        f"lower bound {t['arena_lower_bound']:,}), result {t['result_bytes']:,}{in_ram}",
        f"stack  at worst {stack}",
        f"work   {t['macs']:,} MACs, about {t[unit]:,} {unit} ({model}){milliseconds(report, t['cycles'])}",
    ]
    if t["waiting_cycles"] is not None:
        lines.append(
            f"waits  about {t['waiting_cycles']:,} cycles ({t['waiting_cycle_model']}){milliseconds(report, t['waiting_cycles'])}"
        )
        lines.append(
            f"hot    in RAM, where flash would be waited for: the code of steps {', '.join(hot) or 'none'}; "
            f"copies of the weights of {', '.join(copied) or 'none'}"
        )
    if varies:
        lines.append(
            f"worst  about {t[f'worst_{unit}']:,} {unit}, whatever the data: some kernels take longer the more bits are set; "
            "the others' predictions with the largest error that is known of them"
        )
    if report["calibration"] is None and any(r["density"] for r in report["layers"]):
        lines.append(
            "bits   half of the inputs of each binary layer are taken to be +1; --calibrate measures how many are"
        )
    for r in report["layers"]:
        if r["real_valued"]:
            lines.append(f"real   step {r['step']} ({shortened(r['origin'])}): {r['real_valued']}")
    for d in report["reference_differs"]:
        lines.append(f"note   {d['node']}: verified against its canonical form, since {d['reason']}")
    for r in report["layers"]:
        if r["channels_near_file_rounding"]:
            lines.append(
                f"note   step {r['step']}: in {r['channels_near_file_rounding']} channels the file's own rounding can decide "
                "a bit otherwise"
            )
    print_lines(lines)


def print_densities(report: dict[str, Any]) -> None:
    """A row a layer of bits: what calibration found and did."""
    rows = [
        (
            r["step"],
            shortened(r["origin"]),
            r["negated_channels"],
            f"{100 * r['density_before']:.1f}",
            f"{100 * r['density']:.1f}",
        )
        for r in report["layers"]
        if r["density"] is not None
    ]
    columns = [
        ("step", "right"),
        ("from", "left"),
        ("channels negated", "right"),
        ("% +1 before", "right"),
        ("% after", "right"),
    ]
    title = f"inputs of the binary layers, in {report['calibration']['samples']:,} samples"
    print_table(title, columns, rows, "cycles are predicted for the densities after")


def print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def milliseconds(report: dict[str, Any], cycles: int | None) -> str:
    if report["board"] is None or cycles is None:
        return ""
    clock = report["board"]["clock_hz"]
    return f", {1e3 * cycles / clock:.3g} ms at {clock / 1e6:g} MHz"
