"""The trained models of the examples on their test images: onnxruntime beside the C on the host, which is verified bit by bit.

    python -m examples.trained [--samples 1000] [--json] [MODEL.onnx ...]

MNIST and CIFAR-10 come from $BNNCC_DATA, or are downloaded.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

import bnncc
from bnncc.cli.show import print_table
from bnncc.errors import run_script
from bnncc.train import data
from examples.walk import decide, flat, mismatched, onnxruntime_logits

MODELS = {
    Path("examples/mnist/lenet5.onnx"): data.mnist,
    Path("examples/mnist/mlp.onnx"): data.mnist,
    Path("examples/cifar10/vaessen.onnx"): data.cifar10,
    Path("examples/cifar10/binarynet.onnx"): data.cifar10,
}
COLUMNS = ("file", "images", "onnxruntime", "C, host", "mismatched", "flash", "arena")


@dataclass(frozen=True)
class Outcome:
    """Of one model: accuracies (0..1) on the first `images` of the test part, samples outside of the contract, bytes."""

    model: str
    images: int
    onnxruntime: float
    c: float
    same_classes: bool
    mismatched: int
    file_bytes: int
    flash_bytes: int
    arena_bytes: int


def judge(model: Path, samples: int) -> Outcome:
    """Verify a model on its first test images. Raises BnnccError: it does not compile, or its data set is not there."""
    test = MODELS[model]().test
    x, y = test.x[:samples], test.y[:samples]
    compiled = bnncc.compile(model, "cortex-m4")
    verdict = compiled.verify(x)
    reference = decide(onnxruntime_logits(model, x, [*verdict.outputs_c]), None)
    ours = decide(flat(verdict), None)
    totals = compiled.report["totals"]
    return Outcome(
        str(model),
        len(y),
        float((reference == y).mean()),
        float((ours == y).mean()),
        bool(np.array_equal(reference, ours)),
        mismatched(verdict),
        model.stat().st_size,
        totals["flash_bytes"],
        totals["arena_bytes"],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Verify the trained models on their test images.")
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL.onnx", help="all of them if none is given")
    parser.add_argument("--samples", type=int, default=1000, help="test images, the first ones (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    options = parser.parse_args()
    if unknown := [str(model) for model in options.models if model not in MODELS]:
        parser.error(f"{', '.join(unknown)}: not one of {', '.join(map(str, MODELS))}")
    if options.samples < 1:
        parser.error("--samples must be at least 1")

    console = Console(stderr=True)
    outcomes = []
    for model in options.models or MODELS:
        with console.status(f"{model}: {options.samples:,} images"):
            outcomes.append(judge(model, options.samples))
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    else:
        rows = [
            (
                o.model.removeprefix("examples/").removesuffix(".onnx"),
                o.file_bytes,
                o.images,
                f"{o.onnxruntime:.2%}",
                f"{o.c:.2%}",
                o.mismatched,
                o.flash_bytes,
                o.arena_bytes,
            )
            for o in outcomes
        ]
        print_table(
            "test images; bytes on a Cortex-M4", [("model", "left"), *((name, "right") for name in COLUMNS)], rows
        )
    return 0 if all(o.same_classes and not o.mismatched for o in outcomes) else 1


if __name__ == "__main__":
    run_script(main)
