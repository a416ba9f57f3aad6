"""Two processes flip the weights that one flips."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.train import exact

ROOT = Path(__file__).parents[2]


def test_two_processes_flip_what_one_flips(tmp_path: Path) -> None:
    file = tmp_path / "two.pt"
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.exact", str(file), "2"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    two = torch.load(file, weights_only=True)
    weights, steps, _ = exact.run(1)
    assert len(steps) == 40
    assert 0 < steps[-1]["flips"] < steps[0]["flips"]
    assert steps == two["steps"]
    assert all(torch.equal(value, two["weights"][name]) for name, value in weights.items())
