import numpy as np
import pytest
import torch

from bnncc.train.data.augment import draws, noisy, pad_crop_flip

ROWS = np.array([5, 0, 9, 3])


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (10, 3, 8, 8)).astype(np.uint8)


def test_crops_are_windows_of_the_padded_image(images: np.ndarray) -> None:
    seen = pad_crop_flip(images, np.arange(10), 0, 0, padding=2).numpy()
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    found = set()
    for k in range(10):
        windows = {
            (top, left, flip): padded[k, :, top : top + 8, left : left + 8][:, :, :: -1 if flip else 1]
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
        }
        matching = [place for place, window in windows.items() if np.array_equal(window, seen[k])]
        assert len(matching) == 1
        found.add(matching[0])
    assert len(found) > 5
    assert {flip for *_, flip in found} == {False, True}


@pytest.mark.parametrize("augment", [pad_crop_flip, noisy])
def test_depends_on_seed_epoch_and_sample_alone(images: np.ndarray, augment: object) -> None:
    whole = augment(images, np.arange(10), 3, 1)
    assert whole.dtype == torch.uint8
    assert torch.equal(whole[ROWS], augment(images, ROWS, 3, 1))
    assert torch.equal(whole[ROWS], augment(torch.tensor(images), ROWS, 3, 1))
    assert not torch.equal(whole, augment(images, np.arange(10), 4, 1))
    assert not torch.equal(whole, augment(images, np.arange(10), 3, 2))


def test_draws_are_even() -> None:
    top = np.floor(draws(9000, 0, 0)[:, 0] * 9)
    assert np.abs(np.bincount(top.astype(int), minlength=9) - 1000).max() < 150


def test_noise_is_a_tenth_of_the_half_range() -> None:
    grey = np.full((50, 3, 16, 16), 128, np.uint8)
    noise = (noisy(grey, np.arange(50), 0, 0).float() - 128) / 128
    assert abs(noise.std().item() - 0.1) < 0.002
    assert abs(noise.mean().item()) < 0.002
