"""In how many bits the processor adds 8-bit products."""

from __future__ import annotations

import torch

from sinkquant.quantization.grid import Grid

VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")


def narrow_sums(device: torch.device) -> bool:
    """Whether pairs of 8-bit products are added in 16 bits, where they saturate: on x86 CPUs without VNNI."""
    found = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(found.get("avx2")) and not any(found.get(name) for name in VNNI)


def fit_narrow_sums(weights: Grid) -> bool:
    """Whether two products of such weight codes with inputs of 0 … 255 always fit into 16 bits with a sign."""
    return 2 * 255 * max(-weights.low, weights.high) < 2**15
