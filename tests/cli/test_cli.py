"""The commands as a user types them: outputs, files, exit codes, messages."""

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h

import bnncc
from bnncc.board import pio
from bnncc.cli import info
from bnncc.codes import CODES
from bnncc.sim.build import build_elf
from bnncc.target import boards, cores
from tests.nets import Net


def test_help_of_every_command_has_an_example(run):
    commands = ("compile", "verify", "measure", "cycles", "bench", "train", "flash", "targets", "explain", "doctor")
    top = run("--help")
    for command in commands:
        assert command in top.out
        done = run(command, "--help")
        assert done.code == 0
        assert f"Example: bnncc {command}" in done.out
        assert "--json" in done.out


def test_bench(run):
    done = run("bench", "--shape", "depthwise", "--kernel", "depthwise_conv", "--json")
    assert done.code == 0
    rows = json.loads(done.out)
    keys = {"shape", "kernel", "density", "instructions", "cycles", "mac_per_cycle", "scratch_bytes", "flash_bytes"}
    assert [r["density"] for r in rows] == [0.25, 0.35, 0.5, 1.0]
    assert all(keys <= r.keys() and r["shape"] == "depthwise" and r["cycles"] > 0 for r in rows)
    table = run("bench", "--shape", "depthwise", "--kernel", "depthwise_conv")
    assert "estimated, zero wait states" in table.out
    for arguments in (["--shape", "nothing"], ["--kernel", "nothing"], ["--shape", "fc", "--kernel", "quad_conv"]):
        refused = run("bench", *arguments)
        assert refused.code == 2
        assert "E0412" in refused.err


def test_a_ram_budget_is_kept_or_refused(run, model, tmp_path):
    def compiled(*options):
        done = run("compile", model, "-o", tmp_path / "out", "--json", *options)
        return done, json.loads(done.out)

    _, free = compiled("--kernel", "sbs_conv")
    needed = free["report"]["totals"]["context_bytes"]
    done, kept = compiled("--ram-budget", str(needed - 4))
    assert done.code == 0
    assert kept["report"]["totals"]["context_bytes"] < needed
    done, _ = compiled("--ram-budget", "8")
    assert done.code == 1
    assert "E0307" in done.out


def test_the_threshold_of_exits_counts_for_the_ram_budget():
    digits = Path(__file__).parents[2] / "examples/digits/digits.onnx"
    needed = bnncc.compile(digits, kernel="sbs_conv").program.context_bytes
    for budget in range(needed - 8, needed + 4, 4):
        assert bnncc.compile(digits, ram_budget=budget).report["totals"]["context_bytes"] <= budget


def test_a_kernel_that_does_nothing_is_said(run, model, tmp_path):
    refused = run("verify", model, "--kernel", "nothing")
    assert refused.code == 2
    assert "E0412" in refused.err
    done = run("compile", model, "--kernel", "softmax", "-o", tmp_path / "out")
    assert done.code == 0
    assert "W0403" in done.err
    assert "W0403" not in run("compile", model, "--kernel", "binary_conv", "-o", tmp_path / "out").err


def test_what_a_ram_budget_chooses_is_verified(run, model, tmp_path):
    def steps(*options):
        return [row["kernel"] for row in json.loads(run("verify", model, "-n", 2, "--json", *options).out)["steps"]]

    compiled = json.loads(run("compile", model, "-o", tmp_path / "out", "--json").out)
    without = compiled["report"]["totals"]["context_bytes"]
    assert any(name.endswith("_ram") for name in steps("--wait-states", 5))
    assert not any(name.endswith("_ram") for name in steps("--wait-states", 5, "--ram-budget", without))


