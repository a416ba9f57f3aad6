"""Workers, the clock over them, and what they found."""

import itertools
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz import case
from tests.fuzz.corpus import ROOT, Seed
from tests.fuzz.judge import PACKAGE, Outcome

PATIENCE = 60.0  # seconds of waiting for one case; a busy machine is slow too
SAVED = 3  # files of one signature


class Worker:
    """A worker process; restarted when it dies, when it is ended, and when it has grown."""

    def __init__(self, extra: Path | None) -> None:
        self.extra = extra
        self.start()

    def start(self) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  (stop closes it)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", *([str(self.extra)] if self.extra else [])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,  # so that its compilers end with it
        )
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.selector.close()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            stream.close()

    def ask(self, request: dict[str, Any]) -> Outcome:
        """The outcome of one case, also where the process does not live to tell it."""
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        answered = self.selector.select(PATIENCE)
        line = self.process.stdout.readline() if answered else b""
        if line:
            outcome = Outcome(**json.loads(line))
        elif answered:
            outcome = self.post_mortem()
        else:
            self.process.send_signal(signal.SIGABRT)  # faulthandler tells where it was
            time.sleep(0.5)
            outcome = Outcome("hang", f"hang{where(self.said())}", self.said(), PATIENCE)
        if not line or outcome.kind == "memory":
            self.stop()
            self.start()
        return outcome

    def post_mortem(self) -> Outcome:
        code = self.process.wait()
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        return Outcome("crash", f"crash {name}{where(self.said())}", self.said())

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()[-4000:].decode(errors="replace")


def where(said: str) -> str:
    """The innermost line of bnncc in a faulthandler dump, wherever the checkout lies and whatever it is called."""
    begin = f'File "{PACKAGE}{os.sep}'
    lines = [line.strip() for line in said.splitlines() if line.strip().startswith(begin)]
    return f" in {lines[0].removeprefix(begin)}" if lines else ""


@dataclass
class Tally:
    """The counts of a run."""

    seed: int
    begin: float = field(default_factory=time.monotonic)
    kinds: Counter[str] = field(default_factory=Counter)
    signatures: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    slowest: float = 0.0
    megabytes: int = 0

    @property
    def cases(self) -> int:
        return self.kinds.total()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    def asdict(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "cases": self.cases,
            "seconds": round(self.seconds, 1),
            "cases_per_second": round(self.cases / self.seconds, 1),
            "slowest_seconds": round(self.slowest, 2),
            "largest_megabytes": self.megabytes,
            "outcomes": dict(sorted(self.kinds.items())),
            "signatures": dict(self.signatures.most_common()),
            "findings": self.findings,
        }


def fuzz(
    corpus: Sequence[Seed],
    *,
    seed: int,
    numbers: Iterator[int],
    jobs: int,
    out: Path,
    share: float = 0.01,
    extra: Path | None = None,
    seconds: float | None = None,
    tick: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Judge the cases `numbers` with `jobs` processes, for `seconds` at most; findings are saved under `out`.

    share: of the cases whose C is built and run on this host, if they compile. extra: a folder with more models.
    """
    tally, lock, ended = Tally(seed), threading.Lock(), threading.Event()

    def work() -> None:
        worker = Worker(extra)
        try:
            while not ended.is_set() and (seconds is None or tally.seconds < seconds):
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                outcome = worker.ask({"seed": seed, "number": number, "share": share})
                with lock:
                    count(tally, outcome, number, corpus, out)
                    tick(tally)
        finally:
            worker.stop()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    for t in threads:
        t.start()
    try:
        for t in threads:
            t.join()
    except KeyboardInterrupt:
        ended.set()
        for t in threads:
            t.join()
    return tally


def count(tally: Tally, outcome: Outcome, number: int, corpus: Sequence[Seed], out: Path) -> None:
    tally.kinds[outcome.kind] += 1
    tally.slowest = max(tally.slowest, outcome.seconds)
    tally.megabytes = max(tally.megabytes, outcome.megabytes)
    if not outcome.finding:
        return
    tally.signatures[outcome.signature] += 1
    if tally.signatures[outcome.signature] <= SAVED:
        made = case.make(corpus, tally.seed, number)
        folder = out / f"{outcome.kind.split(':')[0]}-{tally.seed}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        made.write(folder)
        (folder / "before.onnx").write_bytes(made.start)
        (folder / "outcome.txt").write_text(f"{outcome.signature}\n\n{outcome.detail}\n", encoding="utf-8")
        story = {"number": number, "folder": str(folder), "history": made.history, "signature": outcome.signature}
        tally.findings.append(story)


def replay(path: Path) -> Outcome:
    """The outcome of a saved case, or of any .onnx file, with its C built and run."""
    worker = Worker(None)
    try:
        return worker.ask({"replay": str(path.resolve())})
    finally:
        worker.stop()


def numbers(first: int, cases: int) -> Iterator[int]:
    """`cases` numbers from `first` on; without end if 0."""
    return iter(range(first, first + cases)) if cases else itertools.count(first)
