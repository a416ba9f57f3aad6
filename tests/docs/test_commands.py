"""The README and the docs hold what they say: every command and every piece of Python in them is run.

Blocks marked `sh` and `python` are run in their order, page by page, each page in a copy of the checkout; `c` is
compiled against the model that the page has compiled. `text` is for what is not to be run.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bnncc.board import pio
from bnncc.target import boards

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    p.relative_to(ROOT) for p in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md"))
)
NOT_RUN = {
    "make demo": "it sets the machine up and takes minutes; its steps are the other commands",
    "make test": "it would run this test again",
    ". .venv/bin/activate": "the tests run in an environment of their own",
    "python -m bnncc.train.bench --rounds 40": "minutes of compiling; the line above it is the small one",
    "python examples/digits/train.py --out build/digits": "a minute of training; tests/train covers it",
    "python -m examples.networks.table": "more than half an hour; the same program runs with small networks",
    "python examples/mnist/train.py --out build/mnist": "a quarter of an hour of training, and MNIST",
    "bnncc train vaessen-small --threads 1": "minutes of training, and CIFAR-10",
    "bnncc train alizadeh-mlp reduced --threads 1": "a quarter of an hour of training, and MNIST",
    "python -m examples.trained": "MNIST and CIFAR-10; tests/train/test_examples.py runs it on other images",
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: (language, text)."""
    return [(m[1], m[2]) for m in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the pages may use, with this environment's commands first in PATH and a cache of its own."""
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "examples", copy / "examples", ignore=shutil.ignore_patterns("out", "__pycache__"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("BNNCC_CACHE", str(tmp_path / "cache"))
    return copy


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_what_a_page_says_can_be_done(page: Path, checkout: Path) -> None:
    try:
        for language, text in blocks(page):
            if language == "sh":
                for line in text.splitlines():
                    if line not in NOT_RUN:
                        run(["bash", "-c", line], checkout)
            elif language == "python":
                run([sys.executable, "-c", text], checkout)
            elif language == "c":
                (checkout / "snippet.c").write_text(text, encoding="utf-8")
                includes = [f"-I{header.parent}" for header in checkout.glob("build/*/*.h")]
                run(["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-c", *includes, "snippet.c"], checkout)
    finally:
        for board in boards().values():
            pio.stop(board)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_block_is_marked(page: Path) -> None:
    assert {language for language, _ in blocks(page)} <= {"sh", "python", "c", "text"}


def test_what_is_not_run_still_stands_somewhere() -> None:
    lines = {
        line for page in PAGES for language, text in blocks(page) if language == "sh" for line in text.splitlines()
    }
    assert set(NOT_RUN) <= lines


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("https://") or (ROOT / page.parent / target).exists(), f"{page}: {target}"
