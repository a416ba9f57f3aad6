import torch
from torch.testing import assert_close

from bnncc.train.evaluate import predict, recalibrate
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
