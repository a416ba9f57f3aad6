"""One case: a mutated file with its folder and options, made of two numbers, written to disk and read back."""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from tests.fuzz.corpus import Seed
from tests.fuzz.mutations import Draft, mutate, mutate_bytes

BYTES = 0.12  # share of the cases that change bytes; the others change the message


@dataclass(frozen=True)
class Case:
    """What is compiled, and how it came about."""

    data: bytes
    options: dict[str, Any]
    history: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    number: int = 0
    seed: int = 0
    start: bytes = b""  # the valid model that it was

    def write(self, folder: Path) -> Path:
        """The model and what lies beside it in `folder`; returns the model's path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.onnx"
        path.write_bytes(self.data)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        for name, target in self.links.items():
            (folder / name).symlink_to(target)
        if self.links:
            os.mkfifo(folder / "fifo")
        story = {"seed": self.seed, "number": self.number, "options": self.options, "history": self.history}
        (folder / "case.json").write_text(json.dumps(story, indent=2) + "\n", encoding="utf-8")
        return path


def make(corpus: Sequence[Seed], seed: int, number: int) -> Case:
    """The case that these numbers stand for; the same on every machine with the same packages."""
    rng = random.Random(f"{seed}/{number}")
    start = rng.choice(corpus)
    if rng.random() < BYTES:
        data, how = mutate_bytes(rng, start.data, rng.choice(corpus).data)
        return Case(data, start.options, (start.name, how), number=number, seed=seed, start=start.data)
    draft = Draft(rng, onnx.ModelProto.FromString(start.data), dict(start.options))
    mutate(draft)
    history = (start.name, *draft.history)
    data = draft.model.SerializeToString()
    return Case(data, draft.options, history, draft.files, draft.links, number, seed, start.data)


def read(path: Path) -> tuple[Path, dict[str, Any]]:
    """A saved case, or any .onnx file: the model's path and its options."""
    folder = path if path.is_dir() else path.parent
    model = path if path.is_file() else folder / "model.onnx"
    story = folder / "case.json"
    return model, json.loads(story.read_text(encoding="utf-8"))["options"] if story.is_file() else {}