def test_compile_writes_the_files_and_a_table(run, model, tmp_path):
    done = run("compile", model, "--target", "cortex-m4", "-o", tmp_path / "out", "--dump", tmp_path / "dump")
    assert done.code == 0
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"small_net.h", "small_net.c", "small_net_weights.h", "model.h", "report.json"}
    assert "sbs_conv" in done.out
    assert "estimated, zero wait states" in done.out
    assert "exact" in done.out
    assert "stack" in done.out
    dumped = {p.name for p in (tmp_path / "dump").iterdir()}
    assert {"kernels.txt", "memory.txt", "00-import.txt"} <= dumped
    assert "refused" in (tmp_path / "dump" / "kernels.txt").read_text()


def test_report_and_json(run, model, tmp_path):
    done = run("compile", model, "-t", "nucleo_f446re", "-o", tmp_path, "--name", "Net2", "--json")
    report = json.loads(done.out)["report"]
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert report["name"] == "Net2"
    assert report["board"]["clock_hz"] == 180_000_000
    layers, totals = report["layers"], report["totals"]
    assert sum(r["macs"] for r in layers) == totals["macs"] == 20 * 18 * 64 + 33 * 180 * 16 + 5 * 33 * 16
    assert totals["constant_bytes"] == sum(r["flash_bytes"] for r in layers)
    assert totals["arena_lower_bound"] <= totals["arena_bytes"]
    assert totals["code_bytes"] > 0
    assert totals["worst_stack_bytes"] > 0
    assert report["exact"] is True


