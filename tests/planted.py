"""Tiny models with a table of positions, in which whatever stands first is a sink by construction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from tests import tiny

WIDTH, HEADS, BLOCKS, PLACES = 64, 4, 4, 96
MARK, CHANNEL, SECOND = 5, 9, 23  # what the first position carries, and the channels that its sink is written to
PRIVATE = [MARK, CHANNEL, SECOND]
BLOCK, NEURON, SPIKE, WEIGHT = 1, 7, 40.0, 1.0  # who writes it


def planted_gpt2() -> Any:
    """Projections in one matrix, (in, out); a row of the table is a position."""
    config = GPT2Config(
        vocab_size=tiny.VOCABULARY, n_embd=WIDTH, n_layer=BLOCKS, n_head=HEADS, n_positions=PLACES,
        bos_token_id=tiny.BOS, eos_token_id=tiny.EOS, tie_word_embeddings=False,
    )  # fmt: skip
    model = _random(GPT2LMHeadModel(config))
    for index, block in enumerate(model.transformer.h):
        query, key, value = block.attn.c_attn.weight.T.split(WIDTH)
        bias = block.attn.c_attn.bias[:WIDTH]
        up, down = block.mlp.c_fc, block.mlp.c_proj
        _plant(index, (query, key, value, up.weight.T), (block.attn.c_proj.weight.T, down.weight.T), bias, up.bias)
    _mark(model.transformer.wte.weight, model.transformer.wpe.weight)
    return model


def planted_opt() -> Any:
    """The first two rows of the table are none of a position."""
    config = OPTConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=WIDTH, ffn_dim=4 * WIDTH, num_hidden_layers=BLOCKS, pad_token_id=0,
        num_attention_heads=HEADS, max_position_embeddings=PLACES, word_embed_proj_dim=WIDTH, bos_token_id=tiny.BOS,
        eos_token_id=tiny.EOS, tie_word_embeddings=False,
    )  # fmt: skip
    model = _random(OPTForCausalLM(config))
    for index, block in enumerate(model.model.decoder.layers):
        attention = block.self_attn
        readers = [part.weight for part in (attention.q_proj, attention.k_proj, attention.v_proj, block.fc1)]
        writers = (attention.out_proj.weight, block.fc2.weight)
        _plant(index, readers, writers, attention.q_proj.bias, block.fc1.bias)
    _mark(model.model.decoder.embed_tokens.weight, model.model.decoder.embed_positions.weight[2:])
    return model


PLANTED: dict[str, Callable[[], Any]] = {"gpt2": planted_gpt2, "opt": planted_opt}


def saved(family: str, folder: Path) -> Path:
    """The model and a tokenizer that truncates to its positions, as a transformers folder."""
    PLANTED[family]().save_pretrained(folder)
    tokenizer = tiny.byte_tokenizer()
    tokenizer.model_max_length = PLACES
    tokenizer.save_pretrained(folder)
    return folder


def _random(model: Any) -> Any:
    torch.manual_seed(0)
    model.eval().requires_grad_(False)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.dim() > 1:
                parameter.normal_(std=1.0 if isinstance(module, nn.Embedding) else WIDTH**-0.5)
            elif not isinstance(module, nn.LayerNorm):
                parameter.normal_(std=0.1)
    return model


def _mark(tokens: Tensor, positions: Tensor) -> None:
    """The first position alone has the mark."""
    tokens[:, PRIVATE] = 0.0
    positions.mul_(0.3)
    positions[:, PRIVATE] = 0.0
    positions[0] = 0.0
    positions[0, MARK] = 20.0


def _plant(index: int, readers: Any, writers: Any, bias: Tensor, up_bias: Tensor) -> None:
    """One block: unit NEURON of BLOCK writes the sink where the mark is; behind it, all heads attend to the sink."""
    query, key, value, up = readers
    for reader in (query, key, value, up):
        reader[:, PRIVATE] = 0.0
    for writer in writers:
        writer[PRIVATE] = 0.0
    if index == BLOCK:
        up[NEURON] = 0.0
        up[NEURON, MARK] = SPIKE
        up_bias[NEURON] = -2.0 * SPIKE
        writers[1][:, NEURON] = 0.0
        writers[1][CHANNEL, NEURON] = WEIGHT
        writers[1][SECOND, NEURON] = -WEIGHT / 2
    if index > BLOCK:
        size = WIDTH // HEADS
        key[::size] = 0.0
        key[::size, CHANNEL] = 1.0
        bias[::size] = 8.0
