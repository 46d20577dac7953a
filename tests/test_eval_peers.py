"""The benchmark of peers: its settings, its table and what it says of failures; no peer is installed for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from eval.peers import environment, table
from eval.peers.tools import PEERS

FIGURES = {"kl": 0.5, "top1_agreement": 0.5, "bytes": 2e6, "threads": 1}
MEASURED: dict[str, Any] = {
    **FIGURES, "peer": "torchao", "group": "W8A8", "setting": "dynamic", "source": "documented default",
    "baseline_perplexity": 20.0, "result_perplexity": 21.0, "seconds": 3.0, "loaded_by": "its own package",
    "tokens": 8, "text": "a.txt", "windows": 1, "window": 9, "bos": "none", "calibration": "2 × 4 tokens of b.txt",
    "versions": {"torchao": "1.2"},
}  # fmt: skip
FAILED = {
    "peer": "torchao", "group": "W4A16", "setting": "int4", "source": "documented default", "step": "quantize",
    "failure": "ImportError: needs another package",
}  # fmt: skip
OURS = {
    **FIGURES,
    "setting": "W8A8 static",
    "kind": "recipe",
    "seed": 0,
    "result_perplexity": 20.5,
    "seconds": {"a": 4},
}


def row_of(text: str, *cells: str) -> str:
    """The one line of the table that starts with these cells."""
    found = [line for line in text.splitlines() if line.startswith("| " + " | ".join(cells) + " |")]
    assert len(found) == 1, text
    return found[0]


@pytest.mark.parametrize("peer", PEERS)
def test_settings_can_be_named_and_compared(peer: str) -> None:
    settings = PEERS[peer].SETTINGS
    assert len({(setting.group, setting.name) for setting in settings}) == len(settings)
    assert {setting.group for setting in settings} <= set(table.OURS)
    assert all(callable(getattr(PEERS[peer], step)) for step in ("quantize", "save", "load"))
    assert PEERS[peer].PACKAGES


def test_no_peer_is_imported_before_its_environment_is_there() -> None:
    assert not {"llmcompressor", "torchao", "auto_round", "optimum.quanto"} & set(sys.modules)


def test_rows_stand_with_ours_of_the_same_bits() -> None:
    text = table.markdown([MEASURED, FAILED], [OURS])
    ours, theirs = row_of(text, "W8A8", "sinkquant", "W8A8 static"), row_of(text, "W8A8", "torchao", "dynamic")
    assert text.index(ours) < text.index(theirs)
    assert "| 20.50 | 0.5000 | 50.0% | 2.0 MB | 4 s (1) |" in ours
    assert "| 21.00 | 0.5000 | 50.0% | 2.0 MB | 3 s (1) | its own package |" in theirs
    assert "| 20.00 |" in row_of(text, "16", "none", "full precision")
    assert "the best peer as loaded is torchao (dynamic) with 21.00; sinkquant's best is W8A8 static with 20.50" in text
    assert "torchao 1.2" in text


def test_every_line_of_the_table_has_all_columns() -> None:
    lines = [line for line in table.markdown([MEASURED, FAILED], [OURS]).splitlines() if line.startswith("|")]
    assert len(lines) == 6
    assert {line.count("|") for line in lines} == {len(table.COLUMNS) + 1}


def test_a_failure_keeps_its_message() -> None:
    text = table.markdown([FAILED], [])
    assert "failed to quantize" in row_of(text, "W4A16", "torchao", "int4")
    assert "ImportError: needs another package" in text


def test_a_checkpoint_that_changed_is_told() -> None:
    text = table.markdown([MEASURED | {"in_memory": 20.6}], [])
    assert "20.60 in memory, 21.00 once loaded" in text
    assert "is not what was quantized" not in table.markdown([MEASURED | {"in_memory": 21.05}], [])


def test_messages_name_the_error_and_no_place() -> None:
    told = "Traceback\n  File x\nValueError: /home/me/.cache/out/config.json and https://a.b/c are odd\nbye\n"
    assert environment.message(told) == "ValueError: config.json and … are odd"
    assert environment.message("only this") == "only this"
    assert environment.message("") == ""


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(environment.Failed, match=r"^KeyError: 'wanted'$"):
        environment.call([Path(sys.executable), "-c", "raise KeyError('wanted')"])
