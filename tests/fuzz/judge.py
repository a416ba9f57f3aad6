"""What became of a case: refused with a diagnostic, or code that means what the model means; all else is a finding."""

import random
import resource
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import bnncc
from bnncc.frontend.source.session import session
from bnncc.ops import Conv
from bnncc.program import Program
from bnncc.report import near
from bnncc.scalar import Operand, Step
from bnncc.verify import harness
from bnncc.verify.bounds import ROUGH
from bnncc.verify.inputs import random_inputs

PACKAGE = Path(bnncc.__file__).parent
SECONDS = 10.0  # of processor time for one file
MEGABYTES = 1200  # resident, of the whole process
LINE, TEXT = 1000, 100_000  # characters of a diagnostic, and of all of them
SAMPLES = 4
TOO_MUCH = 30_000_000  # multiplications of a sample; beyond, numpy would take too long
HUGE = 1e12  # a sum of float32 with such a value loses all that is below 1e5
CLOSE = 1e-2  # of the largest value: what rounding may do where the contract is not equality

SUMS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FEW = 8  # magnitudes: more of them are real numbers, no signs

MOST_STEPS = 300  # whose C is built and run: compilers take half a minute for some thousand
NOT_RUN = "compiled, onnxruntime cannot run the file"
BY_ROUNDING = "compiled, the file is decided by its rounding"
DEFECTS = ("E0000", "E0309", "E0310")  # codes that say themselves that bnncc is wrong


@dataclass
class Outcome:
    """`kind` is what is counted. A finding has a `signature`, alike for the same defect, and a `detail`."""

    kind: str
    signature: str = ""
    detail: str = ""
    seconds: float = 0.0
    megabytes: int = 0

    @property
    def finding(self) -> bool:
        return bool(self.signature)

    def finding_of(self, kind: str, signature: str, detail: str) -> None:
        self.kind, self.signature, self.detail = kind, signature, detail

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


class Wrong(Exception):
    """Compiled, and not what it should be."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


def judge(path: Path, options: dict[str, Any], *, verify: bool) -> Outcome:
    """Compile one file and compare what came out with onnxruntime; with `verify` also the C on this host."""
    begin = time.process_time()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        compiled, outcome = compiled_or_not(path, options)
    outcome.seconds = time.process_time() - begin
    outcome.megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    if not outcome.finding and outcome.seconds > SECONDS:
        outcome.finding_of("slow", "slow", f"{outcome.seconds:.1f} s until {outcome.kind}")
    elif not outcome.finding and outcome.megabytes > MEGABYTES:
        outcome.finding_of("memory", "memory", f"{outcome.megabytes} MiB until {outcome.kind}")
    elif not outcome.finding and heard:
        w = heard[0]
        outcome.finding_of("warning", f"warning {w.filename}:{w.lineno}", f"{w.category.__name__}: {w.message}")
    if compiled is not None and not outcome.finding:
        compared(compiled, outcome, at_zero=options.get("sign_at_zero", 0), verify=verify)
    return outcome


def compiled_or_not(path: Path, options: dict[str, Any]) -> tuple[bnncc.Compiled | None, Outcome]:
    try:
        return bnncc.compile(path, name="net", **options), Outcome("compiled")
    except bnncc.BnnccError as e:
        return None, refused(e)
    except Exception as e:
        return None, Outcome("traceback", signature(e), traceback.format_exc())


def compared(compiled: bnncc.Compiled, outcome: Outcome, *, at_zero: int = 0, verify: bool) -> None:
    """Write into the outcome what onnxruntime and the C say."""
    try:
        outcome.kind = compare(compiled, at_zero)
        if verify and outcome.kind != NOT_RUN and len(compiled.program.steps) <= MOST_STEPS:
            judge_c(compiled, by_rounding=outcome.kind == BY_ROUNDING)
            outcome.kind += ", the C verified"
    except Wrong as e:
        outcome.finding_of(e.kind, e.kind, e.detail)
    except bnncc.BnnccError as e:
        code = e.diagnostics[0].code
        outcome.finding_of("compiled, then refused", f"compiled, then {code}: {e.diagnostics[0].message[:60]}", str(e))
    except Exception as e:
        outcome.finding_of("traceback", f"verification: {signature(e)}", traceback.format_exc())


def signature(e: BaseException) -> str:
    """The exception's type and where bnncc raised it."""
    frames = [f for f in traceback.extract_tb(e.__traceback__) if Path(f.filename).is_relative_to(PACKAGE)] or [None]
    f = frames[-1]
    return f"{type(e).__name__} in {Path(f.filename).name}:{f.name}: {f.line}" if f else type(e).__name__


