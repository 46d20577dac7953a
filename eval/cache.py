"""The packed cache on SmolLM2: perplexity beside the simulated cache, and bytes at 8192 tokens.

    python -m eval.cache [--windows N]

transformers' own QuantizedCache stands beside it where its backend, optimum-quanto, is installed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, Cache, DynamicCache, QuantizedCache
from transformers.utils import is_optimum_quanto_available

import sinkquant
from eval.runs import RESULTS, SUBJECTS, Row, Subject, write
from sinkquant.evaluation.metric import PERPLEXITY
from sinkquant.evaluation.versions import versions
from sinkquant.evaluation.windows import text_windows
from sinkquant.models.attention import TAPS
from sinkquant.models.load import load_model
from sinkquant.models.source import resolve
from sinkquant.quantization.scheme import KVScheme
from sinkquant.runtime.kv import KVStage

SETTINGS = {
    "KV8": {"bits": 8, "recent": 0}, "KV4": {"bits": 4, "recent": 0}, "KV4, 128 recent": {"bits": 4, "recent": 128},
    "KV2, 128 recent": {"bits": 2, "recent": 128},
}  # fmt: skip
GOALS = {"KV4": 0.30, "KV4, 128 recent": 0.30, "KV2, 128 recent": 0.19}
PEERS = (4, 2)  # bits of transformers' QuantizedCache
LENGTH, PIECE, WINDOW = 8192, 128, 1024


def set_scheme(model: Any, **changes: int) -> KVScheme:
    """Every attention with these bits and this many recent tokens; its transforms stay. Returns one scheme."""
    schemes = []
    for module in model.modules():
        for stage in getattr(module, TAPS, ()):
            schemes.append(replace(stage.scheme, **changes))
            setattr(module, TAPS, (KVStage(schemes[-1]),))
    return schemes[0]


@torch.no_grad()
def score(model: Any, cache: Cache, ids: Tensor) -> float:
    """Summed loss (nats) of ids (T,) after the first, fed in pieces through `cache`."""
    total, before = 0.0, None
    for piece in ids[None].split(PIECE, dim=1):
        logits = model(piece, past_key_values=cache, use_cache=True).logits[0]
        logprobs = (logits if before is None else torch.cat([before, logits])).float().log_softmax(-1)
        targets = piece[0, 1:] if before is None else piece[0]
        total -= float(logprobs[:-1].gather(1, targets[:, None]).double().sum())
        before = logits[-1:]
    return total


def scored(model: Any, make: Any, windows: Tensor) -> tuple[float, float]:
    """Perplexity of windows (N, T) through a fresh cache each, and the seconds that it took."""
    start = time.perf_counter()
    loss = sum(score(model, make(), ids) for ids in windows)
    return PERPLEXITY.value(loss / (windows.shape[0] * (windows.shape[1] - 1))), time.perf_counter() - start


def filled_bytes(model: Any, cache: Cache, dtype: torch.dtype) -> int:
    """Bytes that `cache` holds after 8192 random tokens in every layer, in pieces of 1024."""
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    for module in (layer.self_attn for layer in model.get_decoder().layers):
        for _ in range(LENGTH // WINDOW):
            key, value = torch.randn(2, 1, config.num_key_value_heads, WINDOW, size).to(dtype)
            layer = cache.layers[module.layer_idx]
            if isinstance(cache, sinkquant.SinkCache):
                layer.write(key, value, getattr(module, TAPS)[0].grids(module))  # type: ignore[union-attr]
            else:
                layer.update(key, value)
    names = ("keys", "values", "_quantized_keys", "_quantized_values")
    if isinstance(cache, sinkquant.SinkCache):
        return cache.nbytes
    return sum(tensor_bytes(getattr(layer, name, None)) for layer in cache.layers for name in names)


def tensor_bytes(x: Any) -> int:
    """Bytes of a tensor, of one that is made of other tensors, or of None."""
    if hasattr(x, "__tensor_flatten__"):
        return sum(tensor_bytes(getattr(x, name)) for name in x.__tensor_flatten__()[0])
    return x.untyped_storage().nbytes() if isinstance(x, Tensor) else 0


def measure(subject: Subject, windows_wanted: int) -> list[Row]:
    """All rows of the table; the first is the model as it is, with transformers' default cache."""
    torch.manual_seed(0)
    base = load_model(resolve(str(subject.model)), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(subject.model)
    text = subject.text.read_text(encoding="utf-8")
    windows = text_windows(text, tokenizer, window=WINDOW, max_windows=windows_wanted)
    whole = filled_bytes(base, DynamicCache(config=base.config), torch.bfloat16)

    def row(name: str, cost: tuple[float, float], nbytes: dict[str, int], **more: Any) -> Row:
        ratios = {kind: found / whole for kind, found in nbytes.items()}
        print(f"{name}: perplexity {cost[0]:.4f}, {cost[1]:.0f} s, {ratios}", flush=True)
        return {"setting": name, "perplexity": cost[0], "seconds": cost[1], "bytes": nbytes, "ratio": ratios, **more}

    def stock(model: Any, note: str) -> list[Row]:
        """Rows of the caches that transformers has."""
        plain = scored(model, lambda: DynamicCache(config=model.config), windows)
        made = [row(f"full precision{note}", plain, {"bfloat16": whole})]
        for bits in PEERS if is_optimum_quanto_available() else ():
            options = {"config": model.config, "backend": "quanto", "nbits": bits, "residual_length": 128}
            found = filled_bytes(model, QuantizedCache(**options), torch.bfloat16)
            cost = scored(model, lambda options=options: QuantizedCache(**options), windows)
            made.append(row(f"QuantizedCache (quanto), {bits} bits{note}", cost, {"bfloat16": found}, peer=True))
        return made

    rows = stock(base, "")
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "kv4"
        sinkquant.quantize(subject.model, recipe="kv4", calibration=str(subject.calibration), output=out)
        model = sinkquant.load(out, dtype=torch.float32)
    set_scheme(model, bits=16)
    rows += stock(model, ", with the prefix")
    for name, changes in SETTINGS.items():
        set_scheme(model, **changes)
        nbytes = {
            str(dtype).removeprefix("torch."): filled_bytes(model, sinkquant.SinkCache(model), dtype)
            for dtype in (torch.bfloat16, torch.float32)
        }
        simulated = scored(model, lambda: DynamicCache(config=model.config), windows)
        packed = scored(model, lambda: sinkquant.SinkCache(model), windows)
        more = {"simulated": simulated[0], "simulated_seconds": simulated[1], "goal": GOALS.get(name)}
        rows.append(row(name, packed, nbytes, **more))
    about = {"tokens": windows.numel(), "versions": versions(), "model": subject.model.name, "text": subject.text.name}
    return [one | about for one in rows]


def markdown(rows: list[Row]) -> str:
    """The table, and how it was measured."""
    lines = [
        "# The packed cache on SmolLM2-135M-Instruct", "",
        "| cache | perplexity | simulated | bytes at 8192 tokens | of bfloat16 | goal | float32 model | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        simulated = f"{row['simulated']:.4f}" if "simulated" in row else "–"
        goal = f"≤ {row['goal']:.2f}" if row.get("goal") else "–"
        wide = f"{row['ratio']['float32']:.3f}" if "float32" in row["ratio"] else "–"
        seconds = f"{row['seconds']:.0f}" + (f" ({row['simulated_seconds']:.0f})" if "simulated" in row else "")
        lines.append(
            f"| {row['setting']} | {row['perplexity']:.4f} | {simulated} | {row['bytes']['bfloat16'] / 1e6:.1f} MB "
            f"| {row['ratio']['bfloat16']:.3f} | {goal} | {wide} | {seconds} |"
        )
    first = rows[0]
    lines += [
        "", "Simulated: the same settings with transformers' default cache, which stays in float; keys and values are "
        "rounded inside the attention. Bytes: all tensors of the cache of a bfloat16 model after 8192 random tokens in "
        "every layer, and their share of its plain cache. Float32 model: the share where recent tokens are float32. "
        "Seconds: scoring the text (simulated in brackets) on a shared machine; they say which is slower, no more.", "",
        "The text has no BOS, and the prefix stands in for it: compare KV rows with full precision with the prefix.",
        "",
        "## How it was measured", "",
        f"- {first['tokens']} tokens of {first['text']} in windows of {WINDOW}, fed in pieces of {PIECE} through the "
        "cache, float32, no BOS; the prefix and the balanced keys are those of the recipe `kv4`.",
        f"- {', '.join(f'{name} {version}' for name, version in first['versions'].items())}.",
    ]  # fmt: skip
    if any("peer" in row for row in rows):
        lines.append(
            "- QuantizedCache keeps up to 128 tokens in float, none at exactly 8192; a piece sees itself in float, so "
            "that its counterparts are the rows with 128 recent tokens."
        )
    else:
        lines.append("- transformers' QuantizedCache was not measured: optimum-quanto is not installed.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure everything and write the table."""
    parser = argparse.ArgumentParser(prog="python -m eval.cache", description="Memory and perplexity of the cache.")
    parser.add_argument("--windows", type=int, default=2, help=f"windows of {WINDOW} tokens to score")
    options = parser.parse_args()
    subject = SUBJECTS["smollm2"]
    if subject.missing():
        parser.error(
            f"{subject.missing()[0]} is missing: run make assets, or set SINKQUANT_ASSETS and SINKQUANT_SHARED."
        )
    rows = measure(subject, options.windows)
    write(RESULTS / "cache.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    write(RESULTS / "cache.md", markdown(rows))
    print(RESULTS / "cache.md")


if __name__ == "__main__":
    main()