def test_verify_on_inputs_and_save(run, model, tmp_path):
    x = np.random.default_rng(1).integers(0, 256, (7, 2, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "in.npz", other=np.zeros(3), x=x)
    done = run("verify", model, "--inputs", tmp_path / "in.npz", "--save", tmp_path / "out.npz")
    assert done.code == 0, done.err
    assert "verified: 0 of 7 samples mismatched" in done.out
    assert "ASan and UBSan" in done.out
    session = bnncc.frontend.source.session.session(onnx.load(model))
    name = session.get_outputs()[0].name
    saved = np.load(tmp_path / "out.npz")
    assert saved.files == [name]
    want = np.stack([session.run(None, {"x": sample[None]})[0] for sample in x])
    np.testing.assert_array_equal(saved[name].view(np.uint32), want.view(np.uint32))


def test_calibration(run, model, tmp_path):
    x = np.random.default_rng(1).integers(0, 256, (50, 2, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "typical.npz", x=x)
    calibrate = ("--calibrate", tmp_path / "typical.npz")
    done = run("compile", model, *calibrate, "-o", tmp_path / "out", "--dump", tmp_path / "dump")
    assert done.code == 0, done.err
    for word in ("in 50 samples", "% +1 before", "channels negated"):
        assert word in done.out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["calibration"] == {"samples": 50}
    layers = [r for r in report["layers"] if r["density"] is not None]
    assert len(layers) == 2
    assert all(0 < r["density"] <= r["density_before"] < 1 for r in layers)
    assert sum(r["negated_channels"] for r in layers) > 0
    assert report["totals"]["worst_cycles"] >= report["totals"]["cycles"]
    assert "negated in" in next((tmp_path / "dump").glob("*make_ones_rare.txt")).read_text()
    assert run("verify", model, *calibrate, "--samples", 3).code == 0
    assert json.loads(run("measure", model, *calibrate, "--samples", 1, "--json").out)["mismatched_samples"] == 0


def test_without_calibration_half_of_the_bits_are_taken_to_be_set(run, model, tmp_path):
    done = run("compile", model, "-o", tmp_path)
    assert "half of the inputs of each binary layer are taken to be +1" in done.out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["calibration"] is None
    assert {r["density"] for r in report["layers"]} == {None, 0.5}


def test_verify_in_the_simulator_as_json(run, model):
    done = run("verify", model, "--target", "cortex-m0", "--on", "sim", "--samples", 2, "--json")
    verdict = json.loads(done.out)
    assert done.code == 0
    assert verdict["ok"] is True
    assert verdict["samples"] == 2
    assert "microbit" in verdict["machine"]


def test_float_input_warns_and_bytes_make_it_exact(run, float_model, tmp_path):
    done = run("compile", float_model, "-o", tmp_path / "a")
    assert done.code == 0
    assert "W0401" in done.err
    assert "close" in done.out
    assert "real   step 0" in done.out
    done = run("compile", float_model, "-o", tmp_path / "b", "--input", "u8", "--require-binary")
    assert done.code == 0
    assert done.err == ""
    assert "uint8_t floaty_input" in (tmp_path / "b" / "floaty.h").read_text()
    assert run("compile", float_model, "-o", tmp_path / "c", "--require-binary").code == 1
    assert not (tmp_path / "c").exists()
    x = np.random.default_rng(1).integers(0, 256, (4, 2, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    assert (
        run("verify", float_model, "--input", "u8", "--inputs", tmp_path / "x.npy", "--input-layout", "nhwc").code == 0
    )
    assert run("verify", float_model, "--inputs", tmp_path / "x.npy").code == 0


@pytest.mark.parametrize(("value", "shown"), [(0.5, "0.5"), (256.0, "256.0"), (-1.0, "-1.0"), (np.nan, "nan")])
def test_inputs_that_are_no_bytes(run, float_model, tmp_path, value, shown):
    x = np.zeros((3, 2, 8, 8), np.float32)
    x[1, 0, 2, 3] = value
    x[2] = 999
    np.save(tmp_path / "x.npy", x)
    done = run("verify", float_model, "--input", "u8", "--inputs", tmp_path / "x.npy")
    assert done.code == 2
    assert "E0406" in done.err
    assert f"value {shown} at [1, 0, 2, 3]" in done.err


def test_measure_in_the_simulator(run, model):
    done = run("measure", model, "--target", "cortex-m4", "--samples", 2, "--json")
    found = json.loads(done.out)
    assert done.code == 0
    assert found["mismatched_samples"] == 0
    assert "estimated, zero wait states" in found["cycle_model"]
    assert all(s["instructions"] > 0 and s["cycles"] >= s["instructions"] / 2 for s in found["steps"])
    assert found["instructions"]["mean"] >= sum(s["instructions"] for s in found["steps"])
    assert "predicted" in run("measure", model, "--samples", 1).out


def test_measure_with_wait_states(run, model):
    found = json.loads(run("measure", model, "--target", "nucleo_f446re", "--samples", 1, "--json").out)
    assert found["waiting"]["cycle_model"].startswith("estimated, 5 wait states, prefetch")
    assert found["waiting"]["cycles"]["mean"] > found["cycles"]["mean"]
    assert all(s["waiting_cycles"] >= s["cycles"] for s in found["steps"])
    assert "waiting" not in json.loads(run("measure", model, "--samples", 1, "--json").out)
    shown = run("measure", model, "--target", "nucleo_f446re", "--samples", 1, "--wait-states", 3).out
    for word in ("with waits", "estimated, zero wait states", "estimated, 3 wait states", "at 180 MHz"):
        assert word in shown


def test_targets_explain_doctor(run, monkeypatch):
    assert "cortex-m0plus" in run("targets").out
    assert {b["name"] for b in json.loads(run("targets", "--json").out)["boards"]} >= {"sim-cortex-m4", "nucleo_f446re"}
    for code in CODES:
        assert CODES[code][0] in run("explain", code).out
    assert run("doctor").code == 0
    monkeypatch.setattr(info.shutil, "which", lambda _: None)
    done = run("doctor")
    assert done.code == 3
    assert "apt-get install qemu-system-arm" in done.out


def usage(run, *arguments, code):
    done = run(*arguments)
    assert done.code == 2
    assert code in done.err, done.err
    assert "do:" in done.err
    return done


def test_usage_errors(run, model, tmp_path):
    usage(run, "compile", model, "--target", "cortex-m99", code="E0401")
    usage(run, "compile", model, "--input", "i8", code="E0402")
    usage(run, "compile", model, "--name", "int", code="E0403")
    usage(run, "compile", model, "--name", "a b", code="E0403")
    usage(run, "compile", tmp_path / "none.onnx", code="E0101")
    usage(run, "compile", tmp_path, code="E0101")
    usage(run, "verify", model, "--inputs", tmp_path / "none.npy", code="E0404")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not a zip")
    usage(run, "verify", model, "--inputs", tmp_path / "bad.npz", code="E0404")
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    usage(run, "verify", model, "--inputs", tmp_path / "pickled.npy", code="E0404")
    np.save(tmp_path / "shape.npy", np.zeros((3, 2, 8, 9), np.uint8))
    usage(run, "verify", model, "--inputs", tmp_path / "shape.npy", code="E0405")
    for name, code in (("none.npz", "E0404"), ("bad.npz", "E0404"), ("pickled.npy", "E0404"), ("shape.npy", "E0405")):
        usage(run, "compile", model, "--calibrate", tmp_path / name, code=code)
    np.savez(tmp_path / "nothing.npz")
    usage(run, "compile", model, "--calibrate", tmp_path / "nothing.npz", code="E0404")
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 2, 8, 8), np.uint8))
    usage(run, "compile", model, "--calibrate", tmp_path / "empty.npz", code="E0405")
    np.savez(tmp_path / "nan.npz", x=np.full((1, 2, 8, 8), np.nan))
    usage(run, "compile", model, "--calibrate", tmp_path / "nan.npz", code="E0406")
    np.savez_compressed(tmp_path / "broken.npz", x=np.zeros((3, 2, 8, 8), np.uint8))
    whole = (tmp_path / "broken.npz").read_bytes()
    (tmp_path / "broken.npz").write_bytes(whole[:60] + bytes(20) + whole[80:])
    usage(run, "compile", model, "--calibrate", tmp_path / "broken.npz", code="E0404")
    usage(run, "measure", model, "--target", "cortex-m4", "--board", "sim-cortex-m4", code="E0407")
    usage(run, "explain", "E9999", code="E0408")
    usage(run, "flash", model, "--board", "cortex-m4", code="E0409")
    assert run("compile", model, "--input", "u9").code == 2
    assert run("nonsense").code == 2


def test_errors_as_json(run, tmp_path):
    done = run("compile", tmp_path / "none.onnx", "--json")
    answer = json.loads(done.out)
    assert answer["ok"] is False
    assert answer["diagnostics"][0]["code"] == "E0101"
    assert done.code == 2


def test_unwritable_places(run, model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run("compile", model, "-o", tmp_path / "file" / "out")
    assert done.code == 3
    assert "E0509" in done.err
    done = run("verify", model, "--samples", 1, "--save", tmp_path / "file" / "out.npz")
    assert done.code == 3
    assert "E0509" in done.err


def test_a_full_disk_leaves_nothing(run, model, tmp_path, monkeypatch):
    real = Path.replace

    def full(self, target):
        if Path(target).name == "report.json":
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    done = run("compile", model, "-o", tmp_path / "out")
    assert done.code == 3
    assert "No space left" in done.err
    assert not (tmp_path / "out").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "small_net.c").write_text("mine")
    assert run("compile", model, "-o", tmp_path / "old").code == 3
    assert [p.name for p in (tmp_path / "old").iterdir()] == ["small_net.c"]
    assert (tmp_path / "old" / "small_net.c").read_text() == "mine"


def test_an_unexpected_error_is_a_diagnostic(run, model, monkeypatch):
    monkeypatch.setattr("bnncc.compiler.run_passes", lambda *_: 1 / 0)
    done = run("compile", model)
    assert done.code == 1
    assert "E0000" in done.err
    assert "Traceback" not in done.err


def test_too_large_for_the_board_warns(run, tmp_path):
    net = Net(np.random.default_rng(0), (1, 300, 300))
    x = net.node("Conv", net.node("Cast", "x", to=T.FLOAT), net.weight((64, 1, 3, 3)))
    x = net.sign(net.node("Add", x, net.const(0.5)), "ge_where")
    net.outputs.append(net.node("Conv", x, net.weight((2, 64, 298, 298))))
    onnx.save(net.model(), tmp_path / "large.onnx")
    done = run("compile", tmp_path / "large.onnx", "-t", "nucleo_f446re", "-o", tmp_path / "out")
    assert done.code == 0
    assert "W0402" in done.err
    assert "RAM" in done.err
    done = run("flash", tmp_path / "large.onnx", "-b", "nucleo_f446re")
    assert done.code == 1
    assert "E0601" in done.err


def test_what_flash_says_to_type_next_measures_what_it_flashed(run, tmp_path):
    model, port = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx", tmp_path / "a port"
    place = ("--board", "sim-cortex-m4", "--port", port)
    try:
        done = run("flash", model, *place, "--ram-budget", 20000)
        assert done.code == 0
        line = done.out.splitlines()[-1]
        assert line.startswith("next: bnncc measure ")
        done = run(*shlex.split(line)[2:], "--samples", 1)
        assert done.code == 0
        assert "lut_conv" in done.out
        assert "E0608" in run("measure", model, *place, "--samples", 1).err
    finally:
        assert pio.stop(boards()["sim-cortex-m4"], port=str(port))


def test_python_api(model, tmp_path):
    compiled = bnncc.compile(model, target="cortex-m4")
    files = compiled.write(tmp_path)
    assert all(p.is_file() for p in files)
    assert compiled.report["target"] == "cortex-m4"
    x = np.random.default_rng(5).integers(0, 256, (3, 2, 8, 8)).astype(np.uint8)
    assert compiled.verify(x).ok
    with pytest.raises(bnncc.UsageError):
        compiled.verify(np.zeros((1, 3), np.uint8))


def test_a_wrong_result_fails_verification(run, model, monkeypatch):
    emit = bnncc.compiler.emit

    def wrong(*arguments):
        files = emit(*arguments)
        source = next(n for n in files if n.endswith(".c"))
        return {**files, source: files[source].replace(" - 2 * ", " - 4 * ")}

    monkeypatch.setattr("bnncc.compiler.emit", wrong)
    done = run("verify", model, "--samples", 3)
    assert done.code == 1
    assert "FAILED" in done.out


def test_names_are_untrusted():
    """Output names are untrusted: keywords, comment ends, collisions."""
    net = Net(np.random.default_rng(2), (4,))
    bits = net.sign(net.node("Sub", net.node("Cast", "x", to=T.FLOAT), net.const(99.5)), "ge_where")
    names = ["int", "a*/b", 'q"\n', "a b", "a_b", "class_index"]
    for n in names:
        net.nodes.append(h.make_node("MatMul", [bits, net.weight((4, 3))], [n], name=n))
        net.outputs.append(n)
    compiled = bnncc.compile(net.model(), name="names")
    assert compiled.verify(samples=4).ok
    assert len(set(compiled.result_dtype.names)) == len(names)


# signs at zero, storage of real weights ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ternary(tmp_path_factory) -> Path:
    """Sign of sums of eight bits, which can be zero, then a layer with real weights."""
    net = Net(np.random.default_rng(8), (4, 4, 4))
    x = net.sign(net.batch_norm(net.node("Conv", net.normalise(), net.weight((8, 4, 3, 3)))), "ge_where")
    x = net.node("Sign", net.node("Conv", x, net.weight((6, 8, 1, 1))))
    net.outputs.append(net.node("Gemm", net.node("Flatten", x), net.const(net.rng.normal(size=(5, 24))), transB=1))
    path = tmp_path_factory.mktemp("ternary") / "ternary.onnx"
    onnx.save(net.model(), path)
    return path


def test_a_sign_that_can_meet_zero_needs_the_option(run, ternary, tmp_path):
    done = run("compile", ternary, "-o", tmp_path / "out", "--json")
    assert done.code == 1
    (found,) = json.loads(done.out)["diagnostics"]
    assert found["code"] == "E0304"
    assert "--sign-at-zero" in found["remedy"]
    assert not (tmp_path / "out").exists()
    for value in ("+1", "1", "-1"):
        done = run("compile", ternary, "-o", tmp_path / value, f"--sign-at-zero={value}", "--json")
        assert done.code == 0
        reasons = [d["reason"] for d in json.loads(done.out)["report"]["reference_differs"]]
        assert any(f"its value at zero is {int(value):+d}" in r for r in reasons)


def test_verify_follows_the_sign_at_zero(run, ternary):
    for value in ("+1", "-1"):
        done = run("verify", ternary, "--sign-at-zero", value, "--samples", 6, "--json")
        verdict = json.loads(done.out)
        assert done.code == 0
        assert verdict["ok"] is True
        assert verdict["given"]["differing_samples"] > 0, "no zero was met"


def test_real_weights_in_fewer_bits(run, ternary, tmp_path):
    constants = {}
    for storage in ("f32", "f16", "i8"):
        done = run(
            "compile", ternary, "-o", tmp_path / storage, "--sign-at-zero=+1", "--real-weights", storage, "--json"
        )
        assert done.code == 0
        constants[storage] = json.loads(done.out)["report"]["totals"]["constant_bytes"]
    assert constants["f32"] - constants["f16"] == 2 * 5 * 24
    assert constants["f16"] > constants["i8"]
    done = run("verify", ternary, "--sign-at-zero=+1", "--real-weights", "i8", "--samples", 4)
    assert done.code == 0
    assert "against the file as given" in done.out


def test_measure_takes_the_options_too(run, ternary):
    done = run("measure", ternary, "--sign-at-zero=-1", "--real-weights", "i8", "--samples", 1, "--json")
    assert done.code == 0
    assert json.loads(done.out)["mismatched_samples"] == 0


@pytest.mark.parametrize("command", ["compile", "verify", "measure", "flash"])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--sign-at-zero", "0"),
        ("--sign-at-zero", "2"),
        ("--sign-at-zero", "++1"),
        ("--real-weights", "f64"),
        ("--real-weights", ""),
    ],
)
def test_bad_values_of_options(run, ternary, command, option, value):
    done = run(command, ternary, f"{option}={value}")
    assert done.code == 2
    assert option in done.err
    assert "Traceback" not in done.err


