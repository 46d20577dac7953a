from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from sinkquant.inputs import selfwrite
from sinkquant.inputs.selfwrite import STARTERS, self_generated

from .conftest import BOS, EOS, byte_tokenizer


@pytest.mark.parametrize("length", [1, 2, 40])
def test_exactly_as_many_tokens_as_asked(
    byte_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, length: int
) -> None:
    ids = self_generated(byte_llama, tokenizer, sequences=5, length=length, seed=0)
    assert (ids.shape, ids.dtype) == ((5, length), torch.int64)


def test_the_end_token_never_ends_a_sequence(byte_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    with torch.no_grad():
        byte_llama.lm_head.weight[EOS] = 100 * byte_llama.lm_head.weight.abs().max()
    ids = self_generated(byte_llama, tokenizer, sequences=4, length=30, seed=0)
    assert ids.shape == (4, 30)
    assert not (ids == EOS).any()


def test_the_first_token_is_a_frequent_word(byte_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    first = tokenizer.batch_decode(self_generated(byte_llama, tokenizer, 20, 2, seed=0)[:, :1])
    assert len(set(first)) > 1
    assert set(first) <= {word[0] for word in STARTERS}


def test_a_sequence_is_made_of_passages(
    byte_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfwrite, "PASSAGE", 8)
    monkeypatch.setattr(selfwrite, "BATCH", 4)
    ids = self_generated(byte_llama, tokenizer, 5, 20, seed=0)
    assert ids.shape == (5, 20)
    assert set("".join(tokenizer.batch_decode(ids[:, [0, 8, 16]]))) <= {word[0] for word in STARTERS}


def test_no_special_token_is_written(byte_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    with torch.no_grad():
        byte_llama.lm_head.weight[BOS] = 100 * byte_llama.lm_head.weight.abs().max()
    assert not (self_generated(byte_llama, tokenizer, 4, 30, seed=0) == BOS).any()


def test_a_model_at_home_behind_bos_writes_there(model_folder: Path) -> None:
    tokenizer = byte_tokenizer(prepends_bos=True)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    ids = self_generated(model, tokenizer, sequences=8, length=48, seed=0)
    assert not (ids == tokenizer.bos_token_id).any()
    behind = torch.cat([torch.full((8, 1), tokenizer.bos_token_id), ids], dim=1)
    with torch.no_grad():
        likelihood = model(behind).logits.log_softmax(-1)[:, 0].gather(1, ids[:, :1])
    assert likelihood.mean() > -4  # 258 tokens: chance is below -5.5


def test_seeded_and_without_a_trace_in_the_global_state(
    byte_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    def write(seed: int) -> Any:
        return self_generated(byte_llama, tokenizer, 2, 30, seed).tolist()

    before = torch.get_rng_state()
    first = write(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert write(1) == first != write(2)


def test_a_trained_model_writes_text_that_it_finds_likely(model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    ids = self_generated(model, tokenizer, sequences=2, length=24, seed=0)
    with torch.no_grad():
        written = model(ids, labels=ids).loss.item()
        shuffled = ids[:, torch.randperm(24, generator=torch.Generator().manual_seed(0))]
        assert written + 2 < model(shuffled, labels=shuffled).loss.item()
