"""ONNX files are untrusted: here names that C takes for something else, and models of thousands of nodes."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

import bnncc
from tests.frontend.untrusted import changed, code_of, shaped
from tests.nets import Net, finish, small_net

EVIL = [
    'a "quoted" name',
    "new\nline\rreturn",
    "*/ int x; /*",
    "*\\",
    "trailing backslash \\",
    "??/ trigraph ??'",
    "int",
    "class",
    "NULL",
    "input",
    "step",
    "exit",
    "class_index",
    "entropy",
    "ünïcödé 網",
    "a#b@unpooled",
    "{{ jinja }} {% endraw %}",
    "%s%n",
    "x" * 3000,
    "logits",
    "LOGITS",
    "logits_2",
    "9",
    " ",
    "\x07\x1b[31m",
]


@pytest.mark.parametrize("name", EVIL)
def test_names_of_every_kind(name: str) -> None:
    """Each as the name of an output, of the nodes and of an inner value; the C compiles without a warning and is right."""
    net, x = small_net()
    net = finish(finish(net, x, 4), x, 3)
    inner = net.nodes[3].output[0]
    renamed = {net.outputs[0]: name, net.outputs[1]: name + "'", inner: name + "#"}
    for k, node in enumerate(net.nodes):
        node.name = f"{k}{name}"  # onnxruntime wants them to be distinct
        node.input[:] = [renamed.get(v, v) for v in node.input]
        node.output[:] = [renamed.get(v, v) for v in node.output]
    net.outputs = [renamed[o] for o in net.outputs]
    compiled = bnncc.compile(net.model(), name="net")
    assert compiled.verify(samples=4).ok


def test_nodes_that_share_a_name(good: onnx.ModelProto) -> None:
    """onnxruntime refuses what ONNX allows."""
    model = changed(good, lambda _: None)
    for k, node in enumerate(model.graph.node):
        node.name = ("same", "same_3", "")[k % 3]
    assert bnncc.compile(model, name="net").verify(samples=4).ok


def test_names_that_collide_once_they_are_c() -> None:
    net, x = small_net()
    names = ["a.b", "a/b", "a b", "A_b", "input", "INPUT", "class_index", "Class_Index"]
    for _ in names:
        finish(net, x, 1 + len(net.outputs))
    for node in net.nodes:
        node.output[:] = [names[net.outputs.index(o)] if o in net.outputs else o for o in node.output]
    net.outputs = names
    compiled = bnncc.compile(net.model(), name="net")
    fields = list(compiled.result_dtype.names)
    assert len({f.lower() for f in fields}) == len(names)
    assert compiled.verify(samples=4).ok


def test_inner_names_cannot_collide_with_the_compilers() -> None:
    """Values called as the importer and the passes call theirs."""
    net, x = small_net()
    x = net.node("MaxPool", net.node("Conv", x, net.weight((8, 9, 1, 1), scaled=True)), kernel_shape=[2, 2])
    x = net.sign(net.batch_norm(x), "ge_where")
    net = finish(net, x)
    made = [n.output[0] for n in net.nodes]
    for kind in ("#acc", "#step0", "@unpooled", "@unpooled'"):
        for value in (made[-4], made[-5], made[-6], x):
            net.nodes.append(h.make_node("Identity", [net.outputs[0]], [value + kind]))
    compiled = bnncc.compile(net.model(), name="net")
    assert compiled.verify(samples=4).ok


def test_a_model_named_like_a_header(tmp_path: Path) -> None:
    net, x = small_net()
    model = finish(net, x).model()
    for stem in ("model", "math", "driver", "stdint", "board"):
        path = tmp_path / f"{stem}.onnx"
        onnx.save(model, path)
        compiled = bnncc.compile(path)
        assert compiled.name == f"{stem}_net"
        assert compiled.verify(samples=2).ok


def long_chain(net: Net, x: str) -> str:
    for k in range(10_000):
        x = net.node("Add", x, net.const(1e-3 if k % 2 else -1e-3)) if k % 100 else net.node("Identity", x)
    return x


def many_outputs(net: Net, x: str) -> str:
    """Whose names are one as soon as they are C."""
    net.nodes += [
        h.make_node("GlobalMaxPool", [x], ["".join("./ -#*+&"[int(d)] for d in oct(k)[2:])]) for k in range(2_000)
    ]
    net.outputs += [n.output[0] for n in net.nodes[-2_000:]]
    return x


def many_constants(net: Net, x: str) -> str:
    c = first = net.const(1e-6)
    for _ in range(10_000):
        c = net.node("Add", c, first)
    return net.node("Add", x, c)


def many_clips(net: Net, x: str) -> str:
    low, high = net.const(-1e3), net.const(1e3)
    x = net.node("Conv", x, net.weight((9, 9, 1, 1)))
    for _ in range(10_000):
        x = net.node("Clip", x, low, high)
    return x


def many_pools(net: Net, x: str) -> str:
    x = net.node("Conv", x, net.const(net.rng.normal(size=(9, 9, 1, 1))))
    for _ in range(3_000):
        x = net.node("MaxPool", x, kernel_shape=[2, 2], pads=[1, 1, 0, 0])
    return net.sign(x, "ge_where")


def many_moves(net: Net, x: str) -> str:
    """As deep as a recursion could not go."""
    x = net.node("Conv", x, net.const(net.rng.normal(size=(9, 9, 1, 1))))
    for _ in range(2_000):
        x = net.node("Transpose", x, perm=[0, 1, 3, 2])
    return net.node("Sign", x)


def many_operands(net: Net, x: str) -> str:
    y = net.node("Conv", x, net.const(net.rng.normal(size=(9, 9, 1, 1))))
    for k in range(10_000):
        y = net.node("Mul" if k % 2 else "Add", y, x)
    return y


def twice_the_same(net: Net, x: str) -> str:
    """A straight-through trick whose two sides are long."""
    bit, c = net.sign(net.node("Conv", x, net.weight((9, 9, 1, 1))), "ge_where"), net.const(0.999)
    a = b = net.node("Conv", x, net.const(net.rng.normal(size=(9, 9, 1, 1))))
    for _ in range(2_000):
        a, b = net.node("Mul", a, c), net.node("Mul", b, c)
    return net.node("Add", net.node("Sub", bit, a), b)


def many_operators(net: Net, x: str) -> str:
    for _ in range(10_000):
        net.node("Erf", x)
    return x


@pytest.mark.parametrize(
    ("grow", "code"),
    [
        (long_chain, ""),
        (many_outputs, ""),
        (many_constants, ""),
        (many_clips, ""),
        (many_pools, ""),
        (many_moves, ""),
        (many_operands, ""),
        (twice_the_same, ""),
        (many_operators, "E0201"),
    ],
)
def test_ten_thousand_nodes(grow: Callable[[Net, str], str], code: str) -> None:
    net, x = small_net()
    net.outputs.append(net.node("GlobalMaxPool", grow(net, x)))
    model = shaped(net, (1, 9, 1, 1))
    begin = time.process_time()
    assert code_of(model) == code
    assert time.process_time() - begin < 15


def test_a_thousand_layers() -> None:
    net = Net(np.random.default_rng(0), (8,), T.FLOAT)
    x = net.sign("x", "ge_where")
    w = net.weight((8, 8))
    for _ in range(1000):
        x = net.sign(net.node("MatMul", x, w), "ge_where")
    net.outputs.append(net.node("MatMul", x, w))
    compiled = bnncc.compile(net.model(), name="net")
    assert len([s for s in compiled.program.steps if s.op.x.elem.value == "bin"]) >= 1000
    assert compiled.program.arena_bytes < 128


def test_an_initializer_may_be_listed_as_an_input(good: onnx.ModelProto) -> None:
    """As in files before IR version 4."""
    model = onnx.ModelProto()
    model.CopyFrom(good)
    for t in model.graph.initializer:
        model.graph.input.append(h.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
    assert bnncc.compile(model, name="net").verify(samples=4).ok


def test_weights_stored_in_packed_bits() -> None:
    """Weights as BitwiseAnd -> Cast -> Where -> Reshape of packed bytes, which is what the project's exporter writes."""
    net, x = small_net()
    w = net.rng.integers(0, 256, (5 * 144 // 8, 1)).astype(np.uint8)
    bits = net.node("BitwiseAnd", net.const(w, np.uint8), net.const([[1 << k for k in range(8)]], np.uint8))
    signs = net.node("Where", net.node("Cast", bits, to=T.BOOL), net.const(1.0), net.const(-1.0))
    weight = net.node("Reshape", signs, net.const([144, 5], np.int64))
    net.outputs.append(net.node("MatMul", net.node("Flatten", x), weight))
    assert bnncc.compile(net.model(), name="net").verify(samples=4).ok


def test_arrays_by_name_are_what_nh_reads(good: onnx.ModelProto) -> None:
    """NaN and infinite parameters anywhere are refused."""
    for k, t in enumerate(good.graph.initializer):
        a = nh.to_array(t).copy()
        if a.dtype.kind != "f" or a.size < 2:
            continue
        model = onnx.ModelProto()
        model.CopyFrom(good)
        a.flat[1] = np.nan if k % 2 else np.inf
        model.graph.initializer[k].CopyFrom(nh.from_array(a, t.name))
        assert code_of(model) == "E0301", t.name
