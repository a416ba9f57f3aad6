"""Counting and measuring: a hand-written model with known instruction counts on every core."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bnncc.errors import ToolError
from bnncc.sim import count
from bnncc.sim.build import sim_folder
from bnncc.sim.count import IDLE, Counts, count_elf
from bnncc.sim.elf import marks, symbols
from bnncc.sim.measure import Measurement, measure
from bnncc.sim.qemu import build_for_first_machine
from bnncc.target import Core, cores

TOY = Path(__file__).with_name("toy")
each_core = pytest.mark.parametrize("core", cores().values(), ids=lambda core: core.name)

# Sums 1, 3, 10, 1000: the first leaves at exit 0 (log 1 = 0 < 1), the others loop as often as their sum says.
INPUTS = np.array([[1, 0, 0, 0], [0, 1, 1, 1], [4, 3, 2, 1], [250, 250, 250, 250]], np.uint8)
TOY_RESULT = np.dtype([("class_index", "<i4"), ("exit_index", "<i4"), ("entropy", "<f4"), ("sum", "<i4")])


def measure_toy(core: Core, inputs: np.ndarray, folder: Path = TOY, threshold: float | None = None) -> Measurement:
    return measure(
        folder, "toy", core, inputs, step_count=3, result_bytes=TOY_RESULT.itemsize, exit_threshold=threshold
    )


@each_core
def test_results_and_counts(core: Core) -> None:
    found = measure_toy(core, INPUTS)
    result = found.results.view(TOY_RESULT)[:, 0]
    assert result["sum"].tolist() == [1, 6, 20, 2000]
    assert result["exit_index"].tolist() == [0, 1, 1, 1]
    assert result["class_index"].tolist() == [1, 0, 4, 250]
    np.testing.assert_allclose(result["entropy"], np.log([1, 3, 10, 1000]), rtol=1e-6)

    step = found.instructions[:, 1]
    # toy_rounds: movs, 3 a round, mov, bx; its caller: bl and the store, and whatever gcc puts between
    assert np.unique(step[1:] - 3 * np.array([3, 10, 1000])).size == 1
    assert 5 <= step[1] - 9 <= 8
    assert (found.instructions[0, 1:3] == 0).all()
    assert (found.instructions[1:, 2] > 0).all()
    assert found.instructions.shape == (4, 4)
    assert (found.run_instructions == found.instructions.sum(axis=1)).all()
    assert 8 <= found.stack_bytes <= 256
    assert found.machine == core.machines[0].qemu
    if core.unit == "instructions":
        assert (found.cycles, found.run_cycles, found.model) == (None, None, None)
        assert found.estimates is found.instructions
        return
    assert found.model.startswith("estimated, zero wait states")
    assert found.cycles.shape == (4, 4)
    assert (found.cycles[0, 1:3] == 0).all()
    assert (found.cycles >= found.instructions).all()
    assert (found.run_cycles == found.cycles.sum(axis=1)).all()


def test_threshold_replaces_the_models() -> None:
    core = cores()["cortex-m4"]
    for threshold, exits in ((0.0, [1, 1, 1, 1]), (2.0, [0, 0, 1, 1]), (float("inf"), [0, 0, 0, 0])):
        found = measure_toy(core, INPUTS, threshold=threshold)
        assert found.results.view(TOY_RESULT)[:, 0]["exit_index"].tolist() == exits


@pytest.mark.parametrize("name", ["cortex-m0", "cortex-m0plus"])
def test_model_too_large_for_the_small_machine(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TOY, folder)
    header = folder / "toy.h"
    header.write_text(header.read_text().replace("arena[16]", "arena[16384]"))
    small, large = measure_toy(cores()[name], INPUTS), measure_toy(cores()[name], INPUTS, folder)
    assert large.machine == "mps2-an385"
    assert "unaligned access trapped" in large.note
    assert (large.results == small.results).all()
    assert (large.instructions == small.instructions).all()


def count_toy(core: Core, folder: Path) -> tuple[Counts, Path]:
    elf = folder / "measure.elf"
    sources = [sim_folder() / "measure.c", sim_folder() / "profiled.c"]
    machine = build_for_first_machine(sources, core, elf, include=[TOY], defines={"TOY_STEP": "BNNCC_MARK"})
    (folder / "inputs.bin").write_bytes(INPUTS.tobytes())
    _, counts = count_elf(elf, machine, [(symbols(elf)["toy_run"].address, 3), *marks(elf)], cwd=folder)
    return counts, elf


@each_core
def test_every_node_is_left_as_often_as_it_is_entered(core: Core, tmp_path: Path) -> None:
    counts, _ = count_toy(core, tmp_path)
    assert counts.runs == len(INPUTS)
    idle = np.array([node.region == IDLE for node in counts.nodes])
    for run in range(counts.runs):
        edges = counts.edges[counts.edges["run"] == run]
        entered = np.bincount(edges["to"], edges["count"], len(counts.nodes))
        left = np.bincount(edges["from"], edges["count"], len(counts.nodes))
        assert (entered == left)[~idle].all()
        assert entered[idle].sum() == left[idle].sum() == 1


def test_marks_are_found_in_the_program_only_when_asked_for(tmp_path: Path) -> None:
    core = cores()["cortex-m4"]
    _, marked = count_toy(core, tmp_path)
    plain = tmp_path / "plain.elf"
    sources = [sim_folder() / "measure.c", sim_folder() / "profiled.c"]
    build_for_first_machine(sources, core, plain, include=[TOY])
    assert {number for _, number in marks(marked)} == {0, 1, 2, 3, IDLE}
    assert {number for _, number in marks(plain)} == {IDLE}


def test_plugin_builds_for_both_interfaces_without_a_warning(tmp_path: Path) -> None:
    for api in (1, 3):
        flags = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", f"-DPLUGIN_API={api}"]
        command = ["gcc", *flags, "-O2", "-shared", "-fPIC", str(count.SOURCE), "-o", str(tmp_path / "plugin.so")]
        assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize(("version", "api"), [("7.2.22", 1), ("8.2.2", 1), ("9.1.0", 3), ("10.0.2", 3)])
def test_interface_of_the_plugin_by_qemus_version(version: str, api: int) -> None:
    assert count.plugin_api(f"QEMU emulator version {version} (Debian 1:{version})\nCopyright (c) 2003") == api


def test_plugin_that_does_not_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "plugin.c"
    source.write_text("unknown_type x;")
    with pytest.raises(ToolError, match="unknown_type") as error:
        count.plugin(source)
    assert error.value.diagnostics[0].code == "E0507"


def test_plugin_is_kept_and_built_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "plugin.c"
    source.write_text("int a;")
    first = count.plugin(source)
    count.plugin.cache_clear()
    assert count.plugin(source) == first
    source.write_text("int b;")
    count.plugin.cache_clear()
    second = count.plugin(source)
    assert sorted((tmp_path / "cache" / "bnncc").iterdir()) == sorted([first, second])


def test_plugin_without_a_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    source = tmp_path / "plugin.c"
    source.write_text("int a;")
    library = count.plugin(source)
    assert library.is_file()
    shutil.rmtree(library.parent)
