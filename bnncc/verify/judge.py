"""The verdict: every step on the reference's own inputs, then every output from end to end (docs/exactness.md)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bnncc.emit import fields
from bnncc.outputs import Classify, Decide, entropy
from bnncc.program import Step
from bnncc.verify import bounds
from bnncc.verify.harness import Driver, Outcome
from bnncc.verify.inputs import check_inputs, random_inputs
from bnncc.verify.reference import probe_batch_norm, run_reference

if TYPE_CHECKING:
    from bnncc.compiler import Compiled

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
    argmax_agreement: float | None  # None where the output is no vector


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
    argmax_agreement: float


@dataclass(frozen=True)
class Verification:
    """The outcome of verify(). `outputs_c` holds the C's outputs in graph order, [N, *onnx shape]."""

    ok: bool
    samples: int
    machine: str
    steps: list[StepVerdict]
    outputs: list[OutputVerdict]
    left_out: int
    exits: ExitVerdict | None
    given: GivenVerdict | None
    batch_norm_probe: int
    outputs_c: dict[str, Array] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For --json: everything but the arrays."""
        plain = {k: v for k, v in self.__dict__.items() if k != "outputs_c"}

        def convert(v: object) -> object:
            if isinstance(v, list):
                return [convert(i) for i in v]
            return {k: convert(i) for k, i in v.__dict__.items()} if hasattr(v, "__dict__") else v

        return {k: convert(v) for k, v in plain.items()}


def verify(
    compiled: "Compiled",
    x: Array | None = None,
    *,
    samples: int = 32,
    on: str = "host",
    seed: int = 0,
    tick: Callable[[int], None] | None = None,
) -> Verification:
    """Run the C and onnxruntime on x [N, ...] (the ONNX layout; `samples` random ones without it) and compare.

    on: "host" (gcc or clang with ASan and UBSan) or "sim" (QEMU). `tick` hears of finished samples, twice each.
    Raises UsageError for unfit inputs, ModelError and ToolError as building and running do.
    """
    imported, graph = compiled.imported, compiled.program.graph
    onnx_inputs = (
        random_inputs(imported, graph.input.elem, samples, seed)
        if x is None
        else check_inputs(imported, graph.input.elem, x)
    )
    inputs = onnx_inputs.reshape(len(onnx_inputs), *graph.input.shape)
    with Driver(compiled, on) as driver:  # first: what does not build need not wait for onnxruntime
        twins = {t.twin for op in graph.ops for t in (op.x, op.y) if t.twin}
        names = [o.name for o in graph.outputs]
        values = run_reference(
            imported.reference, imported.input_name, onnx_inputs, [*dict.fromkeys([*names, *sorted(twins)])], tick
        )
        outcome = driver.run(inputs, values, tick)
    steps = [judge_step(s, outcome, values, inputs) for s in compiled.program.steps if s.index in outcome.steps]
    close = not all(s.op.exact for s in compiled.program.steps)
    left_out = flipped_samples(compiled, inputs, values, on) if close else np.zeros(len(inputs), bool)
    outputs = judge_outputs(compiled, outcome, values, inputs, left_out, close=close)
    exits = judge_exits(compiled, outcome, values, left_out) if graph.exits else None
    ok = (
        not any(s.mismatches for s in steps)
        and not any(o.mismatched_samples for o in outputs)
        and not (exits and exits.mismatched_samples)
        and left_out.mean() <= LEFT_OUT_LIMIT
        and judge_class(compiled, outcome)
    )
    c_values = outputs_of(compiled, outcome)
    return Verification(
        ok=bool(ok),
        samples=len(inputs),
        machine=outcome.machine,
        steps=steps,
        outputs=outputs,
        left_out=int(left_out.sum()),
        exits=exits,
        given=compare_with_given(compiled, onnx_inputs, c_values) if imported.reasons else None,
        batch_norm_probe=probe_batch_norm(),
        outputs_c=c_values,
    )


def outputs_of(compiled: "Compiled", outcome: Outcome) -> dict[str, Array]:
    """The C's outputs, [N, *onnx shape] in float32 as onnxruntime has them."""
    out = {}
    for o, f in zip(compiled.program.graph.outputs, fields(compiled.program), strict=True):
        out[o.name] = outcome.whole[f.name].astype(np.float32).reshape(-1, *o.shape)
    return out


def same(a: Array, b: Array) -> NDArray[np.bool_]:
    """Elementwise equality. Zeros of either sign are equal: which one onnxruntime's Max gives depends on the SIMD lane."""
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))


def judge_step(step: Step, outcome: Outcome, values: dict[str, Array], inputs: Array) -> StepVerdict:
    op = step.op
    got = np.ascontiguousarray(outcome.steps[step.index])
    want = values[op.y.twin].reshape(got.shape)
    error = np.abs(got.astype(np.float64) - want.astype(np.float64))
    tolerance = 0.0
    band = 0
    if op.exact:
        bad = (
            ~same(got.astype(want.dtype) if got.dtype != np.float32 else got, want)
            if got.dtype == np.float32
            else got != want
        )
    else:
        source = values[op.x.twin].reshape(len(inputs), *op.x.shape) if op.x.twin else inputs
        b = bounds.apply(op, bounds.exact(source))
        if b.band is not None:
            differs = got != want
            bad, band = differs & ~b.band, int((differs & b.band).sum())
        else:
            bad, tolerance = error > 2 * b.error, float(2 * b.error.max())
    origin = ", ".join(op.origin)
    return StepVerdict(
        step.index, origin, step.kernel, op.exact, got.size, int(bad.sum()), band, float(error.max()), tolerance
    )


