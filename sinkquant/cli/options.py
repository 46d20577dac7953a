"""Arguments and options that several commands share, with one wording each."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Bos(StrEnum):
    """Whether text begins with the BOS token."""

    auto = "auto"
    always = "always"
    never = "never"


Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A transformers folder, a hub id (org/name), a .gguf file or package:NAME."),
]
Checkpoint = Annotated[str, typer.Argument(metavar="OUT", help="The folder that `sinkquant quantize` wrote.")]
Html = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write one self-contained HTML page, outside the checkpoint.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
BosOption = Annotated[Bos, typer.Option("--bos", help="Begin text with BOS: as the tokenizer does, always or never.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Allow Python code that the model brings along to run.")
]
Calibration = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="python-docs, self (the model writes it), datasets:NAME, a text file, or one with rows (jsonl, json, csv, "
        "parquet), FILE:COLUMN to name the column; for images and speech a folder.",
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", metavar="TASK", help="What the model is for, where its configuration does not say it."),
]
