import math

import numpy as np
import pytest
import torch
from torch import nn

from bnncc import outputs
from bnncc.train import BinaryLinear, Sign, latent
from bnncc.train.latents import latent_layers
from bnncc.train.metrics import (
    Flips,
    entropy,
    exit_statistics,
    leave,
    pi,
    psnr,
    score,
    sign_density,
    weight_density,
)


def network() -> nn.Sequential:
    model = nn.Sequential(BinaryLinear(4, 5), Sign(), BinaryLinear(5, 2))
    for layer in (model[0], model[2]):
        layer.weight.data.fill_(-1)
    return model


def test_pi_is_minus_nine_where_nothing_flips() -> None:
    assert pi(0) == pytest.approx(-9)
    assert pi(1) == pytest.approx(math.log(1 + math.exp(-9)))


@pytest.mark.parametrize("latent_weights", [False, True])
def test_flips_of_each_layer(latent_weights: bool) -> None:
    model = network()
    if latent_weights:
        latent(model, initialise=None)
    flips = Flips(model)
    flips.begin()
    if latent_weights:
        for (_, _, weight), count in zip(latent_layers(model), (3, 1), strict=True):
            weight.data.view(-1)[:count] = 0  # whose sign is +1
            weight.data.view(-1)[-1] = -0.5  # which is no flip
    else:
        model[0].weight.data.view(-1)[:3] = 1
        model[2].weight.data.view(-1)[:1] = 1
    ratios = {"": 4 / 30, "/0": 3 / 20, "/2": 1 / 10}
    wanted = {f"flips{place}": ratio for place, ratio in ratios.items()}
    wanted |= {f"pi{place}": math.log(ratio + math.exp(-9)) for place, ratio in ratios.items()}
    assert flips.end() == pytest.approx(wanted)


def test_a_model_without_binary_layers_has_no_flips() -> None:
    flips = Flips(nn.Linear(2, 2))
    flips.begin()
    assert flips.end() == pytest.approx({"flips": 0, "pi": -9})
    assert weight_density(nn.Linear(2, 2)) == {"": 0}


def test_density_of_set_bits() -> None:
    model = network()
    model[0].weight.data[:2] = 1
    assert weight_density(model) == pytest.approx({"": 8 / 30, "0": 8 / 20, "2": 0})
    assert sign_density(model, torch.ones(3, 4)) == pytest.approx([2 / 5])
    assert sign_density(model, torch.zeros(3, 4)) == [1]


def test_entropy_is_that_of_the_compiled_code() -> None:
    logits = torch.randn(100, 7) * 5
    np.testing.assert_allclose(entropy(logits), outputs.entropy(logits.numpy()), atol=1e-5)
    assert entropy(torch.zeros(1, 4)).item() == pytest.approx(math.log(4))


def test_a_higher_temperature_is_less_sure() -> None:
    logits = torch.tensor([[math.log(3), 0.0]])
    assert score(logits).item() == pytest.approx(0.75)
    assert score(logits, 2).item() == pytest.approx(3**0.5 / (1 + 3**0.5))


FIRST = torch.tensor([[9.0, 0.0], [0.1, 0.0], [0.0, 9.0], [0.0, 0.1]])
LAST = torch.tensor([[0.0, 9.0], [0.0, 9.0], [0.1, 0.0], [0.1, 0.0]])


@pytest.mark.parametrize("settings", [{"threshold": 0.5}, {"threshold": 0.9, "rule": "score"}])
def test_samples_leave_at_the_first_sure_exit(settings: dict[str, float]) -> None:
    classes, taken = leave([FIRST, LAST], **settings)  # type: ignore[arg-type]
    assert classes.tolist() == [0, 1, 1, 0]
    assert taken.tolist() == [0, 1, 0, 1]


def test_temperature_moves_the_score_rule() -> None:
    _, taken = leave([FIRST, LAST], 0.9, rule="score", temperature=10)
    assert taken.tolist() == [1, 1, 1, 1]


def test_exit_statistics() -> None:
    statistics = exit_statistics([FIRST, LAST], torch.tensor([0, 1, 0, 1]), 0.5)
    assert statistics.shares == (0.5, 0.5)
    assert statistics.accuracy_taken == (0.5, 0.5)
    assert statistics.accuracy_all == (0.5, 0.5)
    assert statistics.accuracy == 0.5
    late = exit_statistics([FIRST, LAST], torch.tensor([1, 1, 0, 0]), 0)
    assert late.shares == (0, 1)
    assert math.isnan(late.accuracy_taken[0])
    assert late.accuracy_all == (0, 1)
    assert late.accuracy == 1


def test_psnr() -> None:
    original = torch.zeros(2, 3, 4, 4)
    assert psnr(original + 0.1, original) == pytest.approx(20, abs=1e-4)
    assert psnr(original + 0.1, original, peak=2) == pytest.approx(20 + 20 * math.log10(2), abs=1e-4)
    assert psnr(original, original) == math.inf
