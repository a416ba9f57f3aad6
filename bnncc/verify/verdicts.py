"""What verify() found: dataclasses that add up over chunks of samples."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LEFT_OUT_LIMIT = 0.05  # of the samples, with a bit decided by rounding, may be left out of the end-to-end comparison


@dataclass(frozen=True)
class StepVerdict:
    """One step on the reference's own inputs; `band` counts bits that differ where rounding may decide either way."""

    step: int
    origin: str
    kernel: str
    exact: bool
    values: int
    mismatches: int
    band: int
    largest_error: float
    tolerance: float  # the largest derived bound, 0 where bits must be equal


@dataclass(frozen=True)
class OutputVerdict:
    """One output from end to end, over the samples that were not left out."""

    name: str
    samples: int
    mismatched_samples: int
    largest_error: float
    tolerance: float
    agreeing_samples: int | None  # the same arg-max; None where the output is no vector

    @property
    def argmax_agreement(self) -> float | None:
        return None if self.agreeing_samples is None or not self.samples else self.agreeing_samples / self.samples


@dataclass(frozen=True)
class ExitVerdict:
    """The decisions at the exits: how many samples stopped where, and how many decisions differ outside of rounding."""

    threshold: float
    taken: list[int]
    mismatched_samples: int
    near_ties: int


@dataclass(frozen=True)
class GivenVerdict:
    """Differences from the file as given, where the reference is its canonical form. They are printed, not judged."""

    samples: int
    differing_samples: int
    largest_difference: float
    agreeing_samples: int

    @property
    def argmax_agreement(self) -> float:
        return self.agreeing_samples / self.samples


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The verdicts over some of the samples. `outputs_c` holds the C's outputs in graph order, [N, *onnx shape]."""

    samples: int
    steps: list[StepVerdict]
    outputs: list[OutputVerdict]
    left_out: int
    wrong_classes: int
    exits: ExitVerdict | None
    given: GivenVerdict | None
    outputs_c: dict[str, Array] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Verification(Chunk):
    """The outcome of verify(), over all samples."""

    machine: str
    batch_norm_probe: int

    @property
    def ok(self) -> bool:
        """Whether the contract of docs/exactness.md is kept."""
        return (
            not any(s.mismatches for s in self.steps)
            and not any(o.mismatched_samples for o in self.outputs)
            and not (self.exits and self.exits.mismatched_samples)
            and not self.wrong_classes
            and self.left_out <= LEFT_OUT_LIMIT * self.samples
        )

    def as_dict(self) -> dict[str, Any]:
        """For --json: everything but the arrays."""
        plain = {k: v for k, v in asdict(self).items() if k != "outputs_c"}
        for shown, o in zip(plain["outputs"], self.outputs, strict=True):
            shown["argmax_agreement"] = o.argmax_agreement
        return {"ok": self.ok, **plain}


def add(parts: Sequence[Any]) -> Any:
    """Verdicts over chunks of samples as one: counts are summed, errors and tolerances are the largest, the rest is equal."""
    first = parts[0]
    if first is None:
        return None
    summed = {}
    for name, value in first.__dict__.items():
        column = [getattr(p, name) for p in parts]
        if name.startswith("largest") or name == "tolerance":
            summed[name] = max(column)
        elif name in COUNTS:
            summed[name] = None if value is None else sum(column)
        elif name == "taken":
            summed[name] = [sum(k) for k in zip(*column, strict=True)]
        else:
            summed[name] = value
    return type(first)(**summed)


COUNTS = (
    "values",
    "mismatches",
    "band",
    "samples",
    "mismatched_samples",
    "agreeing_samples",
    "near_ties",
    "differing_samples",
)


def together(chunks: Sequence[Chunk], machine: str, batch_norm_probe: int) -> Verification:
    """The verdict over all chunks."""
    return Verification(
        samples=sum(c.samples for c in chunks),
        machine=machine,
        steps=[add(s) for s in zip(*(c.steps for c in chunks), strict=True)],
        outputs=[add(o) for o in zip(*(c.outputs for c in chunks), strict=True)],
        left_out=sum(c.left_out for c in chunks),
        wrong_classes=sum(c.wrong_classes for c in chunks),
        exits=add([c.exits for c in chunks]),
        given=add([c.given for c in chunks]),
        batch_norm_probe=batch_norm_probe,
        outputs_c={name: np.concatenate([c.outputs_c[name] for c in chunks]) for name in chunks[0].outputs_c},
    )
