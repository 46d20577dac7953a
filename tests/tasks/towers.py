"""Tiny random image models as folders, with an image processor, and photographs to feed them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

SIDE, CLASSES = 32, 5
SIZES: dict[str, Any] = dict(
    hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE, patch_size=8,
    initializer_range=0.2,
)  # fmt: skip
PAIR: dict[str, Any] = dict(
    vision_config=SIZES,
    text_config=dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=97,
        max_position_embeddings=16, projection_size=48,
    ),
    projection_dim=40,
)  # fmt: skip
NAMED: dict[str, Any] = dict(id2label={i: f"thing {i}" for i in range(CLASSES)})
KINDS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", "ViTImageProcessor", NAMED),
    "deit": ("DeiTForImageClassification", "DeiTConfig", "DeiTImageProcessor", NAMED),
    "dinov2": ("Dinov2Model", "Dinov2Config", "BitImageProcessor", {"mlp_ratio": 2, "layerscale_value": 0.5}),
    "dinov2-classes": ("Dinov2ForImageClassification", "Dinov2Config", "BitImageProcessor", {"mlp_ratio": 2, **NAMED}),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", "CLIPImageProcessor", {}),
    "clip-pair": ("CLIPModel", "CLIPConfig", "CLIPImageProcessor", PAIR),
    "siglip-pair": ("SiglipModel", "SiglipConfig", "SiglipImageProcessor", PAIR),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", "SiglipImageProcessor", {}),
}


def save(kind: str, folder: Path) -> Path:
    """A model of `KINDS` with its processor."""
    name, config, processor, more = KINDS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, config)(**more if more is PAIR else SIZES | more))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms, biases and scales that do something
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    sizes = {"height": SIDE, "width": SIDE}
    getattr(transformers, processor)(size=sizes, crop_size=sizes).save_pretrained(folder)
    return folder


def photographs(folder: Path, count: int = 48) -> Path:
    """Blurred noise of all colours, numbered by its class."""
    chance = np.random.default_rng(0)
    for index in range(count):
        target = folder / f"thing {index % CLASSES}"
        target.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(chance.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((40, 40), Image.Resampling.BICUBIC).save(target / f"{index}.png")
    return folder
