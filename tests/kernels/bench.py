"""Runs single ops as C: every op's inputs, output and scratch are arrays of exactly their size, poisoned before the call."""

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bnncc.emit import emit, parameters
from bnncc.graph import Graph, Output
from bnncc.layout import DTYPES, c_type, elements, pack, unit, unpack
from bnncc.lower import Within, select, store
from bnncc.ops import NormSign, Streamed
from bnncc.outputs import Store
from bnncc.plan import plan
from bnncc.program import Buffer, Program, Step, tensor_buffer
from bnncc.resources import folder
from bnncc.sim.qemu import run_program
from bnncc.target import Core
from bnncc.tensor import Elem, Op, Tensor
from bnncc.verify import bounds
from bnncc.verify.harness import SANITIZERS, WARNINGS

HOST = ("gcc", "-std=c99", "-O1", "-g", "-ffp-contract=off", *WARNINGS, "-Wno-unused-function", *SANITIZERS)


@dataclass(frozen=True)
class Case:
    """An op, the kernel to run it with, the values of its inputs [N, C, H, W].

    `layout` is "nchw" or "nhwc" if the op reads the network's input in that order, as its input number `place`. The output
    overwrites input number `over`, if any. `beside` are words of others before and after those of each pixel of the output.
    """

    op: Op
    kernel: str
    values: tuple[np.ndarray, ...]
    layout: str = ""
    place: int = 0
    over: int | None = None
    beside: tuple[int, int] = (0, 0)

    def is_input(self, place: int) -> bool:
        """Whether one of the op's inputs is the network's."""
        return bool(self.layout) and place == self.place


def named(case: Case, index: int) -> Op:
    """The op with tensor names that are its own; the network's input is called "input"."""
    op = case.op
    x, *others = (replace(t, name="input" if case.is_input(k) else f"x{index}_{k}") for k, t in enumerate(op.inputs))
    changed = {"x": x, "others": tuple(others), "y": replace(op.y, name=f"y{index}")}
    if isinstance(op, Streamed):
        conv, then = replace(op.conv, x=x, others=tuple(others)), replace(op.then, y=changed["y"])
        return Streamed.of(conv, then, op.at_once)
    if isinstance(op, Store):
        changed["output"] = replace(op.output, tensor=x)
    return replace(op, **changed)


def program_of(cases: list[Case], core: Core) -> Program:
    """A program whose steps are unrelated: each has its own inputs. A last step makes an output, as emit() needs one."""
    ops = [named(c, k) for k, c in enumerate(cases)]
    read = [t for op in ops for t in op.inputs if t.name == "input"]
    source = read[0] if read else Tensor("input", Elem.U8, (1, 1, 1))
    last = Output("last", (1, source.size), source)
    graph = Graph(source, tuple(ops), (last, *(o.output for o in ops if isinstance(o, Store))))
    graph = replace(graph, outputs=tuple(replace(o, name=f"out{k}") for k, o in enumerate(graph.outputs)))
    outputs = iter(graph.outputs[1:])
    ops = [replace(o, output=next(outputs)) if isinstance(o, Store) else o for o in ops]
    steps = [select(o, core, "bench", k, c.kernel) for k, (o, c) in enumerate(zip(ops, cases, strict=True))]
    steps.append(select(store(graph.outputs[0]), core, "bench", len(steps), None))
    for s, c in zip(steps, cases, strict=False):
        assert s.kernel == c.kernel, f"{c.kernel} refused: {s.considered}"
    within = {
        s.op.y.name: (replace(s.op.y, name=f"whole{k}", shape=(32 * pixel_words(c), *s.op.y.shape[1:])), c.beside[0])
        for k, (s, c) in enumerate(zip(steps, cases, strict=False))
        if any(c.beside)
    }
    buffers = [b for s in steps[:-1] for b in buffers_of(s, within)]
    placed, arena, bound = plan(buffers)
    for s, c in zip(steps, cases, strict=False):
        if c.over is not None:
            placed = in_place(placed, s.op.inputs[c.over].name, s.op.y.name)
    return Program("bench", graph, tuple(steps), placed, arena, bound, any(c.layout == "nhwc" for c in cases), within)


