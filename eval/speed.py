"""Speed and memory of quantized models beside the same model in float32 and bfloat16.

    python -m eval.speed [--model FOLDER] [--only NAME …] [--rounds N] [--name speed]

Every measurement has a process of its own. The contenders take turns, some rounds long, and the best of all rounds
counts, so that a busy moment of the machine hits no one alone. Quantized models are made once and kept; they are
rounded to nearest, which does not change their speed.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from eval.checkpoints import CACHE, checkpoint
from eval.runs import ASSETS, RESULTS, Row, weight_bytes, write
from sinkquant.formats.manifest import checksum
from sinkquant.models.source import weight_files
from sinkquant.recipes.plain import TO_NEAREST

PREFILL, PROMPT, NEW, BATCH, REPEATS, LOADS = 512, 32, 24, 8, 5, 3
KV4 = ("kv_cache.bits=4", "kv_cache.recent=128")
CALIBRATION = ("calibration.sequences=2", "calibration.length=128", "sinks.exclude=false", "weights.clip=none")
NARROW = "weights.limit=63"
STATIC = ("sinks.prefix=[1]", "activations.clip=none")


@dataclass(frozen=True)
class Contender:
    """A way to run the model: itself, after a recipe, or quantized on loading by another `package`.

    `cache`: transformers' default, its QuantizedCache (with a backend of `package`), or ours. `checksums`: whether ours
    are compared on loading.
    """

    name: str
    dtype: str
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    execution: str = "auto"
    package: str | None = None
    cache: str = "default"
    checksums: bool = True


CONTENDERS = (
    Contender("float32", "float32"),
    Contender("bfloat16", "bfloat16"),
    Contender("w8a8", "float32", "w8a8", CALIBRATION),
    Contender("w8a8-static", "float32", "w8a8-static", (*CALIBRATION, *STATIC)),
    Contender("w8a8-static, no checksums", "float32", "w8a8-static", (*CALIBRATION, *STATIC), checksums=False),
    Contender("w8a8, codes to 63", "float32", "w8a8", (*CALIBRATION, NARROW)),
    Contender("w8a8-static, codes to 63", "float32", "w8a8-static", (*CALIBRATION, *STATIC, NARROW)),
    Contender("w8a8, bfloat16", "bfloat16", "w8a8", CALIBRATION),
    Contender("w4a16", "float32", "w4a16", (*CALIBRATION, *TO_NEAREST)),
    Contender("w4a16, bfloat16", "bfloat16", "w4a16", (*CALIBRATION, *TO_NEAREST)),
    Contender("w8a8, reference", "float32", "w8a8", CALIBRATION, "reference"),
    Contender("kv4, SinkCache", "float32", "kv4", (*CALIBRATION, *KV4, "sinks.prefix=[1]"), cache="sink"),
    Contender("kv4, SinkCache, bfloat16", "bfloat16", "kv4", (*CALIBRATION, *KV4, "sinks.prefix=[1]"), cache="sink"),
    Contender("QuantizedCache, 4 bits", "float32", package="optimum.quanto", cache="quantized"),
    Contender("torchao int8", "float32", package="torchao"),
    Contender("quanto int8", "float32", package="optimum.quanto"),
)
PACKAGES = sorted({contender.package for contender in CONTENDERS if contender.package})


def load(contender: Contender, folder: Path) -> Any:
    """The model as the contender runs it."""
    import torch
    from transformers import AutoModelForCausalLM, QuantoConfig, TorchAoConfig

    import sinkquant

    dtype = getattr(torch, contender.dtype)
    if contender.recipe is not None:
        execution: Any = contender.execution
        return sinkquant.load(folder, dtype=dtype, execution=execution, checksums=contender.checksums)
    config: Any = None
    if contender.package == "torchao":
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig  # type: ignore[import-not-found]

        config = TorchAoConfig(Int8DynamicActivationInt8WeightConfig())
    elif contender.package is not None and contender.cache == "default":
        config = QuantoConfig(weights="int8")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=config).eval()


def make_cache(contender: Contender, model: Any) -> Any:
    """An empty cache as the contender wants it."""
    from transformers import DynamicCache, QuantizedCache

    import sinkquant

    if contender.cache == "sink":
        return sinkquant.SinkCache(model)
    if contender.cache == "quantized":
        return QuantizedCache("quanto", model.config, nbits=4, residual_length=128)
    return DynamicCache(config=model.config)


def measure(contender: Contender, folder: Path) -> Row:
    """Seconds and bytes; meant for a fresh process, whose peak memory is its own."""
    import torch

    from sinkquant.flow.timing import peak_memory

    warm_up()
    empty = peak_memory()
    model, load_seconds = timed_load(contender, folder)
    seconds = {"load": load_seconds}
    draw = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (BATCH, PREFILL), generator=draw)
    with torch.inference_mode():
        for rows in (1, BATCH):
            seconds[f"decode {rows}"] = decode(model, ids[:rows, :PROMPT], make_cache(contender, model))
        generating = peak_memory() - empty
        seconds[f"decode 1 behind {PREFILL}"] = decode(model, ids[:1], make_cache(contender, model))
        seconds["prefill"] = best(lambda: prefill(model, ids[:1], make_cache(contender, model)))
    cache = BATCH * (PROMPT + NEW) * token_bytes(model)
    return {
        "seconds": seconds,
        "generating_bytes": generating,
        "cache_bytes": cache,
        "peak_bytes": peak_memory() - empty,
    }


def load_time(contender: Contender, folder: Path) -> float:
    """Seconds; meant for a fresh process, for transformers remembers what it has worked out for a first model."""
    warm_up()
    return timed_load(contender, folder)[1]


def timed_load(contender: Contender, folder: Path) -> tuple[Any, float]:
    """The model, and how many seconds it took."""
    start = time.perf_counter()
    model = load(contender, folder)
    return model, time.perf_counter() - start


def in_fresh_process(call: Callable[[Contender, Path], Any], contender: Contender, folder: Path) -> Any:
    """What `call` returns there, the weight files being in the system's cache."""
    read_once(folder)
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(call, contender, folder).result()


