"""ONNX files are untrusted: whatever is in them gives a diagnostic or correct C, never a traceback."""

import os
import random
import subprocess
import sys
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
from tests.nets import Net, finish, small_net


@pytest.fixture(scope="module")
def good() -> onnx.ModelProto:
    net, x = small_net()
    return finish(net, x).model()


def shaped(net: Net, shape: tuple[int, ...] = (1, 9, 4, 4)) -> onnx.ModelProto:
    """The model of a net that onnxruntime cannot run, or would run for ever; its last output has this shape."""
    graph = h.make_graph(
        net.nodes,
        "net",
        [h.make_tensor_value_info("x", net.elem, (1, *net.shape))],
        [h.make_tensor_value_info(net.outputs[-1], T.FLOAT, shape)],
        [nh.from_array(v, k) for k, v in net.constants.items()],
    )
    opsets = [h.make_opsetid("", net.opset), *(h.make_opsetid(d, 1) for d in {f.domain for f in net.functions})]
    return h.make_model(graph, opset_imports=opsets, ir_version=net.ir, functions=net.functions)


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
    assert code_of("null\0byte.onnx") == "E0101"
    os.mkfifo(tmp_path / "pipe.onnx")  # which would be waited for
    assert code_of(tmp_path / "pipe.onnx") == "E0101"
    assert code_of("/dev/zero") == "E0101"
    with (tmp_path / "large.onnx").open("wb") as sparse:
        sparse.truncate(1 << 31)
    assert code_of(tmp_path / "large.onnx") == "E0102"


def test_random_bytes(tmp_path: Path) -> None:
    r = random.Random(1)
    for length in (1, 10, 100, 1000, 100_000):
        (tmp_path / "noise.onnx").write_bytes(r.randbytes(length))
        assert code_of(tmp_path / "noise.onnx") == "E0102"


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
    assert len(codes) > 3


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


def external(good: onnx.ModelProto, folder: Path, location: str, **more: str) -> Path:
    """The model in `folder`, one of its parameters said to be in another file."""
    model = changed(good, lambda _: None)
    tensor = model.graph.initializer[2]
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_is_read(good: onnx.ModelProto, tmp_path: Path) -> None:
    data = good.graph.initializer[2].raw_data
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights").write_bytes(b"12345678" + data + b"rest")
    path = external(good, tmp_path, "sub/weights", offset="8", length=str(len(data)))
    assert bnncc.compile(path, name="net").files == bnncc.compile(good, name="net").files | {
        k: v.replace("model.onnx", path.name) for k, v in bnncc.compile(good, name="net").files.items()
    }


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "sub/../../secret",
        "/etc/passwd",
        "/dev/zero",
        "link",
        "folder/secret",
        "pipe",
        "circle",
        "sub",
        ".",
        "",
        "a\0b",
        "x" * 300,
    ],
)
def test_external_data_outside_of_the_folder(good: onnx.ModelProto, tmp_path: Path, location: str) -> None:
    """Neither by a path nor by a link; and what is no file is not waited for."""
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(good.graph.initializer[2].raw_data)
    (home / "link").symlink_to("../secret")
    (home / "folder").symlink_to("..")
    (home / "circle").symlink_to("circle")
    os.mkfifo(home / "pipe")
    assert code_of(external(good, home, location)) == "E0106"


@pytest.mark.parametrize(
    "range_",
    [
        {"offset": "4"}, {"offset": "-4"}, {"offset": str(1 << 62)}, {"offset": "1" * 30}, {"offset": "one"}, {"offset": "٣"},
        {"length": "3"}, {"length": "-1"}, {"length": str(1 << 40)}, {"offset": "4", "length": "4"}, {"length": ""},
    ],
)  # fmt: skip
def test_external_data_of_the_wrong_size(good: onnx.ModelProto, tmp_path: Path, range_: dict[str, str]) -> None:
    (tmp_path / "weights").write_bytes(good.graph.initializer[2].raw_data)
    assert code_of(external(good, tmp_path, "weights")) == ""
    assert code_of(external(good, tmp_path, "weights", **range_)) in ("E0102", "E0106")


