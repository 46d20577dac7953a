"""What a run calibrates on: how much of it there is, whether the model can read it, and where BOS stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, OPTConfig, OPTForCausalLM

import sinkquant
from sinkquant.errors import UsageError
from sinkquant.recipes import load_recipe
from sinkquant.walk.walk import Walk
from tests import tiny

SMALL = ["calibration.sequences=4", "calibration.length=64"]
WORDS = "It is one of those words. "  # 26 bytes, and as many tokens


def plan(model: Path, calibration: Path, *overrides: str, recipe: str = "w8a8-static") -> Any:
    wanted = [*SMALL, "sinks.exclude=false", "sinks.prefix=none", *overrides]
    return sinkquant.quantize(model, recipe=recipe, overrides=wanted, calibration=str(calibration), dry_run=True).plan


def text(folder: Path, tokens: int) -> Path:
    path = folder / "short.txt"
    path.write_text((WORDS * (tokens // len(WORDS) + 1))[:tokens])
    return path


def opt(folder: Path, positions: int) -> Path:
    """A model with one learned vector a position."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=positions, word_embed_proj_dim=32, bos_token_id=tiny.BOS, eos_token_id=tiny.EOS,
        pad_token_id=tiny.EOS,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(folder / "opt")
    tiny.byte_tokenizer().save_pretrained(folder / "opt")
    return folder / "opt"


@pytest.mark.parametrize(
    ("sequences", "used", "proof"), [(6, 4, 2), (5, 4, 1), (4, 3, 1), (3, 2, 1), (2, 1, 1)]
)  # fmt: skip
def test_a_short_text_is_said(model_folder: Path, tmp_path: Path, sequences: int, used: int, proof: int) -> None:
    path = text(tmp_path, sequences * 64 + 10)
    notes = " ".join(plan(model_folder, path).notes)
    said = (
        f"{path} is too short for the 4 sequences of 64 tokens that were asked for: {used} are calibrated on, "
        f"and {proof} more prove the result"
    )
    assert (said in notes) is (used < 4)


def test_the_proof_is_not_on_the_calibration_text(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"text for one sequence of 64 tokens.*set calibration\.length to 16\.$"):
        plan(model_folder, text(tmp_path, 100))
    assert plan(model_folder, text(tmp_path, 100), "calibration.length=16").notes == ()  # the remedy works


def test_columns_and_texts_are_in_the_plan(model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"uuid": "5feceb66-ffc8", "story": "{WORDS * 20}", "other": "{WORDS}"}}\n' * 9)
    said = f"calibration text from {path}: 9 texts in the column 'story'"
    assert said in plan(model_folder, path).notes
    for made in (plan(model_folder, f"{path}:other"), plan(model_folder, path, "calibration.column=other")):
        assert said.replace("story", "other") in made.notes


BEYOND = [
    ("sinks.prefix=[99999]", r"^sinks\.prefix has the token id 99999 but the model's embedding 258 rows: name ids"),
    ("sinks.prefix=[5, 258]", r"^sinks\.prefix has the token id 258 but"),
]


@pytest.mark.parametrize(("override", "message"), BEYOND)
def test_a_prefix_that_the_model_does_not_have(
    model_folder: Path, text_file: Path, override: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan(model_folder, text_file, override)


@pytest.fixture
def few_rows(tmp_path: Path) -> Path:
    """A model whose embedding ends in the middle of its tokenizer's ids."""
    model = tiny.random_llama()
    config = model.config
    config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id = 60, 1, 2, 0
    LlamaForCausalLM(config).save_pretrained(tmp_path / "few")
    tiny.byte_tokenizer().save_pretrained(tmp_path / "few")
    return tmp_path / "few"


def test_a_tokenizer_with_more_ids_than_the_embedding(few_rows: Path, model_folder: Path, text_file: Path) -> None:
    message = r"has the token id \d+ but the model's embedding 60 rows: give the tokenizer that belongs to the model\.$"
    with pytest.raises(UsageError, match=message):
        plan(few_rows, text_file)
    with pytest.raises(UsageError, match=message):
        sinkquant.detect(few_rows, calibration=str(text_file))


def test_text_is_as_long_as_the_positions_go(text_file: Path, tmp_path: Path) -> None:
    model = opt(tmp_path, 64)
    notes = plan(model, text_file, recipe="w8a8").notes
    assert not any("positions for more" in note for note in notes)
    notes = plan(model, text_file, "calibration.bos=always", "calibration.length=128", recipe="w8a8").notes
    assert "sequences have 63 tokens and not 128, because the model has no positions for more" in notes
    assert sinkquant.detect(model, calibration=str(text_file), bos="always").bos == "added"


@pytest.mark.parametrize("policy", ["always", "never"])
def test_bos_stands_in_front_wherever_a_block_sees_text(
    model_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """Smoothing, balancing, rounding and tuning: whatever walks over the blocks."""
    seen: list[torch.Tensor] = []
    start = Walk.__init__

    def watched(self: Walk, model: Any, roles: Any, batches: Any, *others: Any, **options: Any) -> None:
        ids = batches if isinstance(batches, torch.Tensor) else batches[0].tensors["input_ids"]
        seen.append(ids)
        start(self, model, roles, batches, *others, **options)

    monkeypatch.setattr(Walk, "__init__", watched)
    overrides = [*SMALL, f"calibration.bos={policy}", "sinks.prefix=none", "sinks.exclude=false", "tuning.length=65"]
    sinkquant.quantize(
        model_folder, recipe="w4a8kv4", overrides=overrides, calibration=str(text_file), output=tmp_path / "out"
    )
    assert len(seen) > 3
    assert [bool((ids[:, 0] == tiny.BOS).all()) for ids in seen] == [policy == "always"] * len(seen)


def test_overrides_change_a_recipe_object(model_folder: Path, text_file: Path) -> None:
    recipe = load_recipe("w8a8-static", [*SMALL, "sinks.prefix=none"])
    options = {"calibration": str(text_file), "dry_run": True}
    made = sinkquant.quantize(model_folder, recipe=recipe, overrides=["weights.bits=4"], **options)
    assert {scheme.weight.bits for scheme in made.plan.linears.values() if scheme.weight} == {4}
    with pytest.raises(UsageError, match=r"unknown recipe key 'weights\.bit'"):
        sinkquant.quantize(model_folder, recipe=recipe, overrides=["weights.bit=4"], **options)
