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
    found = torch.load(file, weights_only=True)
    for net, rounding in ((exact.Net, 0), (exact.Normalised, 1e-5)):
        two = found[net.__name__]
        weights, steps, _ = exact.run(1, net)
        assert len(steps) == 40
        assert 0 < steps[-1]["flips"] < steps[0]["flips"]
        assert [row["flips"] for row in steps] == [row["flips"] for row in two["steps"]]
        assert rounding or steps == two["steps"]
        for name, value in weights.items():
            torch.testing.assert_close(value, two["weights"][name], rtol=rounding, atol=rounding)
