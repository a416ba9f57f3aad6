"""bnncc verify."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bnncc.cli.options import (
    Calibrate,
    Input,
    InputLayout,
    Inputs,
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
from bnncc.cli.show import console, print_diagnostics, print_json, print_table, progress, shortened
from bnncc.verify.inputs import load_inputs
from bnncc.verify.judge import verify
from bnncc.verify.save import save_outputs
from bnncc.verify.verdicts import LEFT_OUT_LIMIT, Verification


class Place(StrEnum):
    host = "host"
    sim = "sim"


def verify_command(
    model: Model,
    target: Target = "cortex-m4",
    name: Name = None,
    input_type: Input = None,
    input_layout: InputLayout = None,
    sign_at_zero: SignAtZero = None,
    real_weights: RealWeights = Storage.f32,
    calibrate: Calibrate = None,
    inputs: Inputs = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", "-n", min=1, help="How many: 32 random ones, or all of --inputs, without it."),
    ] = None,
    on: Annotated[Place, typer.Option("--on", help="host: gcc or clang with ASan and UBSan; sim: QEMU.")] = Place.host,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="OUT.npz", help="Write the C's outputs under their ONNX names.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the random samples.")] = 0,
    ram_budget: RamBudget = None,
    wait_states: WaitStates = None,
    kernel: Kernel = None,
    json: Json = False,
) -> None:
    """Build the generated C, run it beside onnxruntime and judge by the contract of docs/exactness.md.

    Example: bnncc verify digits.onnx --target cortex-m4 --inputs digits_test.npz --on sim
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
        ram_budget=ram_budget,
        wait_states=wait_states,
        kernel=kernel,
    )
    x = None
    if inputs is not None:
        x = load_inputs(inputs, done.imported.input_name)
        x = x[:samples] if samples and x.shape != done.imported.input_shape else x
    total = (samples or 32) if x is None else len(x)
    with progress(f"verifying {done.name}", 2 * total, quiet=json) as tick:
        verdict = verify(done, x, samples=total, on=on.value, seed=seed, tick=tick)
    if save is not None:
        save_outputs(save, verdict.outputs_c)
    if json:
        print_json(verdict.as_dict())
    else:
        print_diagnostics(done.warnings)
        print_verdict(verdict)
    raise typer.Exit(0 if verdict.ok else 1)


def print_verdict(v: Verification) -> None:
    """Steps, outputs, exits, and the verdict in one line."""
    steps = [
        (
            s.step,
            shortened(s.origin.split(", ")),
            s.kernel,
            s.values,
            s.mismatches,
            s.band if not s.exact else None,
            s.largest_error,
            "equal" if s.exact else f"within {s.tolerance:.3g}",
        )
        for s in v.steps
    ]
    columns = [
        ("step", "right"),
        ("from", "left"),
        ("kernel", "left"),
        ("values", "right"),
        ("wrong", "right"),
        ("in band", "right"),
        ("largest error", "right"),
        ("must be", "left"),
    ]
    print_table("each step on the reference's own inputs", columns, steps)
    outputs = [
        (
            o.name,
            o.samples,
            o.mismatched_samples,
            o.largest_error,
            "-" if o.argmax_agreement is None else f"{100 * o.argmax_agreement:.4g} %",
            "equal" if o.tolerance == 0 else f"within {o.tolerance:.3g}",
        )
        for o in v.outputs
    ]
    columns = [
        ("output", "left"),
        ("samples", "right"),
        ("mismatched", "right"),
        ("largest error", "right"),
        ("same arg-max", "right"),
        ("must be", "left"),
    ]
    print_table("end to end", columns, outputs)
    lines = []
    if v.left_out:
        lines.append(
            f"{v.left_out} of {v.samples} samples left out: a bit fell within the rounding "
            f"of a real-valued layer (at most {100 * LEFT_OUT_LIMIT:g} % may)"
        )
    if v.exits:
        share = ", ".join(f"exit {k}: {n} ({100 * n / v.samples:.3g} %)" for k, n in enumerate(v.exits.taken))
        lines.append(
            f"exits at entropy < {v.exits.threshold:g} nats: {share}; "
            f"{v.exits.mismatched_samples} wrong decisions, {v.exits.near_ties} within rounding of the threshold"
        )
    if v.given:
        lines.append(
            f"against the file as given: {v.given.differing_samples} of {v.given.samples} samples differ, "
            f"by at most {v.given.largest_difference:.3g}; "
            f"same arg-max in {100 * v.given.argmax_agreement:.4g} % "
            "(the file's own float sums are not exact; see the notes of `bnncc compile`)"
        )
    if v.batch_norm_probe:
        lines.append(
            f"this host's onnxruntime rounds BatchNormalization differently ({v.batch_norm_probe} of 4096 values): "
            "bits may differ from other hosts'"
        )
    worst = max((o.mismatched_samples for o in v.outputs), default=0)
    verdict = "verified" if v.ok else "FAILED"
    lines.append(f"{verdict}: {worst} of {v.samples} samples mismatched; ran on {v.machine}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
