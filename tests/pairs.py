"""Encoder-decoders with tokenizers, tiny and random, as folders, and what they are calibrated on."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests import tiny
from tests.stacks import PAIR

WORDS = {**PAIR, "vocab_size": tiny.VOCABULARY, "pad_token_id": tiny.EOS, "bos_token_id": tiny.BOS,
         "eos_token_id": tiny.EOS, "decoder_start_token_id": tiny.BOS, "forced_eos_token_id": None,
         "encoder_layers": 2, "decoder_layers": 2}  # fmt: skip
T5: dict[str, Any] = dict(
    d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4, vocab_size=tiny.VOCABULARY, eos_token_id=tiny.EOS,
    pad_token_id=tiny.EOS, decoder_start_token_id=tiny.BOS,
)  # fmt: skip
MAKES = {
    "BART": ("BartForConditionalGeneration", "BartConfig", WORDS),
    "T5": ("T5ForConditionalGeneration", "T5Config", T5),
    "Marian": ("MarianMTModel", "MarianConfig", {**WORDS, "max_position_embeddings": 128}),
    "Whisper": (
        "WhisperForConditionalGeneration", "WhisperConfig",
        {**WORDS, "num_mel_bins": 8, "max_source_positions": 50, "max_target_positions": 40,
         "begin_suppress_tokens": None},
    ),
}  # fmt: skip
RATE = 16000


def folder(kind: str, where: Path) -> Path:
    """A model whose blocks do something, with its tokenizer or processor."""
    cls, config, sizes = MAKES[kind]
    torch.manual_seed(0)
    model = getattr(transformers, cls)(getattr(transformers, config)(**sizes)).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() == 1:
                tensor.add_(0.1 * torch.randn_like(tensor))
            elif "conv" not in name:
                tensor.copy_(torch.randn_like(tensor) / 7)
    model.generation_config.forced_eos_token_id = None
    model.save_pretrained(where)
    tokenizer = tiny.byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    if kind == "Whisper":
        extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
        words = transformers.WhisperTokenizerFast(
            tokenizer_object=tokenizer._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>",
            unk_token="</s>",
        )  # fmt: skip
        transformers.WhisperProcessor(extractor, words).save_pretrained(where)
    else:
        tokenizer.save_pretrained(where)
    return where


def data(kind: str, where: Path, count: int = 12) -> str:
    """Pairs of sentences, or clips of noise with sentences."""
    where.mkdir(parents=True, exist_ok=True)
    lines = tiny.sentences(2 * count).splitlines()
    if kind != "Whisper":
        rows = [{"source": a[:30], "target": b[:20]} for a, b in zip(lines[::2], lines[1::2], strict=True)]
    else:
        rows = [{"audio": clip(where / f"{i}.wav", i), "text": line[:20]} for i, line in enumerate(lines[:count])]
    path = where / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def clip(path: Path, seed: int) -> str:
    """Less than a second of a chord and noise."""
    draw, time = np.random.default_rng(seed), np.arange(RATE * 3 // 4) / RATE
    tones = sum(np.sin(2 * np.pi * pitch * time) for pitch in draw.uniform(100, 3000, 3))
    samples = 6000 * tones + draw.normal(0, 300, len(time))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return path.name
