"""Norms of keys and values: at sinks they differ from the rest, which decides how a cache may be quantized."""

from __future__ import annotations

from torch import Tensor


def head_mean_norm(x: Tensor) -> Tensor:
    """Euclidean norm of every token's key or value, mean over heads: (B, H, S, d) -> (B, S) float32."""
    return x.float().norm(dim=-1).mean(dim=1)
