"""Tiny random encoders and embedders as folders, with a byte tokenizer that puts special tokens around a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CLS, SEP, MASK, PAD, VOCABULARY = 256, 257, 258, 259, 260
SIZES: dict[str, Any] = dict(
    vocab_size=VOCABULARY, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=130, pad_token_id=PAD, initializer_range=0.2,
)  # fmt: skip
MODERN = dict(cls_token_id=CLS, sep_token_id=SEP, bos_token_id=CLS, eos_token_id=SEP)
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertModel", "BertConfig", {}),
    "bert-mlm": ("BertForMaskedLM", "BertConfig", {}),
    "bert-pretraining": ("BertForPreTraining", "BertConfig", {}),
    "modernbert": ("ModernBertModel", "ModernBertConfig", MODERN),
    "modernbert-mlm": ("ModernBertForMaskedLM", "ModernBertConfig", MODERN),
    "nomic-mlm": ("NomicBertForMaskedLM", "NomicBertConfig", {}),
    "mpnet": ("MPNetModel", "MPNetConfig", {"pad_token_id": 1}),
    "deberta-mlm": ("DebertaV2ForMaskedLM", "DebertaV2Config", {"relative_attention": True, "pos_att_type": ["c2p"]}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {"num_key_value_heads": 2, "tie_word_embeddings": False}),
    "qwen3": ("Qwen3Model", "Qwen3Config", {"num_key_value_heads": 2, "head_dim": 12}),
}


def tokenizer(before: tuple[int, ...] = (CLS,), behind: tuple[int, ...] = (SEP,)) -> PreTrainedTokenizerFast:
    """Every byte is a token; at most 128 tokens."""
    special = {"[CLS]": CLS, "[SEP]": SEP, "[MASK]": MASK, "[PAD]": PAD}
    names = {number: name for name, number in special.items()}
    vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=vocab | special, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    around = [*(names[n] for n in before), "$A", *(names[n] for n in behind)]
    made.post_processor = processors.TemplateProcessing(
        single=" ".join(around), special_tokens=[(names[n], n) for n in (*before, *behind)]
    )
    tokens = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]"}
    begin = {"bos_token": "[CLS]"} if behind == () else {}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=128, **tokens, **begin)


def save(kind: str, folder: Path, **around: tuple[int, ...]) -> Path:
    """A model of `KINDS` with its tokenizer; decoders have BOS in front and nothing behind."""
    name, config, more = KINDS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, config)(**SIZES | more))
    model.save_pretrained(folder)
    decoder = kind in ("llama", "qwen3")
    tokenizer(**around or ({"behind": ()} if decoder else {})).save_pretrained(folder)
    return folder
