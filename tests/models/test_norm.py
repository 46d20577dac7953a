"""Which modules are norms that can be folded."""

from __future__ import annotations

import torch

from sinkquant.models.norm import norm_kind


def test_a_norm_with_a_gate_is_no_norm_to_fold() -> None:
    class Gated(torch.nn.LayerNorm):
        def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * gate

    assert norm_kind(Gated(8)) is None
    assert norm_kind(torch.nn.LayerNorm(8)) is not None
