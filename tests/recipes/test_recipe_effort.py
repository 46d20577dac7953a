"""Effort: a preset between a recipe and the keys that are set with it."""

from __future__ import annotations

from pathlib import Path

from sinkquant.recipes import load_recipe


def test_best_adds_text_and_descent_and_fast_leaves_tuning_out() -> None:
    fast, plain, best = (load_recipe("w4a4kv4", [f"effort={name}"]) for name in ("fast", "default", "best"))
    assert [recipe.tuning.epochs for recipe in (fast, plain, best)] == [0, 1, 1]
    assert [recipe.weights.sweeps for recipe in (fast, plain, best)] == [0, 0, 2]
    assert plain.tuning.tokens == plain.calibration.sequences * plain.calibration.length / 2
    assert best.tuning.tokens is None
    assert best.calibration.sequences == 2 * plain.calibration.sequences
    assert best.weights.damping < plain.weights.damping


def test_keys_that_are_set_beside_it_win(tmp_path: Path) -> None:
    assert load_recipe("w4a4kv4", ["tuning.epochs=3", "effort=best"]).tuning.epochs == 3
    path = tmp_path / "mine.yaml"
    path.write_text("imports: [w4a4kv4]\ndescription: mine\neffort: best\ntuning:\n  rate: 0.001\n", encoding="utf-8")
    tuning = load_recipe(path).tuning
    assert (tuning.epochs, tuning.rate) == (1, 0.001)
