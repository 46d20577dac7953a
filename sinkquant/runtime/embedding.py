"""Token embeddings with 8-bit rows: one scale a token, rounded to nearest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sinkquant.quantization.scheme import WeightScheme
from sinkquant.quantization.weights import round_to_nearest

SCHEME = WeightScheme(8)


class QuantizedEmbedding(nn.Module):
    """Rows are dequantized as they are looked up. `multiplier` is what a scaled embedding multiplies its rows by."""

    def __init__(self, count: int, width: int, padding_idx: int | None, multiplier: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.padding_idx, self.multiplier, self.dtype = padding_idx, multiplier, dtype
        self.register_buffer("weight", torch.empty(count, width, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(count, 1))

    @classmethod
    def like(cls, module: nn.Module, dtype: torch.dtype) -> QuantizedEmbedding:
        """An empty one (on the meta device) in the place of `module`."""
        multiplier = getattr(module, "scalar_embed_scale", getattr(module, "embed_scale", 1.0))
        count, width = module.weight.shape  # type: ignore[union-attr, misc, operator]
        with torch.device("meta"):
            return cls(count, width, getattr(module, "padding_idx", None), float(multiplier), dtype)  # type: ignore[arg-type]

    @classmethod
    def from_embedding(cls, module: nn.Module) -> QuantizedEmbedding:
        """Quantize `module` (rows as stored, before any multiplier)."""
        made = cls.like(module, module.weight.dtype)  # type: ignore[arg-type, union-attr]
        codes = round_to_nearest(module.weight, SCHEME, search=True)  # type: ignore[arg-type]
        made.weight, made.weight_scale = codes.codes, codes.scale
        return made

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (…) to rows (…, width)."""
        rows = self.weight[ids].to(self.dtype) * self.weight_scale[ids].to(self.dtype)  # type: ignore[operator, index]
        return rows * self.multiplier if self.multiplier != 1.0 else rows

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}, 8 bits"  # type: ignore[operator, index, union-attr]
