"""Keys and values on an asymmetric grid, one range a token and head, with a float minimum.

x ≈ q·s + m with q = 0 … 2^bits − 1, m the token's minimum and s its range / (2^bits − 1).
"""

from __future__ import annotations

from torch import Tensor


def quantize_kv(x: Tensor, bits: int, clip: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (…, d) as floats, scale and minimum (…, 1) for `x` (…, d); `clip` shrinks the range around its middle."""
    low, high = x.aminmax(dim=-1, keepdim=True)
    if clip != 1.0:
        middle, half = (high + low) / 2, (high - low) * (clip / 2)
        low, high = middle - half, middle + half
    scale = ((high - low) / (2**bits - 1)).clamp_min(1e-8)
    return ((x - low) / scale).round_().clamp_(0, 2**bits - 1), scale, low


def fake_quantize_kv(x: Tensor, bits: int, clip: float = 1.0) -> Tensor:
    """`x` as it comes back from the quantized cache."""
    codes, scale, low = quantize_kv(x, bits, clip)
    return codes * scale + low
