"""Encoded pictures of every kind, and what they must come out as."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

RED = (254, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(color: tuple[int, ...] | int = RED, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new(mode, size, color)


def noise(side: int = 64) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


def turned() -> bytes:
    """Lies on its side, as a phone writes it: 6 × 4 pixels that are shown as 4 × 6."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(plain(), "JPEG", exif=exif)


def grey(kind: str, dtype: str, value: float) -> bytes:
    return encoded(Image.fromarray(np.full((4, 6), value, dtype=dtype)), kind)
