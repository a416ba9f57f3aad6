"""Train LeNet5 on MNIST with Bop alone for the weights, and export it.

    python examples/mnist/train.py --out build/mnist

About a quarter of an hour. Writes lenet5.onnx, and after each epoch a checkpoint, from which an interrupted run goes
on. MNIST comes from $BNNCC_DATA/mnist, or is downloaded. `bnncc train nayak-lenet5 bop reduced` does this, and more.

The lenet5.onnx beside this file came from an earlier loop of the same settings, which held out the last 5,000 training
images instead of 6,000 (10 epochs, seed 0, torch 2.13 on x86-64): 99.22 % on the 10,000 test images.
"""

import argparse
from pathlib import Path

from bnncc.errors import run_script
from bnncc.train import export_onnx
from bnncc.train.recipe import load
from bnncc.train.run import train


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export LeNet5 on MNIST.")
    parser.add_argument("--out", type=Path, default=Path("build/mnist"), help="folder for the results (%(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training part (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order of images (%(default)s)")
    options = parser.parse_args()

    # one thread: the outcome depends on it
    recipe = load("nayak-lenet5", ["bop", "reduced"], {"epochs": options.epochs, "seed": options.seed})
    run = train(recipe, out=options.out, resume=True, accelerator="cpu", devices=1, threads=1)

    check = export_onnx(run.model, options.out / "lenet5.onnx", (1, 1, 28, 28))
    print(f"test accuracy on {len(run.data.test)} images: {run.test['accuracy']:.2%}")
    print(f"torch and onnxruntime agree on {check.agreeing} of {check.samples} random inputs")
    print(f"wrote {options.out / 'lenet5.onnx'}")


if __name__ == "__main__":
    run_script(main)
