"""Speech recognisers: what is heard, told the transcript and written freely."""

from __future__ import annotations

import json

from eval.runs import ASSETS, SHARED
from eval.tasks.subject import DYNAMIC, NPU, PLAIN, Setting, Subject

SPOKEN = SHARED / "audio/spoken-sentences"
SCORED = 40


def clips(scored: bool) -> str:
    """A file that lists the first 40 sentences, or the others."""
    path = ASSETS / f"spoken-{'scored' if scored else 'calibrated'}.jsonl"
    if SPOKEN.exists() and not path.exists():
        found = json.loads((SPOKEN / "transcripts.json").read_text(encoding="utf-8"))
        part = found[:SCORED] if scored else found[SCORED:]
        rows = [{"audio": str(SPOKEN / one["file"]), "text": one["text"]} for one in part]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


FEW = Setting("w8a8-npu, 4 spike units", "w8a8-npu", ("activations.spikes=4",))
SPIKES = ("activations.spikes=16",)
FUSED = Setting("w8a8-npu, 16 spike units", "w8a8-npu", SPIKES, goal=True)
SUBJECTS = (
    Subject(
        "Whisper-base", "speech", ASSETS / "whisper-base", clips(False), clips(True), SCORED,
        "Six blocks a stack; calibrated on 22 spoken sentences, measured on 40 others: teacher-forced, and written "
        "freely.",
        settings=(
            PLAIN, DYNAMIC, NPU, FEW, FUSED,
            Setting("w4a16, groups of 64", "w4a16", ("weights.group_size=64", "tuning.epochs=0")),
            Setting("w8a6, 16 spike units", "w8a8-npu", (*SPIKES, "activations.bits=6")),
            Setting("8-bit keys and values", "kv4", ("kv_cache.bits=8",)),
        ),
        overrides=("calibration.sequences=22",), goals={"kl": (0.004, 0.002)}, write=True,
    ),
)  # fmt: skip
