"""Token embeddings with 8-bit rows and one scale a token, dequantized as they are looked up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase

from sinkquant.integrations.vllm.linear import add_parameter


class ServedEmbedding(QuantizeMethodBase):
    """Codes stay int8 in memory. A head that is tied to them computes with dequantized rows."""

    def create_weights(
        self,
        layer: Any,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra: Any,
    ) -> None:
        """`weight` int8 (vocabulary, width) and `weight_scale` float32 (vocabulary, 1)."""
        count = sum(output_partition_sizes)
        codes = torch.empty(count, input_size_per_partition, dtype=torch.int8)
        for name, tensor in {"weight": codes, "weight_scale": torch.empty(count, 1, dtype=torch.float32)}.items():
            add_parameter(layer, name, tensor, {"input_dim": 1, "output_dim": 0, **extra})
        layer.row_dtype = params_dtype

    def embedding(self, layer: Any, ids: Tensor) -> Tensor:  # type: ignore[override]
        """Ids (…) to rows (…, width)."""
        return layer.weight[ids].to(layer.row_dtype) * layer.weight_scale[ids].to(layer.row_dtype)

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Logits of a tied head: (…, width) -> (…, vocabulary)."""
        logits = x @ layer.weight.to(x.dtype).T * layer.weight_scale.T.to(x.dtype)
        return logits if bias is None else logits + bias

    def tie_weights(self, layer: Any, embed_tokens: Any) -> Any:
        """Share codes and scales."""
        layer.weight, layer.weight_scale = embed_tokens.weight, embed_tokens.weight_scale
        return layer
