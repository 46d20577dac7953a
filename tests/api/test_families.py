"""Families whose blocks are built differently, from plain model to checkpoint; random weights, a real tokenizer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import sinkquant
from sinkquant.models.explain import norm_kind

SIZES: dict[str, Any] = dict(
    vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "GPTNeoX": {},  # layer norms, biases, attention and feed-forward side by side
    "OPT": {"ffn_dim": 96, "word_embed_proj_dim": 64},  # layer norms, learned positions
    "Phi3": {},  # queries, keys and values in one linear
    "Olmo2": {},  # norms behind the sublayers
    "Mixtral": {"num_local_experts": 4},  # fused experts
    "Gemma2": {"query_pre_attn_scalar": 16, "sliding_window": 32},  # softcapped logits, offset norms, windows
}
STOCK = "import sys; from transformers import AutoModelForCausalLM as A; A.from_pretrained(sys.argv[1])"
WHOLE = (
    "import sys; from transformers import AutoModelForCausalLM as A; "
    "_, info = A.from_pretrained(sys.argv[1], output_loading_info=True); "
    "assert not info['missing_keys'] and not info['unexpected_keys'], info"
)
SMALL = ["calibration.sequences=4", "calibration.length=64", "tuning.length=64"]


def make(family: str, stories_path: Path, source: Path) -> Path:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES, **FAMILIES[family])
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(source)
    for file in stories_path.glob("*token*"):
        shutil.copy(file, source)
    return source


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sink_aware_checkpoint(family: str, stories_path: Path, tmp_path: Path) -> None:
    source, out = make(family, stories_path, tmp_path / "model"), tmp_path / "out"
    done = sinkquant.quantize(source, recipe="w4a8kv4", output=out, overrides=SMALL)  # proves it bit for bit
    assert done.figures["transform_error"] <= 1e-4
    assert done.figures["result_perplexity"] < 1.1 * done.figures["baseline_perplexity"]
    if family == "OPT":  # the guard on the final norm, where torch's own layer norm is one
        refused = subprocess.run([sys.executable, "-c", STOCK, out], capture_output=True, text=True, check=False)
        assert refused.returncode
        assert "Error" in refused.stderr


@pytest.mark.parametrize("family", ["Mixtral"])
def test_a_portable_checkpoint_of_tensors_that_loading_merges(family: str, stories_path: Path, tmp_path: Path) -> None:
    """Experts are stored one by one on the hub; beside codes, stock transformers does not merge them again."""
    source, out = make(family, stories_path, tmp_path / "model"), tmp_path / "out"
    sinkquant.quantize(source, recipe="w8a8", output=out, overrides=SMALL)
    loaded = subprocess.run([sys.executable, "-c", WHOLE, out], capture_output=True, text=True, check=False)
    assert loaded.returncode == 0, loaded.stderr


def test_a_norm_with_a_gate_is_no_norm_to_fold() -> None:
    class Gated(torch.nn.LayerNorm):
        def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * gate

    assert norm_kind(Gated(8)) is None
    assert norm_kind(torch.nn.LayerNorm(8)) is not None