def test_a_model_in_memory_has_no_external_data(good: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(good.graph.initializer[2].raw_data)
    assert code_of(onnx.load(external(good, tmp_path, "weights"), load_external_data=False)) == "E0106"


def test_a_model_in_memory_is_left_as_it_is(good: onnx.ModelProto) -> None:
    model = changed(good, lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_value"))
    model.graph.node[1].name = model.graph.node[0].name
    before = model.SerializeToString(deterministic=True)
    bnncc.compile(model, name="net")
    assert model.SerializeToString(deterministic=True) == before


def test_what_onnxruntime_does_not_ask_for_either(good: onnx.ModelProto) -> None:
    """Nodes in any order, and outputs without a shape, as torch and tf2onnx write them."""
    loose = onnx.ModelProto()
    loose.CopyFrom(good)
    del loose.graph.node[:]
    loose.graph.node.extend(reversed(good.graph.node))
    for output in loose.graph.output:
        output.type.tensor_type.ClearField("shape")
    compiled = bnncc.compile(loose, name="net")
    assert compiled.files == bnncc.compile(good, name="net").files
    assert compiled.verify(samples=4).ok


def changed(good: onnx.ModelProto, change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
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
def test_broken_models(good: onnx.ModelProto, change: Callable[[onnx.ModelProto], object]) -> None:
    assert code_of(changed(good, change)).startswith("E0")


def test_a_circle_and_values_that_nothing_makes_are_named(good: onnx.ModelProto) -> None:
    for change, message in ((cycle, "its own output"), (no_initializer, "which nothing makes")):
        with pytest.raises(bnncc.ModelError) as caught:
            bnncc.compile(changed(good, change), name="net")
        assert message in caught.value.diagnostics[0].message
        assert "(" in caught.value.diagnostics[0].where


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
    assert code_of(shaped(net)) in ("E0104", "E0105")


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
    assert code_of(model) in ("E0102", "E0105", "E0106")


@pytest.mark.parametrize("kind", [T.STRING, T.COMPLEX64, T.BFLOAT16, T.FLOAT8E4M3FN, T.INT4, T.FLOAT4E2M1])
def test_parameters_that_are_no_common_numbers(kind: int) -> None:
    net, x = small_net()
    model = finish(net, x).model()
    other = h.make_tensor("other", kind, [1], [b"text"] if kind == T.STRING else [1.0])
    model.graph.initializer.append(other)
    model.graph.node.append(h.make_node("Identity", ["other"], ["y"]))
    model.graph.output.append(h.make_tensor_value_info("y", kind, [1]))
    assert code_of(model) == (
        "E0106" if kind == T.STRING else "E0107" if kind in (T.COMPLEX64, T.BFLOAT16) else "E0105"
    )


@pytest.mark.parametrize("version", [0, 1, 8, 9999, 1 << 40, -1, None])
def test_unsupported_opsets(good: onnx.ModelProto, version: int | None) -> None:
    def change(model: onnx.ModelProto) -> None:
        del model.opset_import[:]
        if version is not None:
            model.opset_import.append(h.make_opsetid("", version))

    assert code_of(changed(good, change)) == "E0103"


def test_an_output_listed_twice(good: onnx.ModelProto) -> None:
    assert code_of(changed(good, lambda m: m.graph.output.append(m.graph.output[0]))) == "E0208"


def test_a_parameter_that_is_random() -> None:
    """onnxruntime would draw other numbers than stand in the C."""
    for kind, given in (("RandomNormal", {"shape": [9, 1, 1]}), ("RandomUniform", {"shape": [9, 1, 1]})):
        net, x = small_net()
        net.outputs.append(net.node("Add", x, net.node(kind, **given)))
        assert code_of(net.model()) == "E0107"


def test_constants_that_would_take_long() -> None:
    """Two matrices that fit, and a product of 10**12 multiplications."""
    net, x = small_net()
    size = net.const([10_000, 10_000], np.int64)
    ones = net.node("ConstantOfShape", size)
    net.outputs.append(net.node("Add", x, net.node("ReduceSum", net.node("MatMul", ones, ones))))
    assert code_of(shaped(net)) == "E0107"


def test_constants_that_are_large_only_together() -> None:
    """Values of 144 MiB each: one after the other they need the memory of two, as onnxruntime frees them too."""
    for together, code in ((False, ""), (True, "E0104")):
        net, x = small_net()
        values = [net.node("ConstantOfShape", net.const([1, 9, 1 << 11, 1 << 11], np.int64))]
        for _ in range(9):
            values.append(net.node("Neg", values[-1]))
        last = net.node("Sum", *values) if together else values[-1]
        net.outputs.append(net.node("Add", x, net.node("ReduceMax", last)))
        assert code_of(shaped(net)) == code


@pytest.mark.parametrize("side", [1 << 20, 3000])
def test_an_absurd_image(side: int) -> None:
    net = Net(np.random.default_rng(0), (1, side, side), T.FLOAT, samples=0)
    net.outputs.append(net.node("GlobalMaxPool", net.node("Sign", "x")))
    assert code_of(shaped(net, (1, 1, 1, 1))) == "E0104"


def test_an_absurd_image_inside() -> None:
    net, x = small_net()
    for _ in range(8):
        x = net.node("Resize", x, "", net.const([1.0, 1.0, 2.0, 2.0]))
    net.outputs.append(net.node("GlobalMaxPool", x))
    assert code_of(shaped(net, (1, 9, 1, 1))) == "E0104"


LARGE_IMAGE = """
import resource, sys
import numpy as np
from tests.frontend.test_bad_files import T, Net, code_of, shaped
net = Net(np.random.default_rng(0), (1, 2800, 2800), T.UINT8, samples=0)
x = net.node("Sub", net.node("Div", net.node("Cast", "x", to=T.FLOAT), net.const(127.0)), net.const(0.3))
x = net.node("Conv", x, net.weight((1, 1, 3, 3)), pads=[1, 1, 1, 1])
x = net.sign(net.node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), "ge_where")
net.outputs.append(net.node("GlobalMaxPool", x))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert code_of(shaped(net, (1, 1, 1, 1))) == ""
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_the_memory_for_a_large_image() -> None:
    """Zero padding makes pixels differ at the borders: a few kinds of rows and columns, not as many as there are pixels."""
    done = subprocess.run([sys.executable, "-c", LARGE_IMAGE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500, "MiB"


def in_subgraphs(net: Net, x: str, depth: int) -> str:
    inner = h.make_node("Identity", [x], ["v0"])
    condition = net.const(True, np.bool_)
    for k in range(depth):
        branch = h.make_graph([inner], f"g{k}", [], [onnx.ValueInfoProto(name=f"v{k}")])
        other = h.make_graph([h.make_node("Neg", [x], [f"n{k}"])], f"h{k}", [], [onnx.ValueInfoProto(name=f"n{k}")])
        inner = h.make_node("If", [condition], [f"v{k + 1}"], then_branch=branch, else_branch=other)
    net.nodes.append(inner)
    return inner.output[0]


@pytest.mark.parametrize("depth", [1, 20])
def test_nested_subgraphs(depth: int) -> None:
    net, x = small_net()
    net.outputs.append(net.node("Flatten", in_subgraphs(net, x, depth)))
    assert code_of(shaped(net, (1, 144))) == "E0201"


def with_functions(calls: dict[str, list[str]]) -> onnx.ModelProto:
    """A model that calls F0; a function is a chain of calls to others, or the identity."""
    net, x = small_net()
    opset = [h.make_opsetid("", 18), h.make_opsetid("own", 1)]
    for name, others in calls.items():
        values = ["a", *(f"v{k}" for k in range(len(others) - 1)), "b"]
        body = [h.make_node(f, [values[k]], [values[k + 1]], domain="own") for k, f in enumerate(others)]
        net.functions.append(
            h.make_function("own", name, ["a"], ["b"], body or [h.make_node("Identity", ["a"], ["b"])], opset)
        )
    net.outputs.append(net.node("Flatten", net.node("F0", x, domain="own")))
    return shaped(net, (1, 144))


def test_functions_of_the_file() -> None:
    assert code_of(with_functions({"F0": ["F1", "F1"], "F1": []})) == ""
    chain = {f"F{k}": [f"F{k + 1}"] for k in range(20)} | {"F20": []}
    assert code_of(with_functions(chain)) == ""


@pytest.mark.parametrize(
    "calls",
    [
        {"F0": ["F0"]},
        {"F0": ["F1"], "F1": ["F0"]},
        {f"F{k}": [f"F{k + 1}"] * 2 for k in range(40)} | {"F40": []},
        {f"F{k}": [f"F{k + 1}"] for k in range(2000)} | {"F2000": []},
    ],
    ids=["itself", "each other", "2**40 nodes", "2000 levels"],
)
def test_functions_that_never_end(calls: dict[str, list[str]]) -> None:
    assert code_of(with_functions(calls)) == "E0102"


def test_a_function_called_with_too_much() -> None:
    model = with_functions({"F0": []})
    next(n for n in model.graph.node if n.op_type == "F0").input.append("x")
    assert code_of(model) == "E0102"


def test_an_attribute_that_refers_to_none(good: onnx.ModelProto) -> None:
    def change(model: onnx.ModelProto) -> None:
        attribute = next(n for n in model.graph.node if n.op_type == "Conv").attribute[0]
        attribute.ref_attr_name = "kernel"

    assert code_of(changed(good, change)) == "E0102"


def test_a_cast_that_onnxruntime_does_not_do() -> None:
    """It leaves the output as the memory was."""
    net, x = small_net()
    weight = net.node("Cast", net.const(np.ones((144, 3)), np.int8), to=T.FLOAT, saturate=2)
    net.outputs.append(net.node("MatMul", net.node("Flatten", x), weight))
    model = shaped(net, (1, 3))
    model.opset_import[0].version = 19
    assert code_of(model) == "E0102"
    next(a for n in model.graph.node for a in n.attribute if a.name == "saturate").i = 1
    assert code_of(model) == ""


def test_messages_stay_on_their_line(good: onnx.ModelProto) -> None:
    """Whatever a file holds, a message shows it without control characters and shortened."""
    evil = "\x1b[31m red\nerror[E0000]: \u202e" + "x" * 5000

    def rename(model: onnx.ModelProto) -> None:
        model.graph.node[3].op_type = evil

    def grow(model: onnx.ModelProto) -> None:
        model.graph.initializer[2].name = evil
        model.graph.initializer[2].dims[:] = [1 << 40] * 5000

    def rewire(model: onnx.ModelProto) -> None:
        model.graph.node[3].input[0] = evil

    for change in (rename, grow, rewire):
        with pytest.raises(bnncc.BnnccError) as caught:
            bnncc.compile(changed(good, change), name="net")
        text = str(caught.value)
        assert all(c.isprintable() or c == "\n" for c in text)
        assert max(len(line) for line in text.splitlines()) < 500
        assert not any(line.startswith("error[E0000]") for line in text.splitlines())


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


# size -----------------------------------------------------------------------------------------------------------------


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
