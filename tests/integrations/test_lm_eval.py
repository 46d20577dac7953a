"""Tasks of lm-eval from local files: scored as our own evaluation scores, whatever carries BOS."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import sinkquant
from sinkquant.evaluation.score import evaluate_one

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'sinkquant[eval]'")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

DOCS = [
    ("Tom had a red ball. He threw the", [" ball", " house", " moon", " rain"]),
    ("The sun was hot, so Lily went into the", [" water", " letter", " seven", " why"]),
    ("The cat was hungry. It wanted to", [" eat", " tree", " blue", " of"]),
    ("Once upon a", [" time", " fish", " run", " they"]),
    ("It was dark and she went to", [" bed", " sing", " one", " up"]),
    ("He said sorry and gave the toy", [" back", " sky", " milk", " on"]),
    ("She opened the door and looked", [" inside", " cake", " green", " than"]),
    ("The dog ran after the", [" cat", " because", " softly", " is"]),
]
TEXT = "Once upon a time there was a little girl named Lily. She had a big red ball and she loved to play with it."
CHOICE = """\
task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {test: choice.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
ROLLING = """\
task: tiny_text
dataset_path: json
dataset_kwargs: {data_files: {test: text.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""


@pytest.fixture(scope="module")
def task_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "choice.yaml").write_text(CHOICE)
    (folder / "rolling.yaml").write_text(ROLLING)
    lines = [json.dumps({"question": question, "choices": choices}) for question, choices in DOCS]
    (folder / "choice.jsonl").write_text("\n".join(lines))
    (folder / "text.jsonl").write_text(json.dumps({"text": TEXT}))
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["BOS in the prefix", "no prefix"])
def checkpoint(request: pytest.FixtureRequest, stories_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lm_eval") / "out"
    prefix = "sinks.prefix=[1]" if request.param else "sinks.prefix=none"
    overrides = ["calibration.length=64", "calibration.sequences=2", prefix]
    sinkquant.quantize(stories_path, recipe="w8a8-static", output=out, overrides=overrides)
    return out


def wrapped(model: Any, tokenizer: Any, bos: int | None = None, window: int = 512) -> Any:
    from sinkquant.integrations.lm_eval import PrefixLM

    return PrefixLM(model, tokenizer, bos=bos, dropped=tokenizer.bos_token_id, window=window, batch_size=4)


def rolling(model: Any, text: str) -> float:
    found: list[float] = model.loglikelihood_rolling([SimpleNamespace(args=(text,))], disable_tqdm=True)
    return found[0]


@pytest.mark.parametrize("window", [512, 16], ids=["one window", "many windows"])
def test_a_rolling_likelihood_is_that_of_our_evaluation(checkpoint: Path, stories_path: Path, window: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories_path)
    model = sinkquant.load(checkpoint, dtype=torch.float32)
    ids = torch.tensor([tokenizer.encode(TEXT, add_special_tokens=False)])
    length = ids.shape[1]
    parts = [(ids[:, :window], 1)]  # what a window sees, and the first token of it that is scored
    parts += [(ids[:, i - 1 : i + window], 1) for i in range(window, length - window + 1, window)]
    if length > window and length % window:  # the last one sees all that fits
        parts.append((ids[:, -(window + 1) :], window + 1 - length % window))
    scores = [evaluate_one(model, part, scored=slice(first, None)) for part, first in parts]
    assert sum(score.tokens for score in scores) == length - 1
    expected = sum(score.nll * score.tokens for score in scores)
    assert -rolling(wrapped(model, tokenizer, window=window), TEXT) == pytest.approx(expected, rel=1e-5)


def test_bos_in_context_is_that_of_our_evaluation(stories_path: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(stories_path), AutoModelForCausalLM.from_pretrained(stories_path)
    ids = [1, *tokenizer.encode(TEXT, add_special_tokens=False)]
    ours = evaluate_one(model, torch.tensor([ids]), scored=slice(2, None))
    for text in (TEXT, tokenizer.bos_token + TEXT):  # a BOS in the text is not doubled
        assert -rolling(wrapped(model, tokenizer, bos=1), text) == pytest.approx(ours.nll * ours.tokens, rel=1e-5)


def test_a_real_model_is_scored_the_same(smollm2_path: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(smollm2_path), AutoModelForCausalLM.from_pretrained(smollm2_path)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    ours = evaluate_one(model.float(), torch.tensor([ids]))
    assert -rolling(wrapped(model, tokenizer), TEXT) == pytest.approx(ours.nll * ours.tokens, rel=1e-5)


def test_generation_begins_behind_bos_with_padded_rows(stories_path: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(stories_path), AutoModelForCausalLM.from_pretrained(stories_path)
    tokenizer.pad_token = tokenizer.eos_token
    prompts = ["Once upon a time", "The cat was very hungry, so it"]
    asked = [SimpleNamespace(args=(p, {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False})) for p in prompts]
    answers = wrapped(model, tokenizer, bos=1).generate_until(asked, disable_tqdm=True)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[1, *tokenizer.encode(prompt, add_special_tokens=False)]])
        alone = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=2)[0, ids.shape[1] :]
        assert answer == tokenizer.decode(alone, skip_special_tokens=True)


def test_both_models_in_one_comparison(checkpoint: Path, stories_path: Path, task_data: Path) -> None:
    from sinkquant.api.evaluate_tasks import evaluate_tasks

    found = evaluate_tasks(
        checkpoint, baseline=stories_path, tasks=["tiny_choice", "tiny_text"], task_data=task_data, window=256
    )
    figures = {(one.task, one.metric): one for one in found.figures}
    accuracy, words = figures["tiny_choice", "acc"], figures["tiny_text", "word_perplexity"]
    assert accuracy.baseline >= 0.5  # chance is a quarter
    assert abs(accuracy.result - accuracy.baseline) <= 1 / 8
    assert accuracy.baseline_error is not None
    assert math.log(words.result) == pytest.approx(math.log(words.baseline), rel=0.05)
    carried = "prefix" if sinkquant.load(checkpoint).config.sinkquant["prefix"] else "in context"
    assert (found.bos_baseline, found.bos_result) == ("in context", carried)


def test_bad_input_is_one_sentence(checkpoint: Path, stories_path: Path, task_data: Path, tmp_path: Path) -> None:
    from sinkquant.api.evaluate_tasks import evaluate_tasks

    with pytest.raises(sinkquant.UsageError, match="unknown task 'tiny_choise': did you mean 'tiny_choice'"):
        evaluate_tasks(checkpoint, baseline=stories_path, tasks=["tiny_choise"], task_data=task_data)
    with pytest.raises(sinkquant.UsageError, match="is no folder"):
        evaluate_tasks(checkpoint, baseline=stories_path, tasks=["tiny_text"], task_data=tmp_path / "none")
    (tmp_path / "rolling.yaml").write_text(ROLLING)
    with pytest.raises(sinkquant.SinkquantError, match="the data of tiny_text cannot be loaded"):
        evaluate_tasks(checkpoint, baseline=stories_path, tasks=["tiny_text"], task_data=tmp_path)
