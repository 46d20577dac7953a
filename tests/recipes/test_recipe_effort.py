"""Effort: a preset between a recipe and the keys that are set with it."""

from __future__ import annotations

from pathlib import Path

from sinkquant.recipes import load_recipe


def test_best_adds_text_and_tuning_and_fast_leaves_out_the_sweeps() -> None:
    plain, best = load_recipe("w4a4kv4"), load_recipe("w4a4kv4", ["effort=best"])
    assert (plain.tuning.epochs, best.tuning.epochs) == (0, 1)
    assert best.calibration.sequences == 2 * plain.calibration.sequences
    assert best.weights.damping < plain.weights.damping
    assert load_recipe("w4a4kv4", ["effort=fast"]).weights.sweeps == 0


def test_keys_that_are_set_beside_it_win(tmp_path: Path) -> None:
    assert load_recipe("w4a4kv4", ["tuning.epochs=3", "effort=best"]).tuning.epochs == 3
    path = tmp_path / "mine.yaml"
    path.write_text("imports: [w4a4kv4]\ndescription: mine\neffort: best\ntuning:\n  rate: 0.001\n", encoding="utf-8")
    tuning = load_recipe(path).tuning
    assert (tuning.epochs, tuning.rate) == (1, 0.001)
