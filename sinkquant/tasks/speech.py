"""Encoder-decoders that hear: speech becomes text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from sinkquant.errors import UsageError
from sinkquant.inputs.batches import Batch
from sinkquant.inputs.sources import INPUTS, SELF
from sinkquant.tasks.task import Ask, Data
from sinkquant.tasks.teacher_forced import TeacherForced

if TYPE_CHECKING:
    from sinkquant.models.roles import Roles, Stack
    from sinkquant.models.source import Source

AT_ONCE = 4  # clips that are padded to one length
FRAMES, WAVE = 211, 16001  # of the probe, where a model takes any number; lengths that nothing else has


class Speech(TeacherForced):
    """Clips and what is said in them."""

    name = "speech"
    words = "speech recogniser"
    auto = "AutoModelForSpeechSeq2Seq"

    def processor(self, source: Source) -> Any:
        """Feature extractor and tokenizer."""
        from sinkquant.models.load import load_processor

        return load_processor(source, "AutoProcessor")

    def sources(self, model: Any, samples: int) -> Batch:
        """Noise in the form that the encoder takes: (N, channels, frames), (N, frames, channels) or waves (N, n).

        Raises UsageError where it takes none of them.
        """
        encoder, draw = model.get_encoder(), torch.Generator().manual_seed(0)
        convolutions = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv1d)]
        channels = convolutions[0].in_channels if convolutions else 1
        places = getattr(model.config, "max_source_positions", None) or 0
        full = places * math.prod(m.stride[0] for m in convolutions)
        for shape in ((channels, FRAMES), (FRAMES, channels), (WAVE,), (channels, full)):
            noise = torch.randn(samples, *shape, generator=draw)
            if _takes(model, model.main_input_name, noise):
                return Batch({model.main_input_name: noise})
        raise UsageError(f"{type(model).__name__} hears neither spectra nor waves: this architecture is not supported.")

    def read(self, ask: Ask, processor: Any, model: Any, roles: Roles) -> Data:
        """Clips with transcripts, or clips that the model transcribes."""
        from sinkquant.inputs.audio import read_clips
        from sinkquant.inputs.speech import heard, speech_batches
        from sinkquant.tasks.parts import divided

        rate, longest = heard(processor)
        source = None if ask.source is None or ask.source == SELF or ask.source in INPUTS else ask.source
        count = ask.samples + ask.held_out
        clips = read_clips(source, rate=rate, count=count, seed=ask.seed, column=ask.column, longest=longest)
        return divided(speech_batches(clips, processor, model, AT_ONCE), ask.held_out, ask, "clip")

    def says(self, processor: Any, ids: Sequence[int]) -> str:
        """Decoded, and made plain."""
        return plain(processor, str(processor.decode(list(ids), skip_special_tokens=True)))

    def place(self, model: Any, stack: Stack, index: int, rows: int) -> str:
        """A frame of the encoder, or a position of the decoder."""
        return f"{'frame' if self.hears(model, stack) else 'token'} {index}"


@torch.no_grad()
def _takes(model: Any, name: str, noise: torch.Tensor) -> bool:
    """The whole model is asked: a stock loader unpacks weights when it is called, and not when its encoder is."""
    try:
        model(**{name: noise, "decoder_input_ids": torch.ones(len(noise), 1, dtype=torch.int64)}, use_cache=False)
    except Exception:  # whatever a model's code raises that wants another form
        return False
    return True


def plain(processor: Any, text: str) -> str:
    """Without case, punctuation and, as far as the processor knows them, other spellings."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if getattr(tokenizer, "english_spelling_normalizer", None):
        return str(tokenizer.normalize(text)).strip()
    return " ".join(re.sub(r"[^\w\s']|_", " ", text.casefold()).split())


SPEECH = Speech()
