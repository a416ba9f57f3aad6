import torch
from torch.testing import assert_close

from bnncc.train.evaluate import leave, predict, recalibrate
from tests.train.small import TwoExits, stripes


def test_recalibration_measures_the_data() -> None:
    torch.manual_seed(0)
    model, data = TwoExits(dropout=0.5), stripes(60, 0)
    norm = model.body[2]
    recalibrate(model, data, batch_size=60)
    with torch.no_grad():
        accumulators = model.body[:2](torch.tensor(data.x))
    assert_close(norm.running_mean, accumulators.mean((0, 2, 3)))
    assert norm.momentum == 0.1
    assert not model.training
    assert not any(layer.training for layer in model.modules())


def test_prediction_does_not_depend_on_the_batch() -> None:
    model, data = TwoExits(), stripes(30, 0)
    for a, b in zip(predict(model, data, 7), predict(model, data, 30), strict=True):
        assert_close(a, b)


def test_leaves_at_the_first_sure_exit() -> None:
    unsure, sure = [0.0, 0.1], [0.0, 9.0]
    exits = [torch.tensor([sure, unsure, unsure]), torch.tensor([unsure, [9.0, 0.0], unsure])]
    classes, taken = leave(exits, 0.1)
    assert taken.tolist() == [0, 1, 1]
    assert classes.tolist() == [1, 0, 1]
