"""A process that judges cases one after the other, under limits; its parent ends it when a case takes too long."""

import faulthandler
import gc
import json
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz import case
from tests.fuzz.corpus import corpus
from tests.fuzz.judge import judge, wants_verification

ADDRESS_SPACE = 3 << 30  # bytes beyond what the process has when it starts


def limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Read requests from standard input, one JSON object a line; answer each with an Outcome on descriptor 3's twin."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever native code prints goes to the log
    faulthandler.enable()
    extra = sys.argv[1] if len(sys.argv) > 1 else ""
    seeds = corpus(Path(extra) if extra else None)
    limit_memory()
    scratch = Path(tempfile.mkdtemp(prefix="bnncc-fuzz-"))
    try:
        for line in sys.stdin:
            request = json.loads(line)
            folder = scratch / "case"
            shutil.rmtree(folder, ignore_errors=True)
            if "replay" in request:
                path, options = case.read(Path(request["replay"]))
                verify = True
            else:
                made = case.make(seeds, request["seed"], request["number"])
                path, options = made.write(folder), made.options
                verify = wants_verification(request["seed"], request["number"], request["share"])
            outcome = judge(path, options, verify=verify)
            if outcome.megabytes > 600:
                gc.collect()
            print(json.dumps(outcome.asdict()), file=answers, flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
