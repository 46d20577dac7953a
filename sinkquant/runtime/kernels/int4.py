"""4-bit weights under float inputs by torch's `_weight_int4pack_mm_for_cpu`, in bfloat16 whatever the input's dtype.

The kernel wants the codes in blocks of 64 outputs (AVX-512), or 32 (AVX2), transposed: byte j of input i in a block
holds output j in its low half and output j + 32 (or 16) in its high half. They replace the stored words, of which
byte j of an output holds inputs 2j and 2j + 1; both store codes −8 … 7 as 0 … 15.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.packing import unpack_zero

BLOCKS = (64, 32)
GROUPS = (32, 64, 128, 256)


class Int4Kernel(Kernel):
    """4-bit weights, float inputs; see the module."""

    name = "int4"

    def suits(self, scheme: LinearScheme, out_features: int, in_features: int, device: torch.device) -> bool:
        """On the CPU, for groups that the kernel knows and whole blocks of outputs."""
        weight = scheme.weight
        if weight is None or scheme.activation is not None or weight.bits != 4 or weight.group_size not in GROUPS:
            return False
        block = cpu_block() if device.type == "cpu" else None
        return block is not None and out_features % block == 0 and in_features % weight.group_size == 0

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Everything is rounded to it."""
        return torch.bfloat16

    def prepare(self, layer: QuantizedLinear, dtype: torch.dtype) -> None:
        """Codes in blocks, and (scale, −zero·scale) of every group and output in bfloat16, replace the stored words."""
        layer.register_buffer("kernel_codes", to_blocks(layer.weight_packed, _block()), persistent=False)
        layer.register_buffer("kernel_ranges", _ranges(layer), persistent=False)
        del layer.weight_packed

    def codes(self, layer: QuantizedLinear) -> Tensor:
        """From the blocks."""
        return from_blocks(layer.kernel_codes, _block())

    def operand(self, layer: QuantizedLinear, x: Tensor) -> Tensor:
        """In bfloat16."""
        return x.to(torch.bfloat16)

    def __call__(self, layer: QuantizedLinear, operand: Tensor) -> Tensor:
        """(rows, in) to (rows, out): inputs and scales are rounded to bfloat16, sums are in float32."""
        assert layer.scheme.weight is not None and layer.scheme.weight.group_size is not None
        y = torch._weight_int4pack_mm_for_cpu(
            operand, layer.kernel_codes, layer.scheme.weight.group_size, layer.kernel_ranges
        )
        return y if layer.bias is None else y.float() + layer.bias


def _ranges(layer: QuantizedLinear) -> Tensor:
    """(scale, −zero·scale) of every group and output, (groups, out, 2) bfloat16."""
    assert layer.scheme.weight is not None
    scale = layer.weight_scale
    zero = unpack_zero(layer._buffers.get("weight_zero_point"), layer.scheme.weight, scale)
    ranges = torch.zeros(*scale.T.shape, 2, dtype=torch.bfloat16, device=scale.device)
    ranges[..., 0] = scale.T
    if zero is not None:
        ranges[..., 1] = (-zero * scale).T
    return ranges


def to_blocks(words: Tensor, block: int) -> Tensor:
    """Stored words (out, in / 8) int32 in the kernel's layout, (out, in / 2) uint8; no code is unpacked."""
    out, half = words.shape[0], words.shape[1] * 4
    pairs = words.view(torch.uint8).reshape(out // block, 2, block // 2, half)
    first, second = pairs[:, 0], pairs[:, 1]
    shape = (out // block, half, 2, block // 2)  # blocks, byte, its input, outputs
    packed = torch.empty(shape, dtype=torch.uint8, device=words.device)
    packed[:, :, 0] = (first & 15).bitwise_or_(second << 4).transpose(1, 2)
    packed[:, :, 1] = (first >> 4).bitwise_or_(second & 240).transpose(1, 2)
    return packed.reshape(out, half)


def from_blocks(packed: Tensor, block: int) -> Tensor:
    """The layout's codes, (out, in) int8."""
    out, half = packed.shape
    # Transposed while two codes still share a byte: the pass over memory that costs most is half as long.
    planes = packed.reshape(out // block, 2 * half, block // 2).transpose(1, 2).contiguous()  # (blocks, block / 2, in)
    return torch.stack([planes & 15, planes >> 4], 1).view(torch.int8).sub_(8).reshape(out, 2 * half)


def _block() -> int:
    """Of a CPU whose layout is known, as `suits` has made sure."""
    block = cpu_block()
    assert block is not None
    return block


@cache
def cpu_block() -> int | None:
    """Outputs a block in the layout of this CPU, or None where torch has no such kernel or an unknown layout."""
    codes = (torch.arange(128 * 32) % 251 % 16).reshape(128, 32).to(torch.int32)
    try:
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    except (AttributeError, RuntimeError):
        return None
    return next((block for block in BLOCKS if torch.equal(from_blocks(packed, block), codes - 8)), None)
