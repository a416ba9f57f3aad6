"""The verdict: every step on the reference's own inputs, then every output from end to end (docs/exactness.md)."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.artifact import Artifact
from bnncc.emit import fields
from bnncc.lower import is_vector
from bnncc.outputs import Classify, Decide, entropy
from bnncc.program import Step
from bnncc.tensor import Elem, Tensor
from bnncc.verify import bounds
from bnncc.verify.harness import Driver, Outcome
from bnncc.verify.inputs import check_inputs, random_inputs
from bnncc.verify.reference import Reference, probe_batch_norm
from bnncc.verify.verdicts import Chunk, ExitVerdict, GivenVerdict, OutputVerdict, StepVerdict, Verification, together

Array = NDArray[Any]
CHUNK = 256  # samples at a time, so that memory does not grow with their number
CLOSE_CHUNK = 16  # the same for models with real-valued layers, whose bounds are computed in float64


def verify(
    compiled: Artifact,
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
    elem = graph.input.elem
    onnx_inputs = random_inputs(imported, elem, samples, seed) if x is None else check_inputs(imported, elem, x)
    close = not all(s.op.exact for s in compiled.program.steps)
    size = CLOSE_CHUNK if close else CHUNK
    with ExitStack() as stack:
        driver = stack.enter_context(Driver(compiled, on))  # first: what does not build need not wait for onnxruntime
        chained = stack.enter_context(Driver(compiled, on, inject=False)) if close else None
        twins = sorted({t.twin for op in graph.ops for t in (op.x, op.y) if t.twin})
        names = [o.name for o in graph.outputs]
        reference = Reference(imported.reference, imported.input_name, [*dict.fromkeys([*names, *twins])])
        given = Reference(imported.given, imported.input_name, names) if imported.reasons else None
        chunks = []
        for begin in range(0, len(onnx_inputs), size):
            here = onnx_inputs[begin : begin + size]
            chunks.append(judge_chunk(compiled, here, driver, chained, reference, given, tick))
    return together(chunks, driver.machine, probe_batch_norm())


def judge_chunk(
    compiled: Artifact,
    onnx_inputs: Array,
    driver: Driver,
    chained: Driver | None,
    reference: Reference,
    given: Reference | None,
    tick: Callable[[int], None] | None,
) -> Chunk:
    """The verdicts over some samples. `chained`, for models with real-valued layers, runs the steps on the C's own values."""
    program = compiled.program
    inputs = program.graph.input.from_reference({program.graph.input.twin: onnx_inputs})
    values = reference.run(onnx_inputs, tick)
    outcome = driver.run(inputs, values)
    if tick:
        tick(len(inputs))
    given_to = bounds.cached(program.graph, values, inputs)
    steps = [judge_step(s, outcome, values, given_to) for s in program.steps if s.index in outcome.steps]
    bounded: Mapping[str, bounds.Bounded] = {}
    left_out = np.zeros(len(inputs), bool)
    if chained:
        bounded = bounds.run(program.graph, inputs, reference_bits(compiled, values))
        left_out = flipped_samples(compiled, chained.run(inputs, values), values, bounded)
    c_values = outputs_of(compiled, outcome)
    return Chunk(
        samples=len(inputs),
        steps=steps,
        outputs=judge_outputs(compiled, outcome, values, left_out, bounded),
        left_out=int(left_out.sum()),
        wrong_classes=wrong_classes(compiled, outcome),
        exits=judge_exits(compiled, outcome, left_out) if program.exits else None,
        given=compare_with_given(c_values, given.run(onnx_inputs)) if given else None,
        outputs_c=c_values,
    )


def reference_bits(compiled: Artifact, values: Mapping[str, Array]) -> dict[str, Array]:
    """The reference's binary tensors by graph name, [N, C, H, W]: bounds are taken along its path."""
    graph = compiled.program.graph
    return {op.y.name: op.y.from_reference(values) for op in graph.ops if op.y.twin and op.y.elem is Elem.BIN}


def outputs_of(compiled: Artifact, outcome: Outcome) -> dict[str, Array]:
    """The C's outputs, [N, *onnx shape] in float32 as onnxruntime has them."""
    out = {}
    for o, f in zip(compiled.program.graph.outputs, fields(compiled.program), strict=True):
        out[o.name] = outcome.whole[f.name].astype(np.float32).reshape(-1, *o.shape)
    return out


def same(a: Array, b: Array) -> NDArray[np.bool_]:
    """Elementwise equality. Zeros of either sign are equal: which one onnxruntime's Max gives depends on the SIMD lane."""
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))


