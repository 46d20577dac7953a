"""Token embeddings with 8-bit rows: one scale a token, rounded to nearest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sinkquant.quantization.scheme import WeightScheme
from sinkquant.quantization.weights import QuantizedWeight
from sinkquant.runtime.codes import CodedModule

SCHEME = WeightScheme(8)


class QuantizedEmbedding(CodedModule):
    """Rows are dequantized as they are looked up. `multiplier` is what a scaled embedding multiplies its rows by."""

    def __init__(self, count: int, width: int, padding_idx: int | None, multiplier: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.padding_idx, self.multiplier, self.dtype = padding_idx, multiplier, dtype
        self.register_buffer("weight", torch.empty(count, width, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(count, 1, dtype=torch.float32))

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        """Whether `module` does nothing but look rows up and multiply them, tried on its first rows."""
        rows: Tensor = module.weight[:8]  # type: ignore[index, assignment]
        with torch.no_grad():
            found = module(torch.arange(len(rows), device=rows.device)[None])[0]
        expected = rows * cls.like(module, rows.dtype).multiplier
        return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1e-6)

    @classmethod
    def like(cls, module: nn.Module, dtype: torch.dtype) -> QuantizedEmbedding:
        """An empty one (on the meta device) in the place of `module`."""
        multiplier = getattr(module, "scalar_embed_scale", getattr(module, "embed_scale", 1.0))
        count, width = module.weight.shape  # type: ignore[union-attr, misc, operator]
        with torch.device("meta"):
            return cls(count, width, getattr(module, "padding_idx", None), float(multiplier), dtype)  # type: ignore[arg-type]

    @classmethod
    def from_embedding(cls, module: nn.Module, codes: QuantizedWeight) -> QuantizedEmbedding:
        """In place of `module`, whose rows as stored, before any multiplier, were rounded to `codes`."""
        made = cls.like(module, module.weight.dtype)  # type: ignore[arg-type, union-attr]
        made._buffers.update(weight=codes.codes, weight_scale=codes.scale)
        return made

    def weight_size(self) -> tuple[int, int]:
        """(vocabulary, width)."""
        count, width = self._buffers["weight"].shape  # type: ignore[union-attr]
        return count, width

    def dequantized_weight(self, dtype: torch.dtype) -> Tensor:
        """The rows (vocabulary, width) that the codes stand for, before any multiplier."""
        codes, scale = self.int8_codes(), self._buffers["weight_scale"]
        assert codes is not None and scale is not None
        return QuantizedWeight(codes, scale, None).dequantized().to(dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (…) to rows (…, width)."""
        codes, scale = self._buffers["weight"], self._buffers["weight_scale"]
        assert codes is not None and scale is not None
        rows = codes[ids].to(self.dtype) * scale[ids].to(self.dtype)
        return rows * self.multiplier if self.multiplier != 1.0 else rows

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        count, width = self.weight_size()
        return f"{count}, {width}, 8 bits"
