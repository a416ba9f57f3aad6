"""Program -> C: one header, one source, one file of constants. The same program gives the same bytes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from bnncc.ctext import MATH, array_text, environment, helpers, in_ram, reindent, separate
from bnncc.kernels.base import float_literal
from bnncc.layout import DTYPES, MEMBERS, c_type
from bnncc.names import comment, identifiers
from bnncc.ops import Conv, MaxPool, Streamed
from bnncc.outputs import Classify, Decide, Store
from bnncc.program import Constant, Program, Step
from bnncc.tensor import Tensor
from bnncc.view import StepView, input_names

RESERVED = ("class_index", "exit_index", "entropy", "input", "step", "exit")  # NAME_INPUT_COUNT and the like are taken


@dataclass(frozen=True)
class Field:
    """An array of the result: its C name and type, the output it holds."""

    name: str
    c_type: str
    count: int
    note: str


def fields(program: Program) -> list[Field]:
    """The arrays of the result, one an output, in the graph's order."""
    outputs = program.graph.outputs
    stores = {s.op.output.name: s.op for s in program.steps if isinstance(s.op, Store)}
    names = identifiers([o.name for o in outputs], RESERVED)
    return [
        Field(n, stores[o.name].result_type, o.tensor.size, f"output {comment(o.name)[:60]}, shape {list(o.shape)}")
        for n, o in zip(names, outputs, strict=True)
    ]


def result_dtype(program: Program) -> "np.dtype[np.void]":
    """NAME_result as numpy reads it."""
    parts: list[tuple[str, object, tuple[int, ...]]] = []
    if has_class(program):
        parts.append(("class_index", np.int32, ()))
    if program.exits:
        parts += [("exit_index", np.int32, ()), ("entropy", np.float32, ())]
    parts += [(f.name, DTYPES[f.c_type], (f.count,)) for f in fields(program)]
    return np.dtype(parts, align=True)


def has_class(program: Program) -> bool:
    return any(isinstance(s.op, Classify | Decide) for s in program.steps)


def parameters(step: Step, overwritten: Collection[int] = ()) -> str:
    """The C parameters of a step's function, matching `arguments`; inputs that y overwrites, by number, are not `restrict`."""
    op = step.op
    only = ["" if k in overwritten else "restrict " for k in range(len(op.inputs))]
    names = zip(op.inputs, only, input_names(op), strict=True)
    inputs = [f"const {c_type(t)} *{restrict}{n}" for t, restrict, n in names]
    if isinstance(op, Store):
        return f"{inputs[0]}, {op.result_type} *restrict out"
    scratch = [f"{kind} *restrict {part}" for part, kind, _ in step.parts.scratch]
    return ", ".join(
        [*inputs, f"{c_type(op.y)} *{'' if overwritten else 'restrict '}{'out' if step.then else 'y'}", *scratch]
    )


def place(program: Program, name: str, context: str = "context->") -> str:
    """The C expression for a buffer of the arena."""
    b = program.buffer(name)
    return f"&{context}arena.{MEMBERS[b.c_type]}[{b.offset // DTYPES[b.c_type].itemsize}]"


def arguments(program: Program, step: Step, names: Mapping[str, str]) -> str:
    """The C arguments of a step's call inside NAME_run."""
    op = step.op
    if isinstance(op, Classify):
        return "result"
    if isinstance(op, Decide):
        return "result, context->exit_threshold"
    inputs = ["input" if t.name == program.graph.input.name else place(program, t.name) for t in op.inputs]
    if isinstance(op, Store):
        return f"{inputs[0]}, result->{names[op.output.name]}"
    return ", ".join(
        [
            *inputs,
            place(program, op.y.name),
            *(place(program, f"step{step.index}:{part}") for part, _, _ in step.parts.scratch),
        ]
    )


def step_comment(step: Step) -> str:
    """Origin, kernel and cost, above each function."""
    op = step.op
    close = "" if op.exact else ", close to the reference, not exact"
    origin = comment("; ".join(step.op.origin))[:300] or "the model"
    lines = [f"/* Step {step.index}: {origin}"]
    taken = f", its rows taken by {step.then.kernel}" if step.then else ""
    if not isinstance(op, Store | Decide | Classify):
        inputs = ", ".join(describe(t) for t in op.inputs)
        lines.append(f" * {inputs} -> {describe(op.y)}; kernel {step.kernel}{taken}{close}")
    else:
        lines.append(f" * kernel {step.kernel}")
    macs = f"{step.cost.macs} MACs, " if step.cost.macs else ""
    note = ", zero wait states" if step.cost.unit == "cycles" else "; cycles are not modelled for this core"
    cost = f"about {step.cost.estimate:.0f} {step.cost.unit} (compiler's estimate{note})"
    lines.append(f" * {macs}{step.flash_bytes} bytes of constants, {cost}")
    conv = op.conv if isinstance(op, Streamed) else op
    if isinstance(conv, Conv) and step.cost.worst is not None:
        lines.append(
            f" * with {100 * conv.density:.3g} % of the input bits set; for any input at most about {step.cost.worst:.0f}"
        )
    lines[-1] += " */"
    return "\n".join(lines)


def describe(t: Tensor) -> str:
    return f"{t.elem.value} {t.shape[1]}x{t.shape[2]}x{t.shape[0]}"


