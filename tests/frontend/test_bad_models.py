"""ONNX files are untrusted: here what the model says, from absurd dimensions to functions that never end."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h

import bnncc
from tests.frontend.untrusted import changed, code_of, shaped
from tests.nets import Net, finish, small_net


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


def test_opsets_that_only_onnx_knows(good: onnx.ModelProto) -> None:
    """Every opset up to the newest of onnx compiles, or is refused as one that onnxruntime does not run."""
    newest = onnx.defs.onnx_opset_version()
    codes = {}
    for version in range(18, newest + 1):
        model = changed(good, lambda m, v=version: setattr(m.opset_import[0], "version", v))
        try:
            bnncc.compile(model, name="net")
            codes[version] = ""
        except bnncc.ModelError as e:
            (codes[version],) = (d.code for d in e.diagnostics)
    refused = [v for v, code in codes.items() if code]
    assert set(codes.values()) <= {"", "E0103"}
    assert refused == list(range(newest + 1 - len(refused), newest + 1))
    assert not codes[18]


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
from tests.frontend.test_bad_models import T, Net, code_of, shaped
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
