"""What is kept in RAM where flash has wait states: the compiler's choice, its report, and what it is worth in the simulator."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bnncc
from bnncc.emit import emit
from bnncc.kernels import KERNELS
from bnncc.lower import Ram, lower
from bnncc.sim import calibrate
from bnncc.sim.bench import SHAPES, layer, run
from bnncc.sim.footprint import footprint
from bnncc.target import Core, Flash, cores, find_target
from bnncc.waits import Reads, for_code, for_constants

DIGITS = Path(__file__).parents[1] / "examples" / "digits" / "digits.onnx"
PLAIN = Flash(5, 8)
ART = Flash(5, 16, prefetch=True, instruction_lines=64, data_lines=8)
C32 = next(s for s in SHAPES if s.name == "32-32")
COPIES = {k.name for k in KERNELS if k.copies}


def core(flash: Flash | None) -> Core:
    return replace(cores()["cortex-m4"], flash=flash)


def test_reading_constants() -> None:
    assert for_constants(Reads(100), None) == 0
    assert for_constants(Reads(100, 0.5, 400), PLAIN) == 500
    assert for_constants(Reads(100, 1, 4000), ART) == 125  # a line of four words at a time
    assert for_constants(Reads(100, 0.5, 4000), ART) == pytest.approx(
        500 * 15 / 32
    )  # 15 of 16 lines for 32 of 64 words
    assert for_constants(Reads(100, 1, 128), ART) == 40  # eight lines, once


def test_code() -> None:
    assert for_code(1000, core(None)) == for_code(1000, core(ART)) == 0
    assert for_code(1000, core(PLAIN)) == pytest.approx(1000 * core(None).fetch / 8 * 5)
    assert 0 < for_code(1000, core(replace(PLAIN, prefetch=True))) < for_code(1000, core(PLAIN))


def test_nothing_is_copied_without_wait_states() -> None:
    program = lower(layer(C32, 0.5), core(None), "m")
    assert not COPIES & {c.kernel for s in program.steps for c in s.considered}
    assert not any(s.in_ram or s.copied_bytes or s.cost.waiting for s in program.steps)


def test_the_choice_follows_the_flash_and_the_room() -> None:
    def chosen(flash: Flash, ram: Ram) -> tuple[str, bool]:
        program = lower(layer(C32, 0.5), core(flash), "m", ram=ram)
        step = program.steps[1]
        assert step.copied_bytes == 0 or step.kernel in COPIES
        return step.kernel, step.in_ram

    roomy = Ram(8_000, 8_000)  # for copies, not for tables
    assert chosen(PLAIN, roomy) == ("sbs_conv_ram", True)
    assert chosen(ART, roomy) == ("sbs_conv_ram", False)  # its loops are cached
    without = lower(layer(C32, 0.5), core(None), "m").arena_bytes
    assert chosen(PLAIN, Ram(without + 3800, without)) == ("sbs_conv", True)
    assert chosen(PLAIN, Ram(without, without)) == ("sbs_conv", False)


@pytest.mark.parametrize("flash", [PLAIN, ART], ids=["plain", "art"])
def test_it_pays_in_the_simulator(flash: Flash) -> None:
    """And the prediction with waits is near the simulation of them."""
    rows = {k: run(C32, k, 0.5, core(flash)) for k in ("sbs_conv", "sbs_conv_ram", "lut_conv")}
    copied, plain = rows["sbs_conv_ram"].waiting_cycles, rows["sbs_conv"].waiting_cycles
    assert copied is not None
    assert plain is not None
    assert copied < 0.9 * plain
    assert plain < 2.2 * rows["sbs_conv"].cycles  # the code is in RAM
    steps = {k: lower(layer(C32, 0.5), core(flash), "m", forced=k, ram=Ram(for_speed=99_999)).steps[1] for k in rows}
    for kernel, step in steps.items():
        assert step.cost.estimate + step.cost.waiting == pytest.approx(rows[kernel].waiting_cycles, rel=0.1)


@pytest.mark.parametrize("name", ["cortex-m4", "cortex-m0plus"])
def test_context_and_code_stay_within_the_budget(name: str, tmp_path: Path) -> None:
    """What is set aside for code is enough for what gcc makes of it."""
    least = lower(layer(C32, 0.5), core(PLAIN), "m").arena_bytes
    for budget in range(least, least + 16_000, 2_000):
        program = lower(layer(C32, 0.5), replace(cores()[name], flash=PLAIN), "m", ram=Ram(budget, budget))
        for file, text in emit(program, "m", name).items():
            (tmp_path / file).write_text(text)
        made = footprint(tmp_path / "m.c", cores()[name], "m_run", include=[tmp_path])
        assert program.arena_bytes + made.ram_code_bytes <= budget
    assert made.ram_code_bytes > 0


def test_the_report_tells() -> None:
    here = bnncc.compile(DIGITS, "cortex-m4", wait_states=5, ram_budget=20_000)
    plain = bnncc.compile(DIGITS, "cortex-m4")
    layers, totals = here.report["layers"], here.report["totals"]
    assert any(r["code_in_ram"] for r in layers)
    assert any(r["copied_bytes"] for r in layers)
    assert all(r["waiting_cycles"] >= r["cycles"] for r in layers)
    assert totals["waiting_cycle_model"] == f"estimated, {Flash(5, 8)}"
    assert totals["ram_bytes"] == totals["context_bytes"] + totals["result_bytes"] + totals["ram_code_bytes"]
    assert 500 < totals["ram_code_bytes"] < totals["code_bytes"]
    assert "DIGITS_RAM" in here.files["digits.c"]
    assert "DIGITS_RAM" not in plain.files["digits.c"]
    assert plain.report["totals"]["ram_code_bytes"] == 0
    assert plain.report["totals"]["waiting_cycles"] is None
    assert all(r["waiting_cycles"] is None and not r["code_in_ram"] for r in plain.report["layers"])


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m0plus"])
def test_the_same_results(target: str) -> None:
    here = bnncc.compile(DIGITS, target, wait_states=3, ram_budget=20_000)
    assert any(s.in_ram for s in here.program.steps)
    for on in ("host", "sim"):
        assert here.verify(samples=4, on=on).ok


def test_a_board_brings_its_flash() -> None:
    board = bnncc.compile(DIGITS, "nucleo_f446re")
    assert board.target.core.flash == find_target("nucleo_f446re").flash(None) == ART
    assert bnncc.compile(DIGITS, "nucleo_f446re", wait_states=0).target.core.flash is None


def test_copies_have_the_costs_of_what_they_copy_for() -> None:
    rng = np.random.default_rng(0)
    graph, kernel = next((g, k) for g, k in calibrate.programs(rng) if k in COPIES)
    samples = calibrate.measure_graph(graph, core(None), kernel, rng)
    tables = {s.kernel for s in samples}
    assert next(k.like for k in KERNELS if k.name == kernel) in tables
    assert not COPIES & tables
