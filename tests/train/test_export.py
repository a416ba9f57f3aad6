import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from bnncc.errors import ModelError, ToolError, UsageError
from bnncc.train import BinaryConv2d, BinaryLinear, Normalize, Sign, export_onnx, sign
from bnncc.train.layers import BinaryConvTranspose2d

SHAPE = (1, 1, 6, 6)


class Exits(nn.Module):
    """Two exits; convolutions with and without pooling and padding; a weight count that is no multiple of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Normalize(),
            BinaryConv2d(1, 5, 3, padding=1),
            nn.BatchNorm2d(5),
            Sign(),
            BinaryConv2d(5, 16, 3, padding=1),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(16),
            Sign(),
        )
        self.exit1 = nn.Sequential(nn.Flatten(), BinaryLinear(144, 3), nn.BatchNorm1d(3))
        self.exit2 = nn.Sequential(
            nn.Flatten(), BinaryLinear(144, 24), nn.BatchNorm1d(24), Sign(), BinaryLinear(24, 3), nn.BatchNorm1d(3)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return self.exit1(features), self.exit2(features)


@pytest.fixture
def model() -> Exits:
    torch.manual_seed(0)
    model = Exits()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.momentum = None
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    for _ in range(3):
        model(torch.randint(0, 256, (50, *SHAPE[1:]), dtype=torch.uint8))
    return model.eval()


def single(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(Normalize(), nn.Flatten(), *layers).eval()


def test_file_is_in_the_robust_form(model: Exits, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    check = export_onnx(model, path, SHAPE, exits=["near", "far"], exit_threshold=0.25)
    assert check.agreeing == check.samples == 32
    assert check.largest_difference < 1e-5
    assert check.largest_step_difference < 1e-5
    proto = onnx.load(path)
    assert {p.key: p.value for p in proto.metadata_props} == {
        "bnncc.exits": json.dumps(["near", "far"]),
        "bnncc.exit_rule": "entropy",
        "bnncc.exit_threshold": "0.25",
    }
    graph = proto.graph
    assert [value.name for value in graph.output] == ["near", "far"]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == list(SHAPE)
    ops = [node.op_type for node in graph.node]
    assert ops.count("BipolarQuant") == 3
    assert ops.count("BatchNormalization") == 5
    assert all(len(node.input) == 2 for node in graph.node if node.op_type == "Conv")
    assert [(f.domain, f.name) for f in proto.functions] == [("qonnx.custom_op.general", "BipolarQuant")]
    assert "body.1/Conv" in {node.name for node in graph.node}
    assert len({node.name for node in graph.node}) == len(graph.node)


def test_weights_take_a_bit_each(model: Exits, tmp_path: Path) -> None:
    export_onnx(model, tmp_path / "net.onnx", SHAPE)
    proto = onnx.load(tmp_path / "net.onnx")
    sizes = {i.name: len(onnx.numpy_helper.to_array(i).tobytes()) for i in proto.graph.initializer}
    assert sizes["body.4.weight/packed"] == 5 * 16 * 9 / 8
    assert sizes["body.1.weight/packed"] == 45 / 5  # 45 values: 5 is the largest number up to 8 that divides it
    assert max(sizes.values()) == 24 * 144 / 8


def test_stock_runtimes_agree_with_torch(model: Exits, tmp_path: Path) -> None:
    export_onnx(model, tmp_path / "net.onnx", SHAPE)
    proto = onnx.load(tmp_path / "net.onnx")
    reference = ReferenceEvaluator(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for x in np.random.default_rng(1).integers(0, 256, (5, *SHAPE), np.uint8):
        with torch.no_grad():
            wanted = [z.numpy() for z in model(torch.from_numpy(x))]
        for got in (session.run(None, {"input": x}), reference.run(None, {"input": x})):
            for a, b in zip(got, wanted, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-4)


def test_bytes_are_reproducible_and_free_of_the_machine(model: Exits, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        export_onnx(model, tmp_path / name, SHAPE)
    content = (tmp_path / "a.onnx").read_bytes()
    assert content == (tmp_path / "b.onnx").read_bytes()
    for trace in (b".py", b"torch", str(Path.home()).encode()):
        assert trace not in content


def test_outputs_without_exits_have_plain_names(model: Exits, tmp_path: Path) -> None:
    export_onnx(model, tmp_path / "two.onnx", SHAPE)
    export_onnx(single(BinaryLinear(36, 4), nn.BatchNorm1d(4)), tmp_path / "one.onnx", SHAPE)
    two, one = onnx.load(tmp_path / "two.onnx"), onnx.load(tmp_path / "one.onnx")
    assert [value.name for value in two.graph.output] == ["output1", "output2"]
    assert [value.name for value in one.graph.output] == ["logits"]
    assert not one.metadata_props


def test_weights_of_all_kinds_of_layers_take_a_bit_each(tmp_path: Path) -> None:
    grouped = BinaryConv2d(4, 8, 3, groups=4)
    model = nn.Sequential(Normalize(), BinaryConv2d(1, 4, 1), Sign(), grouped, Sign(), BinaryConvTranspose2d(8, 2, 3))
    export_onnx(model, tmp_path / "net.onnx", SHAPE)
    proto = onnx.load(tmp_path / "net.onnx")
    assert [value.name for value in proto.graph.output] == ["output"]  # an image is no logits
    sizes = {i.name: onnx.numpy_helper.to_array(i).nbytes for i in proto.graph.initializer}
    assert sizes["3.weight/packed"] == 8 * 9 / 8
    assert sizes["5.weight/packed"] == 16 * 9 / 8
    convolutions = {node.op_type: len(node.input) for node in proto.graph.node if node.op_type.startswith("Conv")}
    assert convolutions == {"Conv": 2, "ConvTranspose": 2}


def test_float_input(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), Sign(), nn.Flatten(), BinaryLinear(64, 3)).eval()
    check = export_onnx(model, tmp_path / "net.onnx", SHAPE, input_dtype="float32")
    assert check.agreeing == check.samples
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    x = np.random.default_rng(2).standard_normal(SHAPE, np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"input": x})[0], model(torch.from_numpy(x)).numpy(), atol=1e-4)


def test_channels_last_changes_nothing_in_the_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), BinaryLinear(4, 3)).eval()
    export_onnx(model, tmp_path / "net.onnx", SHAPE, input_dtype="float32")
    export_onnx(model.to(memory_format=torch.channels_last), tmp_path / "last.onnx", SHAPE, input_dtype="float32")
    assert (tmp_path / "net.onnx").read_bytes() == (tmp_path / "last.onnx").read_bytes()


def test_sign_of_zero_is_plus_one_in_the_file(tmp_path: Path) -> None:
    export_onnx(nn.Sequential(Sign(), nn.Flatten()).eval(), tmp_path / "net.onnx", (1, 1, 1, 4), input_dtype="float32")
    x = np.array([[[[-0.0, 0.0, -1e-30, 1e-30]]]], np.float32)
    for runtime in (onnxruntime.InferenceSession, ReferenceEvaluator):
        assert runtime(str(tmp_path / "net.onnx")).run(None, {"input": x})[0].tolist() == [[1, 1, -1, 1]]


def test_model_is_left_in_its_mode(model: Exits, tmp_path: Path) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, tmp_path / "net.onnx", SHAPE)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (SHAPE, {"exits": ["a", "b"]}),
        (SHAPE, {"exit_threshold": 0.5}),
        (SHAPE, {"exits": ["a"], "exit_threshold": 0.5}),
        (SHAPE, {"exits": ["a", "a"], "exit_threshold": 0.5}),
        (SHAPE, {"exits": ["a", "b"], "exit_threshold": 0.0}),
        (SHAPE, {"exits": ["a", "b"], "exit_threshold": float("nan")}),
        ((2, 1, 6, 6), {}),
        ((), {}),
        ((1, 1, 7, 9), {}),
        (SHAPE, {"input_dtype": "int8"}),
    ],
)
def test_options_that_do_not_fit_are_refused(
    model: Exits, tmp_path: Path, shape: tuple[int, ...], options: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="E0706"):
        export_onnx(model, tmp_path / "net.onnx", shape, **options)
    assert not list(tmp_path.iterdir())


def test_unfit_parameters_are_all_named(model: Exits, tmp_path: Path) -> None:
    with torch.no_grad():
        model.body[1].weight[0, 0, 0, 0] = 0.5
        model.exit1[2].bias[1] = float("inf")
        model.exit2[2].running_var[0] = float("nan")
    with pytest.raises(ModelError, match="E0707") as caught:
        export_onnx(model, tmp_path / "net.onnx", SHAPE)
    assert {d.where for d in caught.value.diagnostics} == {"body.1.weight", "exit1.2.bias", "exit2.2.running_var"}


class DependsOnValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class DiffersInExport(nn.Module):
    def __init__(self, by: float = 100) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x - self.by if torch.onnx.is_in_onnx_export() else x


class SignInVain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        sign(x)
        return x


def test_model_that_torch_cannot_convert_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match="E0708"):
        export_onnx(single(DependsOnValues()), tmp_path / "net.onnx", SHAPE)
    assert capfd.readouterr() == ("", "")


def test_disagreement_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ModelError, match=r"E0709.*logits"):
        export_onnx(single(BinaryLinear(36, 4), DiffersInExport()), path, SHAPE)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_disagreement_names_the_step(tmp_path: Path) -> None:
    layers = (BinaryLinear(36, 4), Sign(), BinaryLinear(4, 8), DiffersInExport(), Sign(), BinaryLinear(8, 3))
    with pytest.raises(ModelError, match=r"E0709.*5/Sub"):
        export_onnx(single(*layers), tmp_path / "net.onnx", SHAPE)


def test_signs_that_the_file_lacks_are_a_disagreement(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"E0709.*0 signs in the file, 1 in torch"):
        export_onnx(single(BinaryLinear(36, 4), SignInVain()), tmp_path / "net.onnx", SHAPE)


def test_a_sign_on_the_edge_is_reported_and_no_disagreement(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # sums of 36 signs are often 0, and rounding may then decide: here it does so in every case
    layers = (Sign(), BinaryLinear(36, 24), DiffersInExport(by=1e-6), Sign(), BinaryLinear(24, 3))
    check = export_onnx(single(*layers), tmp_path / "net.onnx", SHAPE)
    assert check.agreeing < check.samples / 2
    assert check.largest_difference > 0.1
    assert check.largest_step_difference < 1e-5


def test_unwritable_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ToolError, match="E0509"):
        export_onnx(single(BinaryLinear(36, 4)), tmp_path / "folder", SHAPE)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]
