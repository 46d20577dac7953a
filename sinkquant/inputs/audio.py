"""Spoken clips with what is said in them, from a folder, one file, rows of a file or a data set."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sinkquant.errors import UsageError
from sinkquant.inputs import folders, media, transcripts
from sinkquant.inputs.broken import Broken
from sinkquant.inputs.layouts import joined
from sinkquant.inputs.said import Left, number
from sinkquant.inputs.sounds import SHORTEST, SUFFIXES, sound
from sinkquant.inputs.tables import Table, column_named, existing, open_table

GIVE = "a folder of audio with transcripts.jsonl in it, a file with rows, or datasets:NAME"


class Entry(NamedTuple):
    """A clip that is not opened yet: its name, its file, bytes or samples, and its transcript if there is one."""

    name: str
    content: object
    text: str | None


@dataclass(frozen=True)
class Clips:
    """`samples`: one array (n,) float32 a clip, at `rate` Hz. `texts`: what is said, one a clip; empty where unknown.

    `said`: a clause on what was read and what was left out.
    """

    names: tuple[str, ...]
    samples: tuple[np.ndarray, ...]
    texts: tuple[str, ...]
    rate: int
    source: str
    said: str

    def __len__(self) -> int:
        return len(self.samples)


def read_clips(
    spec: str | None,
    *,
    rate: int,
    count: int | None = None,
    seed: int = 0,
    column: str | None = None,
    longest: float | None = None,
) -> Clips:
    """Up to `count` clips of `spec`, or all, at `rate` Hz, in an order that the seed chooses.

    `spec`: a folder, at any depth (transcripts: `transcripts.of_folder`), one file, or rows with audio and text of a
    file (FILE or FILE:AUDIO:TEXT) or of a data set. Where some clips have a transcript, those without are left out.
    Clips of more than `longest` seconds are left out too, since their transcripts would not fit; without any transcript
    they are cut.

    Raises UsageError where no clip can be read or none is named, SinkquantError for a data set that does not stream.
    """
    if not spec:
        raise UsageError(f"the model hears speech, and none is named: give {GIVE}.")
    if count is not None and count < 1:
        raise UsageError(f"{count} clips are too few: ask for at least 1.")
    source, entries, said, told = _find(spec, seed, column)
    most = None if longest is None else int(longest * rate)
    names: list[str] = []
    samples: list[np.ndarray] = []
    texts: list[str] = []
    left = Left()
    for entry in entries:
        try:
            if told and not entry.text:
                raise Broken("has no transcript")
            heard = sound(entry.content, rate)
            if told and most is not None and len(heard) > most:
                raise Broken(f"is longer than the {longest:g} seconds that the model hears")
        except Broken as reason:
            left.add(entry.name, str(reason))
            continue
        for part in _windows(heard, most, rate)[: None if count is None else count - len(samples)]:
            names.append(entry.name)
            samples.append(part)
            texts.append(entry.text or "")
        if len(samples) == count:
            break
    if not samples:
        raise UsageError(f"no clip of {source} can be read, {left.said or 'it holds no rows'}: give {GIVE}.")
    seconds = sum(map(len, samples)) / rate
    read = f"{source}: {number(len(samples), 'clip')} of {seconds / len(samples):.1f} seconds on average"
    if count is not None and len(samples) < count:
        read += f", not the {count} asked for"
    said = "; ".join(filter(None, (read, said, left.said)))
    return Clips(tuple(names), tuple(samples), tuple(texts) if told else (), rate, source, said)


def _windows(heard: np.ndarray, most: int | None, rate: int) -> list[np.ndarray]:
    """Pieces of at most `most` samples; a last one in which nothing can be said falls away."""
    if most is None:
        return [heard]
    return [heard[at : at + most] for at in range(0, len(heard), most) if at == 0 or len(heard) - at > SHORTEST * rate]


def _find(spec: str, seed: int, column: str | None) -> tuple[str, Iterator[Entry], str, bool]:
    """Where clips are, those in the order in which to take them, a clause on them, and whether any has a transcript."""
    table = open_table(spec, seed, column, columns=2)
    if table is not None:
        return _of_table(table, seed)
    path = media.path_of(spec, "folder or file of audio", GIVE)
    if not path.is_dir():
        text = transcripts.beside(path)
        return str(path), iter([Entry(path.name, path, text)]), "", text is not None
    names, others = folders.in_folder(path, SUFFIXES)
    if not names:
        raise folders.nothing_in(str(path), others, "audio", GIVE)
    texts, said = transcripts.of_folder(names, path)
    told = any(texts)
    entries = [Entry(name, path / name, text) for name, text in zip(names, texts, strict=True)]
    return str(path), _shuffled(entries, seed), said if told else "no transcripts", told


def _of_table(table: Table, seed: int) -> tuple[str, Iterator[Entry], str, bool]:
    first, rows = table.sample()
    audio = media.column_with(table, "audio", transcripts.AUDIO_COLUMNS, SUFFIXES, first)
    if len(table.columns) > 1:
        text: str | None = existing(table.columns[1], first, table.source)
    else:
        text = column_named([name for name in transcripts.TEXT_COLUMNS if name != audio.lower()], first)
    entries = (
        Entry(
            media.name_of(row.get(audio), number),
            media.content(row.get(audio), table.folder),
            " ".join(joined(row.get(text)).split()) if text else None,
        )
        for number, row in enumerate(rows, start=1)
    )
    said = f"audio in {audio}, " + (f"transcripts in {text}" if text else "no transcripts")
    return table.source, entries if table.shuffled else _shuffled(list(entries), seed), said, text is not None


def _shuffled(entries: Sequence[Entry], seed: int) -> Iterator[Entry]:
    return iter(random.Random(seed).sample(list(entries), len(entries)))
