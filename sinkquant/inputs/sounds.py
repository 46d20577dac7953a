"""One sound: what a file holds, as mono samples at the rate that a model hears."""

from __future__ import annotations

import wave
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np

from sinkquant.errors import UsageError
from sinkquant.inputs.broken import Broken, contents

SUFFIXES = (".flac", ".wav", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf")
SHORTEST = 0.1  # seconds; below it there is not one word
LONGEST = 600  # seconds that are read of one file
OTHERS = (b"fLaC", b"OggS", b"FORM", b".snd", b"ID3")  # how files begin that need soundfile
SILENT = 1e-4  # largest sample, of 1: -80 dB
EXTRA = "install them with pip install 'sinkquant[audio]'"


def sound(content: object, rate: int) -> np.ndarray:
    """The samples (n,) float32, in -1…1 mostly, at `rate` Hz: channels are averaged, other rates converted.

    `content`: a file, its bytes, or a mapping with `array` ((n,) or (channels, n)) and `sampling_rate`. Of long files
    the first ten minutes are read. Without soundfile only WAV files of whole numbers are.

    Raises Broken for what is no sound, is cut off, silent or shorter than a tenth of a second, UsageError where
    soundfile or soxr is needed and not installed.
    """
    samples, given = _samples(content)  # (n, channels)
    if not np.isfinite(samples).all():
        raise Broken("holds samples that are not numbers")
    if len(samples) < SHORTEST * given:
        raise Broken("is shorter than a tenth of a second" if len(samples) else "has no samples")
    mono = samples.mean(axis=1, dtype=np.float32)
    if np.abs(mono).max() < SILENT:
        raise Broken("is silent")
    return mono if given == rate else _at(mono, given, rate)


def _samples(content: object) -> tuple[np.ndarray, int]:
    if isinstance(content, Mapping) and content.get("array") is not None and content.get("sampling_rate"):
        array = np.atleast_2d(np.asarray(content["array"], dtype=np.float32))
        return array.T, int(content["sampling_rate"])
    data = contents(content)
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: its library is missing
        return _wave(data)
    try:
        with soundfile.SoundFile(BytesIO(data)) as file:
            rate, wanted = file.samplerate, min(file.frames, LONGEST * file.samplerate)
            samples = file.read(wanted, dtype="float32", always_2d=True)
    except (RuntimeError, TypeError, ValueError) as error:  # soundfile's own errors are RuntimeErrors
        raise Broken("is no audio" if "not recognised" in str(error) else f"is not decoded ({_plain(error)})") from None
    if len(samples) < wanted:
        raise Broken("is cut off")
    return samples, int(rate)


def _wave(data: bytes) -> tuple[np.ndarray, int]:
    """A WAV file of whole numbers by what Python has."""
    try:
        with wave.open(BytesIO(data)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            wanted = min(file.getnframes(), LONGEST * rate)
            frames = file.readframes(wanted)
    except (wave.Error, EOFError) as error:
        if "unknown format" in str(error) or data.startswith(OTHERS):
            raise UsageError(f"audio other than WAV of whole numbers needs soundfile and soxr: {EXTRA}.") from None
        raise Broken("is cut off" if data.startswith(b"RIFF") else "is no audio") from None
    if len(frames) < wanted * width * channels:
        raise Broken("is cut off")
    whole = np.frombuffer(frames, dtype=np.uint8)
    if width == 1:  # unsigned, unlike all others
        values = (whole.astype(np.float32) - 128) / 128
    else:
        padded = np.zeros((len(whole) // width, 4), dtype=np.uint8)
        padded[:, 4 - width :] = whole.reshape(-1, width)  # the upper bytes of a little-endian int32
        values = padded.view("<i4")[:, 0].astype(np.float32) / 2**31
    return values.reshape(-1, channels), rate


def _at(mono: np.ndarray, given: int, rate: int) -> np.ndarray:
    try:
        import soxr
    except ImportError:
        raise UsageError(
            f"a sound of {given} Hz must become one of {rate} Hz, which needs soundfile and soxr: {EXTRA}."
        ) from None
    converted: np.ndarray = soxr.resample(mono, given, rate)
    return converted


def _plain(error: Any) -> str:
    return " ".join(str(error).split()).rstrip(".")
