"""Clips as batches for a model that hears and writes: features, and what is said as the decoder is told it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sinkquant.errors import UsageError, unknown
from sinkquant.inputs.audio import Clips
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.inputs.decoder import end_tokens, longest_target, placed, start_token, teacher_forced, written
from sinkquant.inputs.padding import pad_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LISTENED = 4  # clips that tell the language


def heard(processor: Any) -> tuple[int, float | None]:
    """The rate in Hz at which a processor's model hears, and how many seconds at most; None where there is no end."""
    extractor = _extractor(processor)
    seconds = getattr(extractor, "chunk_length", None)
    return int(extractor.sampling_rate), None if seconds is None else float(seconds)


def speech_batches(
    clips: Clips, processor: Any, model: PreTrainedModel, size: int, *, language: str | None = None
) -> Batches:
    """All clips in batches of `size`: what the feature extractor makes of them, and `decoder_input_ids` (N, T).

    The decoder is told the tokens that the generation configuration puts in front (start, language, transcription, no
    timestamps) and the transcript; labels (N, T) ask for the transcript and the end token. `language` is a code such as
    'en'; without one it is that of the generation configuration, else what the model hears in the first clips. Clips
    without transcripts get what the model writes (greedy).

    Raises UsageError for a language that the model does not know.
    """
    extractor, tokenizer = _extractor(processor), getattr(processor, "tokenizer", processor)
    options = {} if heard(processor)[1] else {"padding": True}  # one that hears so many seconds pads to them itself
    items, first = [], None
    places = longest_target(model)
    most = None if places is None else places + 1  # the last token is asked for and not told
    for start in range(0, len(clips), size):
        samples = list(clips.samples[start : start + size])
        made = extractor(samples, sampling_rate=clips.rate, return_tensors="pt", **options)
        tensors = {name: value for name, value in made.items() if isinstance(value, Tensor)}
        first = first or _first_tokens(model, tensors, language)
        texts = clips.texts[start : start + size] or _transcribed(model, tokenizer, tensors, first)
        rows = [[*first, *_said(tokenizer, text, model)][:most] for text in texts]
        ids, real, labels = teacher_forced(rows, len(first), pad_id(tokenizer))
        items.append(Batch({**tensors, "decoder_input_ids": ids}, {"decoder_input_ids": real}, labels, tuple(texts)))
    said = clips.said if clips.texts else f"{clips.said}; transcribed by the model"
    return Batches(tuple(items), clips.source, said)


def _extractor(processor: Any) -> Any:
    return getattr(processor, "feature_extractor", None) or processor


def _first_tokens(model: Any, tensors: dict[str, Tensor], language: str | None) -> list[int]:
    """What the decoder is given before it writes."""
    given = model.generation_config
    first = [start_token(model)]
    if getattr(given, "lang_to_id", None):
        first += [_language(model, tensors, language), given.task_to_id["transcribe"]]
    elif language is not None:
        raise UsageError(f"the model knows one language, so {language!r} cannot be chosen: leave the language out.")
    untimed = getattr(given, "no_timestamps_token_id", None)
    return first if untimed is None else [*first, int(untimed)]


def _language(model: Any, tensors: dict[str, Tensor], language: str | None) -> int:
    """The token of the language that is named, or else that most of a few clips are heard as."""
    given = model.generation_config
    language = language or getattr(given, "language", None)
    if language is None:
        few = placed(next(iter(tensors.values()))[:LISTENED], model)
        with torch.no_grad():
            return int(model.detect_language(few).mode().values)
    codes = {name.strip("<|>"): int(token) for name, token in given.lang_to_id.items()}
    if language.strip("<|>") not in codes:
        raise unknown("language", language, codes)
    return codes[language.strip("<|>")]


def _said(tokenizer: Any, text: str, model: Any) -> list[int]:
    """The tokens of a transcript and the end token.

    In vocabularies whose words begin with a blank a text does too; in others the blank costs a token.
    """
    forms = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in (f" {text.strip()}", text.strip())]
    return [*min(forms, key=len), *end_tokens(model)[:1]]


def _transcribed(model: Any, tokenizer: Any, tensors: dict[str, Tensor], first: list[int]) -> tuple[str, ...]:
    ids = written(model, tensors, first)
    return tuple(text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True))
