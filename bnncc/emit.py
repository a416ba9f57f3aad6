"""Program -> C: one header, one source, one file of constants. The same program gives the same bytes."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from bnncc.kernels.base import float_literal, literal
from bnncc.layout import DTYPES, MEMBERS, c_type
from bnncc.names import comment, identifiers
from bnncc.ops import Conv, MaxPool, Streamed
from bnncc.outputs import Classify, Decide, Store
from bnncc.program import Constant, Program, Step
from bnncc.resources import folder
from bnncc.tensor import Tensor
from bnncc.view import StepView, input_names

MATH = (
    "expf(",
    "fmaf(",
    "sqrtf(",
    "tanhf(",
    "rintf(",
    "floorf(",
    "ceilf(",
    "fabsf(",
    "logf(",
    "HUGE_VALF",
    "NAN",
)
RESERVED = ("class_index", "exit_index", "entropy", "input", "step", "exit")  # NAME_INPUT_COUNT and the like are taken


@dataclass(frozen=True)
class Field:
    """An array of the result: its C name and type, the output it holds."""

    name: str
    c_type: str
    count: int
    note: str


def linear(variable: str, factor: int, offset: int = 0) -> str:
    """C for variable * factor + offset, without what changes nothing."""
    product = variable if factor == 1 else f"{variable} * {factor}"
    return product if offset == 0 else f"{product} {'+' if offset > 0 else '-'} {abs(offset)}"


def gray_walk(bits: int) -> list[tuple[int, int, bool]]:
    """The Gray codes of so many bits, each with the bit that the step to it flips and whether it is set then."""
    codes = [(n ^ n >> 1, (n & -n).bit_length() - 1) for n in range(1 << bits)]
    return [(code, bit, bool(code >> max(bit, 0) & 1)) for code, bit in codes]


@cache
def environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    made.globals.update(linear=linear, gray_walk=gray_walk)
    return made


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


def reindent(text: str) -> str:
    """C with four spaces a level, whatever the templates' own nesting was; blank lines neither double nor begin or end a block."""
    out: list[str] = []
    depth = 0
    for raw in text.splitlines():
        line = raw.strip()
        if not line:
            if out and out[-1] and not out[-1].endswith("{"):
                out.append("")
            continue
        if line.startswith("}") and out and not out[-1]:
            out.pop()
        if line.startswith(("#", "/*", "*")) or (out and out[-1].endswith("\\")):
            out.append(raw.rstrip() if depth == 0 else "    " * depth + line)
            continue
        closing = line.startswith("}")
        depth -= closing
        out.append("    " * depth + line)
        depth += line.count("{") - line.count("}") + closing
    return "\n".join(out).strip("\n") + "\n"


def in_ram(text: str, upper: str, entry: str = "") -> str:
    """C with its functions in RAM, where they are called from flash: the inlined ones go where they are used."""
    text = re.sub(rf"^(static void {entry}\()", rf"{upper}_NOINLINE \1", text, flags=re.M) if entry else text
    return re.sub(
        rf"^(?=(?:{upper}_NOINLINE |__attribute__\(.*\) )?static (?!inline))", f"{upper}_RAM ", text, flags=re.M
    )


BLOCK = 48 << 10  # values of an array that are text one by one at once; whole lines


def array_text(a: Constant) -> str:
    """The initialiser of a constant, a dozen values a line."""
    flat = a.data.ravel()
    per_line = 12 if a.c_type == "uint32_t" else 16
    lines: list[str] = []
    for start in range(0, len(flat), BLOCK):
        texts = value_texts(a.c_type, flat[start : start + BLOCK])
        lines += ["    " + ", ".join(texts[i : i + per_line]) for i in range(0, len(texts), per_line)]
    return ",\n".join(lines)


