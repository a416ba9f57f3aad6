"""The files of a finished run: the model, the results as JSON, and one page with plots."""

import io
import json
import platform
import shlex
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from bnncc.files import write_all, write_whole
from bnncc.train.export import ExportCheck, export_onnx
from bnncc.train.metrics import pi
from bnncc.train.run import Run

PACKAGES = ("bnncc", "torch", "lightning", "numpy", "onnx", "onnxruntime")


def write_files(run: Run, out: Path) -> dict[str, Any]:
    """Write model.onnx, result.json, plots.png and summary.md to `out`; returns what result.json holds.

    There is no model.onnx of a network that was trained without binarization.

    Raises:
        ModelError, UsageError: what `export_onnx` raises.
        ToolError: E0509 a file cannot be written.
    """
    check = export(run, out / "model.onnx") if "real" not in run.recipe.latent else None
    about = result(run, check)
    write_whole(out / "plots.png", plots(run))
    write_all(out, {"result.json": json.dumps(about, indent=2) + "\n", "summary.md": page(run, about)})
    return about


def export(run: Run, path: Path) -> ExportCheck:
    """Write the trained model as ONNX; several outputs become early exits."""
    x = run.data.test.x
    count = sum(key.startswith("accuracy_exit") for key in run.test)
    exits = {"exits": [f"exit{k}" for k in range(1, count + 1)], "exit_threshold": run.recipe.exit_threshold}
    return export_onnx(
        run.model,
        path,
        (1, *x.shape[1:]),
        input_dtype="uint8" if str(x.dtype) == "uint8" else "float32",
        **(exits if count else {}),  # type: ignore[arg-type]
    )


def result(run: Run, check: ExportCheck | None) -> dict[str, Any]:
    """What is needed to read the numbers, and to get them again."""
    return {
        "recipe": run.recipe.name,
        "command": command_line(),
        "seed": run.recipe.seed,
        "epochs": len(run.epochs),
        "width": run.recipe.width,
        "test": run.test,
        "reported": run.recipe.reported,
        "seconds": round(run.seconds, 1),
        "device": run.device,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "onnx": asdict(check) if check else None,
        "settings": asdict(run.recipe),
    }


def command_line() -> str:
    """The command that this process is, if it is bnncc's; else nothing."""
    return shlex.join(["bnncc", *sys.argv[1:]]) if Path(sys.argv[0]).name in ("bnncc", "__main__.py") else ""


def page(run: Run, about: dict[str, Any]) -> str:
    """The one-page summary in Markdown."""
    recipe = run.recipe
    lines = [f"# {recipe.title}", "", recipe.paper, ""] if recipe.paper else [f"# {recipe.title}", ""]
    setting = ", ".join(
        (*filter(None, [recipe.reduced]), *(f"{key} = {value}" for key, value in recipe.changes.items()))
    )
    lines += [f"| test | here{f' ({setting})' if setting else ''} | paper |", "|---|---|---|"]
    for key in dict.fromkeys((*run.test, *recipe.reported)):
        lines.append(f"| {key} | {_number(run.test.get(key))} | {_number(recipe.reported.get(key))} |")
    onnx = about["onnx"]
    rows = {
        "recipe": recipe.name,
        "command": f"`{about['command']}`",
        "seed": recipe.seed,
        "epochs": len(run.epochs),
        "width": recipe.width,
        "time": f"{run.seconds:,.0f} s on {about['device']}, {about['threads']} thread{'s' * (about['threads'] != 1)}",
        "versions": ", ".join(f"{name} {number}" for name, number in about["versions"].items()),
        "ONNX": f"torch and onnxruntime agree on {onnx['agreeing']} of {onnx['samples']} random inputs"
        if onnx
        else "none",
    }
    lines += ["", "| run | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    return "\n".join([*lines, "", "![accuracy, flips and loss by epoch](plots.png)", ""])


def plots(run: Run) -> bytes:
    """Accuracy (or PSNR), pi and loss over the epochs, as a PNG."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in run.epochs]
    mark = "o" if len(epochs) == 1 else ""  # a line through one point cannot be seen
    measured = [key for key in (run.epochs or [{}])[-1] if key.startswith(("accuracy", "psnr"))]
    for key in measured:
        left.plot(epochs, [row.get(key) for row in run.epochs], mark, label=f"{key}, held-out part")
    if "noise" in run.recipe.data:
        left.set(xlabel="epoch", title="PSNR, dB")
    else:
        left.plot(
            epochs, [row["training_accuracy"] for row in run.epochs], mark or ":", color="grey", label="while training"
        )
        left.set(xlabel="epoch", title="accuracy")
    if left.lines:
        left.legend()
    length = max(run.steps[-1]["step"] / max(len(epochs), 1), 1) if run.steps else 1
    middle.plot([row["step"] / length for row in run.steps], [row["pi"] for row in run.steps], linewidth=0.8)
    middle.axhline(pi(0), linestyle=":", color="grey")
    middle.set(xlabel="epoch", title="π = ln(share that flips in a step + e⁻⁹)")
    right.plot(epochs, [row["loss"] for row in run.epochs], mark)
    right.set(xlabel="epoch", title="training loss")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=100)
    return image.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