def refused(e: bnncc.BnnccError) -> Outcome:
    """The codes, if the messages are fit to be read."""
    text = str(e)
    first = e.diagnostics[0]
    if first.code in DEFECTS or e.exit_code > 2:
        return Outcome("defect", f"{first.code} {first.message[:60]}", text)
    ugly = [c for c in text if not c.isprintable() and c != "\n"]
    long = [d for d in e.diagnostics if len(str(d)) > LINE]
    if (
        ugly
        or long
        or len(text) > TEXT
        or any("\n" in s for d in e.diagnostics for s in (d.message, d.where, d.remedy))
    ):
        what = f"characters {sorted(set(ugly))[:5]}" if ugly else "length or lines"
        return Outcome("message", f"message of {(long or [first])[0].code}: {what}", text[:3000])
    if "alloc" in text.lower():
        return Outcome("memory", f"memory {first.code}", text)
    return Outcome(f"refused {first.code}")


def compare(compiled: bnncc.Compiled, at_zero: int = 0) -> str:
    """The compiler's graph beside onnxruntime on the file: equal where the contract says so, else close on most samples.

    Returns what is to be counted; raises Wrong.
    """
    program, imported = compiled.program, compiled.imported
    if sum(s.cost.macs for s in program.steps) + 10 * program.graph.input.size > TOO_MUCH:
        return "compiled, too large to run here"
    inputs = random_inputs(imported, program.graph.input.elem, SAMPLES, 0)
    given, why = run(decided(imported.given, at_zero), imported.input_name, inputs, program.graph.outputs)
    reference, why_not = run(imported.reference, imported.input_name, inputs, program.graph.outputs)
    if given is None:
        return NOT_RUN
    if reference is None:
        raise Wrong("reference", f"onnxruntime runs the file but not its canonical form: {why_not or why}")
    try:
        agree(compiled, inputs, given, reference)
    except Wrong as e:
        values = inside(imported.given, imported.input_name, inputs)
        if overflows(values):
            return "compiled, values beyond 1e12 in the file"
        if e.kind == "meaning: not close" and unstable(compiled, inputs, given, values):
            return BY_ROUNDING
        raise
    return "compiled, equal" if all(s.op.exact for s in program.steps) else "compiled, close"


def agree(
    compiled: bnncc.Compiled, inputs: np.ndarray, given: dict[str, np.ndarray], reference: dict[str, np.ndarray]
) -> None:
    """Compare the graph's outputs with onnxruntime's; raises Wrong."""
    program = compiled.program
    with np.errstate(all="ignore"):
        first = program.graph.input
        values = program.graph.run(first.from_reference({first.twin: inputs}))
        exact = all(s.op.exact for s in program.steps)
        rough = any(near(s.op) for s in program.steps)  # the file's own rounding decides bits
        stored = any(isinstance(s.op, Conv) and s.op.storage != "f32" for s in program.steps)
        if stored:  # other weights than the file's, in the reference too
            given = reference
        for o in program.graph.outputs:
            mine = np.asarray(values[f"output:{o.name}"], np.float64).reshape(SAMPLES, -1)
            theirs, file = (np.asarray(v[o.name], np.float64) for v in (reference, given))
            if tuple(theirs.shape[1:]) != o.shape:
                raise Wrong("meaning: shape", f"output {o.name!r}: {o.shape} for {theirs.shape[1:]}")
            theirs, file = theirs.reshape(SAMPLES, -1), file.reshape(SAMPLES, -1)
            equal = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
            if exact and not equal.all():
                raise Wrong("meaning: not equal", f"output {o.name!r}\n{mine[:, :8]}\n{theirs[:, :8]}")
            floor = max((ROUGH.get(s.operation, 0.0) for s in steps_of(program)), default=0.0)
            if not rough and not alike(mine, file, floor):
                raise Wrong("meaning: not close", f"output {o.name!r}\n{mine[:, :8]}\n{file[:, :8]}")


