"""Encoder-decoders of text: translation, summaries, pronunciation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from sinkquant.inputs.batches import Batch
from sinkquant.tasks.task import Ask, Data
from sinkquant.tasks.teacher_forced import TeacherForced, different

if TYPE_CHECKING:
    from sinkquant.models.roles import Roles
    from sinkquant.models.source import Source

DEFAULT = "python-docs"
"""Text that is at hand everywhere; the model answers it itself."""
PAIR = 64  # tokens of a pair, about: as many pairs are read as hold the tokens that are asked for
AT_ONCE = 32  # pairs that are padded to one length
TOKENS = 11  # of the encoder's probe


class Seq2SeqLM(TeacherForced):
    """Pairs of source and target."""

    name = "seq2seq-lm"
    words = "encoder-decoder of text"
    auto = "AutoModelForSeq2SeqLM"

    def processor(self, source: Source) -> Any:
        """The tokenizer."""
        from sinkquant.models.load import load_tokenizer

        return load_tokenizer(source)

    def sources(self, model: Any, samples: int) -> Batch:
        """Eleven different tokens."""
        ids = different(model, samples, TOKENS)
        return Batch({"input_ids": ids}, {"input_ids": torch.ones_like(ids).bool()})

    def read(self, ask: Ask, processor: Any, model: Any, roles: Roles) -> Data:
        """Pairs, or sources that the model answers."""
        from sinkquant.inputs.pair_batches import pair_batches
        from sinkquant.inputs.pairs import read_pairs
        from sinkquant.tasks.parts import divided

        pairs = 1 if ask.each else max(1, ask.length // PAIR)
        count = pairs * (ask.samples + ask.held_out)
        read = read_pairs(ask.source or DEFAULT, processor, count=count, seed=ask.seed, column=ask.column)
        return divided(pair_batches(read, processor, model, AT_ONCE), pairs * ask.held_out, ask, "pair")

    def says(self, processor: Any, ids: Sequence[int]) -> str:
        """Decoded, blanks made one."""
        return " ".join(str(processor.decode(list(ids), skip_special_tokens=True)).split())


SEQ2SEQ_LM = Seq2SeqLM()
