"""The share of attention that a key gets, per head: what makes a token a sink (Gu et al., arXiv 2410.10781)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sinkquant.models.attention import AttentionCall, attention_weights

ABOVE = 0.3  # the usual threshold for calling a key a head's sink
QUERIES = 64  # keys at the end are seen by few and near queries: a mean over those shows locality, not a sink


def received_attention(call: AttentionCall) -> Tensor:
    """Mean weight of every key over the queries that can see it: (B, H, S) float32.

    Keys that fewer than `QUERIES` queries (or a quarter of them in short text) can see get 0.
    """
    call = call.explicit()
    assert call.mask is not None
    mask = call.mask
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    queries, rows = call.query.shape[2], []
    for b in range(call.query.shape[0]):  # one sequence at a time: the weights take H·T·S numbers
        seen = visible[b % visible.shape[0]]  # (1 or H, T, S)
        one = replace(
            call,
            query=call.query[b : b + 1],
            key=call.key[b : b + 1],
            value=call.value[b : b + 1],
            mask=mask[b % len(mask)].unsqueeze(0),
        )
        weights = attention_weights(one)[0]  # (H, T, S)
        counts = seen.sum(dim=1)  # (1 or H, S)
        mean = (weights * seen).sum(dim=1) / counts.clamp_min(1)
        rows.append(torch.where(counts >= min(QUERIES, max(1, queries // 4)), mean, 0.0))
    return torch.stack(rows)
