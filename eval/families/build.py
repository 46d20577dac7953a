"""A tiny random model of a family with a byte tokenizer, saved as a transformers folder, and text for it."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from eval.families.configs import BOS, tiny_config

PLANTED = 300.0  # times the length of other rows: BOS becomes a sink wherever the embedding is not normalized
NOISE = 0.1  # on vectors, so that folded scales and biases matter
LETTERS = "etaoinshrdlucmfw"


def build(family: str, folder: Path) -> None:
    """Write the model and its tokenizer; whatever the family's classes raise comes out."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(family)).eval()
    scale(model)
    plant(model)
    with torch.no_grad():  # a configuration that no forward pass fits is not built
        model(input_ids=torch.arange(3, 40)[None], use_cache=False)
    model.generation_config.forced_eos_token_id = None
    model.save_pretrained(folder)
    AutoModelForCausalLM.from_pretrained(folder)  # the text part of some composite models is no type of its own
    tokenizer().save_pretrained(folder)


@torch.no_grad()
def scale(model: nn.Module) -> None:
    """Matrices by 1/√(fan in), so that every block matters and nothing grows; noise on vectors."""
    for module in model.modules():
        convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        for parameter in module.parameters(recurse=False):
            if parameter.dim() < 2:
                parameter.add_(NOISE * torch.randn_like(parameter))
            else:
                fan = parameter[0].numel() if convolution else parameter.shape[-1]
                parameter.normal_(std=fan**-0.5)


@torch.no_grad()
def plant(model: PreTrainedModel) -> None:
    """Give BOS a huge embedding: a sink by content, which a prefix of BOS takes out of the text."""
    embedding = model.get_input_embeddings()
    if isinstance(embedding, nn.Embedding):
        embedding.weight[BOS] *= PLANTED


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, behind the three special ones."""
    letters = enumerate(["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in letters}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def text(words: int = 2000) -> str:
    """Sentences of invented words, always the same."""
    draw = random.Random(0)
    made = ["".join(draw.choices(LETTERS, k=draw.randint(2, 8))) for _ in range(words)]
    return "\n".join(" ".join(made[i : i + 9]) + "." for i in range(0, words, 9))
