"""How many inputs all windows of a layer can have on their lists together, whatever the data."""

import numpy as np
from numpy.typing import NDArray

from bnncc.kernels.windows import Windows

ROUNDS = 200
WORTH = 0.02  # of all inputs: windows over the border that list fewer are counted as full


def most_listed(windows: Windows, channels: int, limit: int) -> float:
    """A bound on the listed inputs, summed over all windows.

    A window over the border lists its a set inputs; one inside the image lists a <= `limit` of them, or its T - a unset
    ones. That is at most q a + (1 - q) r (T - a) for any q in [0, 1], with r = limit / (T - limit): linear in the set
    inputs of each pixel, so its largest value is known. The two kinds of windows overlap and cannot all be at their worst,
    hence q is chosen for each window, by subgradient steps; whatever q they end at, the result is a bound.
    """
    rows_in, columns_in = windows.inside(0), windows.inside(1)
    full = np.logical_and.outer(rows_in.all(axis=1), columns_in.all(axis=1))
    taps = channels * windows.kernel[0] * windows.kernel[1]
    over_border = channels * int(rows_in.sum()) * int(columns_in.sum()) - int(full.sum()) * taps
    simple = over_border + int(full.sum()) * limit
    if not full.any() or limit >= taps or over_border < WORTH * simple:
        return simple
    r = limit / (taps - limit)
    pixels = Pixels(windows)
    q = np.full(full.shape, r / (1 + r))  # nothing to be gained from any pixel inside
    best = float(simple)
    for k in range(ROUNDS):
        gain = pixels.over(np.where(full, q - (1 - q) * r, 1.0))  # for each set input of a pixel
        best = min(best, float(channels * np.maximum(gain, 0).sum() + ((1 - q) * r * taps)[full].sum()))
        slope = (1 + r) * channels * pixels.under((gain > 0).astype(float)) - r * taps
        q = np.clip(q - slope / taps * 0.5 / (1 + k) ** 0.5, 0, 1)
    return best


class Pixels:
    """Sums from windows to the pixels that they read, and back."""

    def __init__(self, windows: Windows) -> None:
        (sy, sx), (dy, dx) = windows.strides, windows.dilations
        top, left = (max(p, 0) for p in windows.pads)  # where the image begins; windows begin later where it is cropped
        y0, x0 = top - windows.pads[0], left - windows.pads[1]
        height, width = ((n - 1) * s + 1 for n, s in zip(windows.out, windows.strides, strict=True))
        starts = [(y0 + ky * dy, x0 + kx * dx) for ky, kx in np.ndindex(windows.kernel)]
        self.places = [(slice(y, y + height, sy), slice(x, x + width, sx)) for y, x in starts]
        _, h, w = windows.image
        self.image = slice(top, top + h), slice(left, left + w)
        self.size = max(top + h, starts[-1][0] + height), max(left + w, starts[-1][1] + width)

    def over(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each pixel the sum over the windows that read it."""
        sums = np.zeros(self.size)
        for place in self.places:
            sums[place] += values
        return sums[self.image]

    def under(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each window the sum over the pixels that it reads; outside the image is 0."""
        padded = np.zeros(self.size)
        padded[self.image] = values
        return np.asarray(sum(padded[place] for place in self.places))
