"""Speed and memory of quantized models beside the same model in float32 and bfloat16.

    python -m eval.speed [--model FOLDER] [--only NAME …] [--rounds N]

Every measurement has a process of its own. The contenders take turns, some rounds long, and the best of all rounds
counts, so that a busy moment of the machine hits no one alone. Quantized models are made once and kept; they are
rounded to nearest, which does not change their speed.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from eval.checkpoints import CACHE, checkpoint
from eval.runs import ASSETS, RESULTS, Row, weight_bytes, write
from sinkquant.recipes.plain import TO_NEAREST

PREFILL, PROMPT, NEW, BATCH, REPEATS = 512, 32, 24, 8, 5
CALIBRATION = ("calibration.sequences=2", "calibration.length=128", "sinks.exclude=false", "weights.clip=none")
STATIC = ("sinks.prefix=[1]", "activations.clip=none")


@dataclass(frozen=True)
class Contender:
    """A way to run the model: itself, after a recipe, or quantized on loading by another `package`."""

    name: str
    dtype: str
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    execution: str = "auto"
    package: str | None = None


CONTENDERS = (
    Contender("float32", "float32"),
    Contender("bfloat16", "bfloat16"),
    Contender("w8a8", "float32", "w8a8", CALIBRATION),
    Contender("w8a8-static", "float32", "w8a8-static", (*CALIBRATION, *STATIC)),
    Contender("w8a8, bfloat16", "bfloat16", "w8a8", CALIBRATION),
    Contender("w4a16", "float32", "w4a16", (*CALIBRATION, *TO_NEAREST)),
    Contender("w4a16, bfloat16", "bfloat16", "w4a16", (*CALIBRATION, *TO_NEAREST)),
    Contender("w8a8, reference", "float32", "w8a8", CALIBRATION, "reference"),
    Contender("torchao int8", "float32", package="torchao"),
    Contender("quanto int8", "float32", package="optimum.quanto"),
)


def load(contender: Contender, folder: Path) -> Any:
    """The model as the contender runs it."""
    import torch
    from transformers import AutoModelForCausalLM, QuantoConfig, TorchAoConfig

    import sinkquant

    dtype = getattr(torch, contender.dtype)
    if contender.recipe is not None:
        return sinkquant.load(folder, dtype=dtype, execution=contender.execution)  # type: ignore[arg-type]
    config: Any = None
    if contender.package == "torchao":
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig  # type: ignore[import-not-found]

        config = TorchAoConfig(Int8DynamicActivationInt8WeightConfig())
    elif contender.package is not None:
        config = QuantoConfig(weights="int8")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=config).eval()


def measure(contender: Contender, folder: Path) -> Row:
    """Seconds and bytes; meant for a fresh process, whose peak memory is its own."""
    import psutil
    import torch
    import transformers  # noqa: F401

    import sinkquant.api.load  # noqa: F401
    from sinkquant.api.stages import peak_memory

    empty = psutil.Process().memory_info().rss
    start = time.perf_counter()
    model = load(contender, folder)
    seconds = {"load": time.perf_counter() - start}
    draw = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (BATCH, PREFILL), generator=draw)
    with torch.inference_mode():
        seconds["prefill"] = best(lambda: model(input_ids=ids[:1], use_cache=True, logits_to_keep=1))
        for rows in (1, BATCH):
            seconds[f"decode {rows}"] = decode(model, ids[:rows, :PROMPT])
    return {"seconds": seconds, "peak_bytes": peak_memory() - empty}


def best(call: Callable[[], Any]) -> float:
    """Shortest of some calls."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def decode(model: Any, ids: Any) -> float:
    """Seconds a step of greedy decoding after a prompt `ids` (sequences, tokens): the median of its steps."""
    out = model(input_ids=ids, use_cache=True)
    times = []
    for _ in range(NEW):
        start = time.perf_counter()
        token = out.logits[:, -1:].argmax(-1)
        out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
        times.append(time.perf_counter() - start)
    return sorted(times)[NEW // 2]


def merge(old: Row | None, new: Row) -> Row:
    """The best of two rounds."""
    if old is None:
        return new
    seconds = {name: min(value, old["seconds"][name]) for name, value in new["seconds"].items()}
    return new | {"seconds": seconds, "peak_bytes": min(old["peak_bytes"], new["peak_bytes"])}


def markdown(result: Row) -> str:
    """Ratios to float32 and bfloat16 above one: faster or smaller."""
    rows = result["rows"]
    quantities = list(rows["float32"]["seconds"])
    heads = [*(f"{name}, ms" for name in quantities), "peak memory", "on disk"]
    lines = [
        "# Speed", "",
        f"{result['model']} on {result['threads']} threads of {result['machine']}. In brackets: how many times as "
        "fast as float32 / bfloat16.", "",
        "| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|",
    ]  # fmt: skip
    for name, row in rows.items():
        cells = []
        for quantity in quantities:
            value = row["seconds"][quantity]
            ratios = " / ".join(f"{rows[base]['seconds'][quantity] / value:.2f}" for base in ("float32", "bfloat16"))
            cells.append(f"{value * 1e3:.1f} ({ratios})")
        cells += [f"{row['peak_bytes'] / 1e6:.0f} MB", f"{row['bytes'] / 1e6:.0f} MB"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += [
        "", f"Prefill: {PREFILL} tokens at once, logits of the last; decode: one step for that many sequences, behind "
        f"{PROMPT} tokens; peak memory: above the process with everything imported, after all of it. "
        f"{result['rounds']} rounds in turn, best of each. {versions}.",
        *(f"Left out: {name}." for name in result["missing"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Quantize what is missing, measure in turn, write the table."""
    import torch

    from sinkquant.evaluation.versions import versions

    parser = argparse.ArgumentParser(prog="python -m eval.speed", description="Speed and memory.")
    parser.add_argument("--model", type=Path, default=ASSETS / "smollm2-135m-instruct")
    parser.add_argument("--only", nargs="+", default=[c.name for c in CONTENDERS], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where checkpoints are kept")
    options = parser.parse_args()
    if not options.model.exists():
        parser.error(f"{options.model} is missing: run make assets, or pass --model.")
    chosen = [c for c in CONTENDERS if c.name in {*options.only, "float32", "bfloat16"}]
    missing = [f"{c.name}, {c.package} is not installed" for c in chosen if c.package and not installed(c.package)]
    chosen = [c for c in chosen if c.package is None or installed(c.package)]
    folders = {
        c.name: options.model if c.recipe is None else checkpoint(options.model, c.recipe, c.overrides, options.cache)
        for c in chosen
    }
    rows: dict[str, Row] = {}
    for turn in range(options.rounds):
        for contender in chosen:
            with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as fresh:
                found = fresh.submit(measure, contender, folders[contender.name]).result()
            found["bytes"] = weight_bytes(folders[contender.name])
            rows[contender.name] = merge(rows.get(contender.name), found)
            print(turn + 1, contender.name, {k: round(v, 4) for k, v in found["seconds"].items()}, flush=True)
        result: Row = {
            "model": options.model.name, "threads": torch.get_num_threads(), "machine": processor(), "rounds": turn + 1,
            "versions": versions(), "rows": rows, "missing": missing,
        }  # fmt: skip
        write(RESULTS / "speed.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        write(RESULTS / "speed.md", markdown(result))
    print(RESULTS / "speed.md")


def installed(package: str) -> bool:
    """Whether a package can be imported; a dotted one needs its parent."""
    parent = package.split(".")[0]
    return find_spec(parent) is not None and find_spec(package) is not None


def processor() -> str:
    """The processor's architecture and what torch uses of it."""
    import torch

    return f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


if __name__ == "__main__":
    main()
