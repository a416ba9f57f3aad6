import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bnncc.errors import ModelError, ToolError, UsageError
from bnncc.train import BinaryConv2d, BinaryLinear, Normalize, Sign
from bnncc.train.data import Images
from bnncc.train.loop import Settings, accuracy, leave, predict, recalibrate, train

SETTINGS = Settings(epochs=4, batch_size=20, gamma=1e-2, gamma_decay=0.1, tau=1e-6)


class TwoExits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Normalize(), BinaryConv2d(1, 16, 3), nn.BatchNorm2d(16), Sign(), nn.Flatten())
        self.head1 = nn.Sequential(BinaryLinear(64, 2), nn.BatchNorm1d(2))
        self.head2 = nn.Sequential(
            BinaryLinear(64, 32), nn.BatchNorm1d(32), Sign(), BinaryLinear(32, 2), nn.BatchNorm1d(2)
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(x)
        return self.head1(features), self.head2(features)


def stripes(count: int, seed: int) -> Images:
    """Noisy 4x4 images whose bright half is the upper (class 0) or the left one (class 1)."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 120, (count, 1, 4, 4)), rng.integers(0, 2, count)
    x[y == 0, :, :2] += 120
    x[y == 1, :, :, :2] += 120
    return Images(x.astype(np.uint8), y)


@pytest.fixture
def model() -> TwoExits:
    torch.manual_seed(0)
    return TwoExits()


def test_learns_and_keeps_the_weights_binary(model: TwoExits) -> None:
    history = train(model, stripes(200, 0), stripes(100, 1), SETTINGS, show=False)
    assert len(history) == 4
    assert history[-1].loss < history[0].loss
    assert min(accuracy(model, stripes(100, 2))) > 0.95
    assert not model.training
    assert set(model.head2[0].weight.flatten().tolist()) == {-1.0, 1.0}


def test_a_run_is_repeatable_and_resumes_where_it_stopped(model: TwoExits, tmp_path: Path) -> None:
    data, held_out, file = stripes(100, 0), stripes(50, 1), tmp_path / "run" / "state.pt"
    straight, first, second = (copy.deepcopy(model) for _ in range(3))
    whole = train(straight, data, held_out, SETTINGS, show=False)

    class Stop(Exception):
        pass

    def stop_in_epoch_2(*_: object) -> None:
        if file.exists():
            raise Stop

    first.body[0].register_forward_hook(stop_in_epoch_2)
    with pytest.raises(Stop):
        train(first, data, held_out, SETTINGS, checkpoint=file, show=False)
    assert train(second, data, held_out, SETTINGS, checkpoint=file, show=False) == whole
    for a, b in zip(straight.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_checkpoint_of_other_settings_is_refused(model: TwoExits, tmp_path: Path) -> None:
    data, file, short = stripes(40, 0), tmp_path / "state.pt", replace(SETTINGS, epochs=1)
    train(model, data, data, short, checkpoint=file, show=False)
    with pytest.raises(UsageError, match="E0703"):
        train(model, data, data, replace(short, seed=1), checkpoint=file, show=False)
    with pytest.raises(UsageError, match="E0703"):
        train(TwoExits().head1, data, data, short, checkpoint=file, show=False)
    file.write_bytes(b"rubbish")
    with pytest.raises(UsageError, match="E0703"):
        train(model, data, data, short, checkpoint=file, show=False)


def test_unwritable_checkpoint_is_reported(model: TwoExits, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    data = stripes(40, 0)
    with pytest.raises(ToolError, match="E0509"):
        train(model, data, data, SETTINGS, checkpoint=tmp_path / "file" / "state.pt", show=False)


def test_divergence_is_reported(model: TwoExits) -> None:
    with torch.no_grad():
        model.head1[1].weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="E0702"):
        train(model, stripes(40, 0), stripes(40, 0), SETTINGS, show=False)


def test_progress_is_shown(model: TwoExits, capsys: pytest.CaptureFixture[str]) -> None:
    train(model, stripes(40, 0), stripes(40, 0), replace(SETTINGS, epochs=1))
    assert "epoch 1: loss" in capsys.readouterr().out


def test_recalibration_measures_the_data(model: TwoExits) -> None:
    data = stripes(60, 0)
    norm = model.body[2]
    recalibrate(model, data, batch_size=60)
    with torch.no_grad():
        accumulators = model.body[:2](torch.tensor(data.x))
    torch.testing.assert_close(norm.running_mean, accumulators.mean((0, 2, 3)))
    assert norm.momentum == 0.1
    assert not model.training


def test_prediction_does_not_depend_on_the_batch(model: TwoExits) -> None:
    data = stripes(30, 0)
    for a, b in zip(predict(model, data, 7), predict(model, data, 30), strict=True):
        torch.testing.assert_close(a, b)


def test_leaves_at_the_first_sure_exit() -> None:
    unsure, sure = [0.0, 0.1], [0.0, 9.0]
    exits = [torch.tensor([sure, unsure, unsure]), torch.tensor([unsure, [9.0, 0.0], unsure])]
    classes, taken = leave(exits, 0.1)
    assert taken.tolist() == [0, 1, 1]
    assert classes.tolist() == [1, 0, 1]
