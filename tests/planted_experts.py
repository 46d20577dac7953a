"""Tiny random mixtures of experts in which BOS has a spike that one expert writes, by construction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests import tiny
from tests.families import make

WIDTH, BLOCKS, EXPERTS = 48, 4, 4
MARK, CHANNEL, SECOND = 5, 9, 23  # BOS's own channel, and the two that its spike is written to
BLOCK, EXPERT, NEURON, WEIGHT = 1, 2, 7, 40.0  # who writes it
SIZES: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": EXPERTS},
    "GraniteMoe": {"num_local_experts": EXPERTS, "residual_multiplier": 0.22},
    "Qwen2Moe": {
        "num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
}  # fmt: skip


def planted(family: str, *, writer: int | str = EXPERT) -> Any:
    """`writer`: the number of an expert of BLOCK, "shared" for the shared expert there, or "nobody"."""
    tokens = {"vocab_size": tiny.VOCABULARY, "bos_token_id": tiny.BOS, "eos_token_id": tiny.EOS}
    model = make(family, num_hidden_layers=BLOCKS, tie_word_embeddings=False, **SIZES[family], **tokens)
    private = [MARK, CHANNEL, SECOND]
    embedding = model.get_input_embeddings().weight
    embedding[:, private] = 0.0
    embedding[tiny.BOS] = 0.0
    embedding[tiny.BOS, MARK] = 10.0
    for name, parameter in model.named_parameters():
        if ".layers." in name and parameter.dim() > 1:
            if parameter.shape[-1] == WIDTH:
                parameter[..., private] = 0.0
            if parameter.shape[-2] == WIDTH:
                parameter[..., private, :] = 0.0
    block = model.model.layers[BLOCK]
    experts = next(module for module in block.modules() if hasattr(module, "gate_up_proj"))
    router = next(m for m in block.modules() if not isinstance(m, nn.Linear) and _routes(m))
    router.weight[writer if isinstance(writer, int) else EXPERT, MARK] = 3.0
    if isinstance(writer, int):
        gate, up = experts.gate_up_proj[writer].chunk(2)
        _plant(gate, up, experts.down_proj[writer])
    if writer == "shared":
        _plant(*(getattr(block.mlp.shared_expert, part).weight for part in ("gate_proj", "up_proj", "down_proj")))
    return model


def _routes(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.shape == (EXPERTS, WIDTH)


def _plant(gate: Tensor, up: Tensor, down: Tensor) -> None:
    for reader in (gate, up):
        reader[NEURON] = 0.0
        reader[NEURON, MARK] = 1.0
    down[:, NEURON] = 0.0
    down[CHANNEL, NEURON] = WEIGHT
    down[SECOND, NEURON] = -WEIGHT / 2


def saved(folder: Path, *, writer: int | str = EXPERT) -> Path:
    """The Mixtral with a tokenizer, as a transformers folder."""
    planted("Mixtral", writer=writer).save_pretrained(folder)
    tiny.byte_tokenizer().save_pretrained(folder)
    return folder


def text(rows: int, length: int = 48, seed: int = 0) -> Tensor:
    """Random tokens without BOS, (rows, length)."""
    return torch.randint(tiny.BOS, (rows, length), generator=torch.Generator().manual_seed(seed))
