"""Whatever is wrong with the input: one sentence on stderr, nothing on stdout, the right exit code."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from sinkquant.cli.failures import one_sentence
from sinkquant.errors import SinkquantError, UsageError, out_of_memory
from sinkquant.flow.timing import Stages

Cli = Callable[..., Any]


def sentence_of(result: Any, code: int) -> str:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_an_unknown_recipe_offers_the_nearest_name(cli: Cli, json: tuple[str, ...], tmp_path: Path) -> None:
    result = cli("quantize", "m", "--recipe", "w8a8-statc", "-o", tmp_path / "out", *json)
    assert sentence_of(result, 2).startswith("unknown recipe 'w8a8-statc': did you mean 'w8a8-static'? choose one of ")


def test_an_unknown_key_offers_the_nearest_name(cli: Cli, tmp_path: Path) -> None:
    result = cli("quantize", "m", "-o", tmp_path / "out", "--set", "weights.bit=4")
    assert sentence_of(result, 2).startswith("unknown recipe key 'weights.bit': did you mean 'weights.bits'?")


def test_a_value_that_is_not_allowed(cli: Cli, tmp_path: Path) -> None:
    result = cli("quantize", "m", "-o", tmp_path / "out", "--set", "weights.bits=5")
    assert sentence_of(result, 2) == "weights.bits is 5 but must be 2, 3, 4, 8 or 16."


@pytest.mark.parametrize("wish", [("--bits", 8), ("--target", "portable")])
def test_a_recipe_and_wishes_exclude_each_other(cli: Cli, wish: tuple[object, ...], tmp_path: Path) -> None:
    result = cli("quantize", "m", "--recipe", "w8a8", *wish, "-o", tmp_path / "out")
    assert "leave out --recipe, or leave out --bits and --target" in sentence_of(result, 2)


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        (("--bits", 5), "bits is 5 but must be 4 or 8: name a recipe to set other widths."),
        (
            ("--target", "portabel"),
            "unknown target 'portabel': did you mean 'portable'? choose one of portable, sink-aware.",
        ),
    ],
)
def test_wishes_that_no_recipe_fulfils(cli: Cli, wish: tuple[object, ...], sentence: str, tmp_path: Path) -> None:
    assert sentence_of(cli("quantize", "m", *wish, "-o", tmp_path / "out"), 2) == sentence


def test_quantize_without_an_output_folder(cli: Cli) -> None:
    expected = "no output folder is named: pass -o OUT, or --dry-run to see the plan only."
    assert sentence_of(cli("quantize", "m"), 2) == expected


@pytest.mark.parametrize("command", [("detect",), ("quantize", "--dry-run"), ("evaluate", "out", "--baseline")])
@pytest.mark.parametrize("json", [(), ("--json",)])
def test_a_path_that_is_no_model(cli: Cli, command: tuple[str, ...], json: tuple[str, ...]) -> None:
    result = cli(*command, "./no-such-model", *json)
    assert sentence_of(result, 2) == (
        "no model at './no-such-model': give a transformers folder, a hub id (org/name), a .gguf file or package:NAME."
    )


def test_an_output_folder_that_exists_is_kept(cli: Cli, model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("kept")
    result = cli("quantize", model_folder, "-o", out)
    assert sentence_of(result, 2) == f"{out} exists and is kept: choose another folder or pass --overwrite."
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "precious.txt"]


def test_a_baseline_is_required(cli: Cli) -> None:
    result = cli("evaluate", "out")
    assert result.exit_code == 2
    assert "--baseline" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (SinkquantError("broken: fetch it again."), 1, "error: broken: fetch it again."),
        (UsageError("wrong: do this."), 2, "error: wrong: do this."),
        (KeyboardInterrupt(), 130, "interrupted: run the same command again to go on"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "error: no space is left on the disk: free some and run the command again.",
        ),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            1,
            "error: no space is left on the disk: free some and run the command again.",
        ),
        (
            MemoryError(),
            1,
            "error: memory ran out: close other programs, take less text (--set calibration.sequences=4 "
            "--set calibration.length=256), or use a machine with more memory.",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/root/out"),
            1,
            "error: /root/out cannot be used (permission denied): choose another path.",
        ),
    ],
)
def test_errors_become_a_sentence(
    error: BaseException, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught, one_sentence():
        raise error
    assert caught.value.exit_code == code
    assert capsys.readouterr() == ("", sentence + "\n")


def test_an_unexpected_error_is_a_sentence_with_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SINKQUANT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(typer.Exit) as caught, one_sentence():
        _ = {}["a key\nnobody expected"]
    assert caught.value.exit_code == 1
    (log,) = (tmp_path / "cache/logs").iterdir()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "error: an unexpected KeyError ('a key\\nnobody expected') ended the command: report it with "
        f"{log}, which holds the command, the versions and the traceback.\n"
    )
    text = log.read_text(encoding="utf-8")
    for part in ("command: ", "platform: ", "torch: ", "sinkquant: ", "Traceback", "test_cli_errors.py", "KeyError"):
        assert part in text, part


def test_memory_that_torch_does_not_get_is_memory() -> None:
    import torch

    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**50)
    assert out_of_memory(caught.value)
    assert not out_of_memory(RuntimeError("shapes do not match"))


def test_a_log_says_in_which_stage_it_was() -> None:
    with pytest.raises(KeyError) as caught, Stages(lambda *_: None)("export"):
        raise KeyError("x")
    assert caught.value.__notes__ == ["in stage export"]


def test_a_log_goes_where_it_can_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SINKQUANT_CACHE", str(tmp_path / "file/cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(typer.Exit), one_sentence():
        _ = 1 // 0
    (log,) = tmp_path.glob("sinkquant-*.log")
    assert str(log) in capsys.readouterr().err
    log.unlink()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(typer.Exit), one_sentence():
        _ = 1 // 0
    assert capsys.readouterr().err == (
        "error: an unexpected ZeroDivisionError (integer division or modulo by zero) ended the command: "
        "report it with the command and its versions.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said", "command"),
    [
        (("evaluate", "out"), "missing option '--baseline'", "evaluate"),
        (("detect",), "missing argument 'MODEL'", "detect"),
        (("quantise", "m"), "no such command 'quantise'", ""),
        (("detect", "m", "n"), "got unexpected extra argument", "detect"),
        (("--loud",), "no such option: --loud", ""),
        (("evaluate", "o", "--baseline", "m", "--window", "x"), "invalid value for '--window'", "evaluate"),
    ],
)
def test_a_command_line_that_cannot_be_read(cli: Cli, arguments: tuple[str, ...], said: str, command: str) -> None:
    sentence = sentence_of(cli(*arguments), 2)
    assert sentence.startswith(said)
    assert sentence.endswith(" --help).") and command in sentence


def test_the_handler_covers_every_command(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sinkquant.recipes.list_recipes", interrupt)
    result = cli("recipes")
    assert (result.exit_code, result.stdout, result.stderr) == (
        130,
        "",
        "interrupted: run the same command again to go on\n",
    )
