"""Sums of real values against onnxruntime itself, bit for bit: the C rounds in the same order."""

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from bnncc.frontend.source.session import session
from bnncc.ops import Conv, Normalize, SumPool
from bnncc.target import cores
from bnncc.tensor import Elem, Tensor
from tests.kernels.bench import Case, run

CPU = Path("/proc/cpuinfo")
FLAGS = CPU.read_text().split() if CPU.is_file() else []
pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not {"avx2", "fma"} <= set(FLAGS),
    reason="the orders are those of onnxruntime on x86-64 with AVX2 and FMA; elsewhere it sums in others",
)

FAST = ("-std=c99", "-O3", "-march=native", "-ffp-contract=fast")
COMPILERS = {"gcc": ("gcc", *FAST), "clang": ("clang", *FAST), "gcc without fusing": ("gcc", "-std=c99", "-O1")}
SAMPLES = 2


def reference(kind, x, constants=(), *, computed=(), opset=17, **attributes):
    """One ONNX node on each sample [N, ...]; `computed` says which constants come out of an Identity, and so are not packed."""
    inits = [nh.from_array(np.asarray(v, np.float32), f"c{k}") for k, v in enumerate(constants)]
    nodes, names = [], ["x"]
    for k, _ in enumerate(constants):
        names.append(f"i{k}" if k in computed else f"c{k}")
        nodes += [h.make_node("Identity", [f"c{k}"], [f"i{k}"])] if k in computed else []
    nodes.append(h.make_node(kind, names, ["y"], **attributes))
    given = h.make_tensor_value_info("x", T.FLOAT, [1, *x.shape[1:]])
    graph = h.make_graph(nodes, "g", [given], [h.make_tensor_value_info("y", T.FLOAT, None)], inits)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=8)
    one = session(model)
    return np.concatenate([one.run(None, {"x": x[k : k + 1].copy()})[0] for k in range(len(x))])


def values(rng, *shape):
    v = rng.standard_normal(shape)
    return (v * np.exp(rng.standard_normal(shape)) if rng.random() < 0.5 else v).astype(np.float32)


def real(name, shape):
    return Tensor(name, Elem.F32, shape)


def compare(pairs, where, compiler="gcc"):
    """(case, what onnxruntime gives, per how many it divides): no bit differs. Without a compiler: in the simulator."""
    cases, core = [c for c, _, _ in pairs], cores()["cortex-m4"]
    made = run(cases, core, where, compiler=COMPILERS[compiler]) if compiler else run(cases, core, where, sim=True)
    total = 0
    for (c, want, count), got in zip(pairs, made, strict=True):
        n, *shape = c.values[0].shape[0], *c.op.y.shape
        mine = got.reshape(n, shape[1], shape[2], shape[0]).transpose(0, 3, 1, 2) / np.float32(count)
        same = mine.view(np.int32) == want.reshape(n, *shape).view(np.int32)
        plain = {k: v for k, v in c.op.__dict__.items() if k not in ("weight", "start")}
        assert same.all(), f"{c.kernel}: {(~same).sum()} of {same.size} differ: {plain}"
        total += same.size
    assert total > 100


def conv(rng, *, c, o, size, kernel, strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), groups=1, binary=False):
    x = values(rng, SAMPLES, c * groups, *size)
    shape = (o * groups, c, *kernel)
    weight = rng.choice([-1, 1], shape).astype(np.int8) if binary else values(rng, *shape)
    want = reference(
        "Conv", x, [weight], kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations, group=groups
    )
    op = Conv(
        x=real("x", x.shape[1:]),
        y=real("y", want.shape[1:]),
        weight=weight,
        kernel=kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=groups,
    )
    return Case(op, "value_conv" if binary else "real_conv", (x,)), want, 1


