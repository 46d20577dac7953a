"""Spike units in float beside everything else that is done about outliers: none, two of each input, as many as pay.

    python -m eval.spikes [--model smollm2|gemma3|stories260k] [--only SETTING …] [--arms ARM …]

Quantized in memory, one case after the other, and scored beside the model on the same tokens. Resumable.
"""

from __future__ import annotations

import argparse
import math
import time
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eval.runs import RESULTS, Row, Subject, keep, parse, read, write
from sinkquant.recipes.plain import NO_SINKS, NO_TRANSFORMS

UNROUTED = ("activations.route=null",)
# Nothing but the inputs and the way from model to codes: what is fitted, and the cache, would only hide it.
COMMON = ("tuning.epochs=0", "weights.method=rtn", "weights.head_bits=16", "weights.embedding_bits=16")
SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "W8A8": ("w8a8-static", ()),
    "W8A6": ("w8a8-static", ("activations.bits=6",)),
    "W8A4": ("w4a4kv4", ("weights.bits=8", "kv_cache.bits=16", "kv_cache.balance=false")),
}
ARMS: dict[str, tuple[str, ...]] = {
    "nothing": (*NO_SINKS, *NO_TRANSFORMS, *UNROUTED),
    "prefix": (*NO_TRANSFORMS, *UNROUTED),
    "rotation": (*NO_SINKS, *UNROUTED),
    "recipe": (),
}
UNITS = ("0", "2", "auto")
PREFIX = {"smollm2": (216,), "gemma3": (2,), "stories260k": ()}  # what detection finds
BOS = {"gemma3": "BOS in front of every text, or as the prefix"}


@dataclass(frozen=True)
class Bench:
    """A model in memory with the tokens it is calibrated and scored on, (N, T) both, without the BOS `begin`."""

    name: str
    model: Any
    ids: Tensor
    windows: Tensor
    begin: int | None


def load(name: str, subject: Subject, size: tuple[int, int], tokens: int) -> Bench:
    """The model in float32, beginnings of its texts."""
    from sinkquant.evaluation.windows import text_windows
    from sinkquant.inputs.bos import bos_policy
    from sinkquant.models.load import load_model, load_tokenizer
    from sinkquant.models.source import resolve

    source = resolve(subject.model)
    tokenizer = load_tokenizer(source)
    network = load_model(source, dtype=torch.float32).requires_grad_(False)
    sequences, length = size

    def cut(path: Any, window: int, most: int) -> Tensor:
        return text_windows(path.read_text(encoding="utf-8")[: 20 * most], tokenizer, window=window, max_tokens=most)

    scored = cut(subject.text, min(512, tokens), tokens)
    begin = tokenizer.bos_token_id if bos_policy(subject.bos, tokenizer) else None
    return Bench(name, network, cut(subject.calibration, length, sequences * length), scored, begin)


def measure(bench: Bench, recipe: str, overrides: tuple[str, ...]) -> Row:
    """Quantize a copy of the model and compare it with the model."""
    from sinkquant.evaluation.compare import compare
    from sinkquant.flow.blocks import quantize_blocks
    from sinkquant.flow.plan import make_plan, weight_shapes
    from sinkquant.flow.session import Session
    from sinkquant.flow.transform import transform
    from sinkquant.formats.finished import Unfinished
    from sinkquant.inputs.batches import Batch, Batches
    from sinkquant.inputs.bos import in_front
    from sinkquant.models.trace import trace_roles
    from sinkquant.recipes import load_recipe
    from sinkquant.runtime.linear import QuantizedLinear
    from sinkquant.tasks.causal_lm import CAUSAL_LM
    from sinkquant.tasks.task import Data

    chosen, network, start = load_recipe(recipe, overrides), deepcopy(bench.model), time.perf_counter()
    batches = Batches((Batch({"input_ids": bench.ids}),), "calibration")
    roles = trace_roles(network)
    prefix = PREFIX[bench.name] if chosen.sinks.prefix == "auto" else ()
    begin = None if bench.begin in prefix else bench.begin
    session = Session(network, roles, CAUSAL_LM, None, bench.name, None, Data(batches, batches), {}, begin)
    plan = make_plan(chosen, prefix, roles, weight_shapes(network, roles), None)
    transform(session, plan)
    with Unfinished() as stores:
        quantize_blocks(
            session, plan, stores.open({"case": [recipe, *overrides], "time": time.time()}), lambda *_: None
        )
        stores.clear()
    linears = [module for module in network.modules() if isinstance(module, QuantizedLinear)]
    windows = (in_front(bench.windows, bos) for bos in (bench.begin, begin))
    found = compare(bench.model, network, *windows)
    return {
        **found.model_dump(mode="json"), "prefix": list(prefix), "seconds": time.perf_counter() - start,
        "spikes": sum(linear.scheme.spikes for linear in linears) / len(linears),
    }  # fmt: skip


