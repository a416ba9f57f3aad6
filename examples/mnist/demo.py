"""LeNet5 on MNIST, from the trained model in this folder: all 10,000 test images on the host, 1,000 in the simulator.

    python -m examples.mnist.demo

`make mnist` runs this in the root of the checkout. MNIST comes from $BNNCC_DATA/mnist, or is downloaded. Everything that
it makes goes to examples/mnist/out.
"""

from pathlib import Path

import numpy as np

from bnncc.errors import run_script
from bnncc.train import data
from examples.walk import Samples, walk

OUT = Path("examples/mnist/out")


def main() -> int:
    images = data.mnist().test
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / "mnist_test.npz"
    np.savez_compressed(file, x=images.x, y=images.y)
    test = Samples(images.x, images.y, file)
    good = walk(Path("examples/mnist/lenet5.onnx"), test, OUT, wanted=0.99, simulated=1000, on_board=20)
    return 0 if good else 1


if __name__ == "__main__":
    run_script(main)
