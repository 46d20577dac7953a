"""Families that are built and called differently, tiny and random: one row a family, with what tracing finds in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

SIZES: dict[str, Any] = dict(
    vocab_size=97, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, head_dim=12,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
GPT = dict(n_embd=48, n_layer=3, n_head=4, n_positions=64, rotary_dim=8)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=32)
DELTA = dict(
    linear_num_key_heads=1, linear_num_value_heads=2, linear_key_head_dim=12, linear_value_head_dim=12,
    layer_types=["linear_attention", "linear_attention", "full_attention"],
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A family's own sizes, and what is true of it."""

    sizes: dict[str, Any] = field(default_factory=dict)
    attends: bool = True
    rotates: bool = False
    reads: int = 2  # norms of a block that only linears read
    plain: int = 3  # blocks whose values can change their basis
    up: int = 0  # blocks whose down projection has a known factor
    cached: int = 0  # blocks whose keys and values are seen where they are cached alone
    floats: tuple[str, ...] = ()  # linears of the last block that are not rounded


FAMILIES = {
    "Llama": Family(rotates=True, up=3),
    "Qwen2": Family({"num_key_value_heads": 4}, rotates=True, up=3),
    "GPTBigCode": Family(GPT | {"multi_query": True, "rotary_dim": None}, plain=0, rotates=True),  # fused projection
    "BertLMHead": Family({"is_decoder": True}, reads=0),  # norms behind the sublayers
    "XGLM": Family({"d_model": 48, "ffn_dim": 96, "num_layers": 3, "attention_heads": 4}, False, plain=0, cached=3),
    "Bloom": Family({"n_layer": 3, "n_head": 4}, attends=False, cached=3, plain=0),  # blocks give tuples
    "Falcon": Family({"head_dim": None}, attends=False, cached=3, plain=0, reads=1),
    "GPTJ": Family(GPT, attends=False, cached=3, plain=0, reads=1, rotates=True),
    "GPTNeoX": Family({"head_dim": None}, plain=0, rotates=True),
    "Mixtral": Family({"num_local_experts": 4}, reads=1),  # router and experts read the norm too
    "Qwen2Moe": Family(EXPERTS, reads=1, floats=("mlp.shared_expert_gate",)),
    "Qwen3_5Text": Family(DELTA, rotates=True, plain=0, up=3, floats=()),  # a gate behind the attention
    "DiffLlama": Family({}, attends=False, cached=3, plain=0, rotates=True, up=3),  # two attentions a block
}
CLASSES = {"BertLMHead": "BertLMHeadModel", "Qwen3_5Text": "Qwen3_5ForCausalLM"}


def make(family: str, **more: Any) -> Any:
    torch.manual_seed(0)
    name = family.removesuffix("LMHead")
    sizes = {
        key: size for key, size in (SIZES | FAMILIES.get(family, Family()).sizes | more).items() if size is not None
    }
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    with torch.no_grad():
        for tensor in model.parameters():  # norms and biases that do something
            tensor.copy_(tensor + 0.1 * torch.randn_like(tensor) if tensor.dim() == 1 else torch.randn_like(tensor) / 7)
    return model