@pytest.fixture
def program(tmp_path):
    (tmp_path / "main.c").write_text(
        "static int square(int x);\n"
        "__attribute__((noinline)) static int square(int x) { return x * x; }\n"
        "int main(void) { volatile int x = 3; x = square(x); x = square(x); return x != 81; }\n"
    )
    core = cores()["cortex-m4"]
    return build_elf([tmp_path / "main.c"], core, core.machines[0], tmp_path / "program.elf")


def test_cycles_of_a_program(run, program):
    done = run("cycles", program)
    assert done.code == 0
    for word in ("square", "main", "start", "counted exactly on QEMU mps2-an386", "estimated, zero wait states"):
        assert word in done.out
    found = json.loads(run("cycles", program, "--json").out)
    assert found["ok"] is True
    assert found["cycle_model"] == "estimated, zero wait states (Cortex-M4 rules)"
    square = next(f for f in found["functions"] if f["name"] == "square")
    assert (square["calls"], square["instructions"], square["cycles"]) == (2, 4, 6)
    assert found["cycles"] == sum(f["cycles"] for f in found["functions"])


def test_cycles_of_one_function(run, program):
    text = run("cycles", program, "-s", "square").out
    assert "2 calls from outside" in text
    assert "3.0 cycles, 3.0 of them its own, estimated, zero wait states" in text
    main = json.loads(run("cycles", program, "-s", "main", "--json").out)
    assert main["symbol"]["calls"] == 1
    assert main["symbol"]["inclusive"]["instructions"] == main["symbol"]["self"]["instructions"] + 4
    assert main["symbol"]["inclusive"]["cycles_per_call"] == main["cycles"]
    assert {f["name"] for f in main["functions"]} == {"main", "square"}
    assert "was not called" in run("cycles", program, "-s", "fault").out


