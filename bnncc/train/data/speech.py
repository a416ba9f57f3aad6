"""Speech Commands, MSWC and VoxForge: folders of WAV files."""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.train.data.audio import RATE, Clip, Recordings, features, read_wav
from bnncc.train.data.augment import random_second
from bnncc.train.data.obtain import Source, damaged, data_folder, not_available, obtain_folder
from bnncc.train.data.sets import DataSet, Images

SOURCE = Source(
    [
        "https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
    ],
    "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
)
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
FOUR_WORDS = COMMANDS[:4]
NOISE = "_background_noise_"
MOST_BYTES = 4 << 30
LANGUAGES = ("de", "en", "es", "fr", "it", "ru")
PARTS = ("train", "validation", "test")


def speech_commands(folder: Path | None = None, *, words: Sequence[str] = COMMANDS, others: bool = True) -> DataSet:
    """Speech Commands v0.02 as features, float32 [N,1,98,64]: `words`, then with `others` "unknown" and "silence".

    The parts are those of validation_list.txt and testing_list.txt. In each part a tenth as many clips as of the words
    are unknown (other words, those first in an order by hash) and a tenth silence (seconds of the noise recordings): the
    shares of the publisher's own test set. Reads the official files from `folder` (default: speech_commands_v0.02
    in `data_folder()`), and downloads them if there is no such folder; only downloads are held to the checksum.

    Source: Warden, "Speech Commands" (2018); the 12 classes are Saeed's.

    Raises:
        ToolError: E0704 the files, or those of a word, cannot be had; E0705 a file is damaged; E0509 the disk refused.
    """
    title, files = "Speech Commands v0.02", "the official word folders, validation_list.txt and testing_list.txt"
    folder = folder or data_folder() / "speech_commands_v0.02"
    obtain_folder(title, SOURCE, folder, below=".", most_bytes=MOST_BYTES, files=files)
    listed = {name: part for part, file in zip(PARTS[1:], _lists(folder), strict=True) for name in file}
    clips: dict[str, list[tuple[Clip, int]]] = {part: [] for part in PARTS}
    for label, word in enumerate(words):
        paths = sorted((folder / word).glob("*.wav"))
        if not paths:
            raise not_available(title, folder, f"there are no clips of {word!r}", files)
        for path in paths:
            clips[listed.get(f"{word}/{path.name}", "train")].append((Clip(path), label))
    if others:
        strangers = sorted(
            (p for p in folder.glob("[!_]*/*.wav") if p.parent.name not in words),
            key=lambda p: hashlib.sha256(f"{p.parent.name}/{p.name}".encode()).digest(),
        )
        noises = {path: len(read_wav(path)) for path in sorted((folder / NOISE).glob("*.wav"))}
        if not strangers or not noises:
            raise not_available(title, folder, "there are no clips of other words, or no noise recordings", files)
        for number, part in enumerate(PARTS):
            count = len(clips[part]) // 10
            of_part = [p for p in strangers if listed.get(f"{p.parent.name}/{p.name}", "train") == part]
            clips[part] += [(Clip(path), len(words)) for path in of_part[:count]]
            clips[part] += [(clip, len(words) + 1) for clip in _silences(noises, count, number)]
    classes = (*words, *(("unknown", "silence") if others else ()))
    x = features([clip for part in PARTS for clip, _ in clips[part]], "speech_commands")
    train, validation, test = _divided(x, [np.array([label for _, label in clips[part]], np.int64) for part in PARTS])
    return DataSet(train, test, validation, classes)


