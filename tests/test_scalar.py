"""Thresholds against the formula they stand for, evaluated at every integer; the formula against onnxruntime."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from bnncc.frontend.source.session import session
from bnncc.scalar import (
    BINARY,
    ROUGH,
    UNARY,
    Cut,
    Step,
    apply_cut,
    apply_steps,
    batch_norm,
    find_cut,
    float_order,
    near_channels,
    step,
)
from bnncc.verify.reference import probe_batch_norm

SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-38, -1e-38, 3e38, -3e38, float("inf"), -float("inf"), float("nan")]
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
ordinary = st.floats(-300, 300, width=32)
anything = st.one_of(ordinary, finite, st.sampled_from(SPECIAL))
parameters = st.lists(st.tuples(anything, anything, anything, anything), min_size=1, max_size=6)


def f32(values: object) -> np.ndarray:
    return np.array(values, np.float32)


def outcome(x, steps, *, strict, negate):
    """sign(steps(x)) as -1/+1, straight from the definition."""
    y = apply_steps(x, steps)
    return np.where(((y > 0) if strict else (y >= 0)) ^ negate, 1, -1)


def every_integer(lo: int, hi: int, shape: tuple[int, int, int]) -> np.ndarray:
    return np.broadcast_to(np.arange(lo, hi + 1).reshape(-1, 1, 1, 1), (hi - lo + 1, *shape))


@settings(max_examples=300, deadline=None)
@given(parameters, st.integers(1, 400), st.booleans(), st.booleans(), st.sampled_from([1e-5, 0.0, 1e-3]))
def test_threshold_is_the_formula_at_every_integer(rows, bound, strict, negate, epsilon):
    gamma, beta, mean, var = f32(rows).T
    steps = batch_norm(gamma, beta, mean, np.abs(var), epsilon)
    shape = (len(rows), 1, 1)
    cut = find_cut(steps, shape, (-bound, bound), strict=strict, negate=negate)
    x = every_integer(-bound, bound, shape)
    assert np.array_equal(apply_cut(x, cut), outcome(x, steps, strict=strict, negate=negate))


MONOTONE = [o for o in (*BINARY, *UNARY) if o not in ("abs", *ROUGH)]


def any_step(operation: str, values: list[float]) -> Step:
    """One that find_cut takes: a division by no zero, a PReLU that does not turn round."""
    if operation in UNARY:
        return Step(operation)
    if operation == "prelu":
        return step(operation, np.abs(f32(values)))
    return step(operation, [v or 1.0 for v in values] if operation == "div" else values)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(MONOTONE), st.lists(finite, min_size=3, max_size=3)), max_size=5),
    st.integers(-300, 0),
    st.integers(0, 300),
    st.booleans(),
)
def test_threshold_of_any_chain_of_steps(chain, lo, hi, strict):
    steps = [any_step(o, values) for o, values in chain]
    assert all(s.monotone for s in steps)
    x = every_integer(lo, hi, (3, 1, 1))
    y = apply_steps(x, steps)
    cut = find_cut(steps, (3, 1, 1), (lo, hi), strict=strict)
    comparable = ~np.isnan(y).any(axis=0)  # overflow times zero is refused by nobody and met by no trained network
    assert np.array_equal(
        apply_cut(x, cut)[:, comparable], outcome(x, steps, strict=strict, negate=False)[:, comparable]
    )


@pytest.mark.parametrize("s", [Step("abs"), step("prelu", [0.5, -0.5])])
def test_steps_that_turn_round(s: Step):
    assert not s.monotone


ONNX = {"prelu": "PRelu", "rsub": "Sub"}


@pytest.mark.parametrize("operation", [o for o in (*BINARY, *UNARY) if o not in ROUGH])
def test_steps_are_onnxruntimes_bit_for_bit(operation):
    """Every pair of ordinary and special numbers; where a maximum or minimum is zero, either zero counts as equal."""
    numbers = f32([*SPECIAL, 0.5, 1.5, 2.5, -0.5, -1.5, 8388609, 3.1, -7.9])
    x = np.repeat(numbers, len(numbers)).reshape(1, -1, 1, 1)
    c = np.tile(numbers, len(numbers)).reshape(-1, 1, 1)
    info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, x.shape) for n in "xy"]
    inputs = ["x"] if operation in UNARY else ["c", "x"] if operation == "rsub" else ["x", "c"]
    node = helper.make_node(ONNX.get(operation, operation.capitalize()), inputs, ["y"])
    graph = helper.make_graph([node], "one", info[:1], info[1:], [onnx.numpy_helper.from_array(c, "c")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (want,) = session(model).run(None, {"x": x})
    got = apply_steps(x, [Step(operation) if operation in UNARY else step(operation, c)])
    finite = np.isfinite(c) if operation not in UNARY else np.ones_like(c, bool)  # constants always are
    usable = finite[None] & ~np.isnan(x)
    equal = got == want if operation in ("max", "min") else got.view(np.uint32) == want.view(np.uint32)
    assert (equal | (np.isnan(got) & np.isnan(want)))[usable].all()


@pytest.mark.parametrize("strict", [False, True])
def test_large_accumulators(strict):
    r = np.random.default_rng(3)
    steps = batch_norm(*f32(r.normal(size=(3, 64)) * [[1], [1], [1e6]]), f32(r.uniform(0, 1e10, 64)), 1e-5)
    cut = find_cut(steps, (64, 1, 1), (-(1 << 24), 1 << 24), strict=strict)
    near = np.clip(cut.levels[0] + np.arange(-3, 4)[:, None], -(1 << 24), 1 << 24)[:, :, None, None]
    x = np.concatenate([near, r.integers(-(1 << 24), 1 << 24, (2000, 64, 1, 1))])
    assert np.array_equal(apply_cut(x, cut), outcome(x, steps, strict=strict, negate=False))
    assert ((apply_cut(x, cut) > 0).mean(axis=0) % 1 > 0).sum() > 20


@settings(max_examples=200, deadline=None)
@given(
    parameters.map(lambda rows: [[0.0 if np.isnan(v) or np.isinf(v) else v for v in r] for r in rows]),
    st.booleans(),
    st.data(),
)
def test_threshold_over_floats(rows, strict, data):
    """Random floats, the neighbours of the level, zeros of both signs, denormals and the largest numbers."""
    gamma, beta, mean, var = f32(rows).T
    steps = batch_norm(gamma, beta, mean, np.abs(var), 1e-5)
    shape = (len(rows), 1, 1)
    cut = find_cut(steps, shape, None, strict=strict)
    level = np.nan_to_num(cut.levels[0])
    drawn = data.draw(st.lists(finite, min_size=1, max_size=20))
    values = [
        np.broadcast_to(f32(v), (len(rows),)) for v in [*drawn, 0.0, -0.0, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38]
    ]
    values += [level, np.nextafter(level, f32(-3e38)), np.nextafter(level, f32(3e38))]
    x = f32(values)[:, :, None, None]
    x = x[np.isfinite(x).all(axis=(1, 2, 3))]
    y = apply_steps(x, steps)
    same = (apply_cut(x, cut) == outcome(x, steps, strict=strict, negate=False)) | np.isnan(y)
    assert same.all()


def test_float_order_is_the_order_of_floats():
    bits = np.array([-0x7F800001, -0x7F800000, -2, -1, 0, 1, 0x7F7FFFFF, 0x7F800000])
    values = float_order(bits)
    assert values[0] == -np.inf
    assert values[-1] == np.inf
    assert np.signbit(values[3])
    assert not np.signbit(values[4])
    assert (np.diff(values.astype(np.float64)) >= 0).all()


def test_nan_parameters_are_never_true():
    cut = find_cut([step("add", np.nan)], (2, 1, 1), (-5, 5), strict=False)
    assert (apply_cut(every_integer(-5, 5, (2, 1, 1)), cut) == -1).all()


def test_zero_gamma_over_floats_is_constant():
    """At infinity 0 * x is NaN; between, the sign of the offset decides."""
    steps = [step("mul", [0.0, 0.0]), step("add", [1.0, -1.0])]
    cut = find_cut(steps, (2, 1, 1), None, strict=False)
    x = f32([-3e38, -1, 0, 1, 3e38]).reshape(-1, 1, 1, 1) * np.ones((1, 2, 1, 1), np.float32)
    assert np.array_equal(apply_cut(x, cut), outcome(x, steps, strict=False, negate=False))


@pytest.mark.parametrize("bounds", [(-40, 40), None])
@pytest.mark.parametrize("shape", [(1, 3, 4), (5, 3, 4), (5, 1, 6)])
def test_pixel_classes(shape, bounds):
    """Constants that differ between pixels: few distinct rows, each used by several pixels."""
    r = np.random.default_rng(1)
    pattern = r.normal(size=(3, shape[0])).astype(np.float32) * 20
    pixels = r.integers(0, 3, shape[1:])
    steps = [step("add", pattern[pixels].transpose(2, 0, 1)), step("mul", r.choice([-1, 1], shape[0]))]
    cut = find_cut(steps, shape, bounds, strict=False)
    assert cut.classes is not None
    assert 1 < len(cut.levels) <= 3
    x = every_integer(-40, 40, shape)
    x = x if bounds else x.astype(np.float32) / 3
    assert np.array_equal(apply_cut(x, cut), outcome(x, steps, strict=False, negate=False))


def test_pixels_that_agree_need_no_classes():
    cut = find_cut([step("add", np.full((2, 3, 3), 4.0))], (2, 3, 3), (-9, 9), strict=False)
    assert cut.classes is None
    assert cut.levels.shape == (1, 2)


def test_unreachable_thresholds_are_constant():
    steps = [step("add", [1000.0, -1000.0])]
    cut = find_cut(steps, (2, 1, 1), (-10, 10), strict=False)
    assert cut.levels.tolist() == [[-10, 11]]
    assert not cut.inverts.any()


def test_apply_cut_inverts():
    cut = Cut(np.array([[3, 3]]), np.array([[False, True]]))
    assert apply_cut(np.array([[[[3]], [[3]]]]), cut).ravel().tolist() == [1, -1]
    assert apply_cut(np.array([[[[2]], [[2]]]]), cut).ravel().tolist() == [-1, 1]


def test_batch_norm_is_onnxruntimes_bit_for_bit():
    r = np.random.default_rng(11)
    c = 96
    x = np.concatenate([r.integers(-2000, 2000, (1, c, 40, 40)), r.normal(size=(1, c, 40, 40))], axis=2).astype(
        np.float32
    )
    gamma, beta, mean = (r.normal(size=c).astype(np.float32) * s for s in (1, 3, 50))
    var = (r.uniform(0, 1, c) * 10 ** r.uniform(-6, 6, c)).astype(np.float32)
    gamma[:3] = 0, -0.0, 1e-40
    info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, x.shape) for n in "xy"]
    constants = [onnx.numpy_helper.from_array(v, n) for n, v in zip("gbmv", (gamma, beta, mean, var), strict=True)]
    node = helper.make_node("BatchNormalization", list("xgbmv"), ["y"], epsilon=1e-3)
    graph = helper.make_graph([node], "one", info[:1], info[1:], constants)
    (y,) = session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)).run(
        None, {"x": x}
    )
    assert np.array_equal(y.view(np.uint32), apply_steps(x, batch_norm(gamma, beta, mean, var, 1e-3)).view(np.uint32))
    assert probe_batch_norm() == 0


JUMPS = [
    ((step("mul", 0.1), step("add", -0.3)), 1),  # 0 at 3
    ((step("mul", 0.1), step("add", -0.25)), 0),
    ((Step("floor"), step("add", -2.5)), 1),  # jumps at 3
    ((step("add", 0.25), Step("floor"), step("add", -2.5)), 0),
]


@pytest.mark.parametrize(("steps", "near"), JUMPS)
def test_channels_near_a_threshold_are_found_where_steps_jump(steps: tuple[Step, ...], near: int) -> None:
    cut = Cut(np.array([[3]]), np.array([[False]]))
    assert near_channels(cut, steps, (1, 1, 1), (-10, 10), 1e-3) == near
