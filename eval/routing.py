"""Static activations with and without routing of outlier tokens, beside dynamic ones, on text that strains ranges.

    python -m eval.routing [--model FOLDER] [--tokens N]

Weights are rounded to nearest and the same for all three; the schemes of the inputs are exchanged in memory.
Checkpoints are kept in the cache folder, and results of the same model, texts and versions are kept as well.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.checkpoints import CACHE, checkpoint
from eval.runs import ASSETS, RESULTS, SHARED, Row, write
from eval.texts import stress_windows
from sinkquant.quantization.scheme import LinearScheme

RECIPE, COMMON = "w8a8-static", ("calibration.sequences=4", "calibration.length=512")
BARE = ("sinks.prefix=none", *(f"transforms.{name}=false" for name in ("r1", "r2", "r3", "r4")))
VARIANTS = {"the recipe": (), "without prefix and rotations": BARE}
FACTOR, WINDOW = 2.0, 512


def routed(factor: float | None) -> Callable[[LinearScheme], LinearScheme]:
    """The change that lets static inputs route, or not."""

    def change(scheme: LinearScheme) -> LinearScheme:
        assert scheme.activation is not None
        return replace(scheme, activation=replace(scheme.activation, route=factor))

    return change


def score(model: Any, windows: dict[str, Tensor]) -> tuple[dict[str, float], dict[str, float | None]]:
    """Perplexity and share of routed rows by text."""
    from sinkquant.evaluation.score import evaluate_one
    from sinkquant.runtime.routed_rows import RoutedRows

    perplexities, shares = {}, {}
    for name, ids in windows.items():
        with RoutedRows(model) as rows:
            perplexities[name] = evaluate_one(model, ids).perplexity
        shares[name] = rows.share
    return perplexities, shares


def measure(folder: Path, windows: dict[str, Tensor], factor: float) -> list[Row]:
    """One row an input scheme."""
    import sinkquant
    from sinkquant.runtime.linear import QuantizedLinear, dynamic_activation

    model = sinkquant.load(folder, dtype=torch.float32)
    layers = [m for m in model.modules() if isinstance(m, QuantizedLinear) and m.scheme.activation is not None]
    schemes = [layer.scheme for layer in layers]
    rows = []
    changes = {"dynamic": dynamic_activation, "static": routed(None), "static, routed": routed(factor)}
    for name, change in changes.items():
        for layer, scheme in zip(layers, schemes, strict=True):
            layer.scheme = change(scheme)
        perplexities, shares = score(model, windows)
        print(name, {text: round(value, 2) for text, value in perplexities.items()}, flush=True)
        rows.append({"inputs": name, "perplexity": perplexities, "routed": shares})
    return rows


def markdown(result: Row) -> str:
    """One table a variant."""
    texts = list(result["tokens"])
    lines = [
        "# Routing of outlier tokens", "",
        f"`{RECIPE}` on {result['model']}: perplexity by text; in brackets how far above dynamic inputs, and the "
        f"share of rows that went through a linear in float (beyond {result['factor']:g} times the range).", "",
    ]  # fmt: skip
    for variant, rows in result["variants"].items():
        lines += [f"## {variant.capitalize()}", ""]
        lines += ["| inputs | " + " | ".join(texts) + " |", "|---" * (len(texts) + 1) + "|"]
        lines += ["| full precision | " + " | ".join(f"{result['baseline'][text]:.2f}" for text in texts) + " |"]
        lines += [
            f"| {row['inputs']} | " + " | ".join(_cell(row, rows[0], text) for text in texts) + " |" for row in rows
        ]
        lines.append("")
    scored = ", ".join(f"{text} {count}" for text, count in result["tokens"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += [
        f"Scored tokens: {scored}; windows of {WINDOW}, float32, no BOS but where it is named. Overrides: "
        f"`{' '.join(COMMON)}`; without prefix and rotations also `{' '.join(BARE)}`. "
        f"{versions}."
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _cell(row: Row, dynamic: Row, text: str) -> str:
    value = row["perplexity"][text]
    more = [] if row is dynamic else [f"{value / dynamic['perplexity'][text] - 1:+.1%}"]
    more += [f"{row['routed'][text]:.3%} routed"] if row["routed"][text] is not None else []
    return f"{value:.2f}" + (f" ({', '.join(more)})" if more else "")


def main() -> None:
    """Quantize what is missing, measure everything, write the tables."""
    from sinkquant.evaluation.score import evaluate_one
    from sinkquant.evaluation.versions import versions
    from sinkquant.models.load import load_model, load_tokenizer
    from sinkquant.models.source import resolve

    parser = argparse.ArgumentParser(prog="python -m eval.routing", description="Routing of outlier tokens.")
    parser.add_argument("--model", type=Path, default=ASSETS / "smollm2-135m-instruct")
    parser.add_argument("--tokens", type=int, default=2048, help="most tokens a text")
    parser.add_argument("--factor", type=float, default=FACTOR)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where checkpoints are kept")
    options = parser.parse_args()
    if not options.model.exists():
        parser.error(f"{options.model} is missing: run make assets, or pass --model.")
    source = resolve(options.model)
    wikitext = SHARED / "data/wikitext-2/wiki.test.raw"
    extra = {"WikiText-2": wikitext.read_text(encoding="utf-8")} if wikitext.is_file() else {}
    windows = stress_windows(load_tokenizer(source), window=WINDOW, tokens=options.tokens, extra=extra)
    network = load_model(source, dtype=torch.float32)
    result: Row = {
        "model": options.model.name, "factor": options.factor, "versions": versions(),
        "tokens": {name: ids.shape[0] * (ids.shape[1] - 1) for name, ids in windows.items()},
        "baseline": {name: evaluate_one(network, ids).perplexity for name, ids in windows.items()}, "variants": {},
    }  # fmt: skip
    del network
    file = RESULTS / "routing.json"
    old = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if all(old.get(name) == result[name] for name in result if name != "variants"):
        result["variants"] = old["variants"]
    for variant, overrides in VARIANTS.items():
        if variant in result["variants"]:
            continue
        folder = checkpoint(options.model, RECIPE, (*COMMON, *overrides), options.cache)
        result["variants"][variant] = measure(folder, windows, options.factor)
        write(file, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        write(RESULTS / "routing.md", markdown(result))
    print(RESULTS / "routing.md")


if __name__ == "__main__":
    main()
