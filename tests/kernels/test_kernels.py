"""Every kernel against the numpy meaning of its op: random shapes and extremes, on the host and on every core."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest

from bnncc.kernels import KERNELS
from bnncc.lower import lacking
from bnncc.ops import MaxPool
from bnncc.outputs import Store
from bnncc.resources import folder
from bnncc.scalar import Cut
from bnncc.sim.build import COMPILER
from bnncc.target import cores
from bnncc.tensor import Elem
from bnncc.verify.harness import WARNINGS
from tests.kernels.bench import Case, check, run, write
from tests.kernels.ops import MAKERS, conv, inputs, tensor, whole

HOST_CORE = cores()["cortex-m55"]  # every kernel can be chosen for it
APPLICATION = (Elem.U8, Elem.I8, Elem.F32)  # what a network's input can be
SPARSE = ("sbs_conv", "sbs_conv_ram", "sbs_conv_blocks", "sbs_vector")
OF_BITS = (*SPARSE, "lut_conv", "binary_conv", "binary_dense", "grouped_conv", "depthwise_conv", "bit_pool")
READS_INPUT = [k for k in MAKERS if k not in OF_BITS]
READS_INPUT = [k for k in READS_INPUT if k not in ("concat_bits", "move_pixels")]
PLAIN = ("combine", "map", "sbs_vector", "sbs_conv_ram")
OVERWRITES = [k for k in MAKERS if k in PLAIN or (k.endswith(("conv", "dense", "_pool")) and k != "quad_conv")]


def case(rng, kernel, *, small=False, layout=""):
    """A random op for a kernel; `small` keeps it affordable in the simulator."""
    while True:
        op = MAKERS[kernel](rng)
        places = [k for k, t in enumerate(op.inputs) if t.elem in APPLICATION and t.size > 1]
        if (layout and not places) or refused(op, kernel):
            continue
        work = getattr(op, "macs", op.x.size)
        if work <= (40_000 if small else 1_000_000) and op.x.size + op.y.size < (2_000 if small else 20_000):
            values = tuple(inputs(rng, t) for t in op.inputs)
            return Case(op, kernel, values, layout, int(rng.choice(places)) if layout else 0)


def kernel_of(op, kernel):
    return next(k for k in KERNELS if k.name == kernel and type(op) in k.ops)


def refused(op, kernel):
    return kernel_of(op, kernel).refuses(op)


def able(core):
    """The kernels to test on a core."""
    return [k.name for k in KERNELS if k.name in MAKERS and not lacking(k, core)]


def run_all(cases, core, where, *, sim=False):
    for c, stored in zip(cases, run(cases, core, where, sim=sim), strict=True):
        check(c, stored)


def test_every_kernel_is_tested():
    elsewhere = {"classify", "exit"}  # they work on the result: tests/test_networks.py
    assert {k.name for k in KERNELS} == set(MAKERS) | elsewhere


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_every_part_of_the_work_has_a_cost_on_every_core(kernel):
    rng = np.random.default_rng(12)
    made = (MAKERS[kernel.name](rng) for _ in range(100)) if kernel.name in MAKERS else ()
    for op in made:
        if not kernel.refuses(op):
            assert all(kernel.estimate(op, core.cost) >= 0 for core in cores().values() if not lacking(kernel, core))


@pytest.mark.parametrize("batch", range(2))
@pytest.mark.parametrize("kernel", MAKERS)
def test_on_the_host(kernel, batch, tmp_path):
    """Under ASan and UBSan; arrays are exactly as large as the C may touch."""
    rng = np.random.default_rng([batch, *kernel.encode()])
    run_all([case(rng, kernel) for _ in range(20)], HOST_CORE, tmp_path)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("kernel", READS_INPUT)
def test_on_the_networks_input(kernel, layout, tmp_path):
    """An op reads the input in the application's order, not pixel-major: as its first input or as another one."""
    rng = np.random.default_rng([7, *kernel.encode()])
    for k in range(3):
        (tmp_path / str(k)).mkdir()
        run_all([case(rng, kernel, layout=layout)], HOST_CORE, tmp_path / str(k))


