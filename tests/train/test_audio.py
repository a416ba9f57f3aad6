import csv
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from bnncc.errors import ToolError
from bnncc.train import data
from bnncc.train.data import audio, speech


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def tone(hertz: float, samples: int = 16_000) -> np.ndarray:
    return np.round(8000 * np.sin(2 * np.pi * hertz * np.arange(samples) / 16_000))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BNNCC_DATA", str(tmp_path))
    return tmp_path


def test_front_end_equals_torch() -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, 16_000)
    features = audio.log_mel(sound)
    assert features.shape == (98, 64)
    assert features.dtype == np.float32
    window = torch.hann_window(400, periodic=True, dtype=torch.float64)
    frames = torch.tensor(sound).unfold(0, 400, 160) * window
    spectrum = torch.fft.rfft(frames, 1024).abs().numpy()
    np.testing.assert_allclose(features, np.log(spectrum @ audio.mel_bands() + 1e-6), rtol=1e-5)


def test_bands_are_triangles_between_60_and_7800_hertz() -> None:
    weights = audio.mel_bands()
    assert weights.shape == (513, 64)
    hertz = np.arange(513) * 16_000 / 1024
    used = weights.any(axis=1)
    assert hertz[used].min() > 60
    assert hertz[used].max() < 7800
    assert (weights.max(axis=0) > 0.4).all()
    inner = (hertz > 200) & (hertz < 7500)
    np.testing.assert_allclose(weights[inner].sum(axis=1), 1)  # neighbours cross at one half


@pytest.mark.parametrize("hertz", [300, 1000, 4000])
def test_a_tone_is_loudest_in_its_band(hertz: float) -> None:
    mel = 1127 * np.log1p(np.array([60, hertz, 7800]) / 700)
    expected = (mel[1] - mel[0]) / (mel[2] - mel[0]) * 65 - 1
    assert abs(audio.log_mel(tone(hertz) / 32768).mean(axis=0).argmax() - expected) <= 1


def test_silence_has_a_floor() -> None:
    assert np.all(audio.log_mel(np.zeros(16_000)) == np.float32(np.log(1e-6)))


@pytest.mark.parametrize(("length", "expected"), [(3, [0, 1, 2, 3, 0]), (4, [1, 2, 3, 4, 0]), (7, [2, 3, 4, 5, 6])])
def test_sounds_are_centred(length: int, expected: list[int]) -> None:
    assert audio.centred(np.arange(1, length + 1, dtype=np.int16), 5).tolist() == expected


@pytest.fixture
def commands(place: Path) -> Path:
    """A small Speech Commands: ten words, two others, one noise; of each word 8 clips train, 1 validates, 2 test."""
    folder = place / "speech_commands_v0.02"
    lists: dict[str, list[str]] = {"validation": [], "testing": []}
    for number, word in enumerate((*speech.COMMANDS, "bird", "cat")):
        for k in range(11):
            name = f"{word}/{k:08x}_nohash_0.wav"
            write_wav(folder / name, tone(200 + 300 * number, 12_000 + 500 * k))
            if k >= 8:
                lists["validation" if k == 8 else "testing"].append(name)
    write_wav(folder / speech.NOISE / "white.wav", np.random.default_rng(0).normal(0, 1000, 40_000))
    for part, names in lists.items():
        (folder / f"{part}_list.txt").write_text("\n".join(names) + "\n")
    return folder


def test_reads_speech_commands(commands: Path) -> None:
    sets = data.load("speech_commands")
    assert sets.classes == (*speech.COMMANDS, "unknown", "silence")
    assert np.bincount(sets.train.y).tolist() == [8] * 12
    assert np.bincount(sets.validation.y).tolist() == [1] * 12
    assert np.bincount(sets.test.y).tolist() == [2] * 12
    assert sets.train.x.shape == (96, 1, 98, 64)
    assert sets.with_validation() is sets
    loudest = sets.train.x[sets.train.y == 3].mean(axis=(0, 1, 2)).argmax()
    assert loudest == audio.log_mel(tone(1100) / 32768).mean(axis=0).argmax()
    again = data.speech_commands(commands)
    assert np.array_equal(again.test.x, sets.test.x)


