"""Which embeddings are rows that may be rounded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sinkquant.runtime.embedding import QuantizedEmbedding


class Scaled(nn.Embedding):
    embed_scale = 3.0

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * self.embed_scale


class Normed(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.normalize(super().forward(ids), dim=-1)


class Cut(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids)[..., :4]


@pytest.mark.parametrize(("kind", "plain"), [(nn.Embedding, True), (Scaled, True), (Normed, False), (Cut, False)])
def test_embeddings_that_do_more_are_known(kind: type[nn.Embedding], plain: bool) -> None:
    assert QuantizedEmbedding.fits(kind(40, 8)) is plain
    assert torch.is_grad_enabled()
