"""Attention that goes to no key: models with sink logits (gpt-oss) have a learned one a head in the softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from sinkquant.models.attention import AttentionCall, attention_weights


def sink_logit_mass(call: AttentionCall) -> Tensor:
    """Share of every query's attention that the sink logits take, mean over heads: (B, T) float32, 0 without them."""
    if call.sink_logits is None:
        return torch.zeros(call.query.shape[0], call.query.shape[2], device=call.query.device)
    return 1 - attention_weights(call).sum(dim=-1).mean(dim=1)