def step_texts(program: Program, names: Mapping[str, str]) -> tuple[list[str], list[dict[str, object]]]:
    """The functions of the steps, and their calls inside NAME_run; `names` are the fields of the result by output."""
    name, upper = program.name, program.name.upper()
    templates = environment()
    functions: list[str] = []
    calls: list[dict[str, object]] = []
    for step in program.steps:
        fn = f"{name}_step{step.index}"
        field = names[step.op.output.name] if isinstance(step.op, Store | Decide | Classify) else ""
        then = row_view(program, step.then, fn) if step.then else None
        given = parameters(step, program.overwritten(step))
        view = StepView(program, step, fn, field, given, step_comment(step), then)
        text = templates.get_template(f"kernels/{step.template}").render(s=view, m=name, upper=upper)
        if then:
            template = "_pool_row.c.j2" if isinstance(then.op, MaxPool) else then.step.template
            ring = view.ring
            text = templates.get_template(f"kernels/{template}").render(s=then, m=name, upper=upper, ring=ring) + text
        text = separate(reindent(text), upper, fn)
        functions.append(in_ram(text, upper) if step.in_ram else text)
        call = f"{fn}({arguments(program, step, names)})"
        if isinstance(step.op, Decide) and step is program.steps[-1]:
            call = f"(void){call}"
        calls.append({"text": call, "decides": isinstance(step.op, Decide) and not step.op.last})
    return functions, calls


def emit(program: Program, source: str, target: str) -> dict[str, str]:
    """The generated files by name: NAME.h, NAME.c, NAME_weights.h."""
    name = program.name
    env = environment()
    result_fields = fields(program)
    names = {o.name: f.name for o, f in zip(program.graph.outputs, result_fields, strict=True)}
    functions, calls = step_texts(program, names)
    body = "".join(functions)
    shared_functions = helpers(program, body)
    constants = [c for s in program.steps for c in s.parts.constants]
    shared = {
        "name": name,
        "upper": name.upper(),
        "source": comment(source),
        "target": target,
        "exits": program.exits.outputs if program.exits else (),
        "threshold": float_literal(program.exits.threshold) if program.exits else "",
        "has_class": has_class(program),
        "steps": program.steps,
        "unit": program.steps[0].cost.unit,
        "arena_bytes": program.arena_bytes,
        "arena_bound": program.arena_bound,
        "flash_bytes": program.flash_bytes,
        "input_type": c_type(program.graph.input),
        "input_count": program.graph.input.size,
        "input_note": input_note(program),
        "fields": result_fields,
    }
    header = env.get_template("model.h.j2").render(**shared, arena_members=arena_members(program))
    math = any(w in body + shared_functions for w in MATH) or any(
        np.isnan(c.data).any() or np.isinf(c.data).any() for c in constants if c.c_type == "float"
    )
    code = env.get_template("model.c.j2").render(
        **shared,
        memory=memory_map(program),
        uses_math=math,
        uses_memory="memcpy(" in shared_functions,
        uses_null="NULL" in body + shared_functions,
        helpers=shared_functions if shared_functions.strip() else "",
        functions=functions,
        calls=calls,
        uses_context=any("context->" in str(c["text"]) for c in calls),
    )
    arrays = [
        {"name": c.name, "c_type": c.c_type, "count": c.data.size, "text": array_text(c), "note": constant_note(c)}
        for c in constants
    ]
    weights = env.get_template("weights.h.j2").render(name=name, constants=arrays)
    return {f"{name}.h": header, f"{name}.c": code, f"{name}_weights.h": weights}


def row_view(program: Program, step: Step, function: str) -> StepView:
    """What takes the rows of the convolution in `function`: a function of its own, for one row."""
    return StepView(program, step, f"{function}_row", "", parameters(step), "/* Takes one row of what comes below. */")


def adapter(name: str) -> str:
    """model.h: what generic drivers and the firmware's runner include to see the model called `name`."""
    return (
        "/* The generated model as generic drivers and the firmware runner see it. */\n"
        f'#include "{name}.h"\n#define MODEL(name) {name}_##name\n#define MODEL_CONST(name) {name.upper()}_##name\n'
        f'#define MODEL_SOURCE "{name}.c"\n'
    )


def constant_note(c: Constant) -> str:
    return f"{' x '.join(str(d) for d in c.data.shape)}, {c.bytes} bytes"


def input_note(program: Program) -> str:
    c, h, w = program.graph.input.shape
    if h == w == 1:
        return f"{c} values"
    order = "height x width x channels" if program.nhwc else "channels x height x width"
    sizes = (h, w, c) if program.nhwc else (c, h, w)
    return f"{' x '.join(map(str, sizes))}: {order}"


def arena_members(program: Program) -> list[dict[str, object]]:
    """The union's views of the arena, one for each C type in use; words come first, so that it is aligned."""
    kinds = {b.c_type for b in program.buffers} | {"uint32_t"}
    size = max(program.arena_bytes, 4)
    order = [k for k in ("uint32_t", "int32_t", "float", "uint16_t", "int16_t", "uint8_t", "int8_t") if k in kinds]
    return [{"c_type": k, "member": MEMBERS[k], "count": size // DTYPES[k].itemsize} for k in order]


def memory_map(program: Program) -> list[str]:
    rows = []
    for b in sorted(program.buffers, key=lambda b: (b.offset, b.first)):
        what = comment(b.tensor.twin or b.name)[:60] if b.tensor else b.name.replace(":", " ")
        if b.tensor and b.tensor.negated:
            what += f" ({len(b.tensor.negated)} channels negated)"
        rows.append(f"{b.offset:6} {b.bytes:8}  {b.first:2}..{b.last:<3} {what}")
    return rows or ["(empty)"]
