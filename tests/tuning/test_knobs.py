"""A step of tuning changes every gain by the same share, whatever the norm calls its weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from sinkquant.tuning.knobs import block_knobs, write_back

WIDTH = 24


class Gated(LlamaRMSNorm):
    """A norm that takes a gate as well, as linear attentions have."""

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * gate


@pytest.mark.parametrize(
    ("norm", "offset"),
    [(LlamaRMSNorm(WIDTH), 0), (Gemma3RMSNorm(WIDTH), 1), (nn.LayerNorm(WIDTH), 0), (Gated(WIDTH), 0)],
)
def test_the_size_of_a_norm_is_its_gain(norm: nn.Module, offset: int) -> None:
    weight, bias = norm.weight.data, getattr(norm, "bias", None)
    weight.copy_(torch.randn(WIDTH) + 1 - offset)
    if bias is not None:
        bias.data.normal_()
    knob = next(knob for knob in block_knobs(nn.Sequential(norm)) if knob.name == "0.weight")
    torch.testing.assert_close(knob.size, (weight + offset).abs(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        knob.turn.fill_(0.1)
    before = weight + offset
    write_back(nn.Sequential(norm), [knob])
    torch.testing.assert_close(norm.weight + offset, before + 0.1 * before.abs(), rtol=1e-4, atol=1e-5)
