"""verify() notices what it is there for: mutated C fails, unfit inputs are refused, close layers are judged by bounds."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto as T

import bnncc
from bnncc.verify import harness
from bnncc.verify.inputs import load_inputs
from tests.nets import Net, finish, random_net, small_net


@pytest.fixture(scope="module")
def compiled() -> bnncc.Compiled:
    return padded_net("binary_conv")


def padded_net(kernel: str) -> bnncc.Compiled:
    """Two binary layers, the second with zero padding and a threshold, then logits."""
    net, x = small_net()
    x = net.node("Conv", x, net.weight((12, 9, 3, 3)), pads=[1, 1, 1, 1])
    net = finish(net, net.sign(net.batch_norm(x), "ge_where"))
    return bnncc.compile(net.model(), name="net", kernel=kernel)


def mutated(compiled: bnncc.Compiled, file: str, change: Callable[[str], str]) -> bnncc.Compiled:
    text = change(compiled.files[file])
    assert text != compiled.files[file], "the mutation changed nothing"
    return replace(compiled, files={**compiled.files, file: text})


def array(name: str, pattern: str, new: Callable[[re.Match[str]], str]) -> Callable[[str], str]:
    """Change the first value of a constant array."""

    def change(text: str) -> str:
        start = text.index(f"{name}[")
        start = text.index("{", start)
        return text[:start] + re.sub(pattern, new, text[start:], count=1)

    return change


def test_the_unchanged_code_passes(compiled: bnncc.Compiled) -> None:
    v = compiled.verify(samples=16)
    assert v.ok
    assert v.samples == 16
    assert v.left_out == 0
    assert all(s.mismatches == 0 and s.largest_error == 0 for s in v.steps)


FLIP = array("net_step1_weights", r"0x([0-9a-f]{8})u", lambda m: f"0x{int(m[1], 16) ^ 1:08x}u")
LEVEL = array("net_step1_levels", r"-?\d+", lambda m: str(int(m[0]) + 2))
MUTATIONS: dict[str, tuple[str, Callable[[str], str]]] = {
    "one bit of one weight": ("net_weights.h", FLIP),
    "one threshold by one step": ("net_weights.h", LEVEL),
    "padding counts as -1": ("net.c", lambda t: re.sub("pixel_class = net_step1_[^;]*;", "pixel_class = 8;", t)),
    "an inverted channel": (
        "net_weights.h",
        array("net_step1_inverts", r"0x([0-9a-f]{4})", lambda m: f"0x{int(m[1], 16) ^ 1:04x}"),
    ),
    "> for >=": ("net.c", lambda t: t.replace("acc >= *level++", "acc > *level++")),
    "a shifted window": (
        "net.c",
        lambda t: t.replace("net_step1_gather(x, oy - 1, ox - 1", "net_step1_gather(x, oy - 1, ox"),
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutation_fails(mutation: str, compiled: bnncc.Compiled) -> None:
    file, change = MUTATIONS[mutation]
    v = mutated(compiled, file, change).verify(samples=24)
    assert not v.ok
    assert sum(s.mismatches for s in v.steps) > 0


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (
            "net_weights.h",
            array("net_step1_weights", r"0x(0{4}[0-9a-f]{3}[1-9a-f])u", lambda m: f"0x{int(m[1], 16) ^ 1:08x}u"),
        ),
        ("net_weights.h", array("net_step1_start", r"0x([0-9a-f]{8})u", lambda m: f"0x{int(m[1], 16) ^ 4095:08x}u")),
        ("net.c", lambda t: t.replace("if ((total & 1) != 0)", "if ((total & 1) == 0)")),
        ("net.c", lambda t: t.replace("from = unset;", "from = columns;")),
    ],
    ids=["a weight", "a threshold", "parity", "unset inputs"],
)
def test_a_mutation_of_sparse_counting_fails(file: str, change: Callable[[str], str]) -> None:
    compiled = padded_net("sbs_conv")
    assert compiled.verify(samples=24).ok
    assert not mutated(compiled, file, change).verify(samples=24).ok


def test_the_step_at_fault_is_named(compiled: bnncc.Compiled) -> None:
    v = mutated(compiled, "net_weights.h", FLIP).verify(samples=24)
    assert [s.step for s in v.steps if s.mismatches] == [1]


def test_a_wrong_output_fails(compiled: bnncc.Compiled) -> None:
    v = mutated(compiled, "net.c", lambda t: t.replace("*out++ = x[c]", "*out++ = x[c] + (c == 2)")).verify(samples=4)
    assert not v.ok
    assert v.outputs[0].mismatched_samples == 4


def test_a_wrong_class_fails(compiled: bnncc.Compiled) -> None:
    v = mutated(compiled, "net.c", lambda t: t.replace("result->class_index = best", "result->class_index = 0")).verify(
        samples=24
    )
    assert not v.ok


def test_reliance_on_zeroed_memory_fails(compiled: bnncc.Compiled) -> None:
    """A temporary that is never set: the arena is poisoned, so the result is wrong."""
    v = mutated(compiled, "net.c", lambda t: t.replace("*patch = word;", "*patch |= word;", 1)).verify(samples=8)
    assert not v.ok


def test_memory_errors_are_found(compiled: bnncc.Compiled) -> None:
    """Rows of weights a word too long: the first read beyond the array is right behind it, where the sanitizer's guard is."""
    with pytest.raises(bnncc.ModelError, match="E0310"):
        mutated(compiled, "net.c", lambda t: t.replace("_differing(patch, w, 5,", "_differing(patch, w, 6,")).verify(
            samples=2
        )


