from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sinkquant.errors import UsageError
from sinkquant.inputs.broken import Broken
from sinkquant.inputs.sounds import sound

from .sounds import tone, wav


@pytest.fixture(params=["soundfile", "wave"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to read a WAV file: the library's, and Python's own."""
    if request.param == "wave":
        monkeypatch.setitem(sys.modules, "soundfile", None)
    else:
        pytest.importorskip("soundfile")
    return str(request.param)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_whole_numbers_of_every_width_are_read(width: int, reader: str) -> None:
    got = sound(wav(tone(), width=width), 16000)
    assert got.dtype == np.float32 and got.shape == (8000,)
    assert np.abs(got - tone()).max() < 1.5 / 2 ** (8 * width - 1) + 1e-6 + (0.005 if width == 1 else 0)


def test_channels_are_averaged(reader: str) -> None:
    two = np.stack([tone(), -0.5 * tone()], axis=1)
    assert np.abs(sound(wav(two), 16000) - 0.25 * tone()).max() < 1e-3


def test_samples_are_taken_as_they_are() -> None:
    got = sound({"array": np.stack([tone(), tone()]), "sampling_rate": 16000}, 16000)
    assert np.array_equal(got, tone())


def test_another_rate_is_converted() -> None:
    pytest.importorskip("soxr")
    got = sound(wav(tone(rate=44100), rate=44100), 16000)
    assert len(got) == 8000
    assert np.abs(got - tone())[200:-200].max() < 5e-3


def test_flac_is_read() -> None:
    soundfile = pytest.importorskip("soundfile")
    file = BytesIO()
    soundfile.write(file, tone(), 16000, format="FLAC")
    assert np.abs(sound(file.getvalue(), 16000) - tone()).max() < 1e-4
    with pytest.raises(Broken, match=r"is cut off|is not decoded"):
        sound(file.getvalue()[:2000], 16000)


BROKEN = [
    pytest.param(b"", "is empty", id="empty"),
    pytest.param(b"hello", "is no audio", id="text"),
    pytest.param(wav(np.zeros(8000)), "is silent", id="silent"),
    pytest.param(wav(tone(0.05)), "is shorter than a tenth of a second", id="short"),
    pytest.param(wav(tone(0)), "has no samples", id="no-samples"),
    pytest.param(wav(tone())[:20], "is cut off|is not decoded|is no audio", id="cut-head"),
    pytest.param(Path("no/such.wav"), "does not exist", id="absent"),
    pytest.param({"array": [float("nan")] * 9000, "sampling_rate": 16000}, "samples that are not numbers", id="nan"),
    pytest.param(None, "is empty", id="none"),
    pytest.param(7, "is no file", id="number"),
]


@pytest.mark.parametrize(("content", "reason"), BROKEN)
def test_what_is_broken_says_why(content: Any, reason: str, reader: str) -> None:
    with pytest.raises(Broken, match=reason) as caught:
        sound(content, 16000)
    assert "\n" not in str(caught.value)


def test_without_the_libraries_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("soundfile", "soxr"):
        monkeypatch.setitem(sys.modules, name, None)
    for content in (b"fLaC" + bytes(100), wav(tone(rate=44100), rate=44100)):
        with pytest.raises(UsageError, match=r"pip install 'sinkquant\[audio\]'"):
            sound(content, 16000)
    with pytest.raises(Broken, match="is cut off"):
        sound(wav(tone())[:-100], 16000)