def random_conv(rng):
    while True:
        k = int(rng.choice([1, 1, 2, 3, 3, 5]))
        c = int(rng.choice([1, 2, 3, 8, 13, 32, 64, 150]))
        size = tuple(int(v) for v in rng.choice([1, 2, 4, 5, 7, 9, 14, 20], 2))
        strides, dilations = (int(rng.integers(1, 4)),) * 2, (int(rng.integers(1, 3)),) * 2
        pads = tuple(int(v) for v in (rng.integers(0, k + 1, 4) if rng.random() < 0.5 else [k // 2] * 4))
        room = [n + p + q - (k - 1) * dilations[0] for n, p, q in zip(size, pads[:2], pads[2:], strict=True)]
        o, groups = int(rng.choice([1, 1, 2, 3, 4, 7, 10, 16])), int(rng.choice([1, 1, 1, 2, 3, 8]))
        if min(room) > 0 and o * groups * c * k * k * size[0] * size[1] < 2_000_000:
            break
    return conv(
        rng,
        c=c,
        o=o,
        size=size,
        kernel=(k, k),
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=groups,
        binary=bool(rng.random() < 0.3),
    )


@pytest.mark.parametrize("compiler", COMPILERS)
def test_convolutions(compiler, tmp_path):
    rng = np.random.default_rng(1)
    compare([random_conv(rng) for _ in range(80)], tmp_path, compiler)


def limits(rng, binary):
    """Sums over several blocks, for each number of pixels that changes the block; one pixel, one filter, whole width."""
    same = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}
    cases = [
        conv(rng, c=c, o=3, size=size, **same, binary=binary)
        for c, size in ((60, (9, 9)), (60, (8, 8)), (60, (6, 6)), (70, (5, 5)), (130, (4, 4)), (130, (1, 2)))
    ]
    for o in (2, 3, 4, 5, 6, 7, 10):  # one pixel: eight interleaved sums
        cases += [conv(rng, c=c, o=o, size=(1, 1), kernel=(1, 1), binary=binary) for c in (3, 8, 50)]
        cases.append(conv(rng, c=7, o=o, size=(4, 3), kernel=(4, 3), groups=2, binary=binary))
    for k in range(1, 13):  # one filter: fours, two and one
        cases.append(conv(rng, c=1, o=1, size=(5, 14), kernel=(1, k), groups=3, binary=binary))
    for width, kernel in ((6, (2, 6)), (5, (4, 5)), (5, (5, 5))):
        for groups in (1, 4):
            cases.append(conv(rng, c=1, o=1, size=(5, width), kernel=kernel, groups=groups, binary=binary))
    return cases


@pytest.mark.parametrize("binary", [False, True])
def test_convolutions_at_the_limits_of_each_form(binary, tmp_path):
    compare(limits(np.random.default_rng(2), binary), tmp_path)


def dense(rng, inputs, outputs, order, *, bias, rows=1, binary=False):
    """A MatMul or Gemm of [rows, inputs], as a convolution over `rows` pixels."""
    x = values(rng, SAMPLES, inputs, 1, rows)
    weight = rng.choice([-1, 1], (outputs, inputs)).astype(np.int8) if binary else values(rng, outputs, inputs)
    start = values(rng, outputs) if bias else ()
    columns = order == "columns" or (order == "packed" and rng.random() < 0.5)
    want = []
    for v in x:
        matrix = np.ascontiguousarray(v.reshape(inputs, rows).T)
        constants = [weight if columns else weight.T, *([start] if bias else [])]
        want.append(gemm(matrix, constants, columns=columns, computed=order != "packed"))
    op = Conv(
        x=real("x", (inputs, 1, rows)),
        y=real("y", (outputs, 1, rows)),
        weight=weight.reshape(outputs, inputs, 1, 1),
        kernel=(1, 1),
        order=order,
        start=tuple(float(v) for v in start),
    )
    return Case(op, "value_conv" if binary else "real_conv", (x,)), np.stack(want).transpose(0, 2, 1).copy(), 1


def gemm(matrix, constants, *, columns, computed):
    inits = [nh.from_array(np.ascontiguousarray(v, np.float32), f"c{k}") for k, v in enumerate(constants)]
    nodes = [h.make_node("Identity", ["c0"], ["w"])] if computed else []
    names = ["x", "w" if computed else "c0", *(["c1"] if len(constants) > 1 else [])]
    nodes.append(h.make_node("Gemm", names, ["y"], transB=int(columns)))
    given = h.make_tensor_value_info("x", T.FLOAT, matrix.shape)
    graph = h.make_graph(nodes, "g", [given], [h.make_tensor_value_info("y", T.FLOAT, None)], inits)
    return session(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)).run(None, {"x": matrix})[
        0
    ]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("order", ["packed", "rows", "columns"])
def test_dense_layers(order, compiler, tmp_path):
    rng = np.random.default_rng([3, len(order)])
    sizes = [
        (int(k), int(rng.choice([1, 2, 3, 4, 5, 7, 10, 33]))) for k in (1, 2, 3, 7, 8, 9, 31, 100, 256, 257, 600, 1100)
    ]
    cases = [
        dense(rng, k, o, order, bias=bias, rows=rows, binary=binary)
        for k, o in sizes
        for bias in (False, True)
        for rows in (1, 5)
        for binary in (False, True)
        if order == "packed" or rows == 1 or o > 1
    ]
    compare(cases, tmp_path, compiler)


def pool(rng, shape, order, kind, **attributes):
    x = values(rng, SAMPLES, *shape)
    want = reference(kind, x, **attributes)
    kernel = attributes.get("kernel_shape", shape[1:])
    window = {k: attributes[k] for k in ("strides", "pads") if k in attributes}
    y = real("y", (shape[0], *want.shape[2:]))
    op = SumPool(x=real("x", shape), y=y, kernel=tuple(kernel), order=order, **window)
    count = 1 if kind == "ReduceSum" else kernel[0] * kernel[1]
    return Case(op, "sum" if op.whole else "window_sum", (x,)), want, count


def test_means(tmp_path):
    rng = np.random.default_rng(4)
    cases = []
    for side in ((1, 1), (1, 3), (2, 2), (1, 5), (3, 3), (4, 4), (3, 5), (5, 5), (7, 7), (8, 8), (6, 10)):
        shape = (9, *side)
        cases.append(pool(rng, shape, "lanes", "GlobalAveragePool"))
        cases.append(pool(rng, shape, "lanes", "AveragePool", kernel_shape=side))
        cases.append(pool(rng, shape, "rows", "AveragePool", kernel_shape=side, opset=19))
        if min(side) > 1:  # axes of size 1 are none
            cases.append(pool(rng, shape, "reduce", "ReduceMean", axes=[2, 3]))
    for kernel, strides, pads in (
        ((2, 2), (2, 2), (0,) * 4),
        ((3, 3), (1, 1), (1,) * 4),
        ((3, 2), (2, 2), (1, 0, 1, 1)),
    ):
        given = {"kernel_shape": kernel, "strides": strides, "pads": pads, "count_include_pad": 1}
        cases.append(pool(rng, (5, 8, 9), "columns", "AveragePool", **given))
        cases.append(pool(rng, (5, 8, 9), "rows", "AveragePool", **given, opset=19))
    cases.append(pool(rng, (5, 8, 9), "rows", "AveragePool", kernel_shape=(3, 3), strides=(3, 3)))
    compare(cases, tmp_path)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_layer_normalisation(compiler, tmp_path):
    rng = np.random.default_rng(5)
    cases = []
    for n in (*range(1, 25), 64, 100, 257):
        x = values(rng, SAMPLES, n, 1, 3)
        rows = np.ascontiguousarray(x.transpose(0, 2, 3, 1).reshape(SAMPLES, 3, n))
        want = reference("LayerNormalization", rows, [np.ones(n)], axis=-1, epsilon=1e-5)
        op = Normalize(x=real("x", (n, 1, 3)), y=real("y", (n, 1, 3)), epsilon=1e-5, features=False)
        cases.append((Case(op, "normalize", (x,)), want.transpose(0, 2, 1).copy(), 1))
    for shape in ((3, 2, 2), (5, 3, 3), (8, 4, 5)):
        x = values(rng, SAMPLES, *shape)
        want = reference("LayerNormalization", x, [np.ones(shape)], axis=1, epsilon=1e-5)
        op = Normalize(x=real("x", shape), y=real("y", shape), epsilon=1e-5, features=True)
        cases.append((Case(op, "normalize", (x,)), want, 1))
        last = replace(op, x=replace(op.x, channels_last=True))
        want = reference(
            "LayerNormalization", x.transpose(0, 2, 3, 1).copy(), [np.ones((*shape[1:], shape[0]))], axis=1
        )
        cases.append((Case(last, "normalize", (x,)), want.transpose(0, 3, 1, 2).copy(), 1))
    compare(cases, tmp_path, compiler)


def test_on_a_core_with_fused_multiply_add(tmp_path):
    rng = np.random.default_rng(6)
    cases = limits(rng, False)
    cases += [dense(rng, 300, 7, order, bias=True) for order in ("packed", "rows", "columns")]
    compare(cases, tmp_path, compiler="")
