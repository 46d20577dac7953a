"""Let a layer make up for the error that has reached its input.

The quantized model gives a layer inputs X̃ instead of X. The weight that best restores the layer's float output,
argmin ‖X·Wᵀ − X̃·Ŵᵀ‖², is Ŵ = W·(XᵀX̃)·(X̃ᵀX̃)⁻¹; rounding it with the Hessian X̃ᵀX̃ (as GPTQ does) minimises the same loss.
The idea is that of GPTQ's variants with a mismatch term (GPTAQ, arXiv 2504.02692; Qronos, arXiv 2505.11695).
"""

from __future__ import annotations

import torch
from torch import Tensor


def corrected_weight(weight: Tensor, hessian: Tensor, cross: Tensor, damping: float) -> Tensor:
    """Ŵ (out, in) for `hessian` = X̃ᵀX̃/n and `cross` = XᵀX̃/n, both (in, in) float64.

    A ridge of `damping` × the Hessian's mean diagonal pulls the solution towards `weight`, so that directions with
    little evidence stay as they are.
    """
    ridge = damping * hessian.diagonal().mean().clamp_min(1e-12)
    damped = hessian + torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device) * ridge
    change = weight.double() @ (cross - hessian)  # (out, in)
    return (weight.double() + torch.linalg.solve(damped, change.T).T).to(weight.dtype)
