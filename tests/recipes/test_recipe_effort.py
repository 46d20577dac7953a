"""Effort: a preset between a recipe and the keys that are set with it."""

from __future__ import annotations

from pathlib import Path

from sinkquant.recipes import load_recipe


def test_best_adds_tuning_and_fast_leaves_out_the_sweeps() -> None:
    assert load_recipe("w4a4kv4").tuning.epochs == 0
    assert load_recipe("w4a4kv4", ["effort=best"]).tuning.epochs == 2
    assert load_recipe("w4a4kv4", ["effort=fast"]).weights.sweeps == 0


def test_keys_that_are_set_beside_it_win(tmp_path: Path) -> None:
    assert load_recipe("w4a4kv4", ["tuning.epochs=1", "effort=best"]).tuning.epochs == 1
    path = tmp_path / "mine.yaml"
    path.write_text("imports: [w4a4kv4]\ndescription: mine\neffort: best\ntuning:\n  rate: 0.001\n", encoding="utf-8")
    tuning = load_recipe(path).tuning
    assert (tuning.epochs, tuning.rate) == (2, 0.001)