def test_padding_bits_that_are_set_are_found(compiled: bnncc.Compiled) -> None:
    with pytest.raises(bnncc.ModelError, match="E0310"):
        mutated(
            compiled, "net.c", lambda t: t.replace("*y++ = (uint16_t)bits", "*y++ = (uint16_t)(bits | 0x8000u)")
        ).verify(samples=2)


def test_c_that_does_not_compile(compiled: bnncc.Compiled) -> None:
    with pytest.raises(bnncc.ModelError, match="E0309"):
        mutated(compiled, "net.c", lambda t: t.replace("net_run(", "net_walk(", 1)).verify(samples=2)


def test_a_warning_is_an_error_too(compiled: bnncc.Compiled) -> None:
    with pytest.raises(bnncc.ModelError, match="E0309"):
        mutated(compiled, "net.c", lambda t: t.replace("(uint16_t)bits", "bits")).verify(samples=2)


def test_no_host_compiler(compiled: bnncc.Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.shutil, "which", lambda _: None)
    with pytest.raises(bnncc.ToolError, match="E0510"):
        compiled.verify(samples=2)


def test_a_model_that_onnxruntime_cannot_run(compiled: bnncc.Compiled) -> None:
    reference = type(compiled.imported.reference)()
    reference.CopyFrom(compiled.imported.reference)
    reference.opset_import[0].version = 9999
    broken = replace(compiled, imported=replace(compiled.imported, reference=reference))
    with pytest.raises(bnncc.ModelError, match="E0308"):
        broken.verify(samples=2)


# inputs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "code"),
    [
        (np.zeros((3, 2, 6, 7), np.uint8), "E0405"),
        (np.zeros((2, 6, 6), np.uint8), "E0405"),
        (np.zeros((0, 2, 6, 6), np.uint8), "E0405"),
        (np.full((1, 2, 6, 6), "a"), "E0405"),
        (np.zeros((1, 2, 6, 6), complex), "E0405"),
        (np.full((1, 2, 6, 6), 256), "E0406"),
        (np.full((1, 2, 6, 6), -1), "E0406"),
        (np.full((1, 2, 6, 6), 0.5), "E0406"),
        (np.full((1, 2, 6, 6), np.nan), "E0406"),
        (np.full((1, 2, 6, 6), np.inf), "E0406"),
    ],
)
def test_unfit_samples(compiled: bnncc.Compiled, x: np.ndarray, code: str) -> None:
    with pytest.raises(bnncc.UsageError, match=code):
        compiled.verify(x)


def test_the_first_bad_value_is_named(compiled: bnncc.Compiled) -> None:
    x = np.zeros((4, 2, 6, 6))
    x[2, 1, 0, 3] = 300
    with pytest.raises(bnncc.UsageError, match=r"300.*\[2, 1, 0, 3\].*the model takes"):
        compiled.verify(x)


def test_non_finite_floats() -> None:
    net, x = small_net(elem=T.FLOAT)
    c = bnncc.compile(finish(net, x).model(), name="net")
    with pytest.raises(bnncc.UsageError, match="E0406"):
        c.verify(np.full((1, 2, 6, 6), np.nan, np.float32))


@pytest.mark.parametrize("shape", [(5, 2, 6, 6), (5, 1, 2, 6, 6)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.float32])
def test_samples_of_any_numeric_type(compiled: bnncc.Compiled, shape: tuple[int, ...], dtype: type) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    v = compiled.verify(x)
    assert v.ok
    assert v.samples == 5


def test_input_files(tmp_path: Path) -> None:
    a, b, c = np.zeros(1), np.ones(2), np.full(3, 2.0)
    np.savez(tmp_path / "all.npz", first=a, x=b, image=c)
    np.savez(tmp_path / "two.npz", first=a, x=b)
    np.savez(tmp_path / "one.npz", first=a)
    np.save(tmp_path / "one.npy", c)
    assert len(load_inputs(tmp_path / "all.npz", "image")) == 3
    assert len(load_inputs(tmp_path / "two.npz", "image")) == 2
    assert len(load_inputs(tmp_path / "one.npz", "image")) == 1
    assert len(load_inputs(tmp_path / "one.npy", "image")) == 3


