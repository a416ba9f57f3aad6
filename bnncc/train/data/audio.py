"""Sounds as log-mel features: the front end of Saeed's experiments, and a cache of what it computes."""

import hashlib
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from bnncc.files import whole_file
from bnncc.train.data.obtain import damaged, data_folder

RATE = 16_000  # samples a second; also how many a network sees at once
WINDOW, HOP, TRANSFORM = 400, 160, 1024  # samples
BANDS, LOWEST, HIGHEST = 64, 60.0, 7800.0  # Hz
FLOOR = 1e-6
FRAMES = 1 + (RATE - WINDOW) // HOP
AT_ONCE = 64
VERSION = 1  # of the front end: another one does not read this one's cache


@dataclass(frozen=True)
class Clip:
    """A second of a WAV file: its middle, or from the sample `start` on. With `whole`, all of it, a second at least."""

    path: Path
    start: int | None = None
    whole: bool = False


@cache
def mel_bands() -> NDArray[np.float64]:
    """How much each bin of the spectrum counts in each band: [513,64].

    Triangles on the HTK mel scale 1127·ln(1 + f/700), of height 1, each from its neighbours' centres; the centres divide
    60..7800 Hz evenly in mel. The bin at 0 Hz counts nowhere, as in tf.signal.linear_to_mel_weight_matrix.
    """
    low, high = 1127 * np.log1p(np.array([LOWEST, HIGHEST]) / 700)
    edges = np.linspace(low, high, BANDS + 2)
    bins = 1127 * np.log1p(np.arange(TRANSFORM // 2 + 1) * RATE / TRANSFORM / 700)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    weights: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    weights[0] = 0
    return weights


def log_mel(sound: NDArray[np.floating]) -> NDArray[np.float32]:
    """Features of sounds of 16 kHz in [-1,1]: [...,samples] -> float32 [...,frames,64], 98 frames for one second.

    A periodic Hann window of 400 samples every 160, transforms of 1024, magnitudes, `mel_bands`, ln(mel + 1e-6).
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    pieces = np.lib.stride_tricks.sliding_window_view(sound, WINDOW, axis=-1)[..., ::HOP, :]
    spectrum = np.abs(np.fft.rfft(pieces * window, TRANSFORM))
    return np.log(spectrum @ mel_bands() + FLOOR).astype(np.float32)


def read_wav(path: Path) -> NDArray[np.int16]:
    """The samples of a WAV file. Raises ToolError E0705 if it is not mono, of 16 bits and 16 kHz."""
    try:
        with wave.open(str(path)) as file:
            kind = file.getnchannels(), 8 * file.getsampwidth(), file.getframerate()
            if kind != (1, 16, RATE):
                raise ValueError("{} channels of {} bits at {} Hz, not 1 of 16 bits at 16000 Hz".format(*kind))
            return np.frombuffer(file.readframes(file.getnframes()), "<i2")
    except (OSError, EOFError, ValueError, wave.Error) as error:
        raise damaged(path, error, f"convert it: ffmpeg -i SOUND -ac 1 -ar {RATE} {path.name}") from error


def centred(sound: NDArray[np.int16], length: int = RATE) -> NDArray[np.int16]:
    """The middle `length` samples, with zeros around a sound that is shorter."""
    before = max(length - len(sound), 0) // 2
    padded = np.pad(sound, (before, max(length - len(sound) - before, 0)))
    start = (len(padded) - length) // 2
    return padded[start : start + length]


def read_clip(clip: Clip) -> NDArray[np.float64]:
    """The samples of a clip, in [-1,1)."""
    sound = read_wav(clip.path)
    if clip.whole:
        sound = centred(sound, max(len(sound), RATE))
    elif clip.start is None:
        sound = centred(sound)
    else:
        sound = centred(sound[clip.start : clip.start + RATE])
    return sound / 32768


def features(clips: Sequence[Clip], title: str) -> NDArray[np.float32]:
    """The features of clips of a second, [N,1,98,64], mapped from a file in the data folder's `cache`.

    They are computed the first time, with a progress bar, and again when a file's path or size has changed.

    Raises:
        ToolError: E0705 a file is no such sound, E0509 the cache cannot be written.
    """
    rows = _cached(clips, [FRAMES] * len(clips), title)
    return rows.reshape(-1, 1, FRAMES, BANDS)


class Recordings:
    """Features of sounds of any length; `x[rows]` gives the seconds in their middle, [B,1,98,64]."""

    dtype = np.dtype(np.float32)

    def __init__(self, rows: NDArray[np.float32], starts: NDArray[np.int64], frames: NDArray[np.int64]) -> None:
        self.rows, self.starts, self.frames = rows, starts, frames

    @classmethod
    def of(cls, paths: Sequence[Path], title: str) -> "Recordings":
        """Those of WAV files, cached as in `features`."""
        clips = [Clip(path, whole=True) for path in paths]
        frames = np.array([1 + (max(_samples(path), RATE) - WINDOW) // HOP for path in paths], np.int64)
        return cls(_cached(clips, frames, title), np.cumsum(frames) - frames, frames)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), 1, FRAMES, BANDS

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> "Recordings | NDArray[np.float32]":
        if isinstance(rows, slice):
            return Recordings(self.rows, self.starts[rows], self.frames[rows])
        return self.seconds(rows, np.full(len(rows), 0.5))

    def seconds(self, rows: NDArray[np.int64], where: NDArray[np.float64]) -> NDArray[np.float32]:
        """A second of each of `rows`, [B,1,98,64]; `where` it begins is in [0,1), of all places where it can."""
        begin = self.starts[rows] + (where * (self.frames[rows] - FRAMES + 1)).astype(np.int64)
        found: NDArray[np.float32] = self.rows[begin[:, None] + np.arange(FRAMES)][:, None]
        return found


def _samples(path: Path) -> int:
    try:
        with wave.open(str(path)) as file:
            return int(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise damaged(path, error) from error


def _cached(clips: Sequence[Clip], frames: Sequence[int] | NDArray[np.int64], title: str) -> NDArray[np.float32]:
    """The features of all clips one below the other, [sum of frames,64], mapped from the cache."""
    key = hashlib.sha256(str(VERSION).encode())
    for clip in clips:
        key.update(f"{clip.path} {clip.path.stat().st_size} {clip.start} {clip.whole}\n".encode())
    path = data_folder() / "cache" / f"{title}-{key.hexdigest()[:16]}.npy"
    if not path.is_file():
        with whole_file(path) as file:
            shape = (int(np.sum(frames)), BANDS)
            npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for part in _computed(clips, f"features of {title}"):
                file.write(part.astype("<f4").tobytes())
    mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return mapped


def _computed(clips: Sequence[Clip], description: str) -> Iterator[NDArray[np.float32]]:
    """The features of the clips in order, those of one length some at a time."""
    groups = [clips[k : k + AT_ONCE] for k in range(0, len(clips), AT_ONCE)]
    for group in track(groups, description, console=Console(stderr=True), transient=True):
        sounds = [read_clip(clip) for clip in group]
        if group[0].whole:
            yield from (log_mel(sound) for sound in sounds)
        else:
            yield log_mel(np.stack(sounds)).reshape(-1, BANDS)
