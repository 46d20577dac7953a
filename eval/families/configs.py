"""A tiny configuration of any causal language model: sizes that all families share, and what single ones ask for."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

LAYERS, VOCABULARY, PAD, BOS, EOS = 4, 512, 0, 1, 2

# Every name that a configuration has of these is set; what it does not have is left out.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
    "ffn_dim": 128, "d_ff": 128, "n_positions": 512, "max_target_positions": 512, "max_source_positions": 512,
    "decoder_layers": LAYERS, "decoder_ffn_dim": 128, "decoder_attention_heads": 4, "encoder_layers": 1,
    "encoder_ffn_dim": 128, "encoder_attention_heads": 4, "d_model": 64, "word_embed_proj_dim": 64,
    "embedding_size": 64, "type_vocab_size": 2, "rotary_dim": 8, "attention_window": 128,
    "sliding_window": 128, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "n_routed_experts": 4, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1, "q_lora_rank": 32, "kv_lora_rank": 32,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "index_n_heads": 4, "index_head_dim": 16,
    "index_topk": 16, "state_size": 16, "mamba_d_state": 16, "mamba_n_heads": 8, "mamba_d_head": 16,
    "mamba_expand": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "query_pre_attn_scalar": 16, "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 0, "tie_word_embeddings": False,
    "tie_encoder_decoder": False, "is_decoder": True, "use_cache": True, "pad_token_id": PAD, "bos_token_id": BOS,
    "eos_token_id": EOS, "decoder_start_token_id": EOS, "forced_eos_token_id": None,
}  # fmt: skip

QWEN4 = {
    "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 32,
    "indexer_compress_ratio": 4, "hc_lowrank": 16, "layer_types": ["linear_attention", "indexed_attention"] * 2,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 1e4}
EXPERTS = {"n_routed_experts": 4, "zero_expert_num": 2, "moe_topk": 2, "expert_ffn_hidden_size": 32}

SPECIAL: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "big_bird": {"attention_type": "original_full"},
    "bigbird_pegasus": {"attention_type": "original_full", "encoder_layers": LAYERS},  # a cache counts them
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "cpmant": {"dim_head": 16, "dim_ff": 128, "position_bias_num_buckets": 32, "position_bias_max_distance": 64},
    "ctrl": {"dff": 128},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots3_note_text": {
        "num_key_value_heads": 4, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_v_head_dim": 16,
        "swa_head_dim": 24, "swa_q_lora_rank": 32, "swa_kv_lora_rank": 32, "swa_qk_nope_head_dim": 16,
        "swa_qk_rope_head_dim": 8,
    },
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_d_head": 16, "mamba_n_heads": 8},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2, "shared_intermediate_size": 128},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]], "window_size": 128},
    "inkling_text": {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 16},
    "inkling2_text": {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {
        "linear_head_dim": 16, "linear_num_heads": 4, "num_experts_per_token": 2, "num_key_value_heads": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2), "num_dense_layers": 1},
    "longcat_flash": {"num_layers": 2, "head_dim": 8, "ffn_hidden_size": 128, **EXPERTS},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2},
    "mvp": {"encoder_layers": LAYERS},
    "nemotron_h": {
        "moe_shared_expert_intermediate_size": 128, "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16,
        "n_groups": 2,
    },
    "qwen4_exp": {"text_config": QWEN4},
    "qwen4_exp_text": QWEN4,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "axial_pos_shape": [16, 32], "axial_pos_embds_dim": [16, 48], "attention_head_size": 16,
        "feed_forward_size": 128, "attn_layers": ["local", "lsh"] * 2, "lsh_attn_chunk_length": 16, "is_decoder": True,
        "local_attn_chunk_length": 16,
    },
    "roc_bert": {"pronunciation_embed_dim": 16, "shape_embed_dim": 16, "shape_vocab_size": 512},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "hybrid_layer_ids": [1, 3]},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 32},
}  # fmt: skip


def fields(config: type[PreTrainedConfig]) -> set[str]:
    """Names that a configuration class takes, aliases included."""
    names = {n for cls in config.__mro__ if "__init__" in vars(cls) for n in inspect.signature(cls.__init__).parameters}
    aliases = {alias for alias, name in config.attribute_map.items() if name in names}
    return (names | aliases) - {"self", "kwargs"}


def overrides(config: type[PreTrainedConfig]) -> dict[str, Any]:
    """What of `SIZES` the class has; parts of a composite one likewise. An alias gives way to its own name."""
    names = fields(config)
    chosen = {config.attribute_map.get(name, name): value for name, value in SIZES.items() if name in names}
    if "kv_lora_rank" in names:  # keys and values come out of one latent for all heads
        chosen["num_key_value_heads"] = SIZES["num_attention_heads"]
    made = config() if config.sub_configs else None
    parts = {name: getattr(made, name, None) for name in config.sub_configs}
    return chosen | {name: overrides(type(part)) for name, part in parts.items() if isinstance(part, PreTrainedConfig)}


def tiny_config(family: str) -> PreTrainedConfig:
    """The configuration that the family is tried in."""
    cls = CONFIG_MAPPING[family]
    return cls(**merge(overrides(cls), SPECIAL.get(family, {})))


def merge(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`base` with the entries of `more`, dictionaries in it likewise."""
    nested = {k: merge(base[k], v) for k, v in more.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return base | more | nested
