"""One picture: what a file holds, as RGB, the way a viewer shows it."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any

from sinkquant.errors import UsageError
from sinkquant.inputs.broken import Broken, contents

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pnm", ".tga", ".jp2", ".avif",
)  # fmt: skip


def pillow() -> Any:
    """The module PIL.Image. Raises UsageError where Pillow is not installed."""
    try:
        import PIL.Image
    except ImportError:
        raise UsageError("reading images needs Pillow: install it with pip install 'sinkquant[vision]'.") from None
    return PIL.Image


def picture(content: object) -> Image:
    """The picture of a file, of its bytes, or decoded already, as RGB: upright as its EXIF data says, on white ground.

    Of an animation, or of several pages, it is the first one. 16 bits a channel become their upper eight.

    Raises Broken for what is no picture, is cut off, has no pixels or too many.
    """
    library = pillow()
    if isinstance(content, library.Image):
        return _rgb(content)
    data = contents(content)
    from PIL import ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is odd in a file that can be read all the same
        warnings.simplefilter("error", library.DecompressionBombWarning)
        try:
            with library.open(BytesIO(data)) as opened:
                return _rgb(ImageOps.exif_transpose(opened))
        except (library.DecompressionBombWarning, library.DecompressionBombError):
            raise Broken(f"has more than {library.MAX_IMAGE_PIXELS // 10**6} million pixels") from None
        except library.UnidentifiedImageError:
            raise Broken("is no image") from None
        except Broken:
            raise
        except MemoryError:
            raise
        except Exception as error:  # a broken file may raise anything in the decoders
            raise Broken(_reason(error)) from None


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split()).rstrip(".")
    if "truncated" in said.lower() or isinstance(error, EOFError):
        return "is cut off"
    return f"cannot be decoded ({said or type(error).__name__})"


def _rgb(image: Image) -> Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        white = pillow().new("RGBA", seen.size, "white")
        image = pillow().alpha_composite(white, seen)
    return image.convert("RGB")


def _eight_bits(image: Image) -> Image:
    """Grey values of 16 or 32 bits as those of 8: Pillow would cut off all that is above 255."""
    import numpy as np

    values = np.asarray(image, dtype=np.float64)
    most = values.max(initial=0)
    if not np.isfinite(values).all() or values.min(initial=0) < 0 or most > 65535:
        raise Broken("has grey values that are neither 8 nor 16 bits")
    if image.mode == "F":
        scale = 255.0 if most <= 1 else 1.0 if most <= 255 else 1 / 256
    else:
        scale = 1 / 256 if image.mode.startswith("I;16") or most > 255 else 1.0
    return pillow().fromarray((values * scale).astype(np.uint8))
