"""Kills: a run that is ended at any moment is finished by the same command with the same bytes, and leaves nothing.

`python -m eval.kills` ends `sinkquant quantize` of a tiny model at moments spread over a whole run, by SIGKILL,
SIGTERM, SIGHUP and SIGINT, and runs it again; then it ends the replacement of a checkpoint around its renames.
Children are forked, so that the imports, which write nothing, are paid for once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from eval.runs import RESULTS, write
from sinkquant.cli.main import app
from sinkquant.errors import SinkquantError
from sinkquant.evaluation.versions import versions
from sinkquant.formats import folder as folders
from sinkquant.formats import work
from sinkquant.formats.manifest import verify
from tests import tiny

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
EACH = 10  # moments a signal of the list
RECIPES = ("w4a4kv4", None)  # a named one, and the choice, which writes two checkpoints
SMALL = ("--set", "calibration.sequences=4", "--set", "calibration.length=64")


class Place:
    """A model, a text, and a folder for outputs beside which nothing may be left."""

    def __init__(self, folder: Path) -> None:
        model = tiny.random_llama()
        tiny.train(model, tiny.byte_tokenizer(), steps=20)
        self.model = tiny.save(model, folder / "model")
        self.text = folder / "text.txt"
        self.text.write_text(tiny.sentences(600), encoding="utf-8")
        self.outputs, self.cache, self.log = folder / "outputs", folder / "cache", folder / "log"
        self.outputs.mkdir()
        os.environ["SINKQUANT_CACHE"] = str(self.cache)

    def quantize(self, out: Path, recipe: str | None, change: Callable[[], None] = lambda: None) -> int:
        """The id of a forked process that runs the command, after `change`."""
        chosen = ("--recipe", recipe) if recipe else ("--bits", "8", "--target", "sink-aware")
        command = ["quantize", self.model, "-o", out, "--overwrite", "--calibration", self.text, *chosen, *SMALL]
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            torch.set_num_threads(1)  # replaces the parent's thread pool, for which threads that load would race
            change()
            app([str(word) for word in command])
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            os._exit(code)

    def left(self) -> int:
        """Folders that do not belong there: beside the outputs, or unfinished runs."""
        unfinished = self.cache / "unfinished"
        runs = list(unfinished.iterdir()) if unfinished.is_dir() else []
        return len(runs) + self.hidden()

    def hidden(self) -> int:
        """Hidden folders beside the outputs."""
        return len([path for path in self.outputs.iterdir() if path.name.startswith(".")])


def end(child: int) -> int:
    """The exit code of a process, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def moments(place: Place, recipe: str | None, each: int, numbers: tuple[int, ...]) -> list[dict[str, Any]]:
    """Kills spread over a run."""
    whole, out = place.outputs / "whole", place.outputs / "out"
    start = time.perf_counter()
    assert end(place.quantize(whole, recipe)) == 0, place.log.read_text()
    seconds = time.perf_counter() - start
    expected, rows = verify(whole).files, []
    for index in range(each):
        for turn, number in enumerate(numbers):
            at = (index + (turn + 0.5) / len(numbers)) / each
            code = 0
            while not code:  # a run that was over sooner than the first one, which other programs may have slowed down
                child, begin = place.quantize(out, recipe), time.perf_counter()
                time.sleep(at * seconds)
                os.kill(child, number)
                code = end(child)
                seconds = seconds if code else min(seconds, time.perf_counter() - begin) * 0.9
            after = place.hidden()
            assert end(place.quantize(out, recipe)) == 0, place.log.read_text()
            rows.append({
                "recipe": recipe or "chosen", "signal": signal.Signals(number).name, "at": round(at, 3), "code": code,
                "left_by_signal": after, "equal": verify(out).files == expected, "left": place.left(),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def renames(place: Place, recipe: str | None) -> list[dict[str, Any]]:
    """Ends before the swap, right after it and while the old checkpoint goes, by each signal."""

    def around(number: int, moment: str) -> None:
        real, gone = folders.exchange, work.shutil.rmtree

        def before(*paths: Path) -> bool:
            os.kill(os.getpid(), number)
            return real(*paths)

        def after(*paths: Path) -> bool:
            done = real(*paths)
            os.kill(os.getpid(), number)
            return done

        def removing(*_: Any, **__: Any) -> None:
            mock.patch.object(work.shutil, "rmtree", gone).start()
            os.kill(os.getpid(), number)

        patches = {"before": (folders, "exchange", before), "after": (folders, "exchange", after),
                   "removing": (work.shutil, "rmtree", removing)}  # fmt: skip
        mock.patch.object(*patches[moment]).start()

    rows, out = [], place.outputs / "out"
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        for moment in ("before", "after", "removing"):
            child = place.quantize(out, recipe, lambda n=number, m=moment: around(n, m))  # type: ignore[misc]
            code = end(child)
            rows.append({"signal": number.name, "moment": moment, "code": code, "complete": complete(out)})
            assert end(place.quantize(out, recipe)) == 0, place.log.read_text()
            rows[-1]["left"] = place.left()
            print(rows[-1], flush=True)
    return rows


def complete(out: Path) -> bool:
    """Whether a whole checkpoint is there."""
    try:
        verify(out)
    except SinkquantError:
        return False
    return True


def table(kills: list[dict[str, Any]], swaps: list[dict[str, Any]]) -> str:
    """The results in a few lines."""
    lines = [
        "# Kills", "", "`python -m eval.kills`: a tiny model; kills spread over a run, then the same command again.",
        "", "| recipe | signal | kills | bit-equal afterwards | folders left |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for key in dict.fromkeys((row["recipe"], row["signal"]) for row in kills):
        rows = [row for row in kills if (row["recipe"], row["signal"]) == key]
        equal, left = sum(row["equal"] for row in rows), sum(row["left"] for row in rows)
        lines.append(f"| {key[0]} | {key[1]} | {len(rows)} | {equal} | {left} |")
    equal, reached = sum(row["equal"] for row in kills), sum(row["code"] != 0 for row in kills)
    hidden = sum(row["left_by_signal"] for row in kills if row["signal"] != "SIGKILL")
    whole, left = sum(row["complete"] for row in swaps), sum(row["left"] for row in swaps)
    lines += [
        "", f"Together {equal} of {len(kills)} bit-equal; {reached} of them hit a run that was still going. Beside the",
        f"outputs SIGTERM, SIGHUP and SIGINT left {hidden} hidden folders themselves.",
        "", f"Around the renames: {whole} of {len(swaps)} leave a complete checkpoint at the output, and the next run",
        f"leaves {left} folders.",
        "", ", ".join(f"{name} {version}" for name, version in versions().items()), "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Run all and write results/kills.json and .md; ends with 1 where anything was lost.

    With `--quick` three kills of one recipe, and nothing is written.
    """
    parser = ArgumentParser(description=main.__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)  # a forked process has no other threads
    with tempfile.TemporaryDirectory() as temporary:
        place = Place(Path(temporary))
        if quick:
            sys.exit(lost(moments(place, RECIPES[0], 1, SIGNALS[1:4]), []))
        kills = [row for recipe in RECIPES for row in moments(place, recipe, EACH // len(RECIPES), SIGNALS)]
        swaps = renames(place, RECIPES[0])
    write(RESULTS / "kills.json", json.dumps({"kills": kills, "renames": swaps}, indent=1) + "\n")
    write(RESULTS / "kills.md", table(kills, swaps))
    print(table(kills, swaps))
    sys.exit(lost(kills, swaps))


def lost(kills: list[dict[str, Any]], swaps: list[dict[str, Any]]) -> bool:
    """Whether any run ended with other bytes, without a checkpoint or with something left."""
    return not all(row.get("equal", row.get("complete")) and not row["left"] for row in (*kills, *swaps))


if __name__ == "__main__":
    main()
