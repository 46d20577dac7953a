"""Which text to calibrate on: the recipes on WikiText, on what the model writes itself, and on Python's documentation.

    python -m eval.calibration [--model smollm2|gemma3|stories260k] [--recipes RECIPE …] [--sequences N] [--length N]

One command, resumable; writes the JSON and the Markdown table. `wikitext` is the subject's own calibration file.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from eval.runs import Case, Row, Subject, conditions, parse, run

RECIPES = ("w8a8-static", "w4a8kv4")
TEXTS = ("file", "self", "python-docs")


def cases(recipe: str, sequences: int, length: int, subject: Subject) -> list[tuple[Case, Subject]]:
    """A recipe on every text."""
    size = (f"calibration.sequences={sequences}", f"calibration.length={length}")
    made = []
    for text in TEXTS:
        labels = (
            ("model", subject.model.name), ("recipe", recipe), ("calibration", text),
            ("calibration_size", f"{sequences} × {length}"),
        )  # fmt: skip
        source = subject.calibration if text == "file" else Path(text)
        made.append((Case(labels, recipe, size), replace(subject, calibration=source)))
    return made


def cell(row: Row, text: str | None = None) -> tuple[str, ...]:
    """What rows to be compared have in common, and the text, `text` in its place."""
    return row["model"], row["calibration_size"], row["recipe"], text or row["calibration"]


def markdown(rows: list[Row]) -> str:
    """One line a model, recipe and text."""
    lines = [
        "# Calibration texts", "",
        "The same recipe, calibrated on the file that the model's other tables use (WikiText-2's validation text, or "
        "TinyStories), on text that the model writes itself, and on the documentation of Python. More: how far the "
        "perplexity is above the file's.", "",
        "| model | recipe | calibrated on | tokens | perplexity | more | FP | KL | top-1 | time |", "|---" * 10 + "|",
    ]  # fmt: skip
    known = {cell(row): row for row in rows}
    for row in sorted(rows, key=cell):
        file = known.get(cell(row, "file"))
        more = f"{row['result_perplexity'] / file['result_perplexity'] - 1:+.1%}" if file else "not measured"
        lines.append(
            f"| {row['model']} | {row['recipe']} | {row['subject']['calibration']} | {row['calibration_size']} "
            f"| {row['result_perplexity']:.2f} | {more} | {row['baseline_perplexity']:.2f} | {row['kl']:.4f} "
            f"| {row['top1_agreement']:.1%} | {sum(row['seconds'].values()):.0f} s |"
        )
    return "\n".join([*lines, "", "## How it was measured", "", *conditions(rows)]) + "\n"


def main() -> None:
    """Measure what is missing and write the table."""
    parser = argparse.ArgumentParser(prog="python -m eval.calibration", description="The text to calibrate on.")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES, metavar="RECIPE")
    parser.add_argument("--sequences", type=int, default=16, help="calibration sequences")
    parser.add_argument("--length", type=int, default=1024, help="tokens a calibration sequence")
    options, subject = parse(parser)
    for recipe in options.recipes:
        for case, at in cases(recipe, options.sequences, options.length, subject):
            run([case], at, "calibration", markdown)


if __name__ == "__main__":
    main()