def test_four_words_need_no_others(commands: Path) -> None:
    sets = data.load("speech_commands_4w")
    assert sets.classes == ("yes", "no", "up", "down")
    assert len(sets.train) == 32
    first = audio.log_mel(audio.centred(audio.read_wav(commands / "yes" / "00000000_nohash_0.wav")) / 32768)
    assert np.array_equal(sets.train.x[0, 0], first)


def test_features_are_computed_once(commands: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load("speech_commands_4w").train.x
    monkeypatch.setattr(audio, "log_mel", None)
    assert np.array_equal(data.load("speech_commands_4w").train.x, first)
    assert len(list((place / "cache").iterdir())) == 1
    monkeypatch.undo()
    monkeypatch.setenv("BNNCC_DATA", str(place))
    write_wav(commands / "yes" / "00000000_nohash_0.wav", np.zeros(15_000))
    assert not np.array_equal(data.load("speech_commands_4w").train.x, first)


def test_a_failure_leaves_no_cache(commands: Path, place: Path) -> None:
    path = commands / "down" / "00000003_nohash_0.wav"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ToolError, match=r"E0705[^$]*down"):
        data.load("speech_commands_4w")
    assert not list((place / "cache").iterdir())


def test_a_missing_word_is_named(commands: Path) -> None:
    for path in (commands / "left").iterdir():
        path.unlink()
    with pytest.raises(ToolError, match=r"E0704.*'left'"):
        data.load("speech_commands")


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16_000, 2)])
def test_other_sounds_are_refused(place: Path, rate: int, channels: int) -> None:
    write_wav(place / "a.wav", tone(440), rate, channels)
    with pytest.raises(ToolError, match=r"E0705.*16000 Hz"):
        audio.read_wav(place / "a.wav")


def test_reads_mswc(place: Path) -> None:
    folder = place / "mswc_microset" / "en"
    for part, count in (("train", 3), ("dev", 1), ("test", 2)):
        links = [f"{word}/common_voice_en_{part}{k}.opus" for word in ("zero", "bed") for k in range(count)]
        with (folder.mkdir(parents=True, exist_ok=True) or folder / f"en_{part}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["LINK", "WORD", "VALID", "SPEAKER", "GENDER"])
            table.writerows([link, link.split("/")[0], "True", "somebody", "NAN"] for link in links)
        for link in links:
            write_wav(folder / "clips" / link.replace(".opus", ".wav"), tone(440))
    sets = data.load("mswc")
    assert sets.classes == ("bed", "zero")
    assert [part.y.tolist() for part in (sets.train, sets.validation, sets.test)] == [
        [1, 1, 1, 0, 0, 0],
        [1, 0],
        [1, 1, 0, 0],
    ]
    (folder / "clips" / "bed" / "common_voice_en_dev0.wav").unlink()
    with pytest.raises(ToolError, match=r"E0705[^$]*ffmpeg"):
        data.load("mswc")
    (folder / "en_dev.csv").write_text("one,two\n1,2\n")
    with pytest.raises(ToolError, match=r"E0705.*LINK"):
        data.load("mswc")


def test_reads_voxforge(place: Path) -> None:
    for language in speech.LANGUAGES:
        for speaker in range(12):
            for session in range(2):
                name = f"speaker{speaker}-2010010{session}-abc"
                samples = np.concatenate([tone(300, 16_000 * (1 + session)), tone(3000, 16_000)])
                write_wav(place / "voxforge" / language / name / "wav" / "a0001.wav", samples)
    sets = data.load("voxforge")
    parts = (sets.train, sets.validation, sets.test)
    assert sum(map(len, parts)) == 6 * 12 * 2
    assert min(map(len, parts)) > 0
    assert all(len(part) % 2 == 0 for part in parts), "both sessions of a speaker are in one part"
    rows = np.arange(20)
    middle = sets.train.x[rows]
    assert middle.shape == (20, 1, 98, 64)
    seen = [sets.augment(sets.train.x, rows, epoch, 0).numpy() for epoch in (0, 0, 1)]
    assert np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])
    loudest = seen[0].mean(axis=(1, 2)).argmax(axis=1)
    assert loudest.min() < 10, "of a second of the first tone"
    assert loudest.max() > 40, "of a second of the last tone"
