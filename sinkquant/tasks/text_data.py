"""The text of a run: what is calibrated on, what the proof is measured on, and that the model can read both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sinkquant.errors import UsageError
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.inputs.bos import bos_policy
from sinkquant.inputs.text import TokenBatches, load_calibration
from sinkquant.models.fit import check_text, longest_text
from sinkquant.models.roles import Roles
from sinkquant.tasks.task import Ask, Data

DEFAULT = "python-docs"
"""Text that is at hand everywhere."""


def read_text(ask: Ask, tokenizer: Any, model: Any, roles: Roles) -> Data:
    """Sequences without BOS, equally long.

    Raises UsageError for text that cannot be read or has too few tokens for both parts, and for ids that the model does
    not have.
    """
    bos = bos_policy(ask.bos, tokenizer)
    name = ask.source or DEFAULT
    longest = longest_text(model, roles, bos + ask.front)
    length = ask.length if longest is None else min(ask.length, longest)
    got = load_calibration(
        name, tokenizer, sequences=ask.samples + ask.held_out, length=length, seed=ask.seed, model=model,
        column=ask.column,
    )  # fmt: skip
    begin = tokenizer.bos_token_id if bos else None
    check_text(got.ids, model, name, begin)
    spare = _held_out(len(got.ids), ask, length, name)
    batches = Batches((Batch({"input_ids": got.ids}),), got.source, got.said)
    kept = len(got.ids) - spare
    notes = tuple(_notes(got, kept, spare, length, ask))
    return Data(batches.part(0, kept), batches.part(kept) if spare else batches, notes, begin)


def _held_out(found: int, ask: Ask, length: int, name: str) -> int:
    """How many of `found` sequences are for the proof: fewer where there are fewer than asked for, but one."""
    if not ask.proves:
        return min(ask.held_out, found // 2)
    if found == 1:
        raise UsageError(
            f"{name} has text for one sequence of {length} tokens, and calibration and proof need one each: give a "
            f"longer text, or set calibration.length to {max(16, length // 4)}."
        )
    return ask.held_out if found == ask.samples + ask.held_out else max(1, min(ask.held_out, found // 4))


def _notes(got: TokenBatches, used: int, spare: int, length: int, ask: Ask) -> Iterator[str]:
    if got.said is not None:
        yield f"calibration text from {got.said}"
    if length < ask.length:
        yield f"sequences have {length} tokens and not {ask.length}, because the model has no positions for more"
    if used < ask.samples:
        yield (
            f"{got.source} is too short for the {ask.samples} sequences of {length} tokens that were asked for: "
            f"{used} are calibrated on, and {spare} more prove the result"
        )
