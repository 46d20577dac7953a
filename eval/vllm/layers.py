"""Looks at the layers of a model in vLLM's process: int8 linears against the exact formula, the prefix taken out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def remove_prefix(model: Any) -> None:
    """Give every attention its backend's own cache write back."""
    for module in model.modules():
        write = getattr(getattr(module, "impl", None), "do_kv_cache_update", None)
        if hasattr(write, "write"):
            module.impl.do_kv_cache_update = write.write


def compare(model: Any, folder: Path, tokens: int = 33) -> list[dict[str, Any]]:
    """For every linear with an int8 kernel: largest error on random input over the output's largest magnitude.

    Inputs are drawn around codes −140 … 140, so that some are cut off, and away from the middle between two codes,
    where the last bit of a float decides. The formula is computed in float64 from the checkpoint's own tensors.
    """
    from safetensors.torch import load_file

    from sinkquant.hadamard.transform import fast_hadamard, fast_hadamard_transpose

    stored = {n: t for path in sorted(folder.glob("*.safetensors")) for n, t in load_file(path).items()}
    fused = model.packed_modules_mapping
    draw = torch.Generator().manual_seed(0)
    rows = []
    for name, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        if getattr(method, "kernel", None) is None:
            continue
        parent, _, leaf = name.rpartition(".")
        parts = [f"{parent}.{part}" for part in fused.get(leaf, [leaf])]
        weight = torch.cat([stored[f"{p}.weight"].double() * stored[f"{p}.weight_scale"].double() for p in parts])
        scale = stored[f"{parts[0]}.input_scale"]
        x = (torch.randint(-140, 141, (tokens, weight.shape[1]), generator=draw) * 1.0).to(scale)
        x = (x + torch.rand(x.shape, generator=draw) * 0.8 - 0.4) * scale
        given = fast_hadamard_transpose(x) if method.scheme.rotate else x
        seen = fast_hadamard(given) if method.scheme.rotate else given
        expected = formula(seen, scale, weight)
        error = (method.apply(module, given).double() - expected).abs().max() / expected.abs().max()
        rows.append({"name": name, "error": float(error), "shape": list(weight.shape)})
    return rows


def formula(x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """Q(x)·Wᵀ in float64."""
    codes = (x / scale).round().clamp(-128, 127).double()
    return codes * scale.double() @ weight.T
