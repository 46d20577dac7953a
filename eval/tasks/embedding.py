"""Embedding models: sentences against the float model's vectors."""

from __future__ import annotations

from eval.runs import ASSETS, SHARED
from eval.tasks.subject import DYNAMIC, NPU, PLAIN, Setting, Subject

MINILM = ASSETS / "minilm-l6"
GOALS = {"cosine": (0.998, 0.9988), "low_cosine": (0.996, 0.998), "neighbours": (0.94, 0.96)}
BEST = Setting("w8a8-npu, centred, GPTQ", "w8a8-npu", ("activations.center=true", "weights.method=gptq"), goal=True)
DOCS, WIKI = "python-docs:evaluation", str(SHARED / "data/wikitext-2/wiki.test.raw")

SUBJECTS = (
    Subject(
        "MiniLM-L6", "embedding", MINILM, "python-docs", DOCS, 1000,
        "All-MiniLM-L6-v2, an encoder with norms behind its blocks' sums; calibrated on the first half of Python's "
        "documentation, measured on 1000 sentences of the second.",
        settings=(PLAIN, DYNAMIC, NPU, BEST), goals=GOALS,
    ),
    Subject(
        "MiniLM-L6, WikiText", "embedding", MINILM, "python-docs", WIKI, 300,
        "The same, measured on 300 paragraphs of WikiText-2: text of another kind than it was calibrated on.",
        settings=(PLAIN, NPU, BEST), goals=GOALS,
    ),
    Subject(
        "SmolLM2-135M as embedder", "embedding", ASSETS / "smollm2-135m-instruct", "python-docs", DOCS, 300,
        "A decoder, the mean of its last hidden states, on 300 sentences; its weights were 4-bit once.",
        settings=(PLAIN, DYNAMIC, NPU, Setting("w8a8-static", "w8a8-static", goal=True)),
        overrides=("calibration.sequences=4",), goals={"cosine": (0.99, 0.998)},
    ),
)  # fmt: skip
