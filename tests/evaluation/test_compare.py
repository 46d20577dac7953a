from __future__ import annotations

import copy
import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.evaluation.compare import compare
from sinkquant.evaluation.score import evaluate_one
from sinkquant.evaluation.versions import versions
from sinkquant.tasks import next_token

BOS = 1


@pytest.fixture
def other(tiny_llama: LlamaForCausalLM) -> LlamaForCausalLM:
    """The tiny model with noise on its weights."""
    model = copy.deepcopy(tiny_llama)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.04)
    return model


def text_ids(model: LlamaForCausalLM, count: int, width: int) -> Tensor:
    return torch.randint(3, model.config.vocab_size, (count, width), generator=torch.Generator().manual_seed(1))


def logprobs(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits.double().log_softmax(-1)  # (N, T, V)


def test_a_model_equals_itself(tiny_llama: LlamaForCausalLM) -> None:
    windows = text_ids(tiny_llama, 2, 30)
    found = compare(tiny_llama, tiny_llama, windows, windows)
    assert found.kl == 0
    assert found.top1_agreement == 1
    assert found.baseline_perplexity == found.result_perplexity
    assert (found.tokens, found.windows, found.window) == (58, 2, 30)


def test_figures_are_those_of_plain_code(
    tiny_llama: LlamaForCausalLM, other: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(next_token, "CHUNK_ELEMENTS", 7 * tiny_llama.config.vocab_size)  # chunks of 7 positions
    windows, steps = text_ids(tiny_llama, 3, 30), []
    labels = {"text": "random", "bos_baseline": "none", "bos_result": "constant"}
    found = compare(
        tiny_llama,
        other,
        windows,
        windows,
        scored=slice(5, None),
        progress=lambda done, total: steps.append((done, total)),
        **labels,
    )

    p, q = logprobs(tiny_llama, windows)[:, 4:-1], logprobs(other, windows)[:, 4:-1]
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    assert found.kl > 1e-4
    assert found.top1_agreement == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))
    assert 0 < found.top1_agreement < 1
    for perplexity, model in ((found.baseline_perplexity, tiny_llama), (found.result_perplexity, other)):
        assert perplexity == pytest.approx(evaluate_one(model, windows, scored=slice(5, None)).perplexity, rel=1e-9)
    assert found.tokens == 3 * 25
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert labels.items() <= found.model_dump().items()
    assert found.seconds_baseline > 0
    assert found.seconds_result > 0


@pytest.mark.parametrize("bos_first", ["baseline", "result"])
def test_a_leading_bos_shifts_positions_but_not_targets(
    tiny_llama: LlamaForCausalLM, other: LlamaForCausalLM, bos_first: str
) -> None:
    text = text_ids(tiny_llama, 2, 30)
    with_bos = torch.cat([torch.full((2, 1), BOS), text], dim=1)
    pair = (with_bos, text) if bos_first == "baseline" else (text, with_bos)
    found = compare(tiny_llama, other, *pair, scored=slice(1, 29))

    starts = (1, 0) if bos_first == "baseline" else (0, 1)  # the position of the first text token predicts the second
    p, q = (logprobs(m, ids)[:, s : s + 28] for m, ids, s in zip((tiny_llama, other), pair, starts, strict=True))
    targets = text[:, 1:29, None]
    assert math.log(found.baseline_perplexity) == pytest.approx(-float(p.gather(2, targets).mean()), rel=1e-5)
    assert math.log(found.result_perplexity) == pytest.approx(-float(q.gather(2, targets).mean()), rel=1e-5)
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    assert found.tokens == 2 * 28


def test_windows_of_different_text_are_refused(tiny_llama: LlamaForCausalLM) -> None:
    windows = text_ids(tiny_llama, 2, 30)
    for wrong in (windows.flip(1), windows[:1], windows[:, :-1]):
        with pytest.raises(UsageError, match="different text"):
            compare(tiny_llama, tiny_llama, windows, wrong)


def test_another_vocabulary_is_refused(tiny_llama: LlamaForCausalLM) -> None:
    config = LlamaConfig(**{**tiny_llama.config.to_dict(), "vocab_size": tiny_llama.config.vocab_size + 1})
    windows = text_ids(tiny_llama, 1, 20)
    with pytest.raises(UsageError, match=f"vocabulary of {config.vocab_size}"):
        compare(tiny_llama, LlamaForCausalLM(config).eval(), windows, windows)


def test_the_broken_one_of_the_two_is_named(tiny_llama: LlamaForCausalLM, other: LlamaForCausalLM) -> None:
    windows = text_ids(tiny_llama, 1, 20)
    with torch.no_grad():
        other.model.norm.weight.fill_(math.nan)
    with pytest.raises(SinkquantError, match=r"^the result gives logits that are not finite"):
        compare(tiny_llama, other, windows, windows)
    with pytest.raises(SinkquantError, match=r"^the baseline gives logits that are not finite"):
        compare(other, tiny_llama, windows, windows)


def test_a_comparison_is_frozen_and_survives_json(tiny_llama: LlamaForCausalLM) -> None:
    windows = text_ids(tiny_llama, 1, 20)
    found = compare(tiny_llama, tiny_llama, windows, windows)
    assert type(found).model_validate_json(found.model_dump_json()) == found
    with pytest.raises(ValidationError):
        found.kl = 1.0  # type: ignore[misc]


def test_versions_name_what_can_change_a_figure() -> None:
    found = versions()
    assert list(found) == ["python", "torch", "transformers", "compressed-tensors", "sinkquant"]
    assert found["torch"] == torch.__version__
