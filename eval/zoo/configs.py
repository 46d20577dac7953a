"""A tiny configuration of any family for a task: sizes that families share, and what single ones ask for."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import modeling_auto

from eval.families.configs import BOS, EOS, SIZES, fields, merge

SIDE, CLASSES = 64, 5
STAGES = {"num_stages": 2, "depths": [1, 2], "hidden_sizes": [32, 64]}

TEXT = SIZES | {"is_decoder": False, "encoder_layers": 3, "attention_window": 16, "pre_seq_len": 0}
SPEECH = TEXT | {
    "max_source_positions": 50, "num_mel_bins": 16, "input_feat_per_channel": 16, "encoder_num_key_value_heads": 4,
    "decoder_num_key_value_heads": 4, "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4,
    "encoder_num_hidden_layers": 3, "decoder_num_hidden_layers": 4,
}  # fmt: skip
VISION: dict[str, Any] = {
    "image_size": SIDE, "patch_size": 8, "num_labels": CLASSES, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 4, "num_attention_heads": 4, "projection_dim": 32, "vocab_size": 64, "window_size": 4,
    "num_classes": CLASSES, "num_image_tokens": 64,
}  # fmt: skip
PYRAMID = {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 64, 64]}
SPECIAL: dict[str, dict[str, Any]] = {
    "beit": {"use_relative_position_bias": True, "out_indices": [0, 1, 2, 3]},
    "bit": {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1], "num_groups": 8},
    "convnext": PYRAMID,
    "convnextv2": PYRAMID,
    "cvt": {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3], "patch_sizes": [7, 3, 3]},
    "data2vec-vision": {"out_indices": [0, 1, 2, 3]},
    "deit": {"encoder_stride": 8},
    "dinat": {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 4]},
    "dinov3_convnext": PYRAMID,
    "donut-swin": {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "patch_size": 4},
    "swin": {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "patch_size": 4},
    "swinv2": {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "patch_size": 4},
    "swin2sr": {"embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "patch_size": 1, "window_size": 8},
    "hiera": {
        "embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 4], "masked_unit_size": [8, 8],
        "patch_size": [7, 7], "image_size": [64, 64],
    },
    "focalnet": {"embed_dim": 16, "depths": [1, 2], "hidden_sizes": [16, 32], "patch_size": 4,
                 "focal_levels": [2, 2], "focal_windows": [3, 3]},
    "imagegpt": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256, "vocab_size": 513},
    "levit": {"hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 2], "image_size": 128,
              "patch_size": 16},
    "mobilevit": {"hidden_sizes": [48, 64, 80], "neck_hidden_sizes": [16, 16, 24, 32, 48, 64, 128], "patch_size": 2},
    "mobilevitv2": {"patch_size": 2},
    "poolformer": PYRAMID | {"patch_sizes": [7, 3, 3, 3]},
    "pvt": {"sequence_reduction_ratios": [8, 4, 2, 1], "depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 64, 64],
            "num_attention_heads": [1, 2, 4, 4]},
    "pvt_v2": {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 64, 64], "num_attention_heads": [1, 2, 4, 4]},
    "regnet": {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 2, 1], "groups_width": 8},
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 2, 1]},
    "segformer": {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 64, 64], "num_attention_heads": [1, 2, 4, 4]},
    "swiftformer": {"depths": [1, 1, 2, 1], "embed_dims": [16, 32, 64, 64]},
    "siglip2": {"vision_config": {"num_patches": 64}},
    "big_bird": {"attention_type": "original_full"},
    "mobilebert": {"true_hidden_size": 32, "intra_bottleneck_size": 32},
    "funnel": {"block_sizes": [2, 2], "n_head": 4, "d_head": 16, "d_inner": 128},
    "flaubert": {"emb_dim": 64, "n_layers": 4, "n_heads": 4},
    "xlm": {"emb_dim": 64, "n_layers": 4, "n_heads": 4},
    "distilbert": {"dim": 64, "n_layers": 4, "n_heads": 4, "hidden_dim": 128},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 32},
    "squeezebert": {"embedding_size": 64},
    "xmod": {"default_language": "en_XX"},
    "reformer": {
        "axial_pos_shape": [16, 32], "axial_pos_embds_dim": [16, 48], "attention_head_size": 16, "is_decoder": False,
        "feed_forward_size": 128, "attn_layers": ["local", "lsh"] * 2, "lsh_attn_chunk_length": 16,
        "local_attn_chunk_length": 16,
    },
    "roc_bert": {"pronunciation_embed_dim": 16, "shape_embed_dim": 16, "shape_vocab_size": 512},
    "albert": {"embedding_size": 32},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 16, "cls_token_id": BOS, "sep_token_id": EOS},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "t5": {"d_kv": 16, "num_layers": 3, "num_heads": 4}, "mt5": {"d_kv": 16, "num_layers": 3, "num_heads": 4},
    "umt5": {"d_kv": 16, "num_layers": 3, "num_heads": 4}, "longt5": {"d_kv": 16, "num_layers": 3, "num_heads": 4},
    "switch_transformers": {"d_kv": 16, "num_layers": 3, "num_heads": 4},
}  # fmt: skip

MAPPINGS = {
    "image-classification": ("IMAGE_CLASSIFICATION", VISION),
    "image-features": ("IMAGE", VISION),
    "masked-lm": ("MASKED_LM", TEXT),
    "embedding": ("TEXT_ENCODING", TEXT),
    "seq2seq-lm": ("SEQ_TO_SEQ_CAUSAL_LM", TEXT),
    "speech": ("SPEECH_SEQ_2_SEQ", SPEECH),
}


def families(task: str) -> list[str]:
    """The model types that transformers maps for a task."""
    key = MAPPINGS[task][0]
    return sorted(getattr(modeling_auto, f"MODEL_FOR_{key}_MAPPING_NAMES"))


def tiny_config(task: str, family: str) -> PreTrainedConfig:
    """The configuration that the family is tried in."""
    cls, (key, sizes) = CONFIG_MAPPING[family], MAPPINGS[task]
    config = cls(**merge(_overrides(cls, sizes), SPECIAL.get(family, {})))
    classes = getattr(modeling_auto, f"MODEL_FOR_{key}_MAPPING_NAMES")[family]
    config.architectures = [classes if isinstance(classes, str) else classes[0]]
    return config


def _overrides(config: type[PreTrainedConfig], sizes: dict[str, Any]) -> dict[str, Any]:
    """What of `sizes` the class has; parts of a composite one likewise. An alias gives way to its own name."""
    names = fields(config) | ({"num_labels"} & set(sizes))
    chosen = {config.attribute_map.get(name, name): value for name, value in sizes.items() if name in names}
    made = config() if config.sub_configs else None
    parts = {name: getattr(made, name, None) for name in config.sub_configs}
    return chosen | {
        name: _overrides(type(part), sizes if task_of(name) is None else task_of(name))
        for name, part in parts.items() if isinstance(part, PreTrainedConfig)
    }  # fmt: skip


def task_of(part: str) -> dict[str, Any] | None:
    """The sizes of a part that is for another kind of data than the whole."""
    return TEXT if part == "text_config" else VISION if part == "vision_config" else None


def auto_class(name: str) -> Any:
    """A class of transformers by name."""
    return getattr(transformers, name)