def mswc(folder: Path | None = None) -> DataSet:
    """A language of the Multilingual Spoken Words Corpus as features, float32 [N,1,98,64]; a class a word.

    Reads <language>_train.csv, _dev.csv and _test.csv and clips/<word>/*.wav from `folder` (default: mswc_microset/en in
    `data_folder()`: the 31 words of Saeed's Micro-EN). The publisher's clips are .opus: convert them with ffmpeg first.

    Raises:
        ToolError: E0704 it is not there, E0705 a file is damaged or missing, E0509 the cache cannot be written.
    """
    folder = folder or data_folder() / "mswc_microset" / "en"
    tables = [folder / f"{folder.name}_{part}.csv" for part in ("train", "dev", "test")]
    if not all(table.is_file() for table in tables):
        raise not_available(
            "MSWC",
            folder,
            "it is not downloaded by itself; get the microset from https://mlcommons.org/datasets/multilingual-spoken-words/",
            f"{', '.join(table.name for table in tables)} and clips/<word>/*.wav",
        )
    parts = [_table(table) for table in tables]
    words = sorted({word for part in parts for _, word in part})
    for path in (path for part in parts for path, _ in part):
        if not path.is_file():
            remedy = f"convert the clips: ffmpeg -i CLIP.opus -ac 1 -ar {RATE} CLIP.wav"
            raise damaged(path, "the tables name it, but it is not there", remedy)
    x = features([Clip(path) for part in parts for path, _ in part], "mswc")
    labels = [np.array([words.index(word) for _, word in part], np.int64) for part in parts]
    train, validation, test = _divided(x, labels)
    return DataSet(train, test, validation, tuple(words))


def voxforge(folder: Path | None = None) -> DataSet:
    """VoxForge for telling six languages apart, as features of whole recordings: seconds, float32 [N,1,98,64].

    Reads <language>/<session>/wav/*.wav of 16 kHz from `folder` (default: voxforge in `data_folder()`): the publisher's
    archives, unpacked in a folder a language: de, en, es, fr, it, ru. Sessions that have FLAC alone count for nothing
    unless they are converted. A speaker is in one part only: a tenth of them in test, a tenth in validation, by a hash of
    the name. (Saeed used a published split, which the paper does not name.) Training takes `random_second`; the
    other parts take the middle one, where Saeed feeds recordings of any length.

    Raises:
        ToolError: E0704 it is not there, E0705 a file is damaged, E0509 the cache cannot be written.
    """
    folder = folder or data_folder() / "voxforge"
    found: dict[str, list[tuple[Path, int]]] = {part: [] for part in PARTS}
    for label, language in enumerate(LANGUAGES):
        paths = sorted((folder / language).glob("*/wav/*.wav"))
        if not paths:
            raise not_available(
                "VoxForge",
                folder,
                f"there are no recordings of {language!r}, and they are not downloaded by themselves; get "
                "Main/16kHz_16bit of each language from http://www.repository.voxforge1.org/downloads/",
                f"<language>/<session>/wav/*.wav for {', '.join(LANGUAGES)}",
            )
        for path in paths:
            found[_part_of(language, path.parents[1].name)].append((path, label))
    x = Recordings.of([path for part in PARTS for path, _ in found[part]], "voxforge")
    train, validation, test = _divided(x, [np.array([label for _, label in found[part]], np.int64) for part in PARTS])
    return DataSet(train, test, validation, LANGUAGES, random_second)


def _lists(folder: Path) -> list[list[str]]:
    try:
        return [(folder / f"{name}_list.txt").read_text("utf-8").split() for name in ("validation", "testing")]
    except (OSError, ValueError) as error:
        raise damaged(folder, error, "delete the folder to download it again") from error


def _silences(noises: dict[Path, int], count: int, part: int) -> Iterable[Clip]:
    """`count` seconds of the noise recordings, the same every time."""
    drawn = np.random.Generator(np.random.Philox(key=part)).random((count, 2))
    paths = list(noises)
    for which, where in drawn:
        path = paths[int(which * len(paths))]
        yield Clip(path, int(where * max(noises[path] - RATE + 1, 1)))


def _table(path: Path) -> list[tuple[Path, str]]:
    """The clips (as .wav) and words that a table of MSWC lists."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [(path.parent / "clips" / Path(row["LINK"]).with_suffix(".wav"), row["WORD"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise damaged(path, f"no table with the columns LINK and WORD ({error})") from error


def _part_of(language: str, session: str) -> str:
    """The part of a session NAME-DATE-...; each session of "anonymous" counts as a speaker of its own."""
    speaker = session.partition("-")[0]
    name = f"{language}/{session if speaker == 'anonymous' else speaker}"
    return {0: "test", 1: "validation"}.get(hashlib.sha256(name.encode()).digest()[0] % 10, "train")


def _divided(x: Any, labels: Sequence[NDArray[np.int64]]) -> list[Images]:
    """`x` cut into parts as long as `labels`."""
    ends = np.cumsum([len(part) for part in labels])
    return [Images(x[end - len(part) : end], part) for end, part in zip(ends, labels, strict=True)]
