"""What cannot be compiled is refused with a code that says why and names the node."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h

import bnncc
from tests.frontend.refusals import BORDER, ONE, conv, declared, edited, in_parts, pad, real, refused, resize
from tests.nets import Net, finish, small_net


def test_a_mean_that_is_subtracted_along_another_axis() -> None:
    """Without its axis, the mean of each row of a cube broadcasts to other values than those it is the mean of."""
    net = Net(np.random.default_rng(0), (4, 4, 4))
    x = net.node("Transpose", net.node("Cast", "x", to=T.FLOAT), perm=[0, 2, 3, 1])
    net.outputs.append(in_parts(net, x, axis=3, keep=0))
    refused(net.model(), "E0205", "Sub")


def test_a_window_larger_than_the_image() -> None:
    net, x = small_net()
    net.outputs.append(conv(net, x, net.weight((9, 9, 7, 7)), pads=[1, 1, 1, 1]))
    found = refused(declared(net, (1, 9, 0, 0)), "E0105", "Conv")
    assert "[7, 7]" in found.message
    assert "[6, 6]" in found.message
    net.outputs[0] = conv(net, x, net.weight((9, 9, 7, 7)))
    refused(declared(net, (1, 9, -2, -2)), "E0104", "Conv")


def test_a_mean_for_another_number_of_channels() -> None:
    """Which ONNX does not check before opset 15."""
    net, x = small_net()
    net.opset = 12
    gamma, beta, mean, var = (net.const(np.ones(n)) for n in (9, 9, 1, 9))
    net.outputs.append(net.node("BatchNormalization", x, gamma, beta, mean, var))
    assert "its mean has shape [1]" in refused(declared(net, (1, 9, 4, 4)), "E0105").message


def test_an_output_that_is_a_comparison() -> None:
    net, x = small_net()
    net.outputs.append(net.node("Greater", x, net.const(0.0)))
    assert "comparison" in refused(declared(net, (1, 9, 4, 4), T.BOOL), "E0208").message


def test_what_others_say_is_one_line_without_their_paths() -> None:
    scales = {"coordinate_transformation_mode": "no such mode"}
    found = refused(edited(lambda n, x: resize(n, x, [1, 1, 2, 2], **scales)), "E0107", "Resize")
    assert "no such mode" in found.message
    assert not {"\n", "/onnxruntime_src"} & set(found.message.split(" "))
    reflected = refused(edited(lambda n, x: pad(n, x, BORDER, mode="reflect")), "E0201", "Pad")
    assert "mode reflect" in reflected.message


def test_every_problem_is_reported_at_once() -> None:
    net, x = small_net()
    net.outputs = [
        net.node("Softmax", x, axis=2),
        net.node("Gemm", net.node("Flatten", x), net.weight((144, 3)), alpha=0.0),
        conv(net, x, net.const(np.full(ONE, np.nan))),
        net.node("Elu", x),
    ]
    with pytest.raises(bnncc.ModelError) as caught:
        bnncc.compile(net.model(), name="net")
    found = caught.value.diagnostics
    assert [d.code for d in found] == ["E0201", "E0203", "E0301", "E0201"]
    assert [d.where.split("_")[0] for d in found] == ["Softmax", "Gemm", "Conv", "Elu"]
    assert all(d.remedy for d in found)


def test_problems_behind_others_are_reported_too() -> None:
    net, x = small_net()
    y = net.node("Selu", net.node("Elu", conv(net, x, net.const(np.full(ONE, np.inf)))))
    net.outputs.append(conv(net, y, net.const(np.full(ONE, np.nan))))
    with pytest.raises(bnncc.ModelError) as caught:
        bnncc.compile(net.model(), name="net")
    found = caught.value.diagnostics
    assert [(d.code, d.where.split("_")[0]) for d in found] == [
        ("E0301", "Conv"),
        ("E0201", "Elu"),
        ("E0201", "Selu"),
        ("E0301", "Conv"),
    ]


def test_every_sign_that_can_meet_zero_is_reported_at_once() -> None:
    net, x = small_net()
    even = conv(net, x, net.weight((9, 9, 2, 1)))
    net.outputs = [
        net.node("Sign", even),
        net.node("Sign", net.node("Relu", real(net, x))),
        net.node("Sign", net.node("Add", even, net.const(0.5))),  # never zero
    ]
    with pytest.raises(bnncc.ModelError) as caught:
        bnncc.compile(net.model(), name="net")
    found = caught.value.diagnostics
    assert [d.code for d in found] == ["E0304", "E0304"]
    assert "9 of 9 channels" in found[0].message
    assert "ReLU" in found[1].message
    assert all("--sign-at-zero" in d.remedy for d in found)


def test_a_message_about_many_nodes_names_a_few() -> None:
    net, x = small_net()
    x = real(net, x)
    for _ in range(300):
        x = net.node("Relu", x)
    net.outputs.append(net.node("Sign", x))
    found = refused(net.model(), "E0304", "Sign")
    assert len(found.where) < 300
    assert " more, Sign" in found.where


def test_an_axis_that_is_not_there_is_refused() -> None:
    net, x = small_net()
    net.outputs.append(net.node("Softmax", net.node("Flatten", conv(net, x, net.weight(ONE))), axis=1))
    model = net.model()
    model.graph.node[-1].attribute[0].i = 5
    assert "5" in refused(model, "E0105").message  # onnx says it, or where it does not know the shapes the importer


@pytest.mark.parametrize("operation", ["Sub", "Add", "Mul", "Div"])
def test_arithmetic_on_bytes_wraps_around_and_is_refused(operation: str) -> None:
    net = Net(np.random.default_rng(0), (2, 4, 4))
    net.outputs.append(net.node("Cast", net.node(operation, "x", net.const(3, np.uint8)), to=T.FLOAT))
    assert "uint8" in refused(net.model(), "E0201", f"{operation}_1").message


def test_large_sums_are_refused() -> None:
    net = Net(np.random.default_rng(0), (70_000,))
    net.outputs.append(net.node("MatMul", net.normalise(0.0, 1.0), net.weight((70_000, 2))))
    refused(net.model(), "E0302", "MatMul")
    net = Net(np.random.default_rng(0), (1, 300, 300))
    net.outputs.append(net.node("GlobalAveragePool", net.node("Cast", "x", to=T.FLOAT)))
    refused(net.model(), "E0302", "GlobalAveragePool")


def test_large_integers_that_the_file_rounds_are_refused() -> None:
    """Times 0.3, the file's float32 no longer tells one sum from the next."""
    for size, scale, code in ((9000, 0.3, "E0303"), (9000, 0.5, ""), (2000, 0.3, "")):
        net = Net(np.random.default_rng(0), (size,))
        y = net.node("MatMul", net.node("Cast", "x", to=T.FLOAT), net.weight((size, 3)))
        net.outputs.append(net.node("MatMul", net.node("Mul", y, net.const(scale)), net.weight((3, 2))))
        if code:
            refused(net.model(), code, "MatMul")
        else:
            assert bnncc.compile(net.model(), name="net").verify(samples=4).ok


