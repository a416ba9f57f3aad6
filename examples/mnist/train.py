"""Train LeNet5 on MNIST with Bop alone for the weights, and export it.

    python examples/mnist/train.py --out build/mnist

About a quarter of an hour. Writes lenet5.onnx, and after each epoch lenet5.pt, from which an interrupted run
goes on. MNIST comes from $BNNCC_DATA/mnist, or is downloaded.

The lenet5.onnx beside this file came from the command above (10 epochs, seed 0, torch 2.13 on x86-64): 99.22 % on the
10,000 test images, 99.16 % on the last 5,000 training images, which were set apart.
"""

import argparse
import sys
from pathlib import Path

import torch

from bnncc.errors import BnnccError
from bnncc.train import data, export_onnx
from bnncc.train.loop import Settings, accuracy, train
from bnncc.train.models import LeNet5


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export LeNet5 on MNIST.")
    parser.add_argument("--out", type=Path, default=Path("build/mnist"), help="folder for the results (%(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training part (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order of images (%(default)s)")
    options = parser.parse_args()

    torch.set_num_threads(1)  # the outcome depends on it
    torch.manual_seed(options.seed)
    mnist, model = data.mnist(), LeNet5()
    settings = Settings(options.epochs, batch_size=100, gamma=1e-3, gamma_decay=0.01, tau=1e-8, seed=options.seed)
    training, held_out = mnist.train.hold_out(5000)
    train(model, training, held_out, settings, checkpoint=options.out / "lenet5.pt")

    check = export_onnx(model, options.out / "lenet5.onnx", (1, 1, 28, 28))
    (share,) = accuracy(model, mnist.test)
    print(f"test accuracy on {len(mnist.test)} images: {share:.2%}")
    print(f"torch and onnxruntime agree on {check.agreeing} of {check.samples} random inputs")
    print(f"wrote {options.out / 'lenet5.onnx'}")


if __name__ == "__main__":
    try:
        main()
    except BnnccError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