@pytest.mark.parametrize("kernel", MAKERS)
def test_in_place(kernel, tmp_path):
    """The output in the memory of an input, where the kernel says that it may be."""
    rng = np.random.default_rng([4, *kernel.encode()])
    cases = []
    for _ in range(3000):
        op = MAKERS[kernel](rng)
        given = kernel_of(op, kernel).in_place(op)
        if given and op.x.size < 20_000 and not refused(op, kernel):
            cases.append(Case(op, kernel, tuple(inputs(rng, t) for t in op.inputs), over=int(rng.choice(given))))
        if len(cases) == 20:
            break
    assert bool(cases) == (kernel in OVERWRITES)
    if cases:
        run_all(cases, HOST_CORE, tmp_path)


APART = (
    "move",
    "move_pixels",
    "norm_sign",
    "real_conv",
    "sbs_conv",
    "sbs_conv_ram",
    "sbs_vector",
    "table_conv",
    "threshold",
    "value_conv",
)
APART = (*APART, "binary_conv", "binary_dense", "bit_pool", "depthwise_conv", "grouped_conv")


def beside_others(rng, kernel, count, most=20_000):
    """Ops of a kernel that makes bits with room for others, and words of others around each pixel."""
    cases = []
    for _ in range(3000 if kernel in APART else 300):
        op = MAKERS[kernel](rng)
        bits = not isinstance(op, Store) and op.y.elem is Elem.BIN and op.y.shape[0] > 16
        if bits and kernel_of(op, kernel).apart(op) and op.x.size + op.y.size < most and not refused(op, kernel):
            beside = tuple(int(n) for n in rng.integers(0, 3, 2))
            cases.append(Case(op, kernel, tuple(inputs(rng, t) for t in op.inputs), beside=beside))
        if len(cases) == count:
            break
    return cases


@pytest.mark.parametrize("kernel", MAKERS)
def test_beside_others(kernel, tmp_path):
    """Of a concatenation's pixels each writes its own words alone."""
    cases = beside_others(np.random.default_rng([11, *kernel.encode()]), kernel, 6)
    assert bool(cases) == (kernel in APART)
    if cases:
        run_all(cases, HOST_CORE, tmp_path)


@pytest.mark.parametrize("core", ["cortex-m0", "cortex-m4"])
def test_beside_others_in_the_simulator(core, tmp_path):
    rng = np.random.default_rng([12, *core.encode()])
    kernels = [k for k in able(cores()[core]) if k in APART]
    run_all([c for k in kernels for c in beside_others(rng, k, 1, 2_000)], cores()[core], tmp_path, sim=True)


@pytest.mark.parametrize("pad_value", [0, 1, -1])
def test_channel_counts_around_words(pad_value, tmp_path):
    rng = np.random.default_rng(5)
    same = {
        "size": (4, 5),
        "out": (4, 5),
        "kernel": (3, 3),
        "strides": (1, 1),
        "dilations": (1, 1),
        "pads": (1, 1, 1, 1),
    }
    cases = []
    for c in (20, 40, 97):
        for o in (10, 33, 48):
            op = conv(rng, Elem.BIN, c, o, same)
            op = type(op)(**{**op.__dict__, "pad_value": pad_value})
            cases.append(Case(op, "binary_conv", tuple(inputs(rng, t) for t in op.inputs)))
    run_all(cases, HOST_CORE, tmp_path)


@pytest.mark.parametrize("kernel", ["bit_pool", "value_pool"])
@pytest.mark.parametrize("pad", [0, 1])
def test_pooling_of_one_pixel(kernel, pad, tmp_path):
    """Nothing is left unused in its C."""
    rng = np.random.default_rng(6)
    cases = []
    for c in (1, 8, 40):
        x = tensor("x", Elem.BIN if kernel == "bit_pool" else Elem.I8, (c, 1, 1))
        size = {"kernel": (1 + 2 * pad, 1 + 2 * pad), "pads": (pad,) * 4}
        cases.append(Case(MaxPool(x=x, y=replace(x, name="y"), **size), kernel, (inputs(rng, x),)))
    run_all(cases, HOST_CORE, tmp_path)


