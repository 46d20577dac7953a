from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sinkquant.inputs.broken import Broken
from sinkquant.inputs.pictures import picture

from .pictures import RED, encoded, grey, noise, plain, turned

WHITE = (255, 255, 255)
WIDE = (6, 4)


@pytest.mark.parametrize(
    ("content", "size", "color"),
    [
        pytest.param(encoded(plain()), WIDE, RED, id="png"),
        pytest.param(encoded(plain(), "WEBP", lossless=True), WIDE, RED, id="webp"),
        pytest.param(encoded(plain().convert("P")), WIDE, (255, 0, 0), id="palette"),
        pytest.param(encoded(plain((0, 255, 255, 0), "CMYK"), "TIFF"), WIDE, (255, 0, 0), id="cmyk"),
        pytest.param(encoded(plain((0, 255, 255, 0), "CMYK"), "JPEG", quality=100), WIDE, (255, 0, 0), id="cmyk-jpeg"),
        pytest.param(encoded(plain((*RED, 255), "RGBA")), WIDE, RED, id="rgba"),
        pytest.param(encoded(plain((0, 0, 0, 0), "RGBA")), WIDE, WHITE, id="transparent"),
        pytest.param(encoded(plain((0, 0), "LA")), WIDE, WHITE, id="transparent-grey"),
        pytest.param(encoded(plain().convert("P"), transparency=plain().convert("P").getpixel((0, 0))), WIDE, WHITE,
                     id="transparent-palette"),
        pytest.param(encoded(plain(200, "L")), WIDE, (200, 200, 200), id="grey"),
        pytest.param(encoded(plain(1, "1")), WIDE, WHITE, id="bilevel"),
        pytest.param(grey("PNG", "uint16", 128 * 256), WIDE, (128, 128, 128), id="16-bit"),
        pytest.param(grey("TIFF", "uint16", 128 * 256), WIDE, (128, 128, 128), id="16-bit-tiff"),
        pytest.param(grey("TIFF", "int32", 128 * 256), WIDE, (128, 128, 128), id="32-bit"),
        pytest.param(grey("TIFF", "float32", 0.5), WIDE, (127, 127, 127), id="float"),
        pytest.param(encoded(plain(), "GIF", save_all=True, append_images=[plain((0, 0, 255))]), WIDE, (254, 0, 0),
                     id="animated"),
        pytest.param(turned(), WIDE[::-1], (254, 0, 0), id="turned"),
    ],
)  # fmt: skip
def test_every_kind_comes_out_as_a_viewer_shows_it(content: bytes, size: tuple[int, int], color: tuple[int]) -> None:
    got = picture(content)
    assert (got.mode, got.size) == ("RGB", size)
    assert np.abs(np.asarray(got, dtype=int) - color).max() <= 2


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BROKEN = [
    pytest.param(b"", "is empty", id="empty"),
    pytest.param(b"hello, world", "is no image", id="text"),
    pytest.param(encoded(noise(), "JPEG")[:900], "is cut off", id="cut-jpeg"),
    pytest.param(encoded(noise(), "PNG")[:900], "is cut off", id="cut-png"),
    pytest.param(encoded(noise(), "WEBP")[:300], "cannot be decoded|is cut off|is no image", id="cut-webp"),
    pytest.param(encoded(noise(), "PNG")[:60] + bytes(200), "is cut off|cannot be decoded", id="zeros"),
    pytest.param(png_of(0, 4), "is no image|has no pixels|cannot be decoded", id="no-pixels"),
    pytest.param(png_of(50_000, 50_000), "has more than 89 million pixels", id="bomb"),
    pytest.param(
        grey("TIFF", "float32", 1e9), "has grey values that are neither 8 nor 16 bits", id="float-of-no-range"
    ),
    pytest.param(grey("TIFF", "float32", float("nan")), "has grey values that are neither 8 nor 16 bits", id="nan"),
    pytest.param(Path("no/such.jpg"), "does not exist", id="absent"),
    pytest.param(None, "is empty", id="none"),
    pytest.param(7, "is no file", id="number"),
]


@pytest.mark.parametrize(("content", "reason"), BROKEN)
def test_what_is_broken_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(Broken, match=f"^({reason})") as caught:
        picture(content)
    assert "\n" not in str(caught.value)


def test_a_decoded_image_is_taken_as_it_is() -> None:
    assert picture(Image.new("L", (3, 2), 9)).getpixel((0, 0)) == (9, 9, 9)
