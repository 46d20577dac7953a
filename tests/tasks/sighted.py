"""Tiny random models that see and write, as folders with a processor, and photographs with captions to feed them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from eval.families.build import plant, scale, tokenizer
from tests.tasks.towers import photographs

SIDE, PATCH, VOCABULARY = 32, 8, 300
IMAGE, BEGIN, END = VOCABULARY - 1, VOCABULARY - 2, VOCABULARY - 3  # tokens
TEXT: dict[str, Any] = dict(
    hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    head_dim=12, vocab_size=VOCABULARY, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    tie_word_embeddings=False,
)  # fmt: skip
VISION: dict[str, Any] = dict(
    hidden_size=40, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE, patch_size=PATCH
)  # fmt: skip
QWEN: dict[str, Any] = dict(
    depth=3, hidden_size=32, intermediate_size=80, num_heads=4, patch_size=PATCH, spatial_merge_size=2,
    temporal_patch_size=2, out_hidden_size=48,
)  # fmt: skip
ROPE: dict[str, Any] = dict(rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]})
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def _llava() -> Any:
    return transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=transformers.CLIPVisionConfig(**VISION), text_config=transformers.LlamaConfig(**TEXT),
            image_token_index=IMAGE, image_seq_length=16,
        )
    )  # fmt: skip


def _qwen2_5() -> Any:
    return transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            text_config=TEXT | ROPE, vision_config=QWEN | dict(fullatt_block_indexes=[1], window_size=32),
            image_token_id=IMAGE, vision_start_token_id=BEGIN, vision_end_token_id=END, tie_word_embeddings=False,
        )
    )  # fmt: skip


def _qwen3() -> Any:
    return transformers.Qwen3VLForConditionalGeneration(
        transformers.Qwen3VLConfig(
            text_config=TEXT | ROPE, image_token_id=IMAGE, vision_start_token_id=BEGIN, vision_end_token_id=END,
            vision_config=QWEN | dict(deepstack_visual_indexes=[0, 1], num_position_embeddings=16),
            tie_word_embeddings=False,
        )
    )  # fmt: skip


def _smolvlm() -> Any:
    return transformers.SmolVLMForConditionalGeneration(
        transformers.SmolVLMConfig(
            text_config=transformers.LlamaConfig(**TEXT), vision_config=VISION, image_token_id=IMAGE, scale_factor=2,
            tie_word_embeddings=False,
        )
    )  # fmt: skip


def _internvl() -> Any:
    return transformers.InternVLForConditionalGeneration(
        transformers.InternVLConfig(
            text_config=transformers.Qwen2Config(**TEXT), image_token_id=IMAGE, image_seq_length=4,
            vision_config=VISION | dict(image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH]), downsample_ratio=0.5,
        )
    )  # fmt: skip


def _gemma3() -> Any:
    return transformers.Gemma3ForConditionalGeneration(
        transformers.Gemma3Config(
            text_config=transformers.Gemma3TextConfig(**TEXT, sliding_window=16), vision_config=VISION,
            mm_tokens_per_image=4, image_token_index=IMAGE, boi_token_index=BEGIN, eoi_token_index=END,
        )
    )  # fmt: skip


def _mllama() -> Any:
    vision = dict(
        hidden_size=40, intermediate_size=80, num_hidden_layers=3, num_global_layers=1, attention_heads=4,
        image_size=SIDE, patch_size=PATCH, max_num_tiles=2, vision_output_dim=120, intermediate_layers_indices=[0, 1],
        supported_aspect_ratios=[[1, 1], [1, 2]],
    )  # fmt: skip
    return transformers.MllamaForConditionalGeneration(
        transformers.MllamaConfig(
            vision_config=vision, image_token_index=IMAGE,
            text_config=TEXT | dict(num_hidden_layers=4, cross_attention_layers=[1, 3]),
        )
    )  # fmt: skip


MAKE: dict[str, Callable[[], Any]] = {
    "llava": _llava, "qwen2_5_vl": _qwen2_5, "qwen3_vl": _qwen3, "smolvlm": _smolvlm, "internvl": _internvl,
    "gemma3": _gemma3, "mllama": _mllama,
}  # fmt: skip


def make(kind: str) -> Any:
    torch.manual_seed(0)
    model = MAKE[kind]().eval().requires_grad_(False)
    scale(model)
    return model


def save_llava(folder: Path, template: str | None = TEMPLATE) -> Path:
    """The LLaVA with a processor; BOS is a sink."""
    model = make("llava")
    plant(model)
    model.save_pretrained(folder)
    words = tokenizer()
    words.add_tokens([f"<extra{i}>" for i in range(VOCABULARY - 1 - len(words))] + ["<image>"], special_tokens=True)
    assert words.convert_tokens_to_ids("<image>") == IMAGE
    sizes = {"height": SIDE, "width": SIDE}
    pixels = transformers.CLIPImageProcessor(size=sizes, crop_size=sizes)
    transformers.LlavaProcessor(
        pixels, words, patch_size=PATCH, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1, chat_template=template,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def captioned(folder: Path, count: int = 48) -> Path:
    """Photographs, and `metadata.jsonl` with what each is called."""
    photographs(folder, count)
    files = sorted(folder.rglob("*.png"))
    rows = [{"file_name": str(f.relative_to(folder)), "text": f"{f.parent.name} number {f.stem}"} for f in files]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder
