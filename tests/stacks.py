"""Models of one or two stacks that are no decoders of text, tiny and random, and batches that they run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from sinkquant.inputs.batches import Batch
from sinkquant.models.transposed import with_linears

SIZES: dict[str, Any] = dict(
    hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, vocab_size=97,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, layer_norm_eps=1e-5,
)  # fmt: skip
PICTURE = dict(SIZES, image_size=32, patch_size=8, num_channels=3)
PAIR: dict[str, Any] = dict(
    d_model=48, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=96, decoder_ffn_dim=96, vocab_size=97, max_position_embeddings=64, pad_token_id=0, bos_token_id=1,
    eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=2, num_hidden_layers=2,
)  # fmt: skip


def ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 97, (rows, length), generator=torch.Generator().manual_seed(seed))


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def masked(name: str, tokens: Tensor, mask: str) -> Batch:
    """The last row ends in padding."""
    real = torch.ones_like(tokens, dtype=torch.bool)
    if len(tokens) > 1:
        real[-1, -3:] = False
    return Batch({name: tokens, mask: real.long()}, {name: real})


def joined(*batches: Batch) -> Batch:
    return Batch(
        {k: v for b in batches for k, v in b.tensors.items()}, {k: v for b in batches for k, v in b.real.items()}
    )


def pictures(rows: int) -> Batch:
    return Batch({"pixel_values": noise(rows, 3, 32, 32)})


def text(rows: int) -> Batch:
    return masked("input_ids", ids(rows, 11), "attention_mask")


def pairs(rows: int) -> Batch:
    return joined(text(rows), Batch({"decoder_input_ids": ids(rows, 7, 1)}))


def sound(rows: int) -> Batch:
    return Batch({"input_features": noise(rows, 8, 60), "decoder_input_ids": ids(rows, 7, 1)})


def captions(rows: int) -> Batch:
    return joined(text(rows), pictures(rows))


def chat(rows: int) -> Batch:
    """A picture of 16 patches in the middle of the text."""
    tokens = torch.cat([ids(rows, 3) % 96, torch.full((rows, 16), 96), ids(rows, 4, 1) % 96], dim=1)
    return joined(masked("input_ids", tokens, "attention_mask"), pictures(rows))


@dataclass(frozen=True)
class Tower:
    """What is true of one stack."""

    name: str
    rows: str | None
    causal: bool
    kinds: str  # of a block's attentions: s, c
    down: str  # within a block
    sites: int
    reads: tuple[str, ...] = ()
    embeddings: int = 2  # parts that write the stream in front of it, as far as found
    final: bool = True  # a norm behind it
    plain: bool = True  # values can change their basis
    given: int = -1  # the block whose output is read behind the stack


@dataclass(frozen=True)
class Kind:
    """How a model is built and fed, and its stacks in order of execution."""

    make: Callable[[], Any]
    batch: Callable[[int], Batch]
    towers: tuple[Tower, ...]
    attends: bool = True


def built(model: str, config: str, **sizes: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**sizes))


def _llava() -> Any:
    vision = transformers.CLIPVisionConfig(**PICTURE, projection_dim=48)
    language = transformers.LlamaConfig(**SIZES, num_key_value_heads=2)
    return transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            vision_config=vision, text_config=language, image_token_index=96, vision_feature_layer=-2
        )
    )


def _two(model: str, name: str) -> Callable[[], Any]:
    def make() -> Any:
        text = getattr(transformers, f"{name}TextConfig")(**SIZES)
        vision = getattr(transformers, f"{name}VisionConfig")(**PICTURE)
        return getattr(transformers, model)(
            getattr(transformers, f"{name}Config")(text_config=text.to_dict(), vision_config=vision.to_dict())
        )

    return make


IDS, TARGET = "input_ids", "decoder_input_ids"
KINDS = {
    "ViT": Kind(
        built("ViTForImageClassification", "ViTConfig", **PICTURE), pictures,
        (Tower("vit.layers", None, False, "s", "mlp.fc2", 4, embeddings=3),),
    ),
    "DINOv2": Kind(
        built("Dinov2Model", "Dinov2Config", **PICTURE, mlp_ratio=2), pictures,
        (Tower("encoder.layer", None, False, "s", "mlp.fc2", 4, embeddings=3),),
    ),
    "CLIP": Kind(
        _two("CLIPModel", "CLIP"), captions,
        (
            Tower("vision_model.encoder.layers", None, False, "s", "mlp.fc2", 4, embeddings=0),
            Tower("text_model.encoder.layers", IDS, True, "s", "mlp.fc2", 4),
        ),
    ),
    "SigLIP": Kind(
        _two("SiglipModel", "Siglip"), captions,
        (
            Tower("vision_model.encoder.layers", None, False, "s", "mlp.fc2", 4),
            Tower("text_model.encoder.layers", IDS, False, "s", "mlp.fc2", 4),
        ),
    ),
    "BERT": Kind(
        built("BertForMaskedLM", "BertConfig", **SIZES), text,
        (Tower("bert.encoder.layer", IDS, False, "s", "output.dense", 4, embeddings=0, final=False),),
    ),
    "ModernBERT": Kind(
        built("ModernBertForMaskedLM", "ModernBertConfig", **SIZES), text,
        (Tower("model.layers", IDS, False, "s", "mlp.Wo", 4, embeddings=0, plain=False),),
    ),
    "MPNet": Kind(
        built("MPNetForMaskedLM", "MPNetConfig", **SIZES), text,
        (Tower("mpnet.encoder.layer", IDS, False, "", "output.dense", 4, embeddings=0, final=False),), attends=False,
    ),
    "BART": Kind(
        built("BartForConditionalGeneration", "BartConfig", **PAIR), pairs,
        (
            Tower("model.encoder.layers", IDS, False, "s", "fc2", 4, embeddings=0, final=False),
            Tower("model.decoder.layers", TARGET, True, "sc", "fc2", 7, ("model.encoder.layers",), 0, final=False),
        ),
    ),
    "Marian": Kind(
        built("MarianMTModel", "MarianConfig", **PAIR), pairs,
        (
            Tower("model.encoder.layers", IDS, False, "s", "fc2", 4, embeddings=1, final=False),
            Tower("model.decoder.layers", TARGET, True, "sc", "fc2", 7, ("model.encoder.layers",), 1, final=False),
        ),
    ),
    "T5": Kind(
        built(
            "T5ForConditionalGeneration", "T5Config", d_model=48, d_kv=12, d_ff=96, num_layers=2, num_decoder_layers=3,
            num_heads=4, vocab_size=97, decoder_start_token_id=0,
        ), pairs,
        (
            Tower("encoder.block", IDS, False, "s", "layer.1.DenseReluDense.wo", 4, embeddings=1),
            Tower("decoder.block", TARGET, True, "sc", "layer.2.DenseReluDense.wo", 7, ("encoder.block",), 1),
        ),
    ),
    "Whisper": Kind(
        built(
            "WhisperForConditionalGeneration", "WhisperConfig",
            **PAIR, num_mel_bins=8, max_source_positions=30, max_target_positions=20,
        ), sound,
        (
            Tower("model.encoder.layers", None, False, "s", "fc2", 4, embeddings=1),
            Tower("model.decoder.layers", TARGET, True, "sc", "fc2", 7, ("model.encoder.layers",)),
        ),
    ),
    "GPT-2": Kind(
        built("GPT2LMHeadModel", "GPT2Config", n_embd=48, n_layer=3, n_head=4, vocab_size=97, n_positions=64), text,
        (Tower("transformer.h", IDS, True, "s", "mlp.c_proj", 4, plain=False),),
    ),
    "OPT": Kind(
        built("OPTForCausalLM", "OPTConfig", **SIZES, ffn_dim=96, word_embed_proj_dim=48), text,
        (Tower("model.decoder.layers", IDS, True, "s", "fc2", 4),),
    ),
    "LLaVA": Kind(
        _llava, chat,
        (
            Tower("model.vision_tower.encoder.layers", None, False, "s", "mlp.fc2", 4, (), 0, given=-2),
            Tower("model.language_model.layers", IDS, True, "s", "mlp.down_proj", 4),
        ),
    ),
}  # fmt: skip


def make(kind: str) -> Any:
    torch.manual_seed(0)
    model = KINDS[kind].make().eval().requires_grad_(False)
    with_linears(model)
    with torch.no_grad():
        for name, tensor in model.named_parameters():  # norms and biases that do something
            if tensor.dim() == 1:
                tensor.add_(0.1 * torch.randn_like(tensor))
            elif "logit" not in name:
                tensor.copy_(torch.randn_like(tensor) / 7)
    return model