def judge_step(
    step: Step, outcome: Outcome, values: Mapping[str, Array], given_to: Callable[[Tensor], bounds.Bounded]
) -> StepVerdict:
    """`given_to` tells a tensor, with its bound, where every step gets the reference's own values."""
    op = step.op
    got = np.ascontiguousarray(outcome.steps[step.index])
    want = op.y.from_reference(values)
    error = np.abs(got.astype(np.float64) - want.astype(np.float64))
    tolerance = 0.0
    band = 0
    if op.exact and all(t.twin for t in op.inputs):
        bad = ~same(got, want)
    else:
        b = bounds.apply(op, *map(given_to, op.inputs))
        if b.band is not None:
            differs = got != want
            bad, band = differs & ~b.band, int((differs & b.band).sum())
        else:
            bad, tolerance = np.where(b.error > 0, error > 2 * b.error, ~same(got, want)), float(2 * b.error.max())
    return StepVerdict(
        step.index, op.where, step.kernel, op.exact, got.size, int(bad.sum()), band, float(error.max()), tolerance
    )


def flipped_samples(
    compiled: Artifact, own: Outcome, values: Mapping[str, Array], bounded: Mapping[str, bounds.Bounded]
) -> NDArray[np.bool_]:
    """The samples in which, from end to end, a bit differs from the reference's where rounding may decide either way."""
    out = np.zeros(len(own.whole), bool)
    for step in compiled.program.steps:
        b = bounded.get(step.op.y.name)
        if b is not None and b.band is not None and step.index in own.steps:
            differs = own.steps[step.index] != step.op.y.from_reference(values)
            out |= (differs & b.band).reshape(len(out), -1).any(axis=1)
    return out


def judge_outputs(
    compiled: Artifact,
    outcome: Outcome,
    values: Mapping[str, Array],
    left_out: NDArray[np.bool_],
    bounded: Mapping[str, bounds.Bounded],
) -> list[OutputVerdict]:
    """Each output from end to end; `bounded` is empty where bits must be equal."""
    kept, n = ~left_out, len(left_out)
    verdicts = []
    for o, f in zip(compiled.program.graph.outputs, fields(compiled.program), strict=True):
        raw = np.ascontiguousarray(outcome.whole[f.name].reshape(n, -1))
        want = values[o.name].reshape(n, -1)
        error = np.abs(raw.astype(np.float64) - want.astype(np.float64))
        allowed = 2 * bounded[f"output:{o.name}"].error.reshape(n, -1) if bounded else np.zeros_like(error)
        bad = np.where(allowed > 0, error > allowed, ~same(raw, want))
        agree = int((raw.argmax(axis=1) == want.argmax(axis=1))[kept].sum()) if is_vector(o) else None
        verdicts.append(
            OutputVerdict(
                name=o.name,
                samples=int(kept.sum()),
                mismatched_samples=int(bad[kept].any(axis=1).sum()),
                largest_error=float(error[kept].max(initial=0)),
                tolerance=float(allowed.max(initial=0)),
                agreeing_samples=agree,
            )
        )
    return verdicts


def wrong_classes(compiled: Artifact, outcome: Outcome) -> int:
    """How often class_index is not the first arg-max of the logits it belongs to."""
    by_name = {o.name: f.name for o, f in zip(compiled.program.graph.outputs, fields(compiled.program), strict=True)}
    last = compiled.program.steps[-1].op
    if not isinstance(last, Classify | Decide):
        return 0
    logits = outcome.whole[by_name[last.output.name]]
    return int((outcome.whole["class_index"] != logits.argmax(axis=1)).sum())


def judge_exits(compiled: Artifact, outcome: Outcome, left_out: NDArray[np.bool_]) -> ExitVerdict:
    """Compare each decision with the entropy, in float64, of the logits of a run that never stops; these are judged elsewhere."""
    exits = compiled.program.exits
    assert exits is not None
    assert outcome.stopped is not None
    names = [compiled.program.graph.outputs[k].name for k in exits.outputs]
    by_name = {o.name: f.name for o, f in zip(compiled.program.graph.outputs, fields(compiled.program), strict=True)}
    logits = [outcome.whole[by_name[n]] for n in names]
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


def compare_with_given(c_values: Mapping[str, Array], values: Mapping[str, Array]) -> GivenVerdict:
    """How far the C is from the file as given, where the contract is with its canonical form."""
    n = len(next(iter(c_values.values())))
    differing, agreeing = np.zeros(n, bool), np.ones(n, bool)
    largest = 0.0
    for name, c_value in c_values.items():
        a, b = c_value.reshape(n, -1), values[name].reshape(n, -1)
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
        differing |= (difference > 0).any(axis=1)
        agreeing &= a.argmax(axis=1) == b.argmax(axis=1)
        largest = max(largest, float(difference.max()))
    return GivenVerdict(n, int(differing.sum()), largest, int(agreeing.sum()))
