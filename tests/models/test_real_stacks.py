"""Trained models of other kinds than decoders of text: what tracing finds, and that a walk gives their outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sinkquant.inputs.batches import Batch
from sinkquant.models.roles import Stack
from sinkquant.models.stubs import call_model
from sinkquant.models.trace import trace_roles
from sinkquant.walk.walk import Walk, run_block
from tests.conftest import CACHE, SHARED, existing

MODELS = SHARED / "assets/models"


def ids(rows: int, length: int, vocabulary: int) -> torch.Tensor:
    return torch.randint(4, vocabulary, (rows, length), generator=torch.Generator().manual_seed(length))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Trained:
    """A model, a batch of so many samples, and of every stack: blocks, rows, causal, attentions, down projection."""

    auto: str
    path: Path
    batch: Callable[[int], Batch]
    stacks: tuple[tuple[int, str | None, bool, str, str], ...]


TRAINED = {
    "ViT-Tiny": Trained(
        "AutoModelForImageClassification", MODELS / "vit-tiny-patch16-224",
        lambda n: Batch({"pixel_values": noise(n, 3, 224, 224)}), ((12, None, False, "s", "mlp.fc2"),),
    ),
    "BART": Trained(
        "AutoModelForSeq2SeqLM", MODELS / "g2p-bart-us",
        lambda n: Batch({"input_ids": ids(n, 11, 40), "decoder_input_ids": ids(n, 7, 40)}),
        ((1, "input_ids", False, "s", "fc2"), (1, "decoder_input_ids", True, "sc", "fc2")),
    ),
    "MiniLM-L6": Trained(
        "AutoModel", CACHE / "minilm-l6",
        lambda n: Batch({"input_ids": ids(n, 11, 30000), "attention_mask": torch.ones(n, 11, dtype=torch.int64)}),
        ((6, "input_ids", False, "s", "output.dense"),),
    ),
    "Whisper-base": Trained(
        "AutoModelForSpeechSeq2Seq", CACHE / "whisper-base",
        lambda n: Batch({"input_features": noise(n, 80, 3000), "decoder_input_ids": ids(n, 7, 50000)}),
        ((6, None, False, "s", "fc2"), (6, "decoder_input_ids", True, "sc", "fc2")),
    ),
}  # fmt: skip


def described(stack: Stack) -> tuple[int, str | None, bool, str, str]:
    (kinds,) = {"".join(attention.kind[0] for attention in block.attentions) for block in stack.blocks}
    (down,) = {str(block.down).removeprefix(block.name + ".") for block in stack.blocks}
    return len(stack.blocks), stack.rows, stack.causal, kinds, down


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name == "Whisper-base" else []) for name in TRAINED]
)
def test_a_trained_model(name: str) -> None:
    trained = TRAINED[name]
    folder = existing(trained.path, "fetch the shared assets' models")
    model: Any = getattr(transformers, trained.auto).from_pretrained(folder, dtype=torch.float32)
    model.eval().requires_grad_(False)
    roles = trace_roles(model, trained.batch(1))
    assert roles.attends
    assert tuple(map(described, roles.stacks)) == trained.stacks
    batch, last, seen = trained.batch(2), roles.blocks[-1], list[torch.Tensor]()
    model.get_submodule(last.name).register_forward_hook(lambda *args: seen.append(last.stream.given(args[2])))
    with torch.no_grad():
        call_model(model, batch)
    made = Walk(model, roles, [batch]).run(run_block)
    torch.testing.assert_close(torch.cat(made), seen[0], rtol=1e-5, atol=1e-5)
