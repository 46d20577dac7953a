"""Encoder-decoders: padding is no part of an answer, labels are asked for where they stand, writing is greedy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sinkquant.errors import UsageError
from sinkquant.evaluation.difference import difference
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.inputs.decoder import start_token
from sinkquant.models.trace import trace_roles
from sinkquant.tasks.parts import divided
from sinkquant.tasks.seq2seq_lm import SEQ2SEQ_LM
from sinkquant.tasks.speech import SPEECH, plain
from sinkquant.tasks.task import IGNORED, Ask
from sinkquant.tasks.tasks import TASKS, _classes
from sinkquant.tasks.teacher_forced import DECODED, TeacherForced
from tests.stacks import ids, make, noise, text

KINDS = {"BART": SEQ2SEQ_LM, "T5": SEQ2SEQ_LM, "Marian": SEQ2SEQ_LM, "Whisper": SPEECH}


def samples(kind: str, start: int = 1) -> Batch:
    """Three, the last padded; the decoder is given two tokens by Whisper's kind, one by the others."""
    sources = Batch({"input_features": noise(3, 8, 60)}) if kind == "Whisper" else text(3)
    told, given = ids(3, 9, 2), 2 if kind == "Whisper" else 1
    told[:, :given] = start
    real = torch.ones_like(told).bool()
    real[2, -3:] = False
    labels = torch.cat([told[:, 1:], ids(3, 1, 3)], dim=1)
    labels[:, : given - 1] = IGNORED
    labels[~real] = IGNORED
    return Batch({**sources.tensors, DECODED: told}, {**sources.real, DECODED: real}, labels)


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest) -> tuple[TeacherForced, Any, Batch]:
    model = make(request.param)
    if request.param == "T5":
        model.config.num_layers = model.config.num_decoder_layers  # transformers makes caches of that many layers
    return KINDS[request.param], model, samples(request.param, start_token(model))


def test_padding_is_no_part_of_an_answer(case: tuple[TeacherForced, Any, Batch]) -> None:
    task, model, batch = case
    few = task.few(Batches((batch,)))
    assert {name: mask.sum(1).tolist() for name, mask in few.real.items() if name == DECODED} == {DECODED: [9, 4]}
    for padded in (few, batch):
        assert difference(task.answer(model, padded), task.alone(model, padded)) <= 1e-5
    changed = few.tensors[DECODED].clone()
    changed[1, -1] = 5  # padding
    other = Batch({**few.tensors, DECODED: changed}, few.real)
    assert torch.equal(task.answer(model, other), task.answer(model, few))


def test_a_sample_alone_is_taken_twice(case: tuple[TeacherForced, Any, Batch]) -> None:
    task, model, batch = case
    few = task.few(Batches((batch[:1],)))
    assert len(few) == 2
    assert torch.isfinite(task.answer(model, few)).all()


def test_every_label_is_scored(case: tuple[TeacherForced, Any, Batch]) -> None:
    task, model, batch = case
    parts = list(task.scored(model, batch))
    expected = batch.labels[batch.labels != IGNORED]  # type: ignore[index]
    assert torch.equal(torch.cat([labels for _, labels in parts]), expected)  # type: ignore[misc]
    logits = model(**batch.tensors, use_cache=False).logits.log_softmax(-1)[batch.labels != IGNORED]
    assert torch.allclose(torch.cat([answers for answers, _ in parts]), logits, atol=1e-6)


def test_beginnings_are_short_on_both_sides(case: tuple[TeacherForced, Any, Batch]) -> None:
    task, model, batch = case
    short = task.beginnings(Batches((batch,)), 5, 10)
    assert len(short) == 2
    assert {name: mask.shape[1] for name, mask in short.real.items()} == dict.fromkeys(batch.real, 5)
    assert torch.isfinite(task.answer(model, short)).all()


def test_the_probe_tells_the_stacks_apart(case: tuple[TeacherForced, Any, Batch]) -> None:
    task, model, _ = case
    encoder, decoder = trace_roles(model, task.probe(model)).stacks
    assert (encoder.rows, decoder.rows) == (None if task is SPEECH else "input_ids", DECODED)
    assert task.place(model, encoder, 3, 9) == ("frame 3" if task is SPEECH else "source token 3")
    assert task.place(model, decoder, 3, 9) == "token 3"


