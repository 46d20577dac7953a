"""The stored prefix in the terms of an engine that knows neither negative positions nor our online rotations.

Our runtime stores keys at positions −P … −1 in the basis that its attention works in (R3, or balanced head by head).
vLLM stores keys as the model computes them, the prefix at 0 … P−1 and the text from P on. Scores depend on differences
of positions only, and a rotation of queries and keys alike changes none, so both are equal.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from sinkquant.errors import SinkquantError
from sinkquant.hadamard.transform import fast_hadamard_transpose
from sinkquant.quantization.scheme import KVScheme


def plain_keys(keys: Tensor, scheme: KVScheme, query_transform: Tensor | None) -> Tensor:
    """Keys (heads, T, d) out of the basis of `scheme`; `query_transform` (heads, d, d) where they are balanced.

    (q·M)(k')ᵀ = q (k'·Mᵀ)ᵀ, so a key k' that meets transformed queries q·M becomes k'·Mᵀ for plain ones.
    """
    if scheme.rotate:
        keys = fast_hadamard_transpose(keys)
    if query_transform is not None:
        keys = keys @ query_transform.transpose(1, 2).to(keys)
    return keys


def shift_keys(keys: Tensor, frequencies: Tensor, steps: int) -> Tensor:
    """Keys (heads, P, d) turned `steps` positions on by rotary embedding with `frequencies` (n,), halves convention.

    The first 2·n channels turn, channel i together with i + n; computed in float64.
    """
    n = len(frequencies)
    angles = frequencies.double() * steps
    cos, sin = angles.cos(), angles.sin()
    first, second, rest = keys.double().tensor_split([n, 2 * n], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1).to(keys.dtype)


def rotary_frequencies(config: Any, layer: int) -> Tensor:
    """Frequencies (n,) of rotary embedding in block `layer` of a transformers `config`."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = (getattr(config, "layer_types", None) or [None] * (layer + 1))[layer]
    parameters = config.rope_parameters
    by_kind = kind in parameters
    parameters = parameters[kind] if by_kind else parameters
    name = parameters.get("rope_type", "default")
    if name == "default":
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        width = int(head * parameters.get("partial_rotary_factor", 1.0))
        return 1.0 / parameters["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    if name in ("dynamic", "longrope"):
        raise SinkquantError(
            f"a prefix cannot be served with {name} rotary embedding: quantize with sinks.prefix=none."
        )
    return ROPE_INIT_FUNCTIONS[name](config, torch.device("cpu"), **({"layer_type": kind} if by_kind else {}))[0]


def turns_halves(model_type: str) -> bool:
    """Whether a transformers model pairs channel i with i + n in rotary embedding (and not with its neighbour)."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    name = NAMES.get(model_type)
    module = importlib.import_module(getattr(transformers, name).__module__) if isinstance(name, str) else None
    turn = getattr(module, "rotate_half", None)
    return turn is not None and turn(torch.arange(1.0, 5.0)).tolist() == [-3.0, -4.0, 1.0, 2.0]
