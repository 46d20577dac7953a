"""Balance the keys of one attention against its queries, and find the means that quantization takes out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sinkquant.models.attention import AttentionCall
from sinkquant.transforms.smooth import balance_full


@dataclass
class KVMoments:
    """A stage that looks on: sums over the text's tokens, a KV head each, in float64."""

    count: int = 0
    keys: Tensor | float = 0.0  # (Hkv, d)
    values: Tensor | float = 0.0
    key_moment: Tensor | float = 0.0  # (Hkv, d, d)
    query_moment: Tensor | float = 0.0

    def __call__(self, module: nn.Module, call: AttentionCall) -> AttentionCall:
        """Add one call; a prefix in front of the text is left out."""
        length = call.query.shape[2]
        key, value = call.key[:, :, -length:].double(), call.value[:, :, -length:].double()
        query = call.query.unflatten(1, (key.shape[1], -1)).double()  # (B, Hkv, group, T, d)
        self.count += key.shape[0] * length
        self.keys = self.keys + key.sum(dim=(0, 2))
        self.values = self.values + value.sum(dim=(0, 2))
        self.key_moment = self.key_moment + torch.einsum("bhti,bhtj->hij", key, key)
        self.query_moment = self.query_moment + torch.einsum("bhgti,bhgtj->hij", query, query)
        return call


def balance_keys(module: nn.Module, moments: KVMoments, values: Tensor, seed: int) -> None:
    """Give an attention module its key and query transforms and its offsets, which its KV scheme will use.

    `values` (Hkv, d) are the means of the values in the basis that the model now has; `seed` is that of the rotation
    that the transforms end with.
    """
    assert isinstance(moments.keys, Tensor)
    assert isinstance(moments.key_moment, Tensor)
    assert isinstance(moments.query_moment, Tensor)
    means = moments.keys / moments.count
    spread = moments.key_moment / moments.count - means[:, :, None] * means[:, None, :]
    keys = [balance_full(k, q, seed) for k, q in zip(spread, moments.query_moment / moments.count, strict=True)]
    transform = torch.stack(keys)  # (Hkv, d, d)
    module.register_buffer("key_transform", transform.float())
    module.register_buffer("query_transform", torch.linalg.inv(transform).transpose(1, 2).float().contiguous())
    module.register_buffer("key_offset", (means[:, None] @ transform).float())
    module.register_buffer("value_offset", values[:, None].float().contiguous())