def read_once(folder: Path) -> None:
    """Bring the weight files into the system's cache, so that no contender pays for the disk."""
    for file in weight_files(folder):
        checksum(file)


def warm_up() -> None:
    """Import everything and run a tiny model, so that the libraries' own memory is there before it is measured."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import sinkquant.api.load  # noqa: F401

    for package in PACKAGES:  # transformers imports them when it loads any quantized model
        if installed(package):
            import_module(package)
    size = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    with torch.inference_mode():
        LlamaForCausalLM(LlamaConfig(vocab_size=64, **size)).generate(
            torch.zeros(1, 8, dtype=torch.int64), max_new_tokens=2, pad_token_id=0
        )
    gc.collect()  # else the collection that imports have made due falls on some contenders' loading and not on others'


def prefill(model: Any, ids: Any, cache: Any) -> Any:
    """Read `ids` (sequences, tokens) into `cache`, with the logits of the last."""
    return model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)


def token_bytes(model: Any) -> int:
    """Bytes of a token's keys and values in the model's dtype."""
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * size * model.dtype.itemsize)


def best(call: Callable[[], Any]) -> float:
    """Shortest of some calls."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def decode(model: Any, ids: Any, cache: Any) -> float:
    """Seconds a step of greedy decoding after a prompt `ids` (sequences, tokens): the median of its steps."""
    out = prefill(model, ids, cache)
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
    peaks = {name: min(new[name], old[name]) for name in ("generating_bytes", "peak_bytes")}
    return new | {"seconds": seconds} | peaks


def markdown(result: Row) -> str:
    """Ratios to float32 and bfloat16 above one: faster or smaller."""
    rows = result["rows"]
    quantities = list(rows["float32"]["seconds"])
    heads = [*(f"{name}, ms" for name in quantities), "on disk", "generating", "with prefill"]
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
        share = row["generating_bytes"] / (row["bytes"] + row["cache_bytes"])
        cells += [f"{row['bytes'] / 1e6:.0f} MB", f"{row['generating_bytes'] / 1e6:.0f} MB ({share:.2f})"]
        cells.append(f"{row['peak_bytes'] / 1e6:.0f} MB")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += [
        "", "Load: weight files in the system's cache. "
        f"Prefill: {PREFILL} tokens at once, logits of the last; decode: one step for that many sequences, behind "
        f"{PROMPT} tokens unless stated. Generating: peak memory of loading and of decoding behind {PROMPT} tokens, "
        "above that of the process after a tiny model, and its share of weight files and cache (in the model's dtype); "
        f"with prefill: the same after reading {PREFILL} tokens at once. "
        f"{result['rounds']} rounds in turn, best of each (loading {1 + LOADS} times a round). {versions}.",
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
    parser.add_argument("--name", default="speed", help="of the files in eval/results: one for each processor")
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
            found = in_fresh_process(measure, contender, folders[contender.name])
            found["bytes"] = weight_bytes(folders[contender.name])
            rows[contender.name] = merge(rows.get(contender.name), found)
            print(turn + 1, contender.name, {k: round(v, 4) for k, v in found["seconds"].items()}, flush=True)
        for contender in chosen * LOADS:
            seconds = rows[contender.name]["seconds"]
            seconds["load"] = min(seconds["load"], in_fresh_process(load_time, contender, folders[contender.name]))
        result: Row = {
            "model": options.model.name, "threads": torch.get_num_threads(), "machine": processor(), "rounds": turn + 1,
            "versions": versions(), "rows": rows, "missing": missing,
        }  # fmt: skip
        write(RESULTS / f"{options.name}.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        write(RESULTS / f"{options.name}.md", markdown(result))
    print(RESULTS / f"{options.name}.md")


def installed(package: str) -> bool:
    """Whether a package can be imported; a dotted one needs its parent."""
    parent = package.split(".")[0]
    return find_spec(parent) is not None and find_spec(package) is not None


def processor() -> str:
    """The processor's architecture and what it has of the instructions that decide here."""
    import torch

    has = torch.cpu.get_capabilities()
    names = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "sha")
    return ", ".join([platform.machine(), *(name for name in names if has.get(name))])


if __name__ == "__main__":
    main()
