"""The demo: train a network on handwritten digits, compile it for a Cortex-M4, and show that it agrees with onnxruntime.

    python -m examples.digits.demo

`make demo` runs this in the root of the checkout. Everything that it makes goes to examples/digits/out.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from bnncc.errors import run_script
from examples.walk import Samples, section, walk

OUT = Path("examples/digits/out")


def main() -> int:
    command = ["examples/digits/train.py", "--out", str(OUT)]
    section("train and export", f"python {' '.join(command)}")
    if status := subprocess.run([sys.executable, *command], check=False).returncode:
        return status
    file = OUT / "digits_test.npz"
    with np.load(file) as arrays:
        test = Samples(arrays["x"], arrays["y"], file)
        torch_logits = [arrays[name] for name in ("exit1", "exit2", "exit3")]
    return 0 if walk(OUT / "digits.onnx", test, OUT, wanted=0.975, torch_logits=torch_logits) else 1


if __name__ == "__main__":
    run_script(main)
