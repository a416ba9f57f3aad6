"""python -m tests.fuzz: mutated model files, until interrupted or for as many as asked. docs/fuzzing.md tells more."""

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.fuzz.corpus import ROOT, corpus
from tests.fuzz.runner import Tally, fuzz, numbers, replay


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    p.add_argument("--cases", type=int, default=0, help="how many; without it until interrupted")
    p.add_argument("--seconds", type=float, help="stop after this time")
    p.add_argument("--seed", type=int, help="of the cases; a new one each time without it")
    p.add_argument("--first", type=int, default=0, help="the number of the first case")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    p.add_argument(
        "--verify", type=float, default=0.01, metavar="SHARE", help="of the cases: build the C and run it (0.01)"
    )
    p.add_argument("--corpus", type=Path, metavar="DIR", help="more models to start from, *.onnx")
    p.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz", metavar="DIR", help="where findings are saved")
    p.add_argument(
        "--replay", type=Path, metavar="PATH", help="judge one saved finding, or any .onnx file, and say what happens"
    )
    p.add_argument("--json", action="store_true", help="the result as JSON")
    return p.parse_args()


def table(tally: Tally) -> str:
    rows = [f"{n:9}  {kind}" for kind, n in sorted(tally.kinds.items())]
    rate = tally.cases / max(tally.seconds, 1e-9)
    rows.append(f"{tally.cases:9}  cases in {tally.seconds:.0f} s, {rate:.1f} a second, seed {tally.seed}")
    rows.append(f"{tally.slowest:9.1f}  seconds of processor time at most, {tally.megabytes} MiB at most")
    rows.append(f"{tally.signatures.total():9}  findings")
    rows += [f"{n:9}  {text}" for text, n in tally.signatures.most_common()]
    rows += [f"{'':9}  {f['folder']}: {' > '.join(f['history'])}" for f in tally.findings]
    return "\n".join(rows)


def main() -> int:
    given = arguments()
    if given.replay:
        outcome = replay(given.replay)
        print(f"{outcome.kind}\n{outcome.detail}".rstrip())
        return int(outcome.finding)
    last = time.monotonic()

    def tick(tally: Tally) -> None:
        nonlocal last
        if time.monotonic() - last > (1 if sys.stderr.isatty() else 60):
            last = time.monotonic()
            text = (
                f"{tally.cases} cases, {tally.cases / tally.seconds:.1f} a second, {tally.signatures.total()} findings"
            )
            print(text, end="\r" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the counts are wanted also of a run that is ended
    seed = random.SystemRandom().randrange(1 << 31) if given.seed is None else given.seed
    tally = fuzz(
        corpus(given.corpus),
        seed=seed,
        numbers=numbers(given.first, given.cases),
        jobs=given.jobs,
        out=given.out,
        share=given.verify,
        extra=given.corpus,
        seconds=given.seconds,
        tick=tick,
    )
    print(json.dumps(tally.asdict(), indent=2) if given.json else table(tally))
    return int(bool(tally.signatures))


if __name__ == "__main__":
    sys.exit(main())
