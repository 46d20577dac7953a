"""A tiny random model of a family with a spike, what reads its data, and data: images, sentences, pairs or sounds."""

from __future__ import annotations

import json
import random
import wave
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from eval.families.build import scale, text, tokenizer
from eval.zoo.configs import CLASSES, SIDE, auto_class, tiny_config

SPIKE = 40.0  # times what the unit gave before; what reads it is divided by as much
IMAGES, SENTENCES = 40, 200
HEARS: dict[str, dict[str, Any]] = {
    "WhisperFeatureExtractor": {"feature_size": 16, "chunk_length": 1},  # 100 frames, of which two make a place
    "Speech2TextFeatureExtractor": {"feature_size": 16, "num_mel_bins": 16},
}


def build(task: str, family: str, folder: Path) -> None:
    """Write the model, its processor and data beside it; whatever the family's classes raise comes out."""
    from sinkquant.tasks.tasks import TASKS

    torch.manual_seed(0)
    auto = auto_class(TASKS[task].auto if task != "embedding" else "AutoModelForTextEncoding")
    model = auto.from_config(tiny_config(task, family)).eval()
    scale(model)
    if task.startswith("image"):
        settle(model)
    plant(model)
    model.save_pretrained(folder)
    if task.startswith("image"):
        image_processor(family, model).save_pretrained(folder)
    else:
        made = tokenizer()
        made.add_special_tokens({"mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"})
        made.save_pretrained(folder)
    if task == "speech":
        name = FEATURE_EXTRACTOR_MAPPING_NAMES[family]
        auto_class(name)(**HEARS.get(name, {})).save_pretrained(folder)
        if family in PROCESSOR_MAPPING_NAMES:
            (folder / "processor_config.json").write_text(
                json.dumps({"processor_class": PROCESSOR_MAPPING_NAMES[family]}), encoding="utf-8"
            )


@torch.no_grad()
def settle(model: PreTrainedModel) -> None:
    """Batch norms take the statistics of a few pictures: random convolutions let nothing through without them."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.train().momentum = None  # the average of all passes
    side = getattr(model.config, "image_size", SIDE)
    model(pixel_values=torch.randn(8, 3, 8, 8).repeat_interleave(side // 8, 2).repeat_interleave(side // 8, 3))
    model.eval()


@torch.no_grad()
def plant(model: PreTrainedModel) -> None:
    """One hidden unit in the middle of the model gives `SPIKE` times more, and is read by as much less."""
    linears = [m for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    pairs = [
        (up, down) for up, down in pairwise(linears)
        if up.out_features == down.in_features > up.in_features
    ]  # fmt: skip
    if pairs:
        up, down = pairs[len(pairs) // 2]
        up.weight[7] *= SPIKE
        down.weight[:, 7] /= SPIKE


def image_processor(family: str, model: PreTrainedModel) -> Any:
    """The family's own where it has one that needs no other library; its sizes are those of the model."""
    config = getattr(model.config, "vision_config", model.config)
    side = getattr(config, "image_size", SIDE)
    side = side[0] if isinstance(side, list | tuple) else side
    size = {"height": side, "width": side}
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(family, {})
    for name in (names.get("pil"), "ViTImageProcessorPil"):
        try:
            made = auto_class(str(name))(size=size, crop_size=size)
            made(images=[_noise(random.Random(0), "RGB", (50, 70))] * 2, return_tensors="pt")
            return made
        except Exception:  # its size may be of another form
            continue
    raise ValueError("no image processor")


def data(task: str, folder: Path) -> Path:
    """Write what models of the task are fed to below `folder`, and return its place."""
    if task.startswith("image"):
        draw = random.Random(0)
        for index in range(IMAGES):
            file = folder / "images" / f"c{index % CLASSES}" / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            mode = ("RGB", "L", "RGB", "RGBA", "P")[draw.randrange(5)]
            _noise(draw, mode, (draw.randint(20, 120), draw.randint(20, 120))).save(file)
        return folder / "images"
    sentences = text(9 * SENTENCES).splitlines()
    if task == "seq2seq-lm":
        lines = [json.dumps({"source": s, "target": " ".join(s.rstrip(".").split()[:4])}) for s in sentences]
        (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return folder / "pairs.jsonl"
    if task == "speech":
        return _sounds(folder / "sounds", sentences)
    (folder / "text.txt").write_text("\n".join(sentences), encoding="utf-8")
    return folder / "text.txt"


def _noise(draw: random.Random, mode: str, size: tuple[int, int]) -> Any:
    """Coloured clouds."""
    from PIL import Image

    small = Image.frombytes("RGB", (6, 6), draw.randbytes(108))
    return small.resize(size, Image.Resampling.BICUBIC).convert(mode)


def _sounds(folder: Path, sentences: list[str]) -> Path:
    """Half a second of noise each, with a text beside it."""
    folder.mkdir()
    draw = random.Random(0)
    for index, sentence in enumerate(sentences[:12]):
        with wave.open(str(folder / f"{index}.wav"), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(16000)
            out.writeframes(b"".join(draw.randint(-9000, 9000).to_bytes(2, "little", signed=True) for _ in range(8000)))
        (folder / f"{index}.txt").write_text(sentence[:12], encoding="utf-8")
    return folder