def test_more_than_65535_binary_inputs_are_counted() -> None:
    net = Net(np.random.default_rng(0), (70_000,), T.FLOAT)
    net.constants["c0"] = np.ones((70_000, 2), np.float32)
    net.outputs.append(net.node("MatMul", net.sign("x", "ge_where"), "c0"))
    compiled = bnncc.compile(net.model())
    assert compiled.verify(np.ones((1, 70_000), np.float32)).outputs_c.popitem()[1].ravel().tolist() == [70_000, 70_000]
    assert compiled.verify(samples=2).ok


def input_model(shape: tuple[object, ...], elem: int = T.FLOAT, count: int = 1) -> onnx.ModelProto:
    infos = [h.make_tensor_value_info(f"x{k}", elem, shape) for k in range(count)]
    nodes = [h.make_node("Identity", ["x0"], ["y"])]
    graph = h.make_graph(nodes, "g", infos, [h.make_tensor_value_info("y", elem, shape)])
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    "model",
    [
        input_model((1, 3), count=2),
        input_model((1, 3), T.INT32),
        input_model((1, 3), T.DOUBLE),
        input_model((2, 3)),
        input_model((1, 2, 3, 4, 5)),
        input_model((3,)),
        input_model((1, "n")),
    ],
    ids=["two inputs", "int32", "double", "batch 2", "five dimensions", "one dimension", "symbolic size"],
)
def test_unsupported_inputs(model: onnx.ModelProto) -> None:
    refused(model, "E0207")


def test_no_input() -> None:
    graph = h.make_graph(
        [h.make_node("Identity", ["c"], ["y"])],
        "g",
        [],
        [h.make_tensor_value_info("y", T.FLOAT, (1, 2))],
        [onnx.numpy_helper.from_array(np.ones((1, 2), np.float32), "c")],
    )
    refused(h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10), "E0207")


def test_a_constant_output_is_refused() -> None:
    net, x = small_net()
    net = finish(net, x)
    net.outputs.append(net.node("Identity", net.const(np.ones((1, 3)))))
    refused(net.model(), "E0208")


def test_a_symbolic_batch_is_one_sample() -> None:
    bnncc.compile(input_model(("batch", 3)), name="net")


@pytest.mark.parametrize("version", [1, 8, 1000])
def test_opsets(version: int) -> None:
    model = input_model((1, 3))
    model.opset_import[0].version = version
    refused(model, "E0103")


