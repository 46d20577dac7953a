"""The commands on a small random model: what they print, and what they leave on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sinkquant.cli.main import app

Cli = Callable[..., Any]
SMALL = ("--set", "calibration.sequences=2", "--set", "calibration.length=64")


@pytest.fixture(scope="module")
def quantized(model_folder: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    from typer.testing import CliRunner

    out = tmp_path_factory.mktemp("results") / "out"
    wish = ("--target", "sink-aware")
    arguments = ["quantize", str(model_folder), *wish, "-o", str(out), "--calibration", str(text_file), *SMALL]
    return out, CliRunner().invoke(app, arguments)


def test_detect_prints_a_report(cli: Cli, model_folder: Path, text_file: Path) -> None:
    result = cli("detect", model_folder, "--calibration", text_file)
    assert result.exit_code == 0, result.output
    assert "Verdict on tiny" in result.stdout
    assert "Blocks" in result.stdout


def test_detect_json_has_the_promised_keys(cli: Cli, model_folder: Path, text_file: Path) -> None:
    report = json.loads(cli("detect", model_folder, "--calibration", text_file, "--json").stdout)
    assert report.keys() >= {"verdict", "sinks", "channels", "prefix", "residual", "layers"}
    assert len(report["layers"]) == 3


def test_quantize_prints_plan_cost_and_figures(quantized: tuple[Path, Any]) -> None:
    out, result = quantized
    assert result.exit_code == 0, result.output
    plan, cost, figures = (result.stdout.index(title) for title in ("Plan\n", "Cost\n", "Figures\n"))
    assert plan < cost < figures
    assert "weights 8 bits, inputs 8 bits static" in " ".join(result.stdout.split())
    for word in ("prefix", "transformations", "checkpoint", "peak memory", "share", "result perplexity"):
        assert word in result.stdout
    assert "quantize: 3 of 3 done" in result.stderr
    assert "plain quantize: 3 of 3 done" in result.stderr
    assert "on held-out calibration data against" in result.stdout
    assert (out / "config.json").is_file()
    assert [path.name for path in out.parent.iterdir()] == ["out"]  # no temporary folder is left


def test_evaluate_compares_both(cli: Cli, quantized: tuple[Path, Any], model_folder: Path, text_file: Path) -> None:
    arguments = ("evaluate", quantized[0], "--baseline", model_folder, "--text", text_file)
    sizes = ("--window", 64, "--max-tokens", 128)
    comparison = json.loads(cli(*arguments, *sizes, "--json").stdout)
    assert comparison["text"] == "calibration.txt"
    assert comparison["windows"] == 2
    assert comparison["result_perplexity"] == pytest.approx(comparison["baseline_perplexity"], rel=0.05)
    shown = cli(*arguments, *sizes)
    assert shown.exit_code == 0, shown.output
    for word in ("perplexity", "mean KL", "same first choice", "Versions"):
        assert word in shown.stdout


def test_quantize_json_is_one_object(cli: Cli, model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = cli(
        "quantize", model_folder, "--recipe", "w8a8", "-o", out, "--calibration", text_file, *SMALL, "--json",
    )  # fmt: skip
    content = json.loads(result.stdout)
    told = {"path", "plan", "report", "figures", "seconds", "peak_bytes", "choice", "metric", "experts"}
    assert content.keys() == told
    assert content["path"] == str(out)
    assert content["plan"]["recipe"]["name"] == "w8a8"
    assert content["choice"] is None
    assert {"load", "quantize", "export", "prove"} <= content["seconds"].keys()
    evaluated = cli("evaluate", out, "--baseline", model_folder, "--text", text_file, "--max-tokens", 128, "--json")
    assert json.loads(evaluated.stdout)["tokens"] == 127


def test_a_dry_run_writes_nothing(cli: Cli, model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    result = cli(
        "quantize", model_folder, "--dry-run", "-o", tmp_path / "out", "--calibration", text_file, *SMALL,
        "--set", "weights.group_size=64",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "groups of 16 instead of 64" in " ".join(result.stdout.split())
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_what_was_chosen_and_why(cli: Cli, model_folder: Path, text_file: Path) -> None:
    arguments = ("quantize", model_folder, "--bits", 4, "--dry-run", "--calibration", text_file, *SMALL)
    choice = json.loads(cli(*arguments, "--json").stdout)["choice"]
    assert choice["recipe"] == choice["candidate"]
    assert choice["plain_perplexity"] is None
    shown = cli(*arguments)
    assert f"{choice['recipe']}: {choice['reason']}" in shown.stdout
