"""The bound on listed inputs: never passed by any data, and no looser than counting windows one by one."""

import numpy as np
import pytest

from bnncc.kernels.most import most_listed
from bnncc.kernels.windows import Windows


def listed(windows: Windows, channels: int, limit: int, set_inputs: np.ndarray) -> int:
    """What the C lists, for `set_inputs` [H, W] of the channels of each pixel."""
    rows_in, columns_in = windows.inside(0), windows.inside(1)
    total = 0
    for oy, ox in np.ndindex(windows.out):
        at = [
            (oy * windows.strides[0] - windows.pads[0] + ky * windows.dilations[0],
             ox * windows.strides[1] - windows.pads[1] + kx * windows.dilations[1])
            for ky, kx in np.ndindex(windows.kernel)
            if rows_in[oy, ky] and columns_in[ox, kx]
        ]  # fmt: skip
        a = sum(int(set_inputs[p]) for p in at)
        taps = len(at) * channels
        whole = len(at) == windows.kernel[0] * windows.kernel[1]
        total += taps - a if whole and a > limit else a
    return total


@pytest.mark.parametrize(
    ("image", "kernel", "strides", "dilations", "pads"),
    [
        ((8, 7, 6), (3, 3), (1, 1), (1, 1), (1, 1)),
        ((5, 9, 8), (3, 3), (2, 2), (1, 1), (1, 1)),
        ((4, 9, 9), (3, 2), (1, 1), (2, 3), (2, 1)),
        ((6, 5, 5), (5, 5), (1, 1), (1, 1), (2, 2)),
        ((6, 6, 6), (3, 3), (1, 1), (1, 1), (0, 0)),
        ((6, 9, 9), (3, 1), (2, 2), (2, 2), (3, -2)),
    ],
)
def test_no_data_pass_the_bound(
    image: tuple[int, int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int],
) -> None:
    out = tuple(
        (n + 2 * p - (k - 1) * d - 1) // s + 1
        for n, k, s, d, p in zip(image[1:], kernel, strides, dilations, pads, strict=True)
    )
    windows = Windows(image, (out[0], out[1]), kernel, strides, dilations, pads)
    channels = image[0]
    taps = channels * kernel[0] * kernel[1]
    limit = int(0.55 * taps)
    bound = most_listed(windows, channels, limit)
    full = int(windows.inside(0).all(axis=1).sum() * windows.inside(1).all(axis=1).sum())
    inside = channels * int(windows.inside(0).sum()) * int(windows.inside(1).sum())
    assert bound <= inside - full * (taps - limit)
    rng = np.random.default_rng(0)
    most = 0
    for density in (0.3, 0.5, 0.55, 0.7, 1.0):
        s = rng.binomial(channels, density, image[1:])
        s[0] = s[-1] = channels
        best = listed(windows, channels, limit, s)
        for _ in range(300):  # a climb: to where the windows list more
            moved = s.copy()
            moved[rng.integers(image[1]), rng.integers(image[2])] = rng.integers(channels + 1)
            if (value := listed(windows, channels, limit, moved)) >= best:
                s, best = moved, value
        most = max(most, best)
    assert 0.85 * bound < most <= bound