def pixel_words(case: Case) -> int:
    """Of the output's pixels, with what is beside them."""
    return unit(case.op.y.shape[0]).words + sum(case.beside)


def buffers_of(s: Step, within: Within) -> list[Buffer]:
    y = within.get(s.op.y.name, (s.op.y, 0))[0]
    tensors = [t for t in (*s.op.inputs, *([] if isinstance(s.op, Store) else [y])) if t.name != "input"]
    return [tensor_buffer(t, s.index, s.index) for t in tensors] + [
        Buffer(f"step{s.index}:{part}", kind, n, s.index, s.index) for part, kind, n in s.parts.scratch
    ]


def in_place(buffers: tuple[Buffer, ...], x: str, y: str) -> tuple[Buffer, ...]:
    """The buffers with y where x is."""
    offset = next(b.offset for b in buffers if b.name == x)
    return tuple(replace(b, over=(x,), offset=offset) if b.name == y else b for b in buffers)


def result_array(op: Op, apart: int = 0) -> tuple[str, int]:
    """C type and size, with so many words of others to a pixel."""
    if apart:
        return "uint32_t", op.y.pixels * (unit(op.y.shape[0]).words + apart)
    return (op.result_type, op.y.size) if isinstance(op, Store) else (c_type(op.y), elements(op.y))


def driver(program: Program, samples: int) -> str:
    """main(): for every sample and step, poison all arrays, read x, call, write y."""
    arrays, calls = [], []
    for s in program.steps[:-1]:
        k = s.index
        kind, count = result_array(s.op, program.apart(s.op.y))
        given = [(f"x{k}_{j}", c_type(t), elements(t)) for j, t in enumerate(s.op.inputs)]
        over = program.overwritten(s)
        y = f"x{k}_{over[0]}" if over else f"y{k}"
        scratch = [(f"{part}{k}", c, n) for part, c, n in s.parts.scratch]
        own = [*given, *([] if over else [(y, kind, count)]), *scratch]
        first = f" + {program.within[s.op.y.name][1]}" if s.op.y.name in program.within else ""
        passed = [n for n, _, _ in given] + [y + first] + [n for n, _, _ in scratch]
        assert parameters(s).count(",") == len(passed) - 1
        arrays += [f"static {c} {n}[{count}] __attribute__((aligned(4)));" for n, c, count in own]  # as in the arena
        calls += [f"poison({n}, sizeof {n});" for n, _, _ in own]
        calls += [
            *(f'if (port_read(in, {n}, sizeof {n}) != sizeof {n}) port_fail("short");' for n, _, _ in given),
            f"bench_step{k}({', '.join(passed)});",
            f"port_write(out, {y}, {count} * sizeof *{y});",
        ]
    body = "\n        ".join(calls)
    return f"""#include "port.h"
#include "bench.c"
{chr(10).join(arrays)}
static void poison(void *memory, size_t bytes)
{{
    unsigned char *p = memory;
    for (size_t i = 0; i < bytes; i++) p[i] = (unsigned char)(0xdeadbeefu >> (i % 4 * 8));
}}
int main(void)
{{
    const port_file in = port_open("in.bin", PORT_READ), out = port_open("out.bin", PORT_WRITE);
    for (int sample = 0; sample < {samples}; sample++) {{
        {body}
    }}
    port_close(out);
    port_close(in);
    return 0;
}}
"""


def stored_input(case: Case, place: int) -> np.ndarray:
    """One input as the C reads it, [N, bytes]."""
    x, t = case.values[place], case.op.inputs[place]
    if case.is_input(place):
        order = x if case.layout == "nchw" else np.moveaxis(x, 1, -1)
        raw = np.ascontiguousarray(order.reshape(len(x), -1).astype(DTYPES[c_type(t)]))
    else:
        raw = np.ascontiguousarray(pack(t, x))
    return raw.view(np.uint8).reshape(len(x), -1)


def write(cases: list[Case], core: Core, where: Path) -> Path:
    """The generated C of all cases, a driver and its inputs in the folder `where`: the driver's source."""
    program = program_of(cases, core)
    for name, text in emit(program, "bench", core.name).items():
        (where / name).write_text(text)
    source = where / "driver.c"
    source.write_text(driver(program, len(cases[0].values[0])))
    stored = [stored_input(c, k) for c in cases for k in range(len(c.values))]
    (where / "in.bin").write_bytes(np.concatenate(stored, axis=1).tobytes())
    return source


