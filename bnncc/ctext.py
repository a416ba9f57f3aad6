"""C as text: what the templates see of Python, indentation, arrays, and the helper functions that a model needs."""

import re
from functools import cache
from typing import Any

import jinja2
from numpy.typing import NDArray

from bnncc.kernels.base import literal
from bnncc.kernels.quads import batches
from bnncc.program import Constant, Program
from bnncc.resources import folder

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
    made.globals.update(linear=linear, gray_walk=gray_walk, quad_batches=batches)
    return made


def reindent(text: str) -> str:
    """C with four spaces a level, whatever the templates' own nesting was; blank lines neither double nor begin or end a block,
    nor stand in assembly."""
    out: list[str] = []
    depth = 0
    for raw in text.splitlines():
        line = raw.strip()
        if not line:
            if out and out[-1] and not out[-1].endswith("{") and not out[-1].lstrip().startswith('"'):
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


def separate(text: str, upper: str, entry: str) -> str:
    """C with a step's function, and the one that takes its rows, apart from NAME_run: in one large one gcc runs out of registers."""
    return re.sub(rf"^(static void {entry}(?:_row)?\()", rf"{upper}_NOINLINE \1", text, flags=re.M)


def in_ram(text: str, upper: str) -> str:
    """C with its functions in RAM, where they are called from flash: the inlined ones go where they are used."""
    return re.sub(
        rf"^(?=(?:{upper}_NOINLINE |__attribute__\(.*\) )?static (?!inline))", f"{upper}_RAM ", text, flags=re.M
    )


def helpers(program: Program, body: str) -> str:
    """The functions and macros that the steps' C calls, and what these call themselves."""
    name, upper = program.name, program.name.upper()
    used = set(re.findall(rf"\b(?:{name}|{upper})_(\w+)\(", body))
    used |= {"RAM"} if any(s.in_ram for s in program.steps) else set()
    tables = {
        (str(s.parts.params["patch_type"]), str(s.parts.params["table_type"]))
        for s in program.steps
        if s.kernel == "table_conv"
    }
    text = (
        environment()
        .get_template("helpers.c.j2")
        .render(
            m=name,
            upper=upper,
            used=used,
            tables=sorted(tables),
            lut_functions=sorted(u for u in used if re.fullmatch(r"lut_(bits|sums|table)\d+", u)),
            quad_lookups=sorted(int(u.removeprefix("quads")) for u in used if re.fullmatch(r"quads\d+", u)),
        )
    )
    return in_ram(reindent(text), upper) if "RAM" in used else reindent(text)


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
