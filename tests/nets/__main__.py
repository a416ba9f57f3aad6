"""Many random networks in parallel, and what they covered: python -m tests.nets --networks 2000 --workers 2."""

import argparse
import json
import re
import signal
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from bnncc.verify import harness
from bnncc.verify.verdicts import LEFT_OUT_LIMIT
from tests.nets.check import check
from tests.nets.families import FAMILIES


@dataclass(frozen=True)
class Row:
    """What one process tells of one network."""

    seed: int
    family: str
    failure: str = ""
    zero: bool = False
    real: bool = False
    samples: int = 0
    left_out: int = 0
    attempts: int = 1
    opset: int = 0
    seconds: float = 0.0
    operators: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def one(job: tuple[str, int]) -> Row:
    family, seed = job
    harness.OPTIMIZATION = "-O0"  # builds twice as fast
    begin = time.perf_counter()
    try:
        o = check(seed, family=family)
    except Exception as e:  # whatever it is, it is a finding, and the others are to be seen too
        where = [f for f in traceback.extract_tb(e.__traceback__) if "bnncc" in f.filename or "nets" in f.filename][-1]
        place = f"{where.filename.rsplit('/', 1)[-1]}:{where.lineno} {where.name}"
        return Row(seed, family, failure=f"crash: {type(e).__name__} {e} [{place}]")
    net = o.net
    return Row(
        seed, family, o.failure, o.zero, o.real, o.samples, o.left_out, net.attempts, net.opset,
        time.perf_counter() - begin, sorted({n.op_type for n in net.nodes}), sorted(net.notes),
    )  # fmt: skip


def signature(failure: str) -> str:
    """The kind of a failure: its first line without names and numbers, with the operator concerned."""
    first = failure.splitlines()[0]
    first = re.sub(r"[\w./]*(layer_|features)[\w./:#@]*", "NAME", first)
    operator = re.findall(r"In Node, \(\"\", (\w+)", first) or re.findall(r"\(([A-Z]\w+)\)", first)
    errors = re.findall(r"error: .*", failure)
    text = errors[0] if errors else first[:160] if first.startswith("violation") else re.sub(r"\[[^\]]*\]", "[]", first)
    if first.startswith("crash"):
        text, operator = first[:100] + first[max(100, first.rfind("[")) :], []
    return re.sub(r"\d+", "#", text)[:220] + (f" ({operator[-1]})" if operator else "")


def summary(rows: list[Row]) -> dict[str, Any]:
    samples, left_out = (sum(getattr(r, k) for r in rows if r.real) for k in ("samples", "left_out"))
    failures: dict[str, list[str]] = {}
    for r in rows:
        if r.failure:
            failures.setdefault(signature(r.failure), []).append(f"{r.family}:{r.seed}")
    texts = {f"{r.family}:{r.seed}": r.failure for r in rows if r.failure}
    return {
        "networks": len(rows),
        "verified": sum(not r.failure and not r.zero for r in rows),
        "violations": sum(r.failure.startswith("violation") for r in rows),
        "failures": [
            {"kind": kind, "count": len(names), "networks": names[:6], "first": texts[names[0]]}
            for kind, names in sorted(failures.items(), key=lambda item: -len(item[1]))
        ],
        "ternary_zero": sum(r.zero for r in rows),
        "redrawn": sum(r.attempts - 1 for r in rows),
        "real": sum(r.real for r in rows),
        "left_out": left_out / samples if samples else 0.0,
        "families": dict(sorted(Counter(r.family for r in rows if not r.failure).items())),
        "failing_families": dict(sorted(Counter(r.family for r in rows if r.failure).items())),
        "opsets": dict(sorted(Counter(r.opset for r in rows if r.opset).items())),
        "operators": dict(sorted(Counter(o for r in rows for o in r.operators).items())),
        "forms": dict(sorted(Counter(n for r in rows for n in r.notes).items())),
        "seconds_each": sum(r.seconds for r in rows) / max(1, len(rows)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.nets", description=__doc__)
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the first network; the others follow")
    parser.add_argument("--families", default=",".join(FAMILIES), help="a comma-separated choice")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    given = parser.parse_args()
    families = given.families.split(",")
    jobs = [(families[k % len(families)], given.seed + k // len(families)) for k in range(given.networks)]
    rows: list[Row] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the counts are wanted also of a run that is ended
    with ProcessPoolExecutor(given.workers) as pool:
        try:
            for row in pool.map(one, jobs, chunksize=4):
                rows.append(row)
                if row.failure:
                    print(f"{row.family}:{row.seed} {row.failure}", file=sys.stderr, flush=True)
                if len(rows) % 100 == 0:
                    print(f"{len(rows)} of {len(jobs)} networks", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
    found = summary(rows)
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        for key, value in found.items():
            if key == "failures":
                for f in value:
                    print(f"  {f['count']:5} {f['kind']}, e.g. {' '.join(f['networks'])}")
            else:
                print(f"{key}: {value}")
    return int(any(found["failures"]) or found["left_out"] > LEFT_OUT_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