def run(
    cases: list[Case], core: Core, where: Path, *, sim: bool = False, compiler: tuple[str, ...] = HOST
) -> list[np.ndarray]:
    """What the C gives for each case, as stored: [N, elements]."""
    source = write(cases, core, where)
    if sim:
        run_program([source], core, cwd=where, include=[where])
    else:
        command = [*compiler, f"-I{folder('firmware') / 'sim'}", str(source), "-o", str(where / "driver"), "-lm"]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr[:3000]
        ran = subprocess.run([str(where / "driver")], cwd=where, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[:3000]
    rows = np.fromfile(where / "out.bin", np.uint8).reshape(len(cases[0].values[0]), -1)
    out, at = [], 0
    for c in cases:
        kind, count = result_array(c.op, sum(c.beside))
        size = count * DTYPES[kind].itemsize
        out.append(alone(c, np.ascontiguousarray(rows[:, at : at + size]).view(DTYPES[kind])))
        at += size
    assert at == rows.shape[1]
    return out


def alone(case: Case, stored: np.ndarray) -> np.ndarray:
    """The output without what is beside it, which must be as it was."""
    if not any(case.beside):
        return stored
    before, after = case.beside
    pixels = stored.reshape(len(stored), case.op.y.pixels, -1)
    own = slice(before, pixels.shape[2] - after)
    assert (np.delete(pixels, own, axis=2) == 0xDEADBEEF).all(), f"{case.kernel} writes beside its output"
    return np.ascontiguousarray(pixels[:, :, own]).reshape(len(stored), -1)


def check(case: Case, stored: np.ndarray) -> None:
    """The C's output equals the op's meaning: bit for bit, or within the derived bound where real values are summed."""
    op, n = case.op, len(case.values[0])
    values = [np.asarray(v, t.elem.dtype) for v, t in zip(case.values, op.inputs, strict=True)]
    with np.errstate(all="ignore"):
        want = op.evaluate(*values)
    if isinstance(op, Store):
        got = stored.reshape(want.shape)
    else:
        got = unpack(op.y, stored)
        assert np.array_equal(pack(op.y, got), stored) or op.y.elem is Elem.F32, "padding bits are set"
    if op.exact:
        assert np.array_equal(got, want, equal_nan=op.y.elem is Elem.F32), describe(case, got, want)
        if not isinstance(op, Streamed):  # of -0.0 and 0.0 a maximum may be either
            assert np.array_equal(np.signbit(got[got == 0]), np.signbit(want[got == 0])), describe(case, got, want)
        return
    with np.errstate(all="ignore"):
        b = bounds.apply(op, *map(bounds.exact, values))
    if b.band is not None:
        assert np.array_equal(got[~b.band], want[~b.band]), describe(case, got, want)
        band = b.band[np.broadcast_to(varied(op, values[0]), b.band.shape)]
        assert band.size < 100 or band.mean() < 0.5, "the tolerance says nothing"
    else:
        near = np.abs(got.reshape(n, -1) - b.value.reshape(n, -1)) <= 2 * b.error.reshape(n, -1)
        assert (near | (got == b.value).reshape(n, -1)).all(), describe(case, got, want)


def varied(op: Op, x: np.ndarray) -> np.ndarray:
    """Where the values normalised together are not all equal; equal ones become 0 but for rounding, a tie with any sign."""
    if not isinstance(op, NormSign):
        return np.array(True)
    return x.max(axis=op.axes, keepdims=True) != x.min(axis=op.axes, keepdims=True)


def describe(case: Case, got: np.ndarray, want: np.ndarray) -> str:
    """The op without its arrays, and where it went wrong."""
    plain = {k: v for k, v in case.op.__dict__.items() if k not in ("weight", "cut", "output", "scales")}
    at = tuple(np.argwhere(~((got == want) | (np.isnan(got) & np.isnan(want))))[:1].T)
    bad = int((got != want).sum())
    return f"{case.kernel} {case.layout}: {bad} of {got.size} differ, first at {at}: {got[at]}, not {want[at]}; {plain}"
