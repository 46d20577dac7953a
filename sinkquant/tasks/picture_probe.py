"""A few tokens around an image for a model that sees and writes, made without its processor."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.inputs.batches import Batch
from sinkquant.inputs.image_text import IDS, MASK

FRONT, BEHIND = 3, 4  # tokens of text around the image
TYPES = ("mm_token_type_ids", "token_type_ids")
Form = tuple[dict[str, Tensor], frozenset[str]]


def picture_probe(model: Any, samples: int) -> Batch:
    """Waves as images, one a sample, in the first form that the model takes, and different tokens of text.

    Raises UsageError where it takes none of them.
    """
    with suppress(Exception), torch.no_grad():  # a stock loader unpacks weights when the whole is called, not a part
        model(input_ids=torch.ones(1, 2, dtype=torch.int64, device=model.device), use_cache=False)
    for tensors, joined in _forms(model, samples):
        for count in _counts(model, tensors, joined):
            batch = _around(model, tensors, joined, count, samples)
            if _takes(model, batch):
                return batch
    raise UsageError(
        f"{type(model).__name__} takes no images in a form that is known: this architecture is not supported."
    )


def _forms(model: Any, samples: int) -> Iterator[Form]:
    """The tensors of images, and which of them are in one list: pixels, pixels of several images, of several tiles,
    and patches with their grid."""
    vision = getattr(model.config, "vision_config", model.config)
    size, channels = _side(getattr(vision, "image_size", 0)), int(getattr(vision, "num_channels", None) or 3)
    if size:
        pixels = waves(samples, channels, size, size)
        yield {"pixel_values": pixels}, frozenset()
        yield {"pixel_values": pixels[:, None]}, frozenset()
        tiles = int(getattr(vision, "max_num_tiles", 0) or 0)
        if tiles:
            ratios = torch.ones(samples, 1, dtype=torch.int64)
            mask = torch.zeros(samples, 1, tiles, dtype=torch.int64)
            mask[..., 0] = 1
            blank = pixels.new_zeros(samples, 1, tiles, channels, size, size)
            blank[:, 0, 0] = pixels
            yield {"pixel_values": blank, "aspect_ratio_ids": ratios, "aspect_ratio_mask": mask}, frozenset()
        yield {"pixel_values": pixels, "image_sizes": torch.full((samples, 2), size)}, frozenset()
    patch, merge = int(getattr(vision, "patch_size", 0) or 0), int(getattr(vision, "spatial_merge_size", 1) or 1)
    if patch:
        down, across = 2 * merge, 3 * merge
        values = (
            int(getattr(vision, "in_channels", channels) or 3)
            * int(getattr(vision, "temporal_patch_size", 1))
            * patch**2
        )
        flat = waves(samples, 1, down * across, values)[:, 0]  # (N, P, C·t·p·p)
        grid = torch.tensor([[[1, down, across]]] * samples)
        yield {"pixel_values": flat, "image_grid_thw": grid}, frozenset({"pixel_values", "image_grid_thw"})


def waves(samples: int, channels: int, height: int, width: int) -> Tensor:
    """(N, C, H, W): of different directions and lengths in every channel."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    made = [torch.sin((3 + 2 * k) * x + (5 + 3 * k) * y + k) for k in range(samples * channels)]
    return torch.stack(made).reshape(samples, channels, height, width)


def image_id(config: Any) -> int | None:
    """The id of the tokens that an image's rows take the place of."""
    names = ("image_token_id", "image_token_index")
    return next((int(token) for name in names if (token := getattr(config, name, None)) is not None), None)


def tower_grid(config: Any) -> tuple[int, int]:
    """Rows and columns of a tower's patches, zeros where its configuration does not say."""
    vision = getattr(config, "vision_config", config)
    size, patch = _side(getattr(vision, "image_size", 0)), _side(getattr(vision, "patch_size", 0))
    return (size // patch, size // patch) if patch else (0, 0)


def _counts(model: Any, tensors: dict[str, Tensor], joined: frozenset[str]) -> Iterator[int]:
    """How many tokens an image may have: as many rows as the model's features of it, else one."""
    features = getattr(model, "get_image_features", None)
    if features is not None:
        try:
            with torch.no_grad():
                given = Batch(tensors, joined=joined).to(model.device).arguments
                outputs = features(**given)
            found = getattr(outputs, "pooler_output", outputs)
            rows = found if isinstance(found, Tensor) else torch.cat([part.flatten(0, -2) for part in found])
            yield rows[..., 0].numel() // len(next(iter(tensors.values())))
        except Exception:  # whatever a model's code raises that wants another form
            return
    else:
        yield 1


def _around(model: Any, tensors: dict[str, Tensor], joined: frozenset[str], count: int, samples: int) -> Batch:
    text, image = model.config.get_text_config(), image_id(model.config)
    width = FRONT + count + BEHIND
    ids = (torch.arange(1, samples * width + 1) * 7919 % (text.vocab_size - 1)).reshape(samples, width)
    ids = torch.where(ids == image, text.vocab_size - 1, ids) if image is not None else ids
    seen = torch.zeros_like(ids)
    if image is not None:
        ids[:, FRONT : FRONT + count] = image
        seen[:, FRONT : FRONT + count] = 1
    more = {name: seen for name in TYPES if name in inspect.signature(model.forward).parameters}
    if "cross_attention_mask" in inspect.signature(model.forward).parameters:
        tiles = tensors["aspect_ratio_mask"] if "aspect_ratio_mask" in tensors else torch.ones(samples, 1, 1)
        cross = tiles[:, None].expand(-1, width, -1, -1).clone()
        cross[:, :FRONT] = 0
        more["cross_attention_mask"] = cross
    real = torch.ones_like(ids)
    return Batch({IDS: ids, MASK: real, **more, **tensors}, {IDS: real.bool()}, joined=joined)


def _takes(model: Any, batch: Batch) -> bool:
    try:
        with torch.no_grad():
            model(**batch.to(model.device).arguments, use_cache=False)
    except Exception:  # whatever a model's code raises that wants another form
        return False
    return True


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size or 0)
