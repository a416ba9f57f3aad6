"""Train a network with three exits on scikit-learn's handwritten digits, and export it.

    python examples/digits/train.py --out build/digits

About half a minute. Writes digits.onnx, and digits_test.npz with the test images x (uint8 [360,1,8,8]), their
classes y (int64 [360]) and torch's logits of each exit under its name (float32 [360,10]).
"""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bnncc.errors import run_script
from bnncc.files import write_whole
from bnncc.train import export_onnx
from bnncc.train.evaluate import predict
from bnncc.train.metrics import leave
from bnncc.train.recipe import load
from bnncc.train.run import train

EXITS = ("exit1", "exit2", "exit3")
THRESHOLD = 0.25
"""Entropy in nats below which an exit is taken. Of 0.1, 0.25, 0.5, 0.75 and 1.0 it is the largest with which early exit
was no less accurate than the last exit in each of three runs that set apart 180 of the training images."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export the digits network.")
    parser.add_argument("--out", type=Path, default=Path("build/digits"), help="folder for the results (%(default)s)")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training part (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order of images (%(default)s)")
    options = parser.parse_args()

    # one thread: the outcome depends on it, and the network is too small to gain from more
    recipe = load("digits", changes={"epochs": options.epochs, "seed": options.seed})
    run = train(recipe, accelerator="cpu", devices=1, threads=1)
    model, test = run.model, run.data.test

    check = export_onnx(model, options.out / "digits.onnx", (1, 1, 8, 8), exits=EXITS, exit_threshold=THRESHOLD)
    logits, y = predict(model, test), torch.tensor(test.y)
    arrays = io.BytesIO()
    outputs: dict[str, Any] = {name: z.numpy() for name, z in zip(EXITS, logits, strict=True)}
    np.savez_compressed(arrays, x=test.x, y=test.y, **outputs)
    write_whole(options.out / "digits_test.npz", arrays.getvalue())

    classes, taken = leave(logits, THRESHOLD)
    shares = torch.bincount(taken, minlength=len(EXITS)) / len(y)
    print(f"test accuracy on {len(y)} images:")
    for name, z, share in zip(EXITS, logits, shares, strict=True):
        print(f"  {name}   {(z.argmax(1) == y).float().mean():.2%}, taken by {share:.1%}")
    print(f"  together {(classes == y).float().mean():.2%}, leaving where the entropy is below {THRESHOLD} nats")
    print(f"torch and onnxruntime agree on {check.agreeing} of {check.samples} random inputs")
    print(f"wrote {options.out / 'digits.onnx'} and digits_test.npz")


if __name__ == "__main__":
    run_script(main)
