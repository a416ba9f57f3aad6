"""What a step of each binary optimizer costs: `python -m bnncc.train.bench`.

The weights are BinaryNet's, 14,022,016 of them (`bnncc.train.models.BinaryNet(padding="same")`), the gradients random.
Each round steps every optimizer once, one after the other, and gives one ratio to torch's SGD with momentum; the median
over the rounds is what counts, so that a busy machine disturbs both alike.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from bnncc.train.bop import Bop, Bop2ndOrder, CascadedBop
from bnncc.train.layers import binary_parameters
from bnncc.train.models import BinaryNet

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "SGD, momentum": partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
    "Bop": Bop,
    "Bop2ndOrder": Bop2ndOrder,
    "CascadedBop": CascadedBop,
}


@dataclass(frozen=True)
class Cost:
    """What steps took, medians over the rounds: `ms`, and `ratio` to SGD with momentum in the same mode and round."""

    optimizer: str
    compiled: bool
    ms: float
    ratio: float


def measure(
    rounds: int = 20, *, width: int = 128, device: str = "cpu", modes: Sequence[bool] = (False, True)
) -> list[Cost]:
    """Time every optimizer, eager (False) and under `torch.compile` (True), on BinaryNet of `width`."""
    costs = []
    for compiled in modes:
        steps = {name: _step(build, width, device, compiled) for name, build in OPTIMIZERS.items()}
        for step in steps.values():  # twice: a first step makes the state, a compiled second one is compiled anew
            step()
            step()
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                taken[name].append(_seconds(step, device))
        baseline = next(iter(taken.values()))
        for name, seconds in taken.items():
            ratio = statistics.median(a / b for a, b in zip(seconds, baseline, strict=True))
            costs.append(Cost(name, compiled, statistics.median(seconds) * 1000, ratio))
    return costs


def _step(
    build: Callable[[list[nn.Parameter]], Optimizer], width: int, device: str, compiled: bool
) -> Callable[[], object]:
    torch.manual_seed(0)
    weights = binary_parameters(BinaryNet(padding="same", width=width).to(device))
    for weight in weights:
        weight.grad = torch.randn_like(weight) * 1e-4
    optimizer = build(weights)
    return torch.compile(optimizer.step) if compiled else optimizer.step


def _seconds(step: Callable[[], object], device: str) -> float:
    _wait(device)
    before = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - before


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bnncc.train.bench", description="What a step of an optimizer costs."
    )
    parser.add_argument("--rounds", type=int, default=20, help="steps to time (default: 20)")
    parser.add_argument("--width", type=int, default=128, help="BinaryNet's width (default: 128, 14,022,016 weights)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--eager", action="store_true", help="leave out torch.compile, which takes half a minute")
    parser.add_argument("--json", action="store_true", help="a list for scripts instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    modes = (False,) if options.eager else (False, True)
    costs = measure(options.rounds, width=options.width, device=options.device, modes=modes)
    if options.json:
        print(json.dumps([asdict(cost) for cost in costs], indent=1))
        return
    table = Table("optimizer", "mode", title=f"a step, torch {torch.__version__}, {options.device}")
    table.add_column("ms", justify="right")
    table.add_column("of SGD's", justify="right")
    for cost in costs:
        mode = "torch.compile" if cost.compiled else "eager"
        table.add_row(cost.optimizer, mode, f"{cost.ms:.1f}", f"{cost.ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