@pytest.mark.parametrize(
    "metadata",
    [
        {"bnncc.exits": "not json"},
        {"bnncc.exits": '["a"]'},
        {"bnncc.exits": "[" * 5000},
        {"bnncc.exits": "[1, 2]"},
        {"bnncc.exits": '["OUT0", "OUT1"]'},
        {"bnncc.exits": '["OUT0", "OUT1"]', "bnncc.exit_threshold": "nan"},
        {"bnncc.exits": '["OUT0", "OUT1"]', "bnncc.exit_threshold": "1e300"},
        {"bnncc.exits": '["OUT0", "OUT1"]', "bnncc.exit_threshold": "1", "bnncc.exit_rule": "max_probability"},
        {"bnncc.exits": '["OUT0", "OUT0"]', "bnncc.exit_threshold": "1"},
    ],
)
def test_bad_exits(metadata: dict[str, str]) -> None:
    net, x = small_net()
    finish(finish(net, x), x)
    if metadata["bnncc.exits"] == "[1, 2]":
        for k, name in enumerate(net.outputs):  # ONNX names may look like numbers
            for node in net.nodes:
                node.output[:] = [str(k + 1) if o == name else o for o in node.output]
        net.outputs = ["1", "2"]
    filled = {k: v.replace("OUT0", net.outputs[0]).replace("OUT1", net.outputs[1]) for k, v in metadata.items()}
    net.metadata = filled
    refused(net.model(), "E0209", "metadata_props")


def test_exits_that_are_images_are_refused() -> None:
    net, x = small_net()
    finish(net, x).outputs.append(x)
    net.metadata = {"bnncc.exits": f'["{net.outputs[0]}", "{x}"]', "bnncc.exit_threshold": "1"}
    refused(net.model(), "E0209")


def test_options() -> None:
    net, x = small_net()
    model = finish(net, x).model()
    refused(model, "E0402", input="i8")
    refused(model, "E0401", target="cortex-m99")
    for name in ("int", "9lives", "a b", "x" * 41, "", "ünicode"):
        with pytest.raises(bnncc.UsageError, match="E0403"):
            bnncc.compile(model, name=name)
    for name in ("model", "stdint", "Driver"):  # NAME.h would stand in front of another header
        with pytest.raises(bnncc.UsageError, match="E0403"):
            bnncc.compile(model, name=name)


def test_require_binary_names_the_real_layers() -> None:
    net, x = small_net(elem=T.FLOAT)
    model = finish(net, x).model()
    found = refused(model, "E0305", "Conv", require_binary=True)
    assert "--input u8" in found.remedy
    bnncc.compile(model, name="net", input="u8", require_binary=True)


def test_a_float_input_to_a_binary_layer_warns() -> None:
    net, x = small_net(elem=T.FLOAT)
    model = finish(net, x).model()
    assert [w.code for w in bnncc.compile(model, name="net").warnings] == ["W0401"]
    assert not bnncc.compile(model, name="net", input="i8").warnings


def test_a_float_input_that_is_quantised_first_does_not_warn() -> None:
    net, _ = small_net(elem=T.FLOAT)
    net.nodes.clear()
    y = net.node("QuantizeLinear", "x", net.const(0.25), net.const(0, np.int8))
    net.outputs.append(conv(net, net.node("DequantizeLinear", y, net.const(0.25)), net.weight((9, 2, 3, 3))))
    assert not bnncc.compile(net.model(), name="net").warnings


def test_a_ternary_sign_over_real_values_warns() -> None:
    net = Net(np.random.default_rng(0), (6,), T.FLOAT)
    model = finish(net, net.sign(net.node("Add", "x", net.const(0.1)), "sign")).model()
    assert [w.code for w in bnncc.compile(model, name="net").warnings] == ["W0301"]
    assert not bnncc.compile(model, name="net", sign_at_zero=1).warnings


@pytest.mark.parametrize("of", ["real", "scaled integers"])
def test_a_ternary_sign_of_what_can_be_equal(of: str) -> None:
    """A difference of two tensors is zero where they are equal, often if a ReLU or integers made them; --sign-at-zero decides it."""
    net, x = small_net()
    a, b = (real(net, x) if of == "real" else conv(net, x, net.weight(ONE)) for _ in range(2))
    a, b = (net.node("LeakyRelu", net.node("Mul", v, net.const(0.3))) for v in (a, b))
    net.outputs.append(net.node("Sign", net.node("Sub", a, b)))
    if of == "real":
        (found,) = bnncc.compile(net.model(), name="net").warnings
        assert found.code == "W0301"
        assert "--sign-at-zero=+1" in found.remedy
        a, b = (net.node("Relu", v) for v in (a, b))
        net.outputs.append(net.node("Sign", net.node("Sub", a, b)))
    assert "ReLU" in refused(net.model(), "E0304").message
    for at_zero in (1, -1):
        c = bnncc.compile(net.model(), name="net", sign_at_zero=at_zero)
        assert not c.warnings
        v = c.verify(net.x)
        assert v.ok
        assert v.left_out == 0


def test_a_ternary_sign_of_the_float_input_is_refused() -> None:
    """An input is exactly zero more often than by chance."""
    net = Net(np.random.default_rng(0), (6,), T.FLOAT)
    refused(finish(net, net.sign("x", "sign")).model(), "E0304", "Sign")
