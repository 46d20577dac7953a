"""Codes to stored tensors and back, in the layouts of compressed-tensors.

Packed: `weight_packed` int32 (out, ⌈in·bits/32⌉) and `weight_shape` (2,). 8 bits, otherwise: `weight` int8 (out, in).
`weight_scale` (out, groups) float32; `weight_zero_point` only on asymmetric grids: packed along the output, or int8.
A cache's codes are packed into bytes instead, which can grow token by token.
"""

from __future__ import annotations

import math

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from torch import Tensor
from torch.nn.functional import pad

from sinkquant.quantization.scheme import WeightScheme
from sinkquant.quantization.weights import QuantizedWeight


def pack(weight: QuantizedWeight, scheme: WeightScheme) -> dict[str, Tensor]:
    """The tensors to store for a quantized weight, by name."""
    tensors = {"weight_scale": weight.scale.float().contiguous()}
    if scheme.packed:
        tensors["weight_packed"] = pack_to_int32(weight.codes, scheme.bits)
        tensors["weight_shape"] = torch.tensor(weight.codes.shape, dtype=torch.int64)
    else:
        tensors["weight"] = weight.codes.contiguous()
    if weight.zero is not None:
        packed = scheme.packed
        tensors["weight_zero_point"] = (
            pack_to_int32(weight.zero, scheme.bits, 0) if packed else weight.zero.contiguous()
        )
    return tensors


def unpack(
    tensors: dict[str, Tensor], scheme: WeightScheme, out_features: int, in_features: int, codes: Tensor | None = None
) -> QuantizedWeight:
    """The inverse of `pack`; `codes` (out, in) int8 are given where they are kept in another form."""
    scale = tensors["weight_scale"]
    zero = unpack_zero(tensors.get("weight_zero_point"), scheme, scale)
    if not scheme.packed:
        return QuantizedWeight(tensors["weight"] if codes is None else codes, scale, zero)
    if codes is None:
        codes = unpack_from_int32(tensors["weight_packed"], scheme.bits, torch.Size((out_features, in_features)))
    return QuantizedWeight(codes, scale, zero)


def unpack_zero(zero: Tensor | None, scheme: WeightScheme, scale: Tensor) -> Tensor | None:
    """Zero points (out, groups) as numbers, from how they are stored; `scale` has their shape."""
    if zero is None or not scheme.packed:
        return zero
    # Packed along the output: unpacked as its transpose, since the library needs contiguous words.
    shape = torch.Size((scale.shape[1], scale.shape[0]))
    return unpack_from_int32(zero.T.clone(memory_format=torch.contiguous_format), scheme.bits, shape).T


def empty(scheme: WeightScheme, out_features: int, in_features: int) -> dict[str, Tensor]:
    """Tensors of the right shapes and dtypes, to be filled by a loader."""
    groups = in_features // (scheme.group_size or in_features)
    tensors = {"weight_scale": torch.empty(out_features, groups, dtype=torch.float32)}
    if scheme.packed:
        tensors["weight_packed"] = torch.empty(
            out_features, math.ceil(in_features * scheme.bits / 32), dtype=torch.int32
        )
        tensors["weight_shape"] = torch.empty(2, dtype=torch.int64)
    else:
        tensors["weight"] = torch.empty(out_features, in_features, dtype=torch.int8)
    if not scheme.symmetric:
        rows = math.ceil(out_features * scheme.bits / 32)
        shape, dtype = ((rows, groups), torch.int32) if scheme.packed else ((out_features, groups), torch.int8)
        tensors["weight_zero_point"] = torch.empty(shape, dtype=dtype)
    return tensors


def pack_bytes(codes: Tensor, bits: int) -> Tensor:
    """Codes (…, n) uint8 below 2^bits, 8 // bits of them a byte: (…, ⌈n / (8 // bits)⌉) uint8."""
    each = 8 // bits
    planes = pad(codes, (0, -codes.shape[-1] % each)).chunk(each, dim=-1)
    packed = planes[0].clone()
    for place, plane in enumerate(planes[1:], start=1):
        packed |= plane << place * bits
    return packed


def unpack_bytes(packed: Tensor, bits: int, size: int) -> Tensor:
    """The inverse of `pack_bytes`, for codes of length `size`."""
    planes = [packed >> place * bits & 2**bits - 1 for place in range(8 // bits)]
    return torch.cat(planes, dim=-1)[..., :size]