def test_cycles_with_wait_states(run, program):
    zero = json.loads(run("cycles", program, "--json").out)
    assert "waiting_cycles" not in zero
    found = json.loads(run("cycles", program, "-t", "nucleo_f446re", "--json").out)
    assert found["cycles"] == zero["cycles"]
    assert found["waiting_cycles"] > found["cycles"]
    model = "5 wait states, prefetch, 64 instruction and 8 data lines of 16 bytes cached"
    assert found["waiting_cycle_model"] == f"estimated, {model} (Cortex-M4 rules)"
    three = json.loads(run("cycles", program, "--wait-states", 3, "--json").out)
    assert three["waiting_cycle_model"].startswith("estimated, 3 wait states, no prefetch, lines of 8 bytes, no cache")
    none = run("cycles", program, "-t", "nucleo_f446re", "--wait-states", 0, "--json")
    assert "waiting_cycles" not in json.loads(none.out)
    shown = run("cycles", program, "-t", "nucleo_f446re", "-s", "square").out
    for word in ("with waits", "zero wait states", "5 wait states"):
        assert word in shown


def test_cycles_refuses(run, program, tmp_path):
    usage(run, "cycles", program, "--target", "cortex-m0", code="E0410")
    usage(run, "cycles", tmp_path / "main.c", code="E0410")
    usage(run, "cycles", program, "--symbol", "squares", code="E0411")
    usage(run, "cycles", program, "--target", "nothing", code="E0401")
    assert json.loads(run("cycles", program, "-s", "squares", "--json").out)["diagnostics"][0]["code"] == "E0411"


