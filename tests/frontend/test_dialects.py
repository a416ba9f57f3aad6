"""Each operator of QONNX, Brevitas and FINN, rewritten to standard ONNX, against qonnx's own execution of it."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

import bnncc
from bnncc.frontend import dialects
from bnncc.frontend.load import load
from bnncc.frontend.source.session import session
from tests.nets import bipolar_quant

QONNX = "qonnx.custom_op.general"
DOMAINS = (QONNX, "onnx.brevitas")


@pytest.fixture(autouse=True)
def runnable(monkeypatch: pytest.MonkeyPatch) -> None:
    """qonnx makes models of the newest IR version that onnx knows, which onnxruntime may not read yet."""
    monkeypatch.setattr(onnx, "IR_VERSION", 10)


def model(
    operator: str,
    parameters: dict[str, Any],
    shape: tuple[int, ...],
    *,
    domain: str = QONNX,
    opset: int = 18,
    functions: tuple[onnx.FunctionProto, ...] = (),
    imported: bool = True,
    **attributes: object,
) -> onnx.ModelProto:
    node = h.make_node(operator, ["x", *parameters], ["y"], name="here", domain=domain, **attributes)
    graph = h.make_graph(
        [node],
        "one",
        [h.make_tensor_value_info("x", T.FLOAT, shape)],
        [h.make_tensor_value_info("y", T.FLOAT, shape)],
        [nh.from_array(np.asarray(v, np.float32), k) for k, v in parameters.items()],
    )
    opsets = [h.make_opsetid("", opset)] + [h.make_opsetid(domain, 1 + (len(parameters) == 5))] * imported
    return h.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def samples(shape: tuple[int, ...], *near: object) -> np.ndarray:
    """Random values, halves, and values at and beside those given, in random order."""
    rng = np.random.default_rng(3)
    wanted = np.concatenate([np.ravel(v) for v in near]).astype(np.float32) if near else np.zeros(1, np.float32)
    beside = [np.nextafter(wanted, np.float32(d)) for d in (-np.inf, np.inf)]
    special = np.concatenate([np.arange(-8, 8.5, 0.5, np.float32), wanted, *beside])
    x = rng.normal(scale=4, size=shape).astype(np.float32)
    count = min(x.size // 2, special.size)
    x.reshape(-1)[rng.permutation(x.size)[:count]] = rng.permutation(special)[:count]
    return x


def rewritten(m: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    s = dialects.standard(dialects.declare(m))
    onnx.checker.check_model(s, full_check=True)
    assert {n.domain for n in s.graph.node} == {""}
    return np.asarray(session(s).run(None, {"x": x})[0])


def meant(m: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    return np.asarray(execute_onnx(ModelWrapper(m), {"x": x})["y"])


def agree(m: onnx.ModelProto, *near: object) -> onnx.ModelProto:
    shape = tuple(d.dim_value for d in m.graph.input[0].type.tensor_type.shape.dim)
    x = samples(shape, *near)
    np.testing.assert_array_equal(rewritten(m, x), meant(m, x))
    return m


SHAPE = (4, 6, 5, 5)
CHANNELS = np.array([0.1, 0.25, 0.5, 1, 1.5, 3], np.float32).reshape(1, 6, 1, 1)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("scale", [1.0, [1.0], 0.3, CHANNELS], ids=["one", "ones", "tensor", "channel"])
@pytest.mark.parametrize("opset", [9, 11, 18])
def test_bipolar_quant(domain: str, scale: object, opset: int) -> None:
    agree(model("BipolarQuant", {"scale": scale}, SHAPE, domain=domain, opset=opset))


@pytest.mark.parametrize("operator", ["Quant", "IntQuant"])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("narrow", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 24])
@pytest.mark.parametrize("scale", [1.0, 0.3, CHANNELS], ids=["one", "tensor", "channel"])
def test_quant(operator: str, signed: int, narrow: int, bits: int, scale: object) -> None:
    for zero in (0.0, 3.0):
        m = model(
            operator,
            {"scale": scale, "zero": zero, "bits": bits},
            SHAPE,
            signed=signed,
            narrow=narrow,
            rounding_mode="ROUND",
        )
        agree(m, np.multiply.outer(np.asarray(scale), np.arange(-8, 8, 0.5)))


MODES = ("ROUND", "HALF_EVEN", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN", "half_up")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("signed", [0, 1])
def test_rounding_modes(mode: str, signed: int) -> None:
    m = model("Quant", {"scale": 0.5, "zero": 0, "bits": 4}, SHAPE, signed=signed, narrow=0, rounding_mode=mode)
    agree(m, np.arange(-10, 10, 0.25))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("zero", [0, 2])
def test_trunc_by_bits(mode: str, zero: int) -> None:
    parameters = {"scale": 0.25, "zero": zero, "wide": 8, "narrow_bits": 5}
    agree(model("Trunc", parameters, SHAPE, rounding_mode=mode), np.arange(-10, 10, 0.125))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("narrow", [0, 1])
def test_trunc_by_scales(mode: str, signed: int, narrow: int) -> None:
    for zero in (0, 8):
        parameters = {"scale": 0.25, "zero": zero, "wide": 8, "out_scale": 1.0, "out_bits": 3}
        m = model("Trunc", parameters, SHAPE, rounding_mode=mode, signed=signed, narrow=narrow)
        agree(m, np.arange(-10, 10, 0.125))


THRESHOLDS = np.random.default_rng(5).normal(scale=3, size=(6, 7)).astype(np.float32)


@pytest.mark.parametrize("opset", [9, 18])
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((4, 6), ""), ((4, 6), "NC"), (SHAPE, ""), (SHAPE, "NCHW"), ((4, 5, 5, 6), "NHWC"), ((4, 5, 6), ""), ((4, 6, 5), "NCW"),
        ((4, 5, 6), "NWC"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_multi_threshold(shape: tuple[int, ...], layout: str, steps: int, opset: int) -> None:
    for scale, bias in ((1.0, 0.0), (2.0, -1.0), (0.3, -0.7)):
        for table in (THRESHOLDS[:, :steps], THRESHOLDS[:1, :steps]):
            given = {"data_layout": layout} if layout else {}
            m = model(
                "MultiThreshold",
                {"t": table},
                shape,
                opset=opset,
                out_dtype="INT4",
                out_scale=scale,
                out_bias=bias,
                **given,
            )
            agree(m, table)


def test_multi_threshold_whose_rank_is_not_told() -> None:
    """Behind a Relu without value_info: the rank decides where the channels are."""
    m = model("MultiThreshold", {"t": THRESHOLDS}, (4, 5, 6), out_dtype="UINT3")
    m.graph.node[0].input[0] = "r"
    m.graph.node.insert(0, h.make_node("Relu", ["x"], ["r"]))
    x = samples((4, 5, 6), THRESHOLDS)
    given = onnx.shape_inference.infer_shapes(m)
    np.testing.assert_array_equal(rewritten(m, x), meant(given, x))


# parameters -----------------------------------------------------------------------------------------------------------


def computed(m: onnx.ModelProto) -> onnx.ModelProto:
    """Every parameter doubled by nodes in the graph: Constant, Mul."""
    kept = []
    for t in m.graph.initializer:
        half = nh.from_array(nh.to_array(t) / np.float32(2))
        kept.append(h.make_node("Constant", [], [f"{t.name}/half"], value=half))
        kept.append(h.make_node("Add", [f"{t.name}/half", f"{t.name}/half"], [t.name]))
    nodes = [*kept, *m.graph.node]
    del m.graph.node[:], m.graph.initializer[:]
    m.graph.node.extend(nodes)
    return m


def listed(m: onnx.ModelProto) -> onnx.ModelProto:
    m.graph.input.extend(h.make_tensor_value_info(t.name, t.data_type, t.dims) for t in m.graph.initializer)
    return m


QUANT = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"}


@pytest.mark.parametrize("form", [computed, listed])
def test_parameters_in_other_places(form: Any) -> None:
    x = samples(SHAPE)
    for m in (
        model("BipolarQuant", {"scale": CHANNELS}, SHAPE),
        model("Quant", {"scale": 0.3, "zero": 0, "bits": 4}, SHAPE, **QUANT),
        model("MultiThreshold", {"t": THRESHOLDS}, SHAPE, out_dtype="INT4"),
    ):
        expected = meant(m, x)
        s = dialects.standard(form(m))
        assert [i.name for i in s.graph.input] == ["x"]
        np.testing.assert_array_equal(session(s).run(None, {"x": x})[0], expected)


def test_a_bit_width_for_each_channel() -> None:
    bits = np.array([2, 3, 4, 2, 8, 3], np.float32).reshape(1, 6, 1, 1)
    x = samples(SHAPE, np.arange(-6, 6, 0.5))
    y = rewritten(model("Quant", {"scale": CHANNELS, "zero": 0, "bits": bits}, SHAPE, **QUANT), x)
    for c in range(6):
        own = model("Quant", {"scale": CHANNELS[0, c], "zero": 0, "bits": bits[0, c, 0, 0]}, (4, 1, 5, 5), **QUANT)
        np.testing.assert_array_equal(y[:, c : c + 1], meant(own, x[:, c : c + 1]))


def test_a_file_without_the_domains_import() -> None:
    m = model("BipolarQuant", {"scale": 1.0}, SHAPE, imported=False)
    assert [n.op_type for n in load(m).nodes] == ["GreaterOrEqual", "Where"]
    assert len(m.opset_import) == 1  # the caller's own model is left as it was


def test_names_in_messages_and_no_name_twice() -> None:
    m = model("Quant", {"scale": 0.3, "zero": 0, "bits": 4}, SHAPE, **QUANT)
    m.graph.initializer.append(nh.from_array(np.float32(0), "y/Div"))  # a name that the rewriting would choose
    nodes = dialects.standard(m).graph.node
    assert [n.op_type for n in nodes] == ["Div", "Clip", "Round", "Mul"]
    assert all(n.name.startswith("here/Quant") for n in nodes)
    assert len({n.name for n in nodes}) == 4
    assert nodes[0].output[0] not in {"y/Div"}


def test_weights_become_constants() -> None:
    """BipolarQuant on an initializer, then Transpose and MatMul, as Brevitas writes a dense layer."""
    rng = np.random.default_rng(1)
    w, scale = rng.normal(size=(5, 40)).astype(np.float32), rng.uniform(0.1, 1, (5, 1)).astype(np.float32)
    graph = h.make_graph(
        [
            h.make_node("BipolarQuant", ["w", "s"], ["q"], domain="finn.custom_op.general"),
            h.make_node("Transpose", ["q"], ["t"], perm=[1, 0]),
            h.make_node("BipolarQuant", ["x", "one"], ["b"], domain="finn.custom_op.general"),
            h.make_node("MatMul", ["b", "t"], ["y"]),
        ],
        "dense",
        [h.make_tensor_value_info("x", T.FLOAT, (1, 40))],
        [h.make_tensor_value_info("y", T.FLOAT, (1, 5))],
        [nh.from_array(w, "w"), nh.from_array(scale, "s"), nh.from_array(np.float32(1), "one")],
    )
    m = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8)
    source = load(m)
    np.testing.assert_array_equal(source.constants["t"], (np.where(w >= 0, 1, -1) * scale).T)
    assert bnncc.compile(m).verify().ok


# what is refused ------------------------------------------------------------------------------------------------------


def quant(**changed: object) -> dict[str, object]:
    return {"scale": 0.3, "zero": 0, "bits": 4} | changed


@pytest.mark.parametrize(
    ("code", "m"),
    [
        ("E0201.*2.5", model("Quant", quant(bits=2.5), SHAPE, **QUANT)),
        ("E0201.*bit width is 0", model("Quant", quant(bits=0), SHAPE, **QUANT)),
        ("E0201.*bit width is 64", model("Quant", quant(bits=64), SHAPE, **QUANT)),
        ("E0201.*1 for some", model("Quant", quant(bits=np.array([1, 2, 2, 2, 2, 2.0]).reshape(6, 1, 1)), SHAPE, **QUANT)),
        ("E0301.*bit width", model("Quant", quant(bits=np.nan), SHAPE, **QUANT)),
        ("E0301.*scale", model("Quant", quant(scale=0), SHAPE, **QUANT)),
        ("E0301.*scale is -0.5", model("Quant", quant(scale=-0.5), SHAPE, **QUANT)),
        ("E0301.*scale", model("BipolarQuant", {"s": np.inf}, SHAPE)),
        ("E0105.*do not fit", model("Quant", quant(scale=np.ones(3), zero=np.ones(2)), SHAPE, **QUANT)),
        ("E0102.*out_scale", model("MultiThreshold", {"t": THRESHOLDS}, SHAPE, out_scale="much")),
        ("E0201.*SIDEWAYS", model("Quant", quant(), SHAPE, **(QUANT | {"rounding_mode": "SIDEWAYS"}))),
        ("E0102.*signed", model("Quant", quant(), SHAPE)),
        ("E0102.*2 inputs", model("Quant", {"scale": 1.0}, SHAPE, **QUANT)),
        ("E0103.*opset 11", model("Quant", quant(), SHAPE, opset=10, **QUANT)),
        ("E0201.*FloatQuant", model("FloatQuant", quant(), SHAPE)),
        ("E0201.*XnorPopcountMatMul", model("XnorPopcountMatMul", {"w": CHANNELS}, SHAPE)),
        ("E0201.*thresholds", model("MultiThreshold", {"t": 0.0}, SHAPE, out_dtype="")),
        ("E0201.*thresholds", model("MultiThreshold", {"t": np.zeros((1, 300))}, SHAPE, out_dtype="")),
    ],
)  # fmt: skip
def test_refused(code: str, m: onnx.ModelProto) -> None:
    with pytest.raises(bnncc.ModelError, match=code) as caught:
        load(m)
    assert "here" in str(caught.value)


def test_a_parameter_that_cannot_be_read() -> None:
    m = model("Quant", quant(), SHAPE, **QUANT)
    m.graph.initializer[2].raw_data = b"12"
    with pytest.raises(bnncc.ModelError, match=r"E01"):
        load(m)


def test_every_problem_at_once() -> None:
    m = model("Quant", quant(bits=0), SHAPE, **QUANT)
    m.graph.node.append(h.make_node("FloatQuant", ["y"], ["z"], name="there", domain=QONNX))
    with pytest.raises(bnncc.ModelError) as caught:
        load(m)
    assert [(d.code, d.where) for d in caught.value.diagnostics] == [
        ("E0201", "here (Quant)"),
        ("E0201", "there (FloatQuant)"),
    ]


def test_a_parameter_that_depends_on_the_input() -> None:
    m = model("Quant", quant(), SHAPE, **QUANT)
    m.graph.node[0].input[3] = "x"
    with pytest.raises(bnncc.ModelError, match=r"E0202.*bit width"):
        load(m)


def test_a_parameter_of_absurd_size() -> None:
    m = model("Quant", quant(), SHAPE, **QUANT)
    m.graph.node[0].input[3] = "large"
    m.graph.initializer.append(nh.from_array(np.array([1 << 40]), "size"))
    m.graph.node.insert(0, h.make_node("ConstantOfShape", ["size"], ["large"]))
    with pytest.raises(bnncc.ModelError, match=r"E0202.*bit width"):
        load(m)


# functions in the file ------------------------------------------------------------------------------------------------


def function(operator: str, inputs: list[str], nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    attributes = ["signed", "narrow", "rounding_mode"] if operator == "Quant" else []
    return h.make_function(QONNX, operator, inputs, ["y"], nodes, [h.make_opsetid("", 18)], attributes)


def uint4(operator: str) -> onnx.FunctionProto:
    nodes = [
        h.make_node("Constant", [], ["lo"], value_float=0.0),
        h.make_node("Constant", [], ["hi"], value_float=15.0),
        h.make_node("Div", ["x", "s"], ["a"]),
        h.make_node(operator, ["a"], ["r"]),
        h.make_node("Clip", ["r", "lo", "hi"], ["c"]),
        h.make_node("Mul", ["c", "s"], ["y"]),
    ]
    return function("Quant", ["x", "s", "z", "b"], nodes)


def test_functions_that_compute_the_operator() -> None:
    unsigned = QUANT | {"signed": 0}
    for m in (
        model("Quant", quant(), SHAPE, functions=(uint4("Round"),), **unsigned),
        model("BipolarQuant", {"scale": CHANNELS}, SHAPE, functions=(bipolar_quant(),)),
    ):
        x = samples(SHAPE, np.arange(-1, 6, 0.15))
        expected = session(m).run(None, {"x": x})[0]
        s = load(m).model
        assert not s.functions
        np.testing.assert_array_equal(session(s).run(None, {"x": x})[0], expected)


def test_functions_that_contradict_the_operator() -> None:
    zero = h.make_node("Constant", [], ["zero"], value_float=0.0)
    strict = [
        zero,
        h.make_node("Greater", ["x", "zero"], ["c"]),
        h.make_node("Neg", ["s"], ["n"]),
        h.make_node("Where", ["c", "s", "n"], ["y"]),
    ]
    wrong = [zero, h.make_node("Unsqueeze", ["x", "zero"], ["y"])]
    for message, m in (
        (
            "-1 instead of 1 where x is 0",
            model("BipolarQuant", {"s": 1.0}, SHAPE, functions=(function("BipolarQuant", ["x", "s"], strict),)),
        ),
        (
            "cannot run",
            model("BipolarQuant", {"s": 1.0}, SHAPE, functions=(function("BipolarQuant", ["x", "s"], wrong),)),
        ),
        ("instead of", model("Quant", quant(), SHAPE, functions=(uint4("Floor"),), **(QUANT | {"signed": 0}))),
        ("instead of", model("Quant", quant(), SHAPE, functions=(uint4("Round"),), **QUANT)),
    ):
        with pytest.raises(bnncc.ModelError, match=f"(?s)E0210.*{message}.*here"):
            load(m)


# channels last --------------------------------------------------------------------------------------------------------


def test_channels_last() -> None:
    """qonnx's own conversion of a small network, run by both."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.transformation.infer_shapes import InferShapes

    rng = np.random.default_rng(2)
    constants = {
        "w": rng.choice([-1.0, 1.0], (8, 3, 3, 3)), "g": rng.uniform(0.5, 1, 8), "b": rng.normal(size=8), "m": rng.normal(size=8),
        "v": rng.uniform(1, 2, 8), "one": 1.0, "w2": rng.choice([-1.0, 1.0], (4, 8, 1, 1)),
    }  # fmt: skip
    nodes = [
        h.make_node(
            "Conv", ["x", "w"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1], dilations=[1, 1], group=1
        ),
        h.make_node("BatchNormalization", ["a", "g", "b", "m", "v"], ["n"]),
        h.make_node("MaxPool", ["n"], ["p"], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0]),
        h.make_node("BipolarQuant", ["p", "one"], ["q"], domain=QONNX),
        h.make_node(
            "Conv",
            ["q", "w2"],
            ["y"],
            kernel_shape=[1, 1],
            pads=[0, 0, 0, 0],
            strides=[1, 1],
            dilations=[1, 1],
            group=1,
        ),
    ]
    graph = h.make_graph(
        nodes,
        "net",
        [h.make_tensor_value_info("x", T.FLOAT, (1, 3, 6, 6))],
        [h.make_tensor_value_info("y", T.FLOAT, (1, 4, 3, 3))],
        [nh.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    m = h.make_model(graph, opset_imports=[h.make_opsetid("", 13), h.make_opsetid(QONNX, 1)], ir_version=8)
    wrapped = ModelWrapper(m).transform(InferShapes()).transform(ConvertToChannelsLastAndClean())
    assert {"Conv", "BatchNormalization", "MaxPool"} <= {
        n.op_type for n in wrapped.graph.node if n.domain == dialects.CHANNELS_LAST
    }
    x = rng.integers(-128, 128, (1, 3, 6, 6)).astype(np.float32)
    expected = execute_onnx(wrapped, {"x": x})["y"]
    s = dialects.standard(dialects.declare(wrapped.model))
    assert {n.domain for n in s.graph.node} == {""}
    np.testing.assert_array_equal(session(s).run(None, {"x": x})[0], expected)
