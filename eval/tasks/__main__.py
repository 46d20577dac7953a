"""The command; see the package."""

from __future__ import annotations

import argparse
from importlib import import_module

from eval.tasks.measure import run

NAMES = ("embedding", "images", "image_text", "seq2seq_lm", "speech")


def main() -> None:
    """Measure the tasks that are named, or all."""
    parser = argparse.ArgumentParser(description="Real models of every task, float and quantized, in one run.")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(NAMES))
    parser.add_argument("--only", nargs="+", metavar="SETTING", help="names of settings")
    given = parser.parse_args()
    for name in given.tasks or NAMES:
        if name not in NAMES:
            parser.error(f"there is no task {name!r} here: choose from {', '.join(NAMES)}")
        for subject in import_module(f"eval.tasks.{name}").SUBJECTS:
            if subject.missing():
                print(f"{subject.name}: {subject.missing()[0]} is missing, left out", flush=True)
                continue
            run(subject, given.only)


if __name__ == "__main__":
    main()
