"""Sounds made here, and WAV files of them."""

from __future__ import annotations

import wave
from io import BytesIO

import numpy as np


def tone(seconds: float = 0.5, rate: int = 16000, height: float = 440, loud: float = 0.5) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * height * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def wav(samples: np.ndarray, rate: int = 16000, width: int = 2) -> bytes:
    """`samples` (n,) or (n, channels) in whole numbers of `width` bytes."""
    if width == 1:
        data = np.round(samples * 127 + 128).astype(np.uint8).tobytes()
    else:
        whole = np.round(samples.astype(np.float64) * (2**31 - 256)).astype("<i4")
        data = whole.reshape(-1, 1).view(np.uint8)[:, 4 - width :].tobytes()
    file = BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(data)
    return file.getvalue()
