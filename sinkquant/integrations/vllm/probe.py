"""Does this machine's int8 kernel add up exactly? CPUs without VNNI add pairs of products in 16 bits."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import torch
from torch import nn
from vllm.model_executor.kernels.linear import init_int8_linear_kernel
from vllm.platforms import current_platform

SAFE = 63  # largest magnitude of a weight code for which two products with 8-bit inputs fit into 16 bits


@cache
def saturates() -> bool:
    """True if full-range codes give a wrong sum. Only CPUs are asked."""
    if not current_platform.is_cpu():
        return False
    layer = SimpleNamespace(
        weight=nn.Parameter(torch.full((32, 64), 127, dtype=torch.int8), requires_grad=False),
        weight_scale=nn.Parameter(torch.ones(32, 1), requires_grad=False),
        input_scale=nn.Parameter(torch.ones(1), requires_grad=False),
        input_zero_point=None,
        azp_adj=None,
        logical_widths=[32],
        bias=None,
    )
    kernel = init_int8_linear_kernel(
        is_channelwise=True, is_static_input_scheme=True, input_symmetric=True, module_name="probe"
    )
    kernel.process_weights_after_loading(layer)
    x = torch.full((4, 64), 127.0, dtype=torch.get_default_dtype())
    sums = kernel.apply_weights(layer, x, None).float()
    return bool((sums - 127.0 * 127.0 * 64).abs().max() > 127.0 * 127.0 * 64 * 0.01)
