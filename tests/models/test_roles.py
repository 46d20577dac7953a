"""Roles found by tracing, on random models of several families and on real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sinkquant.models.roles import NormKind, SiteKind
from sinkquant.models.trace import trace_roles

SIZES = dict(
    vocab_size=199, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, head_dim=16,
    num_key_value_heads=4, max_position_embeddings=128,
)  # fmt: skip


def test_llama(tiny_llama: LlamaForCausalLM) -> None:
    roles = trace_roles(tiny_llama)
    block = roles.blocks[1]
    assert roles.tied
    assert not roles.stacks[-1].sandwiched
    assert block.attention is not None
    assert (block.attention.heads, block.attention.kv_heads, block.attention.head_dim) == (4, 2, 12)
    assert [site.kind for site in block.sites] == [
        SiteKind.ATTENTION_INPUT,
        SiteKind.ATTENTION_OUTPUT,
        SiteKind.MLP_INPUT,
        SiteKind.DOWN_INPUT,
    ]
    assert block.down == "model.layers.1.mlp.down_proj"
    assert block.unexplained == ()


@pytest.mark.parametrize(("config", "model"), [(Qwen2Config, Qwen2ForCausalLM), (Qwen3Config, Qwen3ForCausalLM)])
def test_equal_head_counts_do_not_confuse_queries_and_keys(config: type, model: type) -> None:
    torch.manual_seed(0)
    attention = trace_roles(model(config(**SIZES)).eval()).blocks[0].attention
    assert attention is not None
    assert attention.query == "model.layers.0.self_attn.q_proj"
    assert attention.key == "model.layers.0.self_attn.k_proj"
    assert attention.value == "model.layers.0.self_attn.v_proj"
    assert (attention.query_norm is not None) == (model is Qwen3ForCausalLM)


def test_gemma3_has_offset_and_sandwich_norms() -> None:
    torch.manual_seed(0)
    roles = trace_roles(Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, sliding_window=8)).eval())
    assert roles.stacks[-1].sandwiched
    assert roles.final_norm is not None
    assert roles.final_norm.kind is NormKind.RMS_OFFSET
    assert all(writer.norm is not None for writer in roles.blocks[0].writers)
    assert roles.blocks[0].attention is not None
    assert roles.blocks[0].attention.window == 8


def test_a_trained_model(model_folder: Path) -> None:
    roles = trace_roles(AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval())
    assert len(roles.blocks) == 3
    assert roles.width == 48
    assert not any(block.unexplained for block in roles.blocks)
