"""Runs single ops as C: every op's input, output and scratch is an array of exactly its size, poisoned before the call."""

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bnncc.emit import emit, parameters
from bnncc.graph import Elem, Graph, Op, Output, Tensor
from bnncc.layout import DTYPES, c_type, elements, pack, unpack
from bnncc.lower import select, store
from bnncc.outputs import Store
from bnncc.plan import plan
from bnncc.program import Buffer, Program, Step, tensor_buffer
from bnncc.resources import folder
from bnncc.sim.qemu import run_program
from bnncc.target import Core
from bnncc.verify import bounds
from bnncc.verify.harness import SANITIZERS, WARNINGS

HOST = ("gcc", "-std=c99", "-O1", "-g", "-ffp-contract=off", *WARNINGS, "-Wno-unused-function", *SANITIZERS)


@dataclass
class Case:
    """An op, the kernel to run it with, its inputs [N, C, H, W]; `first` if it reads the network's input in that layout."""

    op: Op
    kernel: str
    x: np.ndarray
    first: str = ""  # "nchw" or "nhwc"


def named(case: Case, index: int) -> Op:
    """The op with tensor names that are its own; the network's input is called "input"."""
    op = case.op
    x = replace(op.x, name="input" if case.first else f"x{index}")
    changed = {"x": x, "y": replace(op.y, name=f"y{index}")}
    if isinstance(op, Store):
        changed["output"] = replace(op.output, tensor=x)
    return type(op)(**{**op.__dict__, **changed})


def program_of(cases: list[Case], core: Core) -> Program:
    """A program whose steps are unrelated: each has its own input. A last step makes an output, as emit() needs one."""
    first = next((c for c in cases if c.first), None)
    ops = [named(c, k) for k, c in enumerate(cases)]
    source = next((o.x for o, c in zip(ops, cases, strict=True) if c is first), Tensor("input", Elem.U8, (1, 1, 1)))
    last = Output("last", (1, source.size), source)
    graph = Graph(source, tuple(ops), (last, *(o.output for o in ops if isinstance(o, Store))))
    graph = replace(graph, outputs=tuple(replace(o, name=f"out{k}") for k, o in enumerate(graph.outputs)))
    outputs = iter(graph.outputs[1:])
    ops = [type(o)(**{**o.__dict__, "output": next(outputs)}) if isinstance(o, Store) else o for o in ops]
    steps = [select(o, core, "bench", k, c.kernel) for k, (o, c) in enumerate(zip(ops, cases, strict=True))]
    steps.append(select(store(graph.outputs[0]), core, "bench", len(steps), None))
    for s, c in zip(steps, cases, strict=False):
        assert s.kernel == c.kernel, f"{c.kernel} refused: {s.considered}"
    buffers = [b for s in steps[:-1] for b in buffers_of(s)]
    placed, arena, bound = plan(buffers)
    return Program("bench", graph, tuple(steps), placed, arena, bound, first is not None and first.first == "nhwc")


def buffers_of(s: Step) -> list[Buffer]:
    tensors = [t for t in (s.op.x, *([] if isinstance(s.op, Store) else [s.op.y])) if t.name != "input"]
    return [tensor_buffer(t, s.index, s.index) for t in tensors] + [
        Buffer(f"step{s.index}:{part}", kind, n, s.index, s.index) for part, kind, n in s.parts.scratch
    ]


def result_array(op: Op) -> tuple[str, int]:
    return (op.result_type, op.y.size) if isinstance(op, Store) else (c_type(op.y), elements(op.y))


def driver(program: Program, samples: int) -> str:
    """main(): for every sample and step, poison all arrays, read x, call, write y."""
    arrays, calls = [], []
    for s in program.steps[:-1]:
        k = s.index
        kind, count = result_array(s.op)
        own = [(f"x{k}", c_type(s.op.x), elements(s.op.x)), (f"y{k}", kind, count)]
        own += [(f"{part}{k}", c, n) for part, c, n in s.parts.scratch]
        assert parameters(s).count(",") == len(own) - 1
        arrays += [f"static {c} {n}[{count}];" for n, c, count in own]
        calls += [f"poison({n}, sizeof {n});" for n, _, _ in own]
        calls += [
            f'if (port_read(in, x{k}, sizeof x{k}) != sizeof x{k}) port_fail("short");',
            f"bench_step{k}({', '.join(n for n, _, _ in own)});",
            f"port_write(out, y{k}, sizeof y{k});",
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


def stored_input(case: Case) -> np.ndarray:
    """x as the C reads it, [N, bytes]."""
    x, t = case.x, case.op.x
    if case.first:
        order = x if case.first == "nchw" else np.moveaxis(x, 1, -1)
        raw = np.ascontiguousarray(order.reshape(len(x), -1).astype(DTYPES[c_type(t)]))
    else:
        raw = np.ascontiguousarray(pack(t, x))
    return raw.view(np.uint8).reshape(len(x), -1)


def run(cases: list[Case], core: Core, where: Path, *, sim: bool) -> list[np.ndarray]:
    """What the C gives for each case, as stored: [N, elements]."""
    program = program_of(cases, core)
    for name, text in emit(program, "bench", core.name).items():
        (where / name).write_text(text)
    samples = len(cases[0].x)
    source = where / "driver.c"
    source.write_text(driver(program, samples))
    (where / "in.bin").write_bytes(np.concatenate([stored_input(c) for c in cases], axis=1).tobytes())
    if sim:
        run_program([source], core, cwd=where, include=[where])
    else:
        command = [*HOST, f"-I{folder('firmware') / 'sim'}", str(source), "-o", str(where / "driver"), "-lm"]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr[:3000]
        ran = subprocess.run([str(where / "driver")], cwd=where, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[:3000]
    rows = np.fromfile(where / "out.bin", np.uint8).reshape(samples, -1)
    out, at = [], 0
    for s in program.steps[:-1]:
        kind, count = result_array(s.op)
        size = count * DTYPES[kind].itemsize
        out.append(np.ascontiguousarray(rows[:, at : at + size]).view(DTYPES[kind]))
        at += size
    assert at == rows.shape[1]
    return out


def check(case: Case, stored: np.ndarray) -> None:
    """The C's output equals the op's meaning: bit for bit, or within the derived bound where real values are summed."""
    op, n = case.op, len(case.x)
    with np.errstate(all="ignore"):
        want = op.evaluate(np.asarray(case.x, op.x.elem.dtype))
    if isinstance(op, Store):
        got = stored.reshape(want.shape)
    else:
        got = unpack(op.y, stored)
        assert np.array_equal(pack(op.y, got), stored) or op.y.elem is Elem.F32, "padding bits are set"
    if op.exact:
        assert np.array_equal(got, want, equal_nan=op.y.elem is Elem.F32), describe(case, got, want)
        return
    b = bounds.apply(op, bounds.exact(case.x))
    if b.band is not None:
        assert np.array_equal(got[~b.band], want[~b.band]), describe(case, got, want)
    else:
        assert (np.abs(got.reshape(n, -1) - b.value.reshape(n, -1)) <= b.error.reshape(n, -1)).all(), describe(
            case, got, want
        )


def describe(case: Case, got: np.ndarray, want: np.ndarray) -> str:
    """The op without its arrays, and where it went wrong."""
    plain = {k: v for k, v in case.op.__dict__.items() if k not in ("weight", "cut", "output", "steps")}
    bad = np.argwhere(got != want)
    return f"{case.kernel} {case.first}: {len(bad)} of {got.size} differ, first at {bad[:1].tolist()}; {plain}"
