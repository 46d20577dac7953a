"""Rows of a data set as documents, each followed by a blank line, and what was read of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING

from sinkquant.errors import UsageError, unknown
from sinkquant.inputs.chat import TemplateRefused, render
from sinkquant.inputs.layouts import Found, Row, by_name, in_column, likely_column

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = 100  # rows that tell where the text is


class Documents:
    """An iterator over the documents of `rows`; `said` tells at any time which columns and how many texts were read.

    A named `column` is taken as it is. Otherwise `text`, conversations, and questions with answers are known by their
    names, row by row; for rows without any of them it is the column of the first rows that holds the most language.
    Rows without text are passed over, and so are conversations that the chat template refuses.

    Raises UsageError for a column that does not exist, for text that is not Unicode, and where no row has any text.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        source: str,
        tokenizer: PreTrainedTokenizerBase,
        column: str | None = None,
        example: str = "FILE:COLUMN",
    ) -> None:
        """`source` names the rows in messages, `example` says how a column of them is named."""
        self._source, self._tokenizer, self._column, self._example = source, tokenizer, column, example
        self._counts: Counter[str] = Counter()
        self._empty = self._refused = 0
        self._pieces = self._read(iter(rows))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def columns(self) -> str:
        """The columns that most texts are from, for a message."""
        most = self._counts.most_common(1)
        return most[0][0] if most else "no column"

    @property
    def said(self) -> str:
        """File, columns, number of texts, and how many rows were passed over, as a clause."""
        read = " and ".join(f"{_number(count, 'text')} in {columns}" for columns, count in self._counts.most_common())
        passed = ((self._empty, "without text"), (self._refused, "that the chat template refuses"))
        left_out = [f"{_number(count, 'row')} {why} left out" for count, why in passed if count]
        return "; ".join([f"{self._source}: {read or 'no text'}", *left_out])

    def _read(self, rows: Iterator[Row]) -> Generator[str, None, None]:
        sample = list(islice(rows, SAMPLE))
        likely = self._column or likely_column([row for row in sample if by_name(row) is None])
        if self._column is not None and sample and all(in_column(row, self._column) is None for row in sample):
            raise unknown(f"column of {self._source}", self._column, _columns(sample))
        refusal = ""
        for number, row in enumerate(chain(sample, rows), start=1):
            found = by_name(row) if self._column is None else None
            found = found or (in_column(row, likely) if likely is not None else None)
            try:
                document = self._text(found)
            except TemplateRefused as error:
                self._refused, refusal = self._refused + 1, str(error)
                continue
            if found is None or not document.strip():
                self._empty += 1
                continue
            self._counts[_named(found.columns)] += 1
            yield self._unicode(document, number) + "\n\n"
        if not self._counts:
            raise UsageError(self._nothing(sample, refusal))

    def _text(self, found: Found | None) -> str:
        content = found.content if found is not None else ""
        if isinstance(content, str):
            return content
        return render(content, self._tokenizer) if content else ""

    def _unicode(self, document: str, number: int) -> str:
        try:
            document.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"row {number} of {self._source} holds half a character ({document[error.start]!a}): write the file "
                "again without it."
            ) from None
        return document

    def _nothing(self, sample: Sequence[Row], refusal: str) -> str:
        if not sample:
            return f"{self._source} holds no rows: give a file with text."
        if refusal:
            return (
                f"the conversations in {self._source} do not fit the model's chat template ({refusal}): give each "
                "message role and content, in the order that the template expects, or name a column with plain text."
            )
        names = ", ".join(_columns(sample)) or "none"
        column = f" in the column {self._column!r}" if self._column else ""
        return (
            f"no row of {self._source} holds text{column} (columns: {names}): name one with text, as {self._example}."
        )


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _columns(sample: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(str(key) for row in sample for key in row))


def _named(columns: Sequence[str]) -> str:
    word = "column" if len(columns) == 1 else "columns"
    return f"the {word} {', '.join(map(repr, columns))}"