@pytest.mark.parametrize("value", [-1, 1])
def test_extremes(value, tmp_path):
    """All weights alike and all inputs alike: the accumulator at its ends, and thresholds there."""
    rng = np.random.default_rng(9)
    cases = []
    for kernel in ("binary_conv", "binary_dense", *SPARSE, "lut_conv", "value_conv", "table_conv"):
        for _ in range(4):
            c = case(rng, kernel)
            weight = np.full_like(c.op.weight, value)
            cases.append(replace(c, op=type(c.op)(**{**c.op.__dict__, "weight": weight})))
    run_all(cases, HOST_CORE, tmp_path)


@pytest.mark.parametrize("value", [-1, 1])
def test_more_than_16_bits_count(value, tmp_path):
    """All of 160,000 inputs differ from their weights, with and without a border that counts for nothing."""
    rng = np.random.default_rng(2)
    cases = []
    for kernel, side, pads in (("binary_dense", 50, 0), ("binary_conv", 49, 1)):
        given = {
            "size": (side, side),
            "out": (1, 1),
            "kernel": (50, 50),
            "strides": (1, 1),
            "dilations": (1, 1),
            "pads": (pads, pads, 0, 0),
        }
        op = conv(rng, Elem.BIN, 64, 3, given)
        y = tensor("y", Elem.I32, (3, 1, 1))
        op = replace(op, y=y, cut=None, steps=(), others=(), pad_value=0, weight=np.full_like(op.weight, value))
        cases.append(Case(op, kernel, (inputs(rng, op.x),)))
    run_all(cases, HOST_CORE, tmp_path)


MANY = {  # channels and the window
    "one column": (16_000, whole(1, 1)),
    "two columns": (5_200, whole(3, 2)),
    "a border": (1_830, {**whole(2, 3), "out": (2, 3), "kernel": (3, 3), "pads": (1, 1, 1, 1)}),
}


@pytest.mark.parametrize("where", ["host", "cortex-m0plus", "cortex-m4", "cortex-m55"])
@pytest.mark.parametrize("many", MANY)
def test_counts_of_many_inputs(many, where, tmp_path):
    """Nearly as many inputs as a list's entries reach, and more in several lists, from none to all set; weights alike and not."""
    rng = np.random.default_rng(6)
    count, shares = MANY[many][0], np.array([0, 0.3, 0.49, 0.66, 1])
    op = conv(rng, Elem.BIN, count, 40, MANY[many][1])
    weight = op.weight.copy()
    weight[0], weight[1] = -1, 1
    values = np.where(rng.random((len(shares), *op.x.shape)) < shares[:, None, None, None], 1, -1).astype(np.int8)
    cut = Cut(np.array([[0, 0, 0, 8] * 10]), np.zeros((1, 40), bool))
    y = tensor("y", Elem.BIN, op.y.shape)
    op = type(op)(**{**op.__dict__, "y": y, "cut": cut, "pad_value": 0, "weight": weight})
    core = HOST_CORE if where == "host" else cores()[where]
    kernel = "sbs_vector" if where == "cortex-m55" else "sbs_conv"
    assert not next(k for k in KERNELS if k.name == kernel).refuses(op)
    run_all([Case(op, kernel, (values,))], core, tmp_path, sim=where != "host")


COMPILERS = {"clang": ("clang",), "gcc": ("gcc",)} | {c.name: (COMPILER, *c.flags) for c in cores().values()}


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_warnings_with(compiler, tmp_path):
    """Six ops a kernel, optimised, under other compilers than the one that runs them."""
    rng = np.random.default_rng(11)
    kernels = able(cores().get(compiler, HOST_CORE))
    source = write([case(rng, kernel) for kernel in kernels for _ in range(6)], HOST_CORE, tmp_path)
    flags = ("-std=c99", "-O2", *WARNINGS, f"-I{folder('firmware') / 'sim'}", "-c", "-o", str(tmp_path / "driver.o"))
    done = subprocess.run([*COMPILERS[compiler], *flags, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]


@pytest.mark.parametrize("core", cores())
def test_in_the_simulator(core, tmp_path):
    """Two ops a kernel on each core; the M0 and M0+ machines fault on Thumb-2 and on unaligned access."""
    rng = np.random.default_rng([3, *core.encode()])
    run_all(
        [case(rng, kernel, small=True) for kernel in able(cores()[core]) for _ in range(2)],
        cores()[core],
        tmp_path,
        sim=True,
    )