def test_a_core_whose_cycles_are_not_modelled(run, model, tmp_path):
    said = "cycles are not modelled for this core"
    done = run("compile", model, "--target", "cortex-m55", "-o", tmp_path / "out")
    assert done.code == 0
    assert said in done.out
    totals = json.loads(run("compile", model, "-t", "cortex-m55", "-o", tmp_path / "out", "--json").out)["report"][
        "totals"
    ]
    assert (totals["cycles"], totals["cycle_model"]) == (None, None)
    assert totals["instructions"] > 0
    done = run("measure", model, "--target", "cortex-m55", "--samples", 2)
    assert done.code == 0
    assert said in done.out
    found = json.loads(run("measure", model, "-t", "cortex-m55", "-n", 2, "--json").out)
    assert found["cycle_model"] is None
    assert "cycles" not in found
    assert all(s["instructions"] > 0 and s["predicted_instructions"] >= 0 and "cycles" not in s for s in found["steps"])
    usage(run, "measure", model, "-t", "cortex-m55", "--wait-states", 2, code="E0413")
    done = run("bench", "-t", "cortex-m55", "--shape", "fc", "--kernel", "sbs_vector")
    assert said in done.out
    assert "MAC/instruction" in done.out


def test_instructions_of_a_program(run, tmp_path):
    core = cores()["cortex-m55"]
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    program = build_elf([tmp_path / "main.c"], core, core.machines[0], tmp_path / "program.elf")
    done = run("cycles", program, "-t", "cortex-m55")
    assert done.code == 0
    assert "cycles are not modelled for this core" in done.out
    found = json.loads(run("cycles", program, "-t", "cortex-m55", "--json").out)
    assert found["cycle_model"] is None
    assert found["instructions"] == sum(f["instructions"] for f in found["functions"]) > 0
    assert "cycles" not in found
