"""ONNX files are untrusted: whatever is in them gives a diagnostic or correct C, never a traceback."""

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

import bnncc
from tests.nets import Net, finish, small_net


@pytest.fixture(scope="module")
def good() -> onnx.ModelProto:
    net, x = small_net()
    return finish(net, x).model()


def shaped(net: Net, shape: tuple[int, ...] = (1, 9, 4, 4)) -> onnx.ModelProto:
    """The model of a net whose output's shape cannot be inferred."""
    model = net.model(net.outputs)
    model.graph.output[0].CopyFrom(h.make_tensor_value_info(net.outputs[0], T.FLOAT, shape))
    return model


def code_of(source: object) -> str:
    """The code that compile() refuses with, "" if it does not."""
    try:
        bnncc.compile(source, name="net")
    except bnncc.BnnccError as e:
        return e.diagnostics[0].code
    return ""


def test_paths(tmp_path: Path) -> None:
    assert code_of(tmp_path / "missing.onnx") == "E0101"
    assert code_of(tmp_path) == "E0101"
    assert code_of(str(tmp_path / ("x" * 300))) == "E0101"
    assert code_of("null\0byte.onnx") in ("E0101", "E0102")


@pytest.mark.parametrize("suffix", [".onnx", ".json", ".textproto", ".onnxtxt", ""])
@pytest.mark.parametrize("data", [b"", b"\x00", b"hello\n", b"{}", b"\xff" * 100, bytes(range(256))])
def test_files_that_are_no_model(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    assert code_of(path) == "E0102"


def test_truncated_files(good: onnx.ModelProto, tmp_path: Path) -> None:
    data = good.SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in [*range(0, 200, 7), *range(200, len(data), 311), len(data) - 1]:
        path.write_bytes(data[:length])
        assert code_of(path).startswith("E01"), length


def test_damaged_files(good: onnx.ModelProto, tmp_path: Path) -> None:
    """A few bytes changed anywhere: refused, or compiled (a damaged weight is a weight)."""
    data = good.SerializeToString()
    path = tmp_path / "damaged.onnx"
    r = random.Random(4)
    codes = set()
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(r.choice((1, 1, 3, 30))):
            changed[r.randrange(len(data)) if r.random() < 0.7 else r.randrange(400)] = r.randrange(256)
        path.write_bytes(changed)
        codes.add(code_of(path))
    assert len(codes) > 4


def test_missing_external_data(good: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "outside.onnx"
    onnx.save_model(
        changed(good, lambda _: None),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="weights",
        size_threshold=0,
    )
    assert code_of(path) == ""
    (tmp_path / "weights").unlink()
    assert code_of(path) == "E0106"


def test_external_data_outside_of_the_folder(good: onnx.ModelProto, tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(good)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")
    path = tmp_path / "escape.onnx"
    path.write_bytes(model.SerializeToString())
    assert code_of(path).startswith("E01")


def changed(good: onnx.ModelProto, change: object) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(good)
    change(model)
    return model


def absurd(model: onnx.ModelProto) -> None:
    model.graph.initializer[2].dims[0] = 1 << 50


def wrong_dims(model: onnx.ModelProto) -> None:
    model.graph.initializer[2].dims[0] += 1


def negative_dims(model: onnx.ModelProto) -> None:
    model.graph.initializer[2].dims[0] = -9


def no_initializer(model: onnx.ModelProto) -> None:
    del model.graph.initializer[2]


def cycle(model: onnx.ModelProto) -> None:
    first = model.graph.node[2]
    first.input[0] = model.graph.node[5].output[0]


def twice(model: onnx.ModelProto) -> None:
    model.graph.node[5].output[0] = model.graph.node[4].output[0]


def no_nodes(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


def no_outputs(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def unknown_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "nowhere"


def unknown_domain(model: onnx.ModelProto) -> None:
    model.graph.node[-1].domain = "somewhere.else"
    model.opset_import.append(h.make_opsetid("somewhere.else", 1))


def no_weights(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "Conv").ClearField("input")


def wrong_attribute(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    node.attribute.append(h.make_attribute("strides", "two"))


def absurd_stride(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    node.attribute.append(h.make_attribute("strides", [0, -1]))


def absurd_pads(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    node.attribute.append(h.make_attribute("pads", [1 << 40] * 4))


def string_weights(model: onnx.ModelProto) -> None:
    old = model.graph.initializer[2]
    old.CopyFrom(h.make_tensor(old.name, T.STRING, [1], [b"no"]))


def short_raw_data(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[2]
    tensor.raw_data = tensor.raw_data[:-3]


@pytest.mark.parametrize(
    "change",
    [
        absurd,
        wrong_dims,
        negative_dims,
        no_initializer,
        cycle,
        twice,
        no_nodes,
        no_outputs,
        unknown_output,
        unknown_domain,
        no_weights,
        wrong_attribute,
        absurd_stride,
        absurd_pads,
        string_weights,
        short_raw_data,
    ],
)
def test_broken_models(good: onnx.ModelProto, change: object) -> None:
    assert code_of(changed(good, change)).startswith("E0")


def test_absurd_dimensions_are_refused_before_anything_is_allocated(good: onnx.ModelProto) -> None:
    assert code_of(changed(good, absurd)) in ("E0102", "E0104")
    for kind in ("ConstantOfShape", "Expand"):
        net, x = small_net()
        size = net.const([1, 1 << 20, 1 << 20], np.int64)
        big = net.node(kind, size) if kind == "ConstantOfShape" else net.node(kind, net.const(1.0), size)
        net.outputs.append(net.node("Where", net.node("Less", x, net.const(0.0)), big, net.const(1.0)))
        assert code_of(shaped(net, (1, 9, 1 << 20, 1 << 20))) in ("E0104", "E0105"), kind


def test_sizes_that_only_evaluation_would_tell_are_refused() -> None:
    net, x = small_net()
    size = net.node("NonZero", net.const(np.ones(3)))
    size = net.node("Mul", net.node("ReduceSum", size), net.const(1 << 40, np.int64))
    net.outputs.append(
        net.node("Add", x, net.node("ConstantOfShape", net.node("Reshape", size, net.const([1], np.int64))))
    )
    assert code_of(shaped(net)) == "E0104"


def test_constants_that_cannot_be_evaluated() -> None:
    net, x = small_net()
    broken = net.node("Gather", net.const(np.ones(3)), net.const([99], np.int64))
    net.outputs.append(net.node("Add", x, broken))
    assert code_of(net.model()) == "E0107"


def test_inconsistent_shapes() -> None:
    net, x = small_net()
    net.outputs.append(net.node("Conv", x, net.weight((4, 7, 1, 1))))
    assert code_of(shaped(net)) == "E0105"


def test_an_initializer_of_a_strange_type() -> None:
    net, x = small_net()
    model = finish(net, x).model()
    tensor = next(t for t in model.graph.initializer if t.name == net.nodes[-1].input[1])
    tensor.data_type = 77
    assert code_of(model) in ("E0102", "E0106")


# names ----------------------------------------------------------------------------------------------------------------

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


# size -----------------------------------------------------------------------------------------------------------------


def test_ten_thousand_nodes() -> None:
    net, x = small_net()
    for k in range(10_000):
        x = net.node("Add", x, net.const(1e-3 if k % 2 else -1e-3)) if k % 100 else net.node("Identity", x)
    net.outputs.append(net.node("GlobalMaxPool", x))
    assert len(bnncc.compile(net.model(), name="net").program.steps) <= 4


def test_a_thousand_layers() -> None:
    net = Net(np.random.default_rng(0), (8,), T.FLOAT)
    x = net.sign("x", "ge_where")
    w = net.weight((8, 8))
    for _ in range(1000):
        x = net.sign(net.node("MatMul", x, w), "ge_where")
    net.outputs.append(net.node("MatMul", x, w))
    compiled = bnncc.compile(net.model(), name="net")
    assert len([s for s in compiled.program.steps if s.op.x.elem.value == "bin"]) >= 1000
    assert compiled.program.arena_bytes < 64


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
