"""What is said in the files of a folder: one file for all, LibriSpeech's, or one text beside each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from sinkquant.inputs import files
from sinkquant.inputs.classes import FILE_COLUMNS
from sinkquant.inputs.layouts import joined
from sinkquant.inputs.tables import column_named

AUDIO_COLUMNS = ("audio", "path", "audio_path", "wav", "flac", "clip", "audio_file", "sound", "speech", *FILE_COLUMNS)
TEXT_COLUMNS = (
    "text", "transcript", "transcription", "sentence", "normalized_text", "raw_text", "utterance", "words", "txt",
)  # fmt: skip
NAMES = ("transcripts", "transcript", "transcriptions", "text", "metadata", "validated", "test")
KINDS = (".json", ".jsonl", ".csv", ".tsv", ".txt")
_BETWEEN = re.compile(r"\s*[\t|,;]\s*|\s+")


def of_folder(names: Sequence[str], folder: Path) -> tuple[list[str | None], str]:
    """The transcript of each of `names` (paths below `folder`), None where there is none, and a clause on its source.

    Tried in turn: a file with all of them (`NAMES` with one of `KINDS`; rows with a column of files and one of texts,
    or lines that begin with the file's name), LibriSpeech's `*.trans.txt`, a text of the same name beside each.

    Raises UsageError for a file that cannot be read.
    """
    for where, said in _candidates(folder):
        texts = [_text_of(where, name) for name in names]
        if any(texts):
            return texts, said
    return [beside(folder / name) for name in names], "texts beside the files"


def _candidates(folder: Path) -> Iterator[tuple[Mapping[str, str], str]]:
    for name in (f"{name}{kind}" for name in NAMES for kind in KINDS):
        if (folder / name).is_file():
            yield _listed(folder / name), f"transcripts of {name}"
    found = sorted(folder.rglob("*.trans.txt"))
    if found:
        yield _lines(line for path in found for line in files.lines(path)), "transcripts of *.trans.txt"


def _listed(path: Path) -> Mapping[str, str]:
    if files.has_rows(path):
        first = list(islice(files.rows(path), 1))
        audio, text = (column_named(names, first) for names in (AUDIO_COLUMNS, TEXT_COLUMNS))
        if audio is not None and text is not None:
            return {_key(row[audio]): joined(row.get(text)) for row in files.rows(path) if row.get(audio)}
    return _lines(files.lines(path))


def _lines(lines: Iterable[str]) -> Mapping[str, str]:
    """`NAME text`, with a blank, a tab, a comma or a bar between; of three fields between bars the last."""
    made = {}
    for line in lines:
        name, *rest = _BETWEEN.split(line.strip(), maxsplit=1)
        if rest:
            made[_key(name)] = rest[0].rpartition("|")[2].strip().strip('"')
    return made


def _key(name: object) -> str:
    return PurePosixPath(str(name).strip().strip('"')).as_posix()


def _text_of(known: Mapping[str, str], name: str) -> str | None:
    """By the path below the folder, else by the file's name, else by that without its suffix."""
    path = PurePosixPath(name)
    return next((known[key] for key in (name, path.name, path.stem) if known.get(key)), None)


def beside(path: Path) -> str | None:
    """The text in the file of the same name, in one line."""
    for kind in (".txt", ".lab"):
        text = path.with_suffix(kind)
        if text.is_file():
            return " ".join("".join(files.lines(text)).split()) or None
    return None
