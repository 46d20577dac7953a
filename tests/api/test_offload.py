"""Checkpoints spread over devices and disk give the logits of the plain load, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sinkquant

IDS = torch.tensor([[1, 5, 17, 100, 23, 42, 7]])
MAP = {
    "model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cpu",
    "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module", params=["w8a8-static", "w8a8", "w4a16"])
def checkpoint(request: pytest.FixtureRequest, quantized: Callable[..., Path]) -> Path:
    return quantized(request.param, *(["sinks.prefix=[1]"] if request.param == "w8a8-static" else []))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def test_on_disk_with_weights_and_prefix(checkpoint: Path, tmp_path: Path) -> None:
    plain = sinkquant.load(checkpoint, dtype=torch.float32)
    spread = sinkquant.load(checkpoint, dtype=torch.float32, device_map=MAP, offload_folder=tmp_path)
    away = {name for name, tensor in [*spread.named_parameters(), *spread.named_buffers()] if tensor.is_meta}
    first = {name for name in away if name.startswith("model.layers.1.")}
    assert any(name.endswith((".weight_packed", "q_proj.weight")) for name in first)
    assert not any(name.startswith("model.layers.0.") for name in away)
    if checkpoint.name == "w8a8-static":
        assert {"model.layers.1.self_attn.sink_key", "model.layers.1.self_attn.sink_value"} <= first
    assert torch.equal(logits(spread), logits(plain))
    assert {n for n, t in [*spread.named_parameters(), *spread.named_buffers()] if t.is_meta} == away  # away again
    asked = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 2}
    assert torch.equal(spread.generate(IDS, **asked), plain.generate(IDS, **asked))


@pytest.mark.parametrize("where", ["auto", {"": "cpu"}], ids=["auto", "cpu"])
def test_on_devices(checkpoint: Path, where: Any) -> None:
    plain = sinkquant.load(checkpoint, dtype=torch.float32)
    spread = sinkquant.load(checkpoint, dtype=torch.float32, device_map=where)
    expected = logits(plain.to(spread.device))
    assert torch.equal(logits(spread), expected)
