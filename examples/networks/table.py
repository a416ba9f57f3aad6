"""Build the papers' networks at full width, compile them, verify the C against onnxruntime, and print what they cost.

    python -m examples.networks.table --networks vaessen_cifar,lenet5_table --samples 32

Without --networks it takes all of them, about half an hour. Writes NAME.onnx, networks.json with one row for each network
and storage of its real weights, and networks.md with the tables of docs/networks.md. Rows of a previous run are kept,
so that networks can be done one by one. Parameters are random: nothing here is about accuracy. Exit code 1 if a
network violates the contract of docs/exactness.md.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from torch import nn

import bnncc
from bnncc.cli.show import console, errors, print_table
from bnncc.errors import UsageError, run_script
from bnncc.files import write_whole
from bnncc.target import boards
from bnncc.train import binary_parameters
from bnncc.verify.judge import verify
from examples.networks.networks import NETWORKS, Network, export, random_model, structured_inputs

SAMPLES = {"bireal_imagenet": 4, "quicknet": 16, "bireal": 16, "binarydensenet": 16, "meliusnet": 16}
MORE = 64  # samples of all other networks
LEAST_STACK = 4096  # bytes that the firmware's linker script leaves


@dataclass(frozen=True)
class Row:
    """What became of one network. Sizes in bytes; `storage` is that of its real weights.

    `binary_macs` multiply signs with signs; `other_macs` have a value as one factor. `cycles` are the compiler's estimate
    at zero wait states, for a run through all exits. `values` were compared step by step. `same_class`: samples with the
    arg-max of the file as given in all outputs, known where storage or canonical forms change it. `boards` have the
    flash, and the RAM for context, result, input and stack.
    """

    network: str
    title: str
    storage: str
    binary_weights: int
    real_parameters: int
    binary_macs: int
    other_macs: int
    constant_bytes: int
    code_bytes: int
    context_bytes: int
    result_bytes: int
    input_bytes: int
    stack_bytes: int
    cycles: int
    steps: int
    real_steps: int
    samples: int
    values: int
    mismatches: int
    in_band: int
    left_out: int
    largest_error: float
    same_class: int | None
    compile_seconds: float
    verify_seconds: float
    ok: bool
    target: str
    boards: list[str]


def fitting(flash: int, ram: int) -> list[str]:
    """The real boards with that much flash and RAM, whatever their core: the smallest first."""
    real = [b for b in boards().values() if not b.simulated]
    real.sort(key=lambda b: (b.flash_bytes + b.ram_bytes, b.name))
    return [b.name for b in real if flash <= b.flash_bytes and ram <= b.ram_bytes]


def rows_of(network: Network, target: str, samples: int, out: Path, bar: Progress, task: TaskID) -> Iterator[Row]:
    """Do all that there is to do with a network; a row for each storage of its real weights."""
    storages = ("f32", "i8") if network.i8 else ("f32",)
    bar.update(task, total=2 + 2 * (samples + 1) * len(storages), completed=0, description=f"{network.name}: calibrate")
    model = random_model(network)
    bar.update(task, advance=1, description=f"{network.name}: export")
    path = out / f"{network.name}.onnx"
    export(network, model, path)
    bar.advance(task)
    for storage in storages:
        bar.update(task, description=f"{network.name} {storage}: compile")
        yield row_of(network, model, path, storage, target, samples, bar, task)


def row_of(
    network: Network, model: nn.Module, path: Path, storage: str, target: str, samples: int, bar: Progress, task: TaskID
) -> Row:
    begin = time.perf_counter()
    compiled = bnncc.compile(path, target, name="net", real_weights=storage)
    compiled_at = time.perf_counter()
    report: dict[str, Any] = compiled.report
    totals = report["totals"]
    bar.update(task, advance=2, description=f"{network.name} {storage}: verify")
    x = structured_inputs(network, samples, seed=1)
    verify_from = time.perf_counter()
    verdict = verify(compiled, x[:, None], tick=lambda n: bar.advance(task, n))
    verified_at = time.perf_counter()
    binary = sum(p.numel() for p in binary_parameters(model))
    binary_macs = sum(r["binary_macs"] for r in report["layers"])
    code = (totals["code_bytes"] or 0) + (totals["library_bytes"] or 0)
    stack = totals["worst_stack_bytes"] or 0
    ram = totals["ram_bytes"] + report["input"]["bytes"] + max(stack, LEAST_STACK)
    wrong = [o.mismatched_samples for o in verdict.outputs]
    wrong += [verdict.wrong_classes, verdict.exits.mismatched_samples if verdict.exits else 0]
    return Row(
        network=network.name,
        title=network.title,
        storage=storage,
        binary_weights=binary,
        real_parameters=sum(p.numel() for p in model.parameters()) - binary,
        binary_macs=binary_macs,
        other_macs=totals["macs"] - binary_macs,
        constant_bytes=totals["constant_bytes"],
        code_bytes=code,
        context_bytes=totals["context_bytes"],
        result_bytes=totals["result_bytes"],
        input_bytes=report["input"]["bytes"],
        stack_bytes=stack,
        cycles=totals["cycles"],
        steps=len(report["layers"]),
        real_steps=sum(r["real_valued"] is not None for r in report["layers"]),
        samples=verdict.samples,
        values=sum(s.values for s in verdict.steps),
        mismatches=sum(s.mismatches for s in verdict.steps) + sum(wrong),
        in_band=sum(s.band for s in verdict.steps),
        left_out=verdict.left_out,
        largest_error=max(o.largest_error for o in verdict.outputs),
        same_class=verdict.given.agreeing_samples if verdict.given else None,
        compile_seconds=round(compiled_at - begin, 1),
        verify_seconds=round(verified_at - verify_from, 1),
        ok=verdict.ok,
        target=target,
        boards=fitting(totals["constant_bytes"] + code, ram),
    )


def label(row: Row) -> str:
    return row.title if row.storage == "f32" else f"{row.title}, real weights {row.storage}"


def cost_table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    headings = [
        "network", "binary weights", "real parameters", "binary MACs", "other MACs", "constants", "code", "RAM: context",
        "result", "input", "stack", "cycles", "fits",
    ]  # fmt: skip
    return headings, [
        [
            label(r), *(f"{n:,}" for n in (r.binary_weights, r.real_parameters)), millions(r.binary_macs),
            millions(r.other_macs), *(f"{n:,}" for n in (r.constant_bytes, r.code_bytes, r.context_bytes, r.result_bytes)),
            f"{r.input_bytes:,}", f"{r.stack_bytes:,}", millions(r.cycles), fit(r),
        ]
        for r in rows
    ]  # fmt: skip


def check_table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    headings = [
        "network", "steps", "on real values", "samples", "values compared", "outside of the contract", "bits in band",
        "samples left out", "largest error", "class as in the file", "compile s", "verify s", "verdict",
    ]  # fmt: skip
    return headings, [
        [
            label(r), str(r.steps), str(r.real_steps), str(r.samples), f"{r.values:,}", str(r.mismatches), str(r.in_band),
            str(r.left_out), f"{r.largest_error:.2g}", "-" if r.same_class is None else f"{r.same_class} of {r.samples}",
            f"{r.compile_seconds:.1f}", f"{r.verify_seconds:.1f}", "verified" if r.ok else "FAILED",
        ]
        for r in rows
    ]  # fmt: skip


def millions(n: int) -> str:
    return f"{n / 1e6:,.1f} M" if n >= 1e5 else f"{n:,}"


def fit(row: Row) -> str:
    """The boards in a few words: those that it fits, or those that are too small."""
    missing = [name for name in fitting(0, 0) if name not in row.boards]
    if not missing:
        return "all"
    if len(missing) < len(row.boards):
        return f"all but {', '.join(missing)}"
    return ", ".join(row.boards) or "none"


def markdown(rows: list[Row]) -> str:
    parts = []
    for headings, cells in (cost_table(rows), check_table(rows)):
        lines = [headings, ["---", *["---:"] * (len(headings) - 2), "---"], *cells]
        parts.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(parts)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compile and verify the papers' networks at full width.")
    parser.add_argument("--networks", metavar="A,B", help=f"of {', '.join(n.name for n in NETWORKS)}; all without it")
    parser.add_argument("--samples", type=int, help=f"of each network ({MORE}, of the large ones 16 or 4)")
    parser.add_argument("--target", default="cortex-m7", help="a core or a board (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/networks"), help="folder for the results (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON instead of tables")
    options = parser.parse_args()
    if options.samples is not None and options.samples < 1:
        parser.error("--samples must be at least 1")
    return options


def chosen(names: str | None) -> list[Network]:
    """The networks with these names. Raises UsageError E0404."""
    known = {n.name: n for n in NETWORKS}
    wanted = names.split(",") if names else list(known)
    if unknown := [n for n in wanted if n not in known]:
        raise UsageError.of("E0404", f"there is no network {unknown[0]!r}", remedy=f"use some of: {', '.join(known)}")
    return [known[n] for n in wanted]


def earlier(file: Path) -> dict[tuple[str, str, str], Row]:
    """The rows of earlier runs by target, network and storage. Raises UsageError E0404."""
    if not file.exists():
        return {}
    try:
        rows = [Row(**r) for r in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise UsageError.of(
            "E0404", f"cannot use {file}: {error}", remedy="delete it, or choose another --out"
        ) from error
    return {(r.target, r.network, r.storage): r for r in rows}


def main() -> int:
    options = arguments()
    file = options.out / "networks.json"
    networks = chosen(options.networks)
    rows = earlier(file)
    order = {n.name: k for k, n in enumerate(NETWORKS)}
    done: list[Row] = []
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=options.json or not errors.is_terminal) as bar:
        whole = bar.add_task("networks", total=len(networks))
        task = bar.add_task("")
        for network in networks:
            samples = options.samples or SAMPLES.get(network.name, MORE)
            for row in rows_of(network, options.target, samples, options.out, bar, task):
                done.append(row)
                rows[row.target, row.network, row.storage] = row
                every = sorted(rows.values(), key=lambda r: (r.target, order[r.network], r.storage))
                write_whole(file, (json.dumps([asdict(r) for r in every], indent=1) + "\n").encode())
                shown = [r for r in every if r.target == options.target]
                write_whole(options.out / "networks.md", markdown(shown).encode())
            bar.advance(whole)
    if options.json:
        print(json.dumps([asdict(r) for r in done], indent=1))
    else:
        for title, (headings, cells) in (("cost", cost_table(done)), ("verification", check_table(done))):
            columns_of = [(h, "left" if h in ("network", "fits", "verdict") else "right") for h in headings]
            print_table(f"{title}, for {options.target}", columns_of, cells)
        console.print(f"written to {options.out}: networks.json, networks.md", highlight=False)
    return 0 if all(r.ok for r in done) else 1


if __name__ == "__main__":
    run_script(main)
