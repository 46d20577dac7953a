from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
    PreTrainedModel,
)

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.evaluation.metric import PERPLEXITY
from sinkquant.evaluation.score import Score, evaluate_one
from sinkquant.evaluation.windows import text_windows
from sinkquant.tasks import next_token
from sinkquant.tasks.next_token import head_is_separate, token_logprobs

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def capped() -> PreTrainedModel:
    """Logits that are squeezed into (-0.01, 0.01) after the head."""
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=0.01)).eval()


def scaled() -> PreTrainedModel:
    """Logits that are divided by 8 after the head."""
    torch.manual_seed(0)
    return GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=8.0)).eval()


def random_ids(model: PreTrainedModel, *shape: int) -> Tensor:
    return torch.randint(3, model.config.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def plain_logprobs(model: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits[0].float().log_softmax(-1)  # (T, V)


@pytest.mark.parametrize("build", [capped, scaled])
def test_a_head_that_does_more_is_noticed_and_scored_right(build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    ids = random_ids(model, 1, 40)
    assert not head_is_separate(model, ids)
    found = torch.cat(list(token_logprobs(model, ids, chunk=7)))
    torch.testing.assert_close(found, plain_logprobs(model, ids))


def test_chunks_are_the_plain_log_probabilities(tiny_llama: LlamaForCausalLM) -> None:
    ids = random_ids(tiny_llama, 1, 40)
    assert head_is_separate(tiny_llama, ids)
    chunks = list(token_logprobs(tiny_llama, ids, chunk=16))
    assert [len(chunk) for chunk in chunks] == [16, 16, 8]
    torch.testing.assert_close(torch.cat(chunks), plain_logprobs(tiny_llama, ids))
    some = torch.cat(list(token_logprobs(tiny_llama, ids, range(3, 30), chunk=16)))
    torch.testing.assert_close(some, plain_logprobs(tiny_llama, ids)[3:30])


def test_a_separate_head_never_sees_more_than_a_chunk(tiny_llama: LlamaForCausalLM) -> None:
    seen: list[int] = []
    hook = tiny_llama.lm_head.register_forward_hook(lambda module, args, output: seen.append(output[..., 0].numel()))
    for _ in token_logprobs(tiny_llama, random_ids(tiny_llama, 1, 64), chunk=16, separate_head=True):
        pass
    hook.remove()
    assert seen == [16] * 4


def test_score_is_the_mean_over_all_windows(tiny_llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_token, "CHUNK_ELEMENTS", 5 * tiny_llama.config.vocab_size)  # chunks of 5 positions
    windows, steps = random_ids(tiny_llama, 3, 24), []
    found = evaluate_one(
        tiny_llama, windows, scored=slice(4, 22), progress=lambda done, total: steps.append((done, total))
    )
    losses = [
        -plain_logprobs(tiny_llama, ids[None])[3:21].gather(1, ids[4:22, None]).double().mean() for ids in windows
    ]
    assert found.tokens == 3 * 18
    assert found.nll == pytest.approx(float(sum(losses)) / 3, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(found.nll))
    assert steps == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("scored", [slice(0, None), slice(10, 10), slice(1, None, 2), slice(24, None)])
def test_positions_that_cannot_be_scored_are_refused(tiny_llama: LlamaForCausalLM, scored: slice) -> None:
    with pytest.raises(UsageError, match="starts at 1 or later"):
        evaluate_one(tiny_llama, random_ids(tiny_llama, 1, 24), scored=scored)


def test_a_broken_model_is_named(tiny_llama: LlamaForCausalLM) -> None:
    windows = random_ids(tiny_llama, 2, 24)
    windows[0][windows[0] == 5], windows[1, 7] = 6, 5
    tiny_llama.lm_head.weight = torch.nn.Parameter(tiny_llama.lm_head.weight.clone())  # only the input is broken
    with torch.no_grad():
        tiny_llama.model.embed_tokens.weight[5] = math.nan
    with pytest.raises(SinkquantError, match="not finite in window 2"):
        evaluate_one(tiny_llama, windows)


def test_perplexity_of_a_hopeless_model_is_infinite() -> None:
    assert PERPLEXITY.value(torch.zeros(2)) == 1.0
    assert Score(nll=1e4, tokens=1, figures={}).perplexity == math.inf


def test_the_first_window_of_a_trained_model(model_folder: Path, unseen_text: Path) -> None:
    """Protocol P, one window: the same figure as transformers' own loss."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    windows = text_windows(unseen_text.read_text(encoding="utf-8"), tokenizer, window=64, max_windows=1)
    with torch.no_grad():
        plain = float(model(input_ids=windows, labels=windows).loss)
    found = evaluate_one(model, windows)
    assert found.tokens == 63
    assert found.nll == pytest.approx(plain, abs=1e-4)
    assert 1.3 < found.perplexity < 6
