"""A mixture of experts: SmolLM2 with four experts a block, two of them a token, quantized beside the dense model.

    python -m eval.experts [--only NAME …]

Every row measures the float model beside its result, in one run; the protocol is that of `eval.recipes`: raw test text,
no BOS, windows of 2048, float32, the first token of a window is not scored.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from eval.runs import RESULTS, SUBJECTS, Case, Row, Subject, conditions, keep, read, run, write

NAME, FLOAT = "experts", "float"
SUBJECT = SUBJECTS["mixtral"]


@dataclass(frozen=True)
class Setting:
    """A recipe with overrides. `dense`: the setting of `eval.recipes` that is the same on the dense model."""

    recipe: str
    overrides: tuple[str, ...] = ()
    dense: str | None = None


SETTINGS = {
    "w8a8-static": Setting("w8a8-static", dense="W8A8 static"),
    "w4a16": Setting("w4a16", ("weights.group_size=64",), "W4A16 groups (portable)"),
    "w4a16, best": Setting("w4a16", ("weights.group_size=64", "effort=best")),
    "w4a4kv4": Setting("w4a4kv4", dense="W4A4KV4 static"),
}


def about(done: Any, subject: Subject) -> Row:
    """Of a result of `quantize`: the share of the blocks' weights that stayed in float."""
    import torch

    from eval.families.job import block_sizes, float_share
    from sinkquant.models.load import load_model
    from sinkquant.models.source import resolve

    sizes = block_sizes(load_model(resolve(subject.model), dtype=torch.float32))
    return {"float_share": float_share(sizes, done.plan)}


def measure_float(subject: Subject) -> Row:
    """The model alone on the same tokens."""
    import torch

    from eval.runs import weight_bytes
    from sinkquant.evaluation.score import evaluate_one
    from sinkquant.evaluation.versions import versions
    from sinkquant.evaluation.windows import text_windows
    from sinkquant.models.load import load_model, load_tokenizer
    from sinkquant.models.source import resolve

    source = resolve(subject.model)
    text, window = subject.text.read_text(encoding="utf-8"), subject.window
    windows = text_windows(text, load_tokenizer(source), window=window, max_tokens=subject.tokens)
    found = evaluate_one(load_model(source, dtype=torch.float32), windows)
    return {
        "perplexity": found.perplexity, "tokens": windows[:, 1:].numel(), "bytes": weight_bytes(subject.model),
        "text": subject.text.name, "versions": versions(),
    }  # fmt: skip


def markdown(rows: list[Row]) -> str:
    """The table of all rows that were measured so far, and how they were measured."""
    plain = next((row for row in rows if row["setting"] == FLOAT), None)
    measured = [row for name in SETTINGS for row in rows if row["setting"] == name]
    lines = [
        "# A mixture of experts", "",
        "SmolLM2-135M-Instruct as a Mixtral with four experts a block and two of them a token: every expert is the "
        "dense feed-forward plus noise of its own (2 % of its size), the router is random.", "",
        "| recipe | result | float | result ÷ float | dense model: result | dense: result ÷ float | KL | top-1 "
        "| blocks in float | size | time | memory |", "|---" * 12 + "|",
    ]  # fmt: skip
    if plain is not None:
        lines.append(f"| float | | {plain['perplexity']:.2f} |" + " |" * 6 + f" {plain['bytes'] / 1e6:.1f} MB | | |")
    for row in measured:
        result, baseline = row["result_perplexity"], row["baseline_perplexity"]
        lines.append(
            f"| {row['setting']} | {result:.2f} | {baseline:.2f} | {result / baseline:.3f} "
            f"| {_dense(SETTINGS[row['setting']].dense)} | {row['kl']:.4f} | {row['top1_agreement']:.1%} "
            f"| {row['float_share']:.2%} | {row['bytes'] / 1e6:.1f} of {row['baseline_bytes'] / 1e6:.1f} MB "
            f"| {sum(row['seconds'].values()):.0f} s ({row['threads']}) | {row['peak_bytes'] / 1e9:.2f} GB |"
        )
    overrides = "; ".join(f"{n}: `{' '.join(s.overrides)}`" for n, s in SETTINGS.items() if s.overrides)
    lines += [
        "", "Result and float are perplexities, KL is in nats a token; blocks in float: share of the blocks' weights "
        "that stay so (routers and norms); size is that of the weight files; time and memory are those of `quantize`, "
        "its proof included, with the threads in brackets. Dense: SmolLM2 itself, from "
        f"[smollm2.md](smollm2.md). Overrides: {overrides}.{_peer()}",
        "", "## How it was measured", "", *conditions(measured),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _peer() -> str:
    """A sentence on another tool's experts, where it was measured."""
    rows = [row for row in read(RESULTS / "peers-mixtral.json") if "in_memory" in row]
    return "".join(
        f" {row['peer']} ({row['group']}, {row['setting']}) on the same calibration and text: {row['in_memory']:.2f} "
        f"in memory, {row['result_perplexity']:.3g} as {row['loaded_by']} loads it "
        "([peers-mixtral.md](peers-mixtral.md))."
        for row in rows
    )


def _dense(setting: str | None) -> str:
    """Two cells: the dense model's perplexity, and that over its float one's."""
    same = (row for row in read(RESULTS / "smollm2.json") if row["setting"] == setting)
    row = next((row for row in same if row["kind"] == "recipe" and row["seed"] == 0), None)
    if row is None:
        return " | "
    return f"{row['result_perplexity']:.2f} | {row['result_perplexity'] / row['baseline_perplexity']:.3f}"


def main() -> None:
    """Measure what is missing and write the table."""
    parser = argparse.ArgumentParser(prog="python -m eval.experts", description="The recipes on a mixture of experts.")
    names = [FLOAT, *SETTINGS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    options = parser.parse_args()
    if SUBJECT.missing():
        parser.error(f"{SUBJECT.missing()[0]} is missing: set SINKQUANT_ASSETS, SINKQUANT_SHARED.")
    for name in options.only:
        if name == FLOAT and not any(row["setting"] == FLOAT for row in read(RESULTS / f"{NAME}.json")):
            keep(NAME, {"setting": FLOAT}, {"setting": FLOAT, **measure_float(SUBJECT)}, markdown)
        elif name != FLOAT:
            setting = SETTINGS[name]
            run([Case((("setting", name),), setting.recipe, setting.overrides)], SUBJECT, NAME, markdown, about)
    write(RESULTS / f"{NAME}.md", markdown(read(RESULTS / f"{NAME}.json")))


if __name__ == "__main__":
    main()