def markdown(name: str, rows: list[Row]) -> str:
    """One line a case, in the order of the tables above; what units bring is told against none in the same arm."""
    found = {(row["setting"], row["arm"], row["units"]): row for row in rows}
    lines = [
        f"# Spike units in float on {name}", "",
        "The channels of each input with the largest magnitudes are left out of the rounding and multiplied in float "
        "(`activations.spikes`), beside other ways to handle outliers: *nothing*: no prefix, no transformation, no "
        "routing; *prefix*, *rotation* (all that the recipe transforms): that alone; *recipe*: all of them and "
        "routing. Inputs are static, weights rounded to nearest, the cache, the head and the embedding in float, "
        "nothing is distilled. Gained: nats a token against no units in the same arm.", "",
        "| inputs | handled by | units | found, a linear | perplexity | gained | KL | top-1 | rows routed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for setting in SETTINGS:
        for arm in ARMS:
            none = found.get((setting, arm, "0"))
            for units in UNITS:
                if (row := found.get((setting, arm, units))) is None:
                    continue
                gained = math.log(none["result_perplexity"] / row["result_perplexity"]) if none else math.nan
                routed = row["routed_rows"]
                lines.append(
                    f"| {setting} | {arm} | {units} | {row['spikes']:.2f} | {row['result_perplexity']:.2f} "
                    f"| {'' if units == '0' else format(gained, '+.3f')} | {row['kl']:.4f} "
                    f"| {row['top1_agreement']:.1%} | {'–' if routed is None else format(routed, '.3%')} |"
                )
    row = rows[0]
    versions = ", ".join(f"{package} {version}" for package, version in row["versions"].items())
    lines += [
        "", f"Full precision: {row['baseline_perplexity']:.2f}.", "", "## How it was measured", "",
        f"- {row['tokens']} scored tokens of {row['text']} in {row['windows']} windows of {row['window']}; calibrated "
        f"on {row['calibration']}; {BOS.get(name, 'no BOS on either side')}; where there is a prefix, it is "
        f"{PREFIX[name]}; seed 0; float32; {versions}.",
        f"- Overrides in every row: `{' '.join(COMMON)}`.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing and write the table."""
    from sinkquant.evaluation.versions import versions
    from sinkquant.recipes import load_recipe

    parser = argparse.ArgumentParser(prog="python -m eval.spikes", description="What spike units in float bring.")
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--sequences", type=int, default=2, help="calibration sequences")
    parser.add_argument("--length", type=int, default=512, help="tokens a calibration sequence")
    parser.add_argument("--tokens", type=int, default=1024, help="most tokens that are scored")
    options, subject = parse(parser)
    if options.model not in PREFIX:
        parser.error(f"choose one of {', '.join(PREFIX)}.")
    bench = load(options.model, subject, (options.sequences, options.length), options.tokens)
    name = "spikes" if options.model == "smollm2" else f"spikes-{options.model}"
    conditions = {
        "versions": versions(), "text": subject.text.name, "tokens": bench.windows[:, 1:].numel(),
        "calibration": f"{options.sequences} × {options.length} tokens of {subject.calibration.name}",
    }  # fmt: skip
    for units in UNITS:  # the same number of units in every arm first, so that an interrupted run compares them
        for setting in options.only:
            for arm in options.arms:
                recipe, own = SETTINGS[setting]
                overrides = (*COMMON, *own, *ARMS[arm], f"activations.spikes={units}")
                labels = {"setting": setting, "arm": arm, "units": units}
                key = {**labels, **conditions, "recipe_digest": load_recipe(recipe, overrides).digest()}
                if any(key.items() <= row.items() for row in read(RESULTS / f"{name}.json")):
                    continue
                row = measure(bench, recipe, overrides) | key
                print(labels, f"perplexity {row['result_perplexity']:.2f}, KL {row['kl']:.4f}", flush=True)
                keep(name, labels, row, lambda rows: markdown(options.model, rows))
    rows = read(RESULTS / f"{name}.json")
    write(RESULTS / f"{name}.md", markdown(options.model, rows))


if __name__ == "__main__":
    main()
