"""Where text comes from: a file, a data set or a named source becomes an iterator of strings.

Joined together, the strings of a source are its text: a text file yields its lines; the rows of a data set, a .jsonl or
a .parquet file yield documents, each followed by a blank line.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sinkquant.calibration.python_docs import python_docs
from sinkquant.errors import SinkquantError, UsageError, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Text = Generator[str, None, None]

SELF = "self"  # written by the model, see selfwrite.py: it yields ids, so data.py treats it apart
NAMED: Mapping[str, Callable[[], Text]] = MappingProxyType(
    {"python-docs": python_docs, "python-docs:evaluation": partial(python_docs, "evaluation")}
)
TEXT_SUFFIXES = (".txt", ".md", ".raw")
SUFFIXES = (*TEXT_SUFFIXES, ".jsonl", ".parquet")
DATASETS = "datasets:"


def open_text(spec: str, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> Text:
    """The text of `spec`: a name in `NAMED`, a file with one of `SUFFIXES`, or datasets:NAME[:CONFIG[:SPLIT]].

    The seed shuffles the documents of a data set; files and named sources keep their order. The tokenizer gives the
    chat template for `messages`. Close the iterator when enough is read.

    Raises UsageError for an unknown source or unreadable content, SinkquantError for a data set that does not stream.
    """
    if spec in NAMED:
        return NAMED[spec]()
    if spec.startswith(DATASETS):
        return _documents(_dataset_rows(spec, seed), spec, tokenizer)
    path = Path(spec).expanduser()
    if not path.is_file():
        if path.suffix in SUFFIXES:
            raise UsageError(f"the text file {spec} does not exist: check the path.")
        raise unknown("text source", spec, (*NAMED, SELF, f"{DATASETS}NAME", f"a file ({', '.join(SUFFIXES)})"))
    if path.suffix in TEXT_SUFFIXES:
        return _lines(path)
    if path.suffix == ".jsonl":
        return _documents(_jsonl_rows(path), spec, tokenizer)
    if path.suffix == ".parquet":
        return _documents(_parquet_rows(path), spec, tokenizer)
    raise unknown("kind of text file", path.suffix or path.name, SUFFIXES)


def _lines(path: Path) -> Text:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error.reason}): convert it to UTF-8.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): check the disk and its permissions.") from error


def _jsonl_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"line {number} of {path} is not JSON ({error.msg}): write one object a line.") from error
        if not isinstance(row, dict):
            raise UsageError(f"line {number} of {path} is not a JSON object: write one object a line.")
        yield row


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    # pyarrow, a requirement of `datasets`: its own parquet stream can abort the process at exit (see _dataset_rows).
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:  # pyarrow raises either
        raise UsageError(f"{path} is not a readable parquet file: write or copy it again.") from error


def _dataset_rows(spec: str, seed: int) -> Iterator[Mapping[str, Any]]:
    name, config, split, *rest = [*spec.removeprefix(DATASETS).split(":"), "", ""]
    if not name or any(rest):
        raise UsageError(f"{spec!r} does not name a data set: write datasets:NAME[:CONFIG[:SPLIT]].")
    from datasets import load_dataset

    try:
        stream = load_dataset(name, config or None, split=split or "train", streaming=True)
        rows = iter(stream.shuffle(seed=seed))
        yield from rows
    except ConnectionError as error:
        raise SinkquantError(
            f"data set {name!r} cannot be reached: connect to the network, or use a text file, python-docs or self."
        ) from error
    except Exception as error:  # whatever the builder of that data set raises
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise SinkquantError(f"data set {spec!r} cannot be read ({reason}): check name, config and split.") from error
    finally:
        # Arrow's reader threads must end before Python does, or they abort it (huggingface/datasets issue 7566).
        stream = rows = None
        gc.collect()


def _documents(rows: Iterator[Mapping[str, Any]], source: str, tokenizer: PreTrainedTokenizerBase) -> Text:
    for number, row in enumerate(rows, start=1):
        document = _document(row, tokenizer)
        if document is None:
            raise UsageError(
                f"row {number} of {source} holds no text (fields: {', '.join(row) or 'none'}): name the column 'text'."
            )
        if document.strip():
            yield document + "\n\n"


def _document(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The field `text`, else `messages` as a chat, else the first string; None where there is none of them."""
    if isinstance(row.get("text"), str):
        return row["text"]
    if isinstance(row.get("messages"), list):
        return _chat(row["messages"], tokenizer)
    return next((value for value in row.values() if isinstance(value, str)), None)


def _chat(messages: list[Any], tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        if tokenizer.chat_template is None:
            return "\n\n".join(message["content"] for message in messages)
        rendered = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # a template may raise anything
        raise UsageError(
            f"a list of messages cannot be joined ({error}): give each message the fields role and content, "
            "in the order that the model's chat template expects."
        ) from error
    # The BOS policy decides about BOS, not the template.
    return rendered.removeprefix(tokenizer.bos_token or "")
