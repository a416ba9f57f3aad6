"""A bounded run of the fuzzer, and that it would notice: hangs, crashes, C that means something else, unfit messages.

`python -m tests.fuzz` goes on from here; docs/fuzzing.md.
"""

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest

import bnncc
from bnncc.errors import ModelError
from tests.fuzz import case, judge, runner
from tests.fuzz.corpus import ROOT, Seed, corpus
from tests.fuzz.mutations import MUTATIONS

CASES, SECONDS = 600, 300.0  # the second for machines that are very slow
REFUSED = ("in_branch",)  # of the corpus: forms that are wanted for what can be done to them


@pytest.fixture(scope="module")
def seeds() -> list[Seed]:
    return corpus()


def test_mutated_files_are_refused_or_compiled_rightly(seeds: list[Seed], tmp_path: Path) -> None:
    tally = runner.fuzz(
        seeds, seed=0, numbers=runner.numbers(0, CASES), jobs=1, out=tmp_path, share=0.05, seconds=SECONDS
    )
    assert not tally.signatures, json.dumps(tally.findings, indent=2)
    assert tally.cases >= 200
    groups = Counter(kind.split()[0].rstrip(",") for kind in tally.kinds.elements())
    assert groups["compiled"] > tally.cases / 8
    assert groups["refused"] > tally.cases / 8
    assert tally.kinds["compiled, equal"] > 0
    assert any("the C verified" in kind for kind in tally.kinds)
    assert not any(tmp_path.iterdir())


def test_the_corpus_is_valid_and_equal(seeds: list[Seed], tmp_path: Path) -> None:
    for seed in seeds:
        path = tmp_path / "model.onnx"
        path.write_bytes(seed.data)
        outcome = judge.judge(path, seed.options, verify=False)
        assert outcome.kind in (
            ("refused E0201",) if seed.name in REFUSED else ("compiled, equal", "compiled, close")
        ), seed.name


def test_the_same_numbers_make_the_same_case(seeds: list[Seed]) -> None:
    again = corpus()
    for number in range(40):
        assert case.make(seeds, 3, number) == case.make(again, 3, number)
    assert case.make(seeds, 3, 1) != case.make(seeds, 4, 1)


def test_every_mutation_happens(seeds: list[Seed]) -> None:
    seen: Counter[str] = Counter()
    for number in range(2500):
        seen.update(case.make(seeds, 5, number).history)
    assert set(MUTATIONS) <= set(seen)
    assert {
        f"bytes: {how}" for how in ("flip", "set", "cut", "truncate", "repeat", "splice", "noise", "varint", "random")
    } <= set(seen)


# what it notices ------------------------------------------------------------------------------------------------------


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    path = tmp_path / "digits" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes((ROOT / "examples" / "digits" / "digits.onnx").read_bytes())
    return path


def test_a_hang_and_a_crash_are_outcomes(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = runner.Worker(None)
    try:
        with monkeypatch.context() as m:
            m.setattr(runner, "PATIENCE", 0.01)
            assert worker.ask({"replay": str(digits)}).kind == "hang"
        crashed = worker.ask({"replay": 7})
        assert (crashed.kind, crashed.signature) == ("crash", "crash status 1")
        outcome = worker.ask({"replay": str(digits)})
        assert outcome.kind == "compiled, equal, the C verified"
        assert not outcome.finding
    finally:
        worker.stop()


def test_a_graph_that_means_something_else_is_found(digits: Path) -> None:
    """The compiler's graph for one model beside another model."""
    compiled = bnncc.compile(digits, name="net")
    assert judge.compare(compiled) == "compiled, equal"
    other = onnx.ModelProto()
    other.CopyFrom(compiled.imported.reference)
    last = next(n for n in other.graph.node if n.output[0] == other.graph.output[0].name)
    last.output[0] = "before"
    other.graph.node.append(onnx.helper.make_node("Neg", ["before"], [other.graph.output[0].name]))
    for field, kind in (("reference", "not equal"), ("given", "not close")):
        imported = dataclasses.replace(compiled.imported, **{field: other})
        with pytest.raises(judge.Wrong, match=kind):
            judge.compare(dataclasses.replace(compiled, imported=imported))


def test_unfit_messages_are_found() -> None:
    fit = judge.refused(ModelError.of("E0102", "the file holds no graph", where="a node", remedy="export it again"))
    assert (fit.kind, fit.finding) == ("refused E0102", False)
    for message in ("a \x1b[31m red name", "two\nlines", "x" * 5000, "std::bad_alloc"):
        assert judge.refused(ModelError.of("E0102", message)).finding
    assert judge.refused(ModelError.of("E0309", "gcc refused the generated C")).finding


def test_what_a_compiler_must_not_do_is_found(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        raise IndexError("a defect")

    monkeypatch.setattr(bnncc, "compile", broken)
    assert judge.judge(digits, {}, verify=False).kind == "traceback"
    monkeypatch.undo()
    monkeypatch.setattr(judge, "SECONDS", 0.0)
    assert judge.judge(digits, {}, verify=False).kind == "slow"
    monkeypatch.undo()
    monkeypatch.setattr(judge, "MEGABYTES", 1)
    assert judge.judge(digits, {}, verify=False).kind == "memory"


def test_a_finding_is_saved_and_can_be_replayed(
    seeds: list[Seed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = judge.Outcome("traceback", "IndexError in x", "a traceback")
    monkeypatch.setattr(runner.Worker, "ask", lambda *_: found)
    tally = runner.fuzz(seeds, seed=6, numbers=runner.numbers(10, 5), jobs=1, out=tmp_path)
    assert tally.cases == tally.signatures["IndexError in x"] == 5
    folders = sorted(tmp_path.iterdir())
    assert [f.name for f in folders] == [f"traceback-6-{k}" for k in range(10, 10 + runner.SAVED)]
    made = case.make(seeds, 6, 10)
    path, options = case.read(folders[0])
    assert (path.read_bytes(), options) == (made.data, made.options)
    assert tally.asdict()["findings"][0]["history"] == made.history
    monkeypatch.undo()
    assert runner.replay(folders[0]).kind


def test_the_command(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--cases",
        "20",
        "--seed",
        "1",
        "--jobs",
        "2",
        "--json",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert (result["cases"], result["seed"], result["findings"]) == (20, 1, [])
    assert sum(result["outcomes"].values()) == 20
