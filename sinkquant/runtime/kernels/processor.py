"""In how many bits the processor adds 8-bit products."""

from __future__ import annotations

import torch

from sinkquant.quantization.grid import Grid


def narrow_sums(device: torch.device) -> bool:
    """Whether pairs of 8-bit products are added in 16 bits, where they saturate: on x86 CPUs without AVX-512 VNNI.

    AVX-VNNI adds in 32 bits as well, but torch has no fast product for it.
    """
    return device.type == "cpu" and torch.cpu._is_avx2_supported() and not torch.cpu._is_vnni_supported()


def fit_narrow_sums(weights: Grid) -> bool:
    """Whether two products of such weight codes with inputs of 0 … 255 always fit into 16 bits with a sign."""
    return 2 * 255 * max(-weights.low, weights.high) < 2**15
