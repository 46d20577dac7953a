"""Encoder-decoders of text: the words that they write, against the float model's."""

from __future__ import annotations

import random
import re

from eval.runs import ASSETS, SHARED
from eval.tasks.subject import DYNAMIC, NPU, PLAIN, Setting, Subject

WIKI = SHARED / "data/wikitext-2/wiki.test.raw"
SCORED, CALIBRATED = 1500, 500


def words(scored: bool) -> str:
    """A file with English words, one a line, drawn from WikiText-2; those of the two files differ."""
    path = ASSETS / f"words-{'scored' if scored else 'calibrated'}.txt"
    if WIKI.exists() and not path.exists():
        found = sorted(set(re.findall(r"[A-Za-z][a-z']{2,14}", WIKI.read_text(encoding="utf-8"))))
        drawn = random.Random(0).sample(found, SCORED + CALIBRATED)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(drawn[:SCORED] if scored else drawn[SCORED:]) + "\n", encoding="utf-8")
    return str(path)


EACH = ("calibration.sequences=31",)  # of 16 words: all but those that the proof takes
GPTQ, FOUR, EIGHT = (
    Setting(f"w8a8-npu, GPTQ{more}", "w8a8-npu", ("weights.method=gptq", *keys), goal=True)
    for more, keys in (
        ("", ()), (", 4 spike units", ("activations.spikes=4",)), (", 8 spike units", ("activations.spikes=8",)),
    )
)  # fmt: skip
SUBJECTS = (
    Subject(
        "g2p-BART", "seq2seq-lm", SHARED / "models/g2p-bart-us", words(False), words(True), SCORED,
        "Words to phonemes, one block a stack; calibrated on 500 words that the model answers itself, measured on 1500 "
        "others of WikiText-2.",
        settings=(
            PLAIN, DYNAMIC, NPU, GPTQ, FOUR, EIGHT, Setting("w8a8-static", "w8a8-static"),
            Setting("w4a16, groups of 64", "w4a16", ("weights.group_size=64", "tuning.epochs=0")),
            Setting("8-bit keys and values", "kv4", ("kv_cache.bits=8",)),
        ),
        overrides=EACH, goals={"same_output": (0.98, 0.988)}, write=True,
    ),
)  # fmt: skip