def value_texts(kind: str, values: NDArray[Any]) -> list[str]:
    if kind == "float":
        return [literal(v) for v in values.tolist()]
    if kind.startswith("u") and values.itemsize > 1:
        digits = 2 * values.itemsize
        shown = values.astype(values.dtype.newbyteorder(">")).tobytes().hex()
        suffix = "u" if digits == 8 else ""
        return [f"0x{shown[i : i + digits]}{suffix}" for i in range(0, len(shown), digits)]
    return ["INT32_MIN" if kind == "int32_t" and v == -(1 << 31) else str(v) for v in values.tolist()]


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
            f" * with {100 * conv.density:.3g} % of the input bits set; at most {step.cost.worst:.0f} for any input"
        )
    lines[-1] += " */"
    return "\n".join(lines)


def describe(t: Tensor) -> str:
    return f"{t.elem.value} {t.shape[1]}x{t.shape[2]}x{t.shape[0]}"


def emit(program: Program, source: str, target: str) -> dict[str, str]:
    """The generated files by name: NAME.h, NAME.c, NAME_weights.h."""
    name, upper = program.name, program.name.upper()
    env = environment()
    result_fields = fields(program)
    names = {o.name: f.name for o, f in zip(program.graph.outputs, result_fields, strict=True)}
    functions, calls = [], []
    for step in program.steps:
        fn = f"{name}_step{step.index}"
        field = names[step.op.output.name] if isinstance(step.op, Store | Decide | Classify) else ""
        then = row_view(program, step.then, fn) if step.then else None
        given = parameters(step, program.overwritten(step))
        view = StepView(program, step, fn, field, given, step_comment(step), then)
        text = env.get_template(f"kernels/{step.template}").render(s=view, m=name, upper=upper)
        if then:
            template = "_pool_row.c.j2" if isinstance(then.op, MaxPool) else then.step.template
            ring = view.ring
            text = env.get_template(f"kernels/{template}").render(s=then, m=name, upper=upper, ring=ring) + text
        functions.append(in_ram(reindent(text), upper, fn) if step.in_ram else reindent(text))
        calls.append(
            {
                "text": f"{fn}({arguments(program, step, names)})",
                "decides": isinstance(step.op, Decide) and not step.op.last,
            }
        )
    if isinstance(program.steps[-1].op, Decide):
        calls[-1]["text"] = f"(void){calls[-1]['text']}"
    body = "".join(functions)
    tables = sorted(
        {
            (str(s.parts.params["patch_type"]), str(s.parts.params["table_type"]))
            for s in program.steps
            if s.kernel == "table_conv"
        }
    )
    used = [
        w
        for w in (
            "copy",
            "differing",
            "differing1",
            "differing2",
            "differing3",
            "differing_masked",
            "rounded",
            "fold",
            "decide",
            "half",
        )
        if f"{name}_{w}(" in body
    ]
    used += [w for w in ("MULTIPLY_ADD", "MDFA") if f"{upper}_{w}(" in body]
    used += ["NOINLINE"] * (f"{upper}_NOINLINE" in body)
    used += ["RAM"] * any(s.in_ram for s in program.steps)
    counting = (
        "lut_places",
        "count",
        "unpack",
        "count_vector",
        "unpack_vector",
        "list_down",
        *(f"sums{k}" for k in range(3, 7)),
    )
    used += [w for w in counting if f"{name}_{w}(" in body]
    lut_functions = sorted(set(re.findall(rf"\b{name}_(lut_(?:bits|sums|table)\d+)\(", body)))
    shown = {"used": used, "tables": tables, "lut_functions": lut_functions}
    helpers = reindent(env.get_template("helpers.c.j2").render(m=name, upper=upper, **shown))
    helpers = in_ram(helpers, upper) if "RAM" in used else helpers
    constants = [c for s in program.steps for c in s.parts.constants]
    shared = {
        "name": name,
        "upper": upper,
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
    math = any(w in body + helpers for w in MATH) or any(
        np.isnan(c.data).any() or np.isinf(c.data).any() for c in constants if c.c_type == "float"
    )
    code = env.get_template("model.c.j2").render(
        **shared,
        memory=memory_map(program),
        uses_math=math,
        uses_memory="memcpy(" in helpers,
        uses_null="NULL" in body + helpers,
        helpers=helpers if helpers.strip() else "",
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
