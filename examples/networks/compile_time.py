"""Time the compilation of a network beside the creation of onnxruntime's session for the same file.

    python -m examples.networks.compile_time --network binarynet_same --pairs 7

Each time in a process of its own, after the imports: the compiler as far as the C, then the session without graph
optimisations (what `bnncc verify` uses) and with onnxruntime's default ones, in turn. Prints the medians, their ratios
and the largest resident memory of each process.
"""

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bnncc.cli.show import print_table
from examples.networks.networks import NETWORKS, export, random_model

WAYS = ("compile", "session, not optimised", "session, default")


def once(way: str, model: Path) -> tuple[float, float]:
    """Seconds of wall time, and MiB of this process at its largest."""
    import onnxruntime

    import bnncc

    options = onnxruntime.SessionOptions()
    if way == "session, not optimised":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    begin = time.perf_counter()
    if way == "compile":
        assert bnncc.compile(model, "cortex-m7", name="network").files
    else:
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    seconds = time.perf_counter() - begin
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())  # ru_maxrss counts the parent's too
    return seconds, int(peak[1]) / 1024 if peak else math.nan


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile time beside onnxruntime's session creation.")
    parser.add_argument("--network", default="binarynet_same", choices=[n.name for n in NETWORKS])
    parser.add_argument("--pairs", type=int, default=7, help="times each way (%(default)s)")
    parser.add_argument("--once", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(once(options.once[0], Path(options.once[1]))))
        return 0
    network = next(n for n in NETWORKS if n.name == options.network)
    taken: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "network.onnx")
        export(network, random_model(network), model)
        for _ in range(options.pairs):
            for way in WAYS:
                command = [sys.executable, "-m", "examples.networks.compile_time", "--once", way, str(model)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                taken[way].append(json.loads(output))
    seconds = {way: statistics.median(t for t, _ in runs) for way, runs in taken.items()}
    rows = [
        (way, f"{seconds[way]:.2f}", f"{seconds['compile'] / seconds[way]:.2f}", f"{max(m for _, m in runs):.0f}")
        for way, runs in taken.items()
    ]
    columns = (("", "left"), ("seconds", "right"), ("compile / this", "right"), ("peak MiB", "right"))
    print_table(network.title, columns, rows, f"medians of {options.pairs} processes each, in turn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
