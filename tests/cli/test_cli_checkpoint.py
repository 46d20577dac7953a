"""`inspect` and `verify` on the command line, and the HTML page."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sinkquant.cli.main import app

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def out(model_folder: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "out"
    named = ["--recipe", "w8a8-static", "--calibration", str(text_file)]
    arguments = ["quantize", str(model_folder), "-o", str(folder), *named]
    sizes = ["--set", "calibration.sequences=2", "--set", "calibration.length=64"]
    assert CliRunner().invoke(app, [*arguments, *sizes]).exit_code == 0
    return folder


def test_inspect_prints_every_table(cli: Cli, out: Path) -> None:
    result = cli("inspect", out)
    assert result.exit_code == 0, result.output
    for title in ("Checkpoint", "Quantized modules", "Left in float", "Runtimes", "Figures", "Versions"):
        assert title in result.stdout
    assert "files verified" in result.stdout


def test_inspect_json(cli: Cli, out: Path) -> None:
    found = json.loads(cli("inspect", out, "--json").stdout)
    assert found["target"] == "sink-aware"
    assert {part["scheme"]["weights"] for part in found["quantized"]} == {"8 bits"}


def test_the_page_is_self_contained_and_outside(cli: Cli, out: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert cli("inspect", out, "--html", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "data:image/png;base64," in text and "Runtimes" in text and "http" not in text
    inside = cli("inspect", out, "--html", out / "report.html")
    assert inside.exit_code == 2 and "lies inside the checkpoint" in inside.stderr
    assert not (out / "report.html").exists()
    nowhere = cli("inspect", out, "--html", tmp_path / "none" / "report.html")
    assert nowhere.exit_code == 2 and "is no folder" in nowhere.stderr


def test_a_full_disk_keeps_the_old_page(cli: Cli, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    page = tmp_path / "report.html"
    page.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    result = cli("inspect", out, "--html", page)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "no space is left" in result.stderr
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]


def test_verify_says_so(cli: Cli, out: Path) -> None:
    result = cli("verify", out)
    assert result.exit_code == 0, result.output
    assert "bit for bit as written" in result.stdout
    assert json.loads(cli("verify", out, "--json").stdout)["difference"]["identical"] is True


def test_verify_of_a_changed_file_is_one_sentence(cli: Cli, out: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(out, tmp_path / "copy")
    with (folder / "tokenizer_config.json").open("a") as file:
        file.write(" ")
    result = cli("verify", folder)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1 and "has changed" in result.stderr


def test_options_of_tasks_need_tasks(cli: Cli) -> None:
    result = cli("evaluate", "out", "--baseline", "m", "--limit", "3")
    assert result.exit_code == 2 and "--limit and --task-data belong to tasks" in result.stderr
    both = cli("evaluate", "out", "--baseline", "m", "--tasks", "a", "--text", "f")
    assert both.exit_code == 2 and "--tasks and --data (or --text) exclude each other" in both.stderr