def test_unreadable_input_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "cut.npy", np.zeros(1000))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:500])
    (tmp_path / "zip.npz").write_bytes((tmp_path / "none.npz").read_bytes()[:10] + b"xxxx")
    names = (
        "none.npz",
        "objects.npy",
        "objects.npz",
        "text.npy",
        "empty.npz",
        "cut.npy",
        "zip.npz",
        "missing.npy",
        ".",
    )
    for name in names:
        with pytest.raises(bnncc.UsageError, match="E0404"):
            load_inputs(tmp_path / name, "x")


# real values ----------------------------------------------------------------------------------------------------------


def real_net() -> bnncc.Compiled:
    """A convolution of real values, its signs, a dense layer."""
    net, x = small_net(channels=16, elem=T.FLOAT)
    return bnncc.compile(finish(net, x).model(), name="net")


def test_real_layers_are_close_within_a_derived_bound() -> None:
    v = real_net().verify(samples=40)
    assert v.ok
    first = v.steps[0]
    assert not first.exact
    assert first.mismatches == 0


def test_a_real_layer_that_is_off_by_more_than_rounding_fails() -> None:
    v = mutated(real_net(), "net.c", lambda t: t.replace("float acc = 0;", "float acc = 0.05f;")).verify(samples=40)
    assert not v.ok


def test_bits_within_rounding_are_counted_and_left_out() -> None:
    """Inputs that put every accumulator on its threshold: each bit may fall either way, and too many samples do."""
    net = Net(np.random.default_rng(3), (64,), T.FLOAT)
    y = net.node("MatMul", "x", net.weight((64, 40)))
    net.outputs = [net.node("MatMul", net.sign(y, "ge_where"), net.weight((40, 3)))]
    c = bnncc.compile(net.model(), name="net")
    r = np.random.default_rng(0)
    weights = net.constants["c0"].astype(np.float64)
    x = r.normal(size=(40, 64))
    x -= (x @ weights) @ np.linalg.pinv(weights)  # orthogonal to every weight vector, up to rounding
    other = mutated(c, "net.c", lambda t: t.replace("if (acc >= *level++)", "if (acc + 1e-5f >= *level++)"))
    v = other.verify(x.astype(np.float32))  # as another order of summation might give, and the bounds allow
    assert v.steps[0].mismatches == 0
    assert v.steps[0].band > 0
    assert v.left_out > 2
    assert not v.ok, "more than 5 % of the samples are left out"


def test_exits_are_judged() -> None:
    net = next(n for n in map(random_net, range(100)) if n.metadata)
    c = bnncc.compile(net.model(), name="net", **net.options)
    v = c.verify(samples=30)
    assert v.ok
    assert v.exits is not None
    assert sum(v.exits.taken) == 30
    late = mutated(
        c, "net.c", lambda t: t.replace("return scaled < threshold * sum;", "return scaled < 0.2f * threshold * sum;")
    )
    early = mutated(
        c, "net.c", lambda t: t.replace("return scaled < threshold * sum;", "return scaled < 1e9f * threshold * sum;")
    )
    assert not (late.verify(samples=60).ok and early.verify(samples=60).ok)


def test_the_saved_outputs_are_what_the_reference_gives(compiled: bnncc.Compiled) -> None:
    v = compiled.verify(samples=8)
    (out,) = v.outputs_c.values()
    assert out.shape == (8, 1, 5)
    assert out.dtype == np.float32


def test_differences_from_the_file_are_shown_and_not_judged() -> None:
    net, x = small_net()
    net.outputs = [net.node("MatMul", net.node("Flatten", x), net.const(net.rng.choice([-0.3, 0.3], (144, 4))))]
    c = bnncc.compile(net.model(), name="net")
    v = c.verify(samples=32)
    assert v.ok
    assert v.given is not None
    assert 0 < v.given.largest_difference < 1e-4
    assert c.report["reference_differs"]


def test_the_files_own_rounding_at_a_threshold_is_reported() -> None:
    """u / 127.5 - 1 in float32: where an integer lies within that rounding of a threshold, the file may decide otherwise."""
    net = Net(np.random.default_rng(0), (1, 4, 4))
    x = net.node("Sub", net.node("Div", net.node("Cast", "x", to=T.FLOAT), net.const(127.5)), net.const(1.0))
    x = net.sign(net.node("Conv", x, net.weight((4, 1, 2, 2))), "ge_where")
    layers = bnncc.compile(finish(net, x).model(), name="net").report["layers"]
    assert layers[0]["channels_near_file_rounding"] == 4
    assert layers[1]["channels_near_file_rounding"] == 0