def decided(model: onnx.ModelProto, at_zero: int) -> onnx.ModelProto:
    """The file with each Sign giving `at_zero` at zero, as --sign-at-zero asks; the file itself for 0."""
    if not at_zero or not any(n.op_type == "Sign" for n in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    for k, node in enumerate(model.graph.node):
        if node.op_type != "Sign":
            result.graph.node.append(node)
            continue
        first, moved, half = f"__sign{k}", f"__moved{k}", f"__half{k}"
        tensor = onnx.helper.make_tensor(half, onnx.TensorProto.FLOAT, [], [at_zero / 2])
        nodes = [
            onnx.helper.make_node("Constant", [], [half], value=tensor),
            onnx.helper.make_node("Sign", node.input, [first]),
            onnx.helper.make_node("Add", [first, half], [moved]),
            onnx.helper.make_node("Sign", [moved], node.output),
        ]
        result.graph.node.extend(nodes)
    return result


def inside(model: onnx.ModelProto, name: str, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Every float value inside of the file by name, stacked over the samples; nothing if onnxruntime does not run that."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    present = {o.name for o in model.graph.output}
    made = [n for node in model.graph.node for n in node.output if n and n not in present]
    extended.graph.output.extend(onnx.ValueInfoProto(name=n) for n in made)
    try:
        s = session(extended)
        rows = [s.run(None, {name: x}) for x in inputs]
    except Exception:
        return {}
    names = [o.name for o in s.get_outputs()]
    return {n: np.stack([r[k] for r in rows]) for k, n in enumerate(names) if rows[0][k].dtype == np.float32}


def overflows(values: dict[str, np.ndarray]) -> bool:
    """Whether a value inside of the file is NaN, infinite or huge: where it cancels, rounding alone is left to decide."""
    return not all((np.abs(v) < HUGE).all() for v in values.values())


def steps_of(program: Program) -> Iterator[Step | Operand]:
    """Every elementwise operation, those of the outputs too."""
    for s in program.steps:
        yield from getattr(s.op, "steps", ())
    for o in program.graph.outputs:
        yield from o.steps


def unstable(
    compiled: bnncc.Compiled, inputs: np.ndarray, given: dict[str, np.ndarray], values: dict[str, np.ndarray]
) -> bool:
    """Whether the file's own outputs move as far when its real numbers change by their last digits.

    Only tensors of several magnitudes change, parameters and what layers sum, or parameters so large that sums with them
    are rounded: no signs, no small thresholds.
    """
    imported, outputs = compiled.imported, compiled.program.graph.outputs
    rng = np.random.default_rng(0)
    moved = np.zeros(SAMPLES, bool)
    for _ in range(4):
        other, _ = run(shaken(imported.given, values, rng), imported.input_name, inputs, outputs)
        for o in outputs if other is not None else ():
            moved |= ~near_rows(other[o.name].reshape(SAMPLES, -1), given[o.name].reshape(SAMPLES, -1)).all(axis=1)
    return bool(moved.all())


def shaken(given: onnx.ModelProto, values: dict[str, np.ndarray], rng: np.random.Generator) -> onnx.ModelProto:
    """A copy whose real numbers differ in their last digits. `values`: what `inside` found."""
    noise = lambda shape: (1 + rng.choice([-1, 1], shape) * 2.0**-22).astype(np.float32)  # noqa: E731
    model = onnx.ModelProto()
    model.CopyFrom(given)
    constants = [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"]
    for t in (*model.graph.initializer, *constants):
        if t.data_type == onnx.TensorProto.FLOAT:
            v = onnx.numpy_helper.to_array(t)
            if len(np.unique(np.abs(v))) > 2 or (np.abs(v) >= 2.0**20).any():
                t.CopyFrom(onnx.numpy_helper.from_array(v * noise(v.shape), t.name))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for k, node in enumerate(nodes):
        x = values.get(node.input[0]) if node.op_type in SUMS else None
        if x is not None and len(np.unique(np.abs(x))) > FEW:
            factor = onnx.numpy_helper.from_array(noise((1, *x.shape[2:])), f"__noise{k}")
            model.graph.initializer.append(factor)
            model.graph.node.append(onnx.helper.make_node("Mul", [node.input[0], factor.name], [f"__shaken{k}"]))
            node.input[0] = f"__shaken{k}"
        model.graph.node.append(node)
    return model


def alike(a: np.ndarray, b: np.ndarray, floor: float = 0.0) -> bool:
    """Whether one sample, or nine values in ten, agree but for rounding: a bit that falls the other way changes a sample for good.

    floor: how far values may be apart in any case.
    """
    close = near_rows(a, b, floor)
    return bool(close.all(axis=1).any() or close.mean() > 0.9)


def near_rows(a: np.ndarray, b: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """Which values agree within what rounding may do, or `floor`, for samples [N,values]."""
    finite = np.isfinite(b)
    scale = np.abs(np.where(finite, b, 0)).max(axis=1, keepdims=True)
    return (np.abs(a - b) <= CLOSE * scale + floor) | (a == b) | (np.isnan(a) & np.isnan(b))


def run(model: Any, name: str, inputs: np.ndarray, outputs: Any) -> tuple[dict[str, np.ndarray] | None, str]:
    """onnxruntime's outputs by name, stacked over the samples; or None and what it said."""
    names = list(dict.fromkeys(o.name for o in outputs))
    try:
        s = session(model)
        rows = [s.run(names, {name: x}) for x in inputs]
    except Exception as e:
        return None, str(e)
    return {n: np.stack([r[k] for r in rows]) for k, n in enumerate(names)}, ""


def judge_c(compiled: bnncc.Compiled, *, by_rounding: bool = False) -> None:
    """The C under the sanitizers beside onnxruntime, by the contract. Raises Wrong and BnnccError.

    by_rounding: of the file, so that any number of samples may be left out.
    """
    with unlimited():
        assert compiled.report["layers"]
        harness.OPTIMIZATION = "-O0"  # builds twice as fast
        verdict = compiled.verify(samples=SAMPLES)
    if not (replace(verdict, left_out=0) if by_rounding else verdict).ok:
        raise Wrong("verification", str(verdict))


@contextmanager
def unlimited() -> Iterator[None]:
    """Without the limit of address space, which the sanitizers cannot live with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def wants_verification(seed: int, number: int, share: float) -> bool:
    return random.Random(f"{seed}/{number}/verify").random() < share
