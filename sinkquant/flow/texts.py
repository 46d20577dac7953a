"""The text of a run: what is calibrated on, what the proof is measured on, and that the model can read both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.inputs.text import TokenBatches, load_calibration
from sinkquant.models.fit import check_ids, check_text, longest_text
from sinkquant.models.roles import Roles
from sinkquant.recipes.schema import Recipe
from sinkquant.sinks.report import SinkReport

HELD_OUT = 2  # sequences behind the calibration text that the proof is measured on


@dataclass(frozen=True)
class Texts:
    """Token ids without BOS: `calibration` (N, T) and `held_out` (M, T) int64. `notes`: clauses on both."""

    calibration: Tensor
    held_out: Tensor
    notes: tuple[str, ...]


def read_texts(recipe: Recipe, source: str | None, tokenizer: Any, model: Any, roles: Roles, bos: bool) -> Texts:
    """The calibration sequences that `recipe` asks for, and behind them as many tokens as the proof needs.

    `source` stands in for that of the recipe. `bos`: BOS will stand in front. Raises UsageError for text that cannot be
    read or has too few tokens for both, and for ids, in it or in the recipe's prefix, that the model does not have.
    """
    spec = recipe.calibration
    name = source or spec.source
    detects = recipe.sinks.prefix == "auto" or recipe.sinks.exclude
    longest = longest_text(model, roles, bos + (recipe.sinks.max_prefix if detects else 0))
    length = spec.length if longest is None else min(spec.length, longest)
    got = load_calibration(
        name, tokenizer, sequences=spec.sequences + HELD_OUT, length=length, seed=spec.seed, bos=False, model=model,
        column=spec.column,
    )  # fmt: skip
    check_text(with_bos(got.ids, tokenizer.bos_token_id if bos else None), model, name)
    if isinstance(recipe.sinks.prefix, tuple):
        check_ids(recipe.sinks.prefix, model, "sinks.prefix", "name ids below that, or set sinks.prefix=auto")
    spare = _held_out(len(got.ids), spec.sequences, length, name)
    return Texts(got.ids[:-spare], got.ids[-spare:], tuple(_notes(got, len(got.ids) - spare, spare, length, recipe)))


def with_bos(ids: Tensor, bos: int | None) -> Tensor:
    """`ids` (N, T), or (N, T + 1) with BOS in front."""
    return ids if bos is None else torch.cat([torch.full((len(ids), 1), bos), ids], dim=1)


def prefix_of(recipe: Recipe, report: SinkReport | None) -> tuple[int, ...]:
    """The ids that the recipe or the report puts in front."""
    if recipe.sinks.prefix == "none":
        return ()
    if recipe.sinks.prefix == "auto":
        assert report is not None
        return report.prefix.ids
    return tuple(recipe.sinks.prefix)


def _held_out(found: int, wanted: int, length: int, name: str) -> int:
    """How many of `found` sequences are for the proof: fewer where there are fewer than asked for, but one."""
    if found == 1:
        raise UsageError(
            f"{name} has text for one sequence of {length} tokens, and calibration and proof need one each: give a "
            f"longer text, or set calibration.length to {max(16, length // 4)}."
        )
    return HELD_OUT if found == wanted + HELD_OUT else max(1, min(HELD_OUT, found // 4))


def _notes(got: TokenBatches, used: int, spare: int, length: int, recipe: Recipe) -> Iterator[str]:
    spec = recipe.calibration
    if got.said is not None:
        yield f"calibration text from {got.said}"
    if length < spec.length:
        yield f"sequences have {length} tokens and not {spec.length}, because the model has no positions for more"
    if used < spec.sequences:
        yield (
            f"{got.source} is too short for the {spec.sequences} sequences of {length} tokens that were asked for: "
            f"{used} are calibrated on, and {spare} more prove the result"
        )
