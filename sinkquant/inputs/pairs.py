"""Sources with their targets, of a file with rows or a data set; or sources alone, which the model answers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sinkquant.errors import UsageError
from sinkquant.inputs.layouts import Row, joined
from sinkquant.inputs.said import number
from sinkquant.inputs.sentences import read_sentences
from sinkquant.inputs.tables import column_named, columns_of, existing, open_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMES = (
    ("source", "target"), ("input", "output"), ("input", "target"), ("input_text", "target_text"), ("src", "tgt"),
    ("document", "summary"), ("article", "highlights"), ("article", "summary"), ("text", "summary"),
    ("dialogue", "summary"), ("question", "answer"), ("text", "target"), ("word", "pronunciation"), ("en", "de"),
)  # fmt: skip
TOGETHER = ("translation", "translations", "pair")  # a column that holds both, as {"en": …, "de": …}
SPREAD = 20  # times the pairs that are wanted are read of a file with rows
FORM = "FILE:SOURCE:TARGET"

Target = str | tuple[int, ...]


@dataclass(frozen=True)
class Pairs:
    """`sources` and, a source each, `targets`: texts, or token ids where no tokenizer writes them; empty if unknown."""

    sources: tuple[str, ...]
    targets: tuple[Target, ...]
    source: str
    said: str

    def __len__(self) -> int:
        return len(self.sources)


def read_pairs(
    spec: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    count: int,
    seed: int = 0,
    column: str | None = None,
) -> Pairs:
    """Up to `count` pairs of `spec`, chosen by the seed.

    `spec`: rows of a file (FILE, FILE:SOURCE:TARGET) or of a data set, with columns of usual names (`NAMES`,
    `TOGETHER`), or any text that `read_sentences` takes, whose targets the model has to write. A target may be a list
    of token ids, as `generate` gives them. Rows without source or target are passed over.

    Raises UsageError where there is nothing to read.
    """
    if count < 1:
        raise UsageError(f"{count} pairs are too few: ask for at least 1.")
    table = open_table(spec, seed, None, columns=2)
    if table is not None:
        first, rows = table.sample()
        if len(table.columns) == 1 and column is None and first:
            existing(table.columns[0].partition(".")[0], first, table.source)
        names = _columns(table.columns, first, table.source)
        if names is not None:
            return _of_rows(rows, names, table.source, count, None if table.shuffled else seed)
    sentences = read_sentences(spec, tokenizer, count=count, seed=seed, column=column)
    return Pairs(sentences.texts, (), sentences.source, sentences.said)


def _columns(named: tuple[str, ...], rows: list[Row], source: str) -> tuple[str, str] | None:
    """The columns of source and target, where a dot leads into a mapping; None where there is no such pair."""
    if len(named) == 2:
        for name in named:
            if rows and all(name not in row for row in rows):
                existing(name.partition(".")[0], rows, source)
        return named[0], named[1]
    if named:
        return None
    together = column_named(TOGETHER, rows)
    if together is not None and isinstance(rows[0][together], Mapping) and len(rows[0][together]) == 2:
        first, second = rows[0][together]
        return f"{together}.{first}", f"{together}.{second}"
    for names in NAMES:
        found = [column_named((name,), rows) for name in names]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    return None


def _of_rows(rows: Iterator[Row], names: tuple[str, str], source: str, count: int, seed: int | None) -> Pairs:
    empty = 0
    sample: list[Row] = []
    read: list[tuple[str, Target]] = []
    for row in rows:
        sample = sample or [row]
        text, target = joined(_cell(row, names[0])).strip(), _target(_cell(row, names[1]))
        if not text or not target:
            empty += 1
            continue
        read.append((text, target))
        if len(read) == (count if seed is None else SPREAD * count):
            break
    if not read:
        there = ", ".join(columns_of(sample)) or "none"
        raise UsageError(
            f"no row of {source} holds a source in {names[0]} and a target in {names[1]} (columns: {there}): name the "
            f"columns, as {FORM}."
        )
    chosen = read if seed is None else random.Random(seed).sample(read, min(count, len(read)))
    said = f"{source}: {number(len(chosen), 'pair')} of {names[0]} and {names[1]}"
    if len(chosen) < count:
        said += f", not the {count} asked for"
    if empty:
        said += f"; {number(empty, 'row')} without one of them left out"
    sources, targets = zip(*chosen, strict=True)
    return Pairs(sources, targets, source, said)


def _cell(row: Row, column: str) -> Any:
    value: Any = row
    for part in (column,) if column in row else column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _target(value: object) -> Target:
    """A text, or a list of whole numbers as token ids."""
    if isinstance(value, list) and value and all(isinstance(one, int | float) and one == int(one) for one in value):
        return tuple(int(one) for one in value)
    return joined(value).strip()