def test_what_is_written_is_the_likeliest(case: tuple[TeacherForced, Any, Batch]) -> None:
    task, model, batch = case
    model.generation_config.eos_token_id = 96
    model.generation_config.forced_eos_token_id = None
    words = SimpleNamespace(decode=lambda ids, **_: " ".join(map(str, ids)))
    written = task.written(model, words, batch)
    given = 2 if task is SPEECH else 1
    for row, found in enumerate(written):
        one = batch[row : row + 1]
        told = one.tensors[DECODED][:, :given]
        sources = {name: tensor for name, tensor in one.tensors.items() if name != DECODED}
        for _ in range(len(found.ids)):
            logits = model(**sources, decoder_input_ids=told, use_cache=False).logits[:, -1]
            told = torch.cat([told, logits.argmax(-1, keepdim=True)], dim=1)
        assert found.ids == tuple(told[0, given:].tolist())
        assert found.words == " ".join(map(str, found.ids))


def test_what_is_right_is_what_the_labels_say(case: tuple[TeacherForced, Any, Batch]) -> None:
    task, model, batch = case
    model.generation_config.eos_token_id = int(batch.labels[1, 4])  # type: ignore[index]
    words = SimpleNamespace(decode=lambda ids, **_: "")
    first, second, _ = task.right(model, words, batch)
    assert first.ids[:2] == tuple(batch.labels[0][batch.labels[0] != IGNORED][:2].tolist())  # type: ignore[index]
    assert len(second.ids) == (3 if task is SPEECH else 4)


def test_texts_are_compared_without_case_and_punctuation() -> None:
    assert plain(SimpleNamespace(), "  She said: “It's  FINE”. ") == "she said it's fine"


def test_some_samples_are_for_the_proof() -> None:
    batches = Batches((samples("BART"), samples("BART")), "there", "six pairs")
    data = divided(batches, 2, Ask(None, 4, 2, 64, 0), "pair")
    assert (data.calibration.samples, data.held_out.samples) == (5, 1)  # a quarter at most
    assert data.notes == ("calibration on six pairs; the last 1 prove the result",)
    with pytest.raises(UsageError, match="has one pair"):
        divided(batches.part(0, 1), 2, Ask(None, 4, 2, 64, 0), "pair")


@pytest.mark.parametrize("name", ["seq2seq-lm", "speech"])
def test_tasks_are_found_by_their_classes(name: str) -> None:
    stated = {"seq2seq-lm": "BartForConditionalGeneration", "speech": "WhisperForConditionalGeneration"}[name]
    assert stated in _classes(TASKS[name])


class Hears(torch.nn.Module):
    """An encoder of one form of sound: (N, 8, frames), (N, frames, 8), waves of 400 values at least, or 60 frames."""

    main_input_name = "input_features"

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.conv = form, torch.nn.Conv1d(8, 4, 3, stride=2)
        self.config = SimpleNamespace(max_source_positions=30)

    def get_encoder(self) -> Hears:
        return self

    def forward(self, input_features: torch.Tensor, **_: Any) -> torch.Tensor:
        if self.form == "waves":
            return input_features.unfold(1, 400, 160)
        if self.form == "fixed":
            assert input_features.shape[-1] == 60
        return self.conv(input_features.movedim(1, 2) if self.form == "frames first" else input_features)


@pytest.mark.parametrize("form", ["channels first", "frames first", "waves", "fixed"])
def test_a_probe_has_the_form_that_the_encoder_hears(form: str) -> None:
    model = Hears(form)
    with torch.no_grad():
        model(**SPEECH.sources(model, 2).tensors)


def test_what_hears_nothing_is_refused_in_a_sentence() -> None:
    model = Hears("fixed")
    model.config.max_source_positions = 7
    with pytest.raises(UsageError, match="neither spectra nor waves"):
        SPEECH.sources(model, 1)