def flipped_samples(compiled: "Compiled", inputs: Array, values: dict[str, Array], on: str) -> NDArray[np.bool_]:
    """The samples in which, from end to end, a bit differs from the reference's where rounding may decide either way."""
    graph = compiled.program.graph
    with Driver(compiled, on, inject=False) as driver:
        own = driver.run(inputs, values)
    out = np.zeros(len(inputs), bool)
    bounded = bounds.run(graph, inputs)
    for step in compiled.program.steps:
        b = bounded.get(step.op.y.name)
        if b is not None and b.band is not None and step.index in own.steps:
            differs = own.steps[step.index] != values[step.op.y.twin].reshape(own.steps[step.index].shape)
            out |= (differs & b.band).reshape(len(inputs), -1).any(axis=1)
    return out


def judge_outputs(
    compiled: "Compiled",
    outcome: Outcome,
    values: dict[str, Array],
    inputs: Array,
    left_out: NDArray[np.bool_],
    *,
    close: bool,
) -> list[OutputVerdict]:
    graph = compiled.program.graph
    bounded = bounds.run(graph, inputs) if close else {}
    kept = ~left_out
    verdicts = []
    for o, f in zip(graph.outputs, fields(compiled.program), strict=True):
        raw = outcome.whole[f.name].reshape(len(inputs), -1)
        want = values[o.name].reshape(len(inputs), -1)
        error = np.abs(raw.astype(np.float64) - want.astype(np.float64))
        allowed = 2 * bounded[f"output:{o.name}"].error.reshape(len(inputs), -1) if close else np.zeros_like(error)
        bad = np.where(allowed > 0, error > allowed, ~same(np.ascontiguousarray(raw), want))
        vector = len(o.shape) == 2 and o.shape[1] > 1
        agree = float((raw.argmax(axis=1) == want.argmax(axis=1))[kept].mean()) if vector and kept.any() else None
        verdicts.append(
            OutputVerdict(
                o.name,
                int(kept.sum()),
                int(bad[kept].any(axis=1).sum()),
                float(error[kept].max(initial=0)),
                float(allowed.max(initial=0)),
                agree,
            )
        )
    return verdicts


def judge_class(compiled: "Compiled", outcome: Outcome) -> bool:
    """Whether class_index is the first arg-max of the logits it belongs to."""
    by_name = {o.name: f.name for o, f in zip(compiled.program.graph.outputs, fields(compiled.program), strict=True)}
    last = compiled.program.steps[-1].op
    if not isinstance(last, Classify | Decide):
        return True
    logits = outcome.whole[by_name[last.output.name]]
    return bool((outcome.whole["class_index"] == logits.argmax(axis=1)).all())


def judge_exits(
    compiled: "Compiled", outcome: Outcome, values: dict[str, Array], left_out: NDArray[np.bool_]
) -> ExitVerdict:
    """Compare each decision with the entropy of the reference's logits in float64."""
    exits = compiled.program.exits
    assert exits is not None
    assert outcome.stopped is not None
    names = [compiled.program.graph.outputs[k].name for k in exits.outputs]
    by_name = {o.name: f.name for o, f in zip(compiled.program.graph.outputs, fields(compiled.program), strict=True)}
    logits = [values[n].reshape(len(values[n]), -1) for n in names]
    entropies = np.stack([entropy(z) for z in logits])
    delta = float(np.float32(exits.threshold))
    below = entropies < delta
    below[-1] = True
    expected = below.argmax(axis=0)
    got = outcome.stopped["exit_index"]
    # float32: K terms of exp and a product each, then one logarithm
    tolerance = (logits[0].shape[1] + 16) * 2.0**-23 * (1 + entropies)
    differs = got != expected
    first = np.minimum(got, expected)
    sample = np.arange(len(got))
    tie = np.abs(entropies[first, sample] - delta) <= tolerance[first, sample]
    wrong = differs & ~tie
    for k, name in enumerate(names):
        here = got == k
        rows = outcome.stopped[here]
        wrong[here] |= rows["class_index"] != rows[by_name[name]].argmax(axis=1)
        wrong[here] |= rows["class_index"] != logits[k][here].argmax(axis=1)
        wrong[here] |= np.abs(rows["entropy"] - entropies[k, here]) > tolerance[k, here]
    taken = [int((got == k).sum()) for k in range(len(names))]
    return ExitVerdict(exits.threshold, taken, int((wrong & ~left_out).sum()), int((differs & tie).sum()))


def compare_with_given(compiled: "Compiled", onnx_inputs: Array, c_values: dict[str, Array]) -> GivenVerdict:
    """How far the C is from the file as given, where the contract is with its canonical form."""
    imported = compiled.imported
    names = [o.name for o in compiled.program.graph.outputs]
    values = run_reference(imported.given, imported.input_name, onnx_inputs, names)
    differing = np.zeros(len(onnx_inputs), bool)
    largest = 0.0
    agree = []
    for name in names:
        a, b = c_values[name].reshape(len(onnx_inputs), -1), values[name].reshape(len(onnx_inputs), -1)
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
        differing |= (difference > 0).any(axis=1)
        largest = max(largest, float(difference.max()))
        agree.append(float((a.argmax(axis=1) == b.argmax(axis=1)).mean()))
    return GivenVerdict(len(onnx_inputs), int(differing.sum()), largest, min(agree))
