"""Figures of two runtimes side by side, and what they must be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Scores = list[list[float]]
Figures = dict[str, Any]


def differences(a: Scores, b: Scores) -> list[float]:
    """|Δ| of every token."""
    return [abs(x - y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)]


def mean(values: list[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


def float_prefix(
    ours: Scores, theirs: Scores, together: Scores, alone: Scores, caching: Figures, after: Scores, off: Scores
) -> Figures:
    """How far vLLM is from our runtime with the plug-in and without its prefix; batches; cache."""
    on, without = mean(differences(ours, theirs)), mean(differences(ours, off))
    return {
        "tokens": sum(len(row) for row in ours),
        "mean difference": on,
        "mean difference, prefix switched off": without,
        "ratio": without / on,
        "batch against alone, largest": max(differences(together, alone)),
        "cached tokens": caching["cached"],
        "cached against first, largest": max(differences([caching["chosen"][0]], [caching["chosen"][1]])),
        "prompt scores after caching, largest": max(differences(theirs[:1], after)),
    }


def perplexities(ours: Scores, theirs: Scores) -> Figures:
    """Of both, and how much vLLM's is off."""
    own, other = (math.exp(-mean([x for row in scores for x in row])) for scores in (ours, theirs))
    return {"ours": own, "vllm": other, "off": other / own - 1, "mean difference": mean(differences(ours, theirs))}


def linears(rows: list[Figures]) -> Figures:
    """The worst of all."""
    worst = max(rows, key=lambda row: row["error"])
    return {"linears": len(rows), "largest error": worst["error"], "where": worst["name"]}


def prompts(prefix: list[int], ids: list[int], found: list[Figures]) -> Figures:
    """Whether a text, token ids, and token ids with the prefix were served with the prefix once."""
    text, plain, completed = found
    return {
        "text begins with the prefix": text["ids"][: len(prefix)] == prefix,
        "ids are completed": plain["ids"] == prefix + ids,
        "completed ids stay": completed["ids"] == prefix + ids,
        "same continuation": plain["text"] == completed["text"],
        "text": text["text"],
    }


def server(inside: Figures, completion: tuple[int, Any], chat: tuple[int, Any]) -> Figures:
    """Whether HTTP gives what the engine gives."""
    status, answer = completion
    choice = answer["choices"][0] if status == 200 else {"text": None}
    return {
        "status": [status, chat[0]],
        "same text as the engine": choice["text"] == inside["text"],
        "prompt tokens": answer.get("usage", {}).get("prompt_tokens") == len(inside["ids"]),
        "chat": chat[1]["choices"][0]["message"]["content"] if chat[0] == 200 else None,
    }


def near(figures: Figures) -> bool:
    """Whether vLLM's perplexity is within 2 % of our runtime's."""
    return bool(abs(figures["off"]) <= 0.02)


CHECKS: dict[str, tuple[str, Callable[[Figures], bool]]] = {
    "float model with prefix: mean difference of log-probabilities at most 1e-4 with junk placeholders": (
        "float prefix", lambda f: f["mean difference"] <= 1e-4),
    "the same is at least 100 times that with the prefix switched off": (
        "float prefix", lambda f: f["ratio"] >= 100),
    "a prompt in a batch scores as alone (1e-3)": (
        "float prefix", lambda f: f["batch against alone, largest"] <= 1e-3),
    "a cached prompt is found in the cache and goes on as before (1e-3)": (
        "float prefix", lambda f: f["cached tokens"][1] > 0 and f["cached against first, largest"] <= 1e-3),
    "prompt_logprobs after caching are as before (1e-3)": (
        "float prefix", lambda f: f["prompt scores after caching, largest"] <= 1e-3),
    "every int8 linear within 1e-6 of the exact formula": (
        "int8 linears", lambda f: f["linears"] > 0 and f["largest error"] <= 1e-6),
    "w8a8-static: perplexity within 2 % of our runtime": ("w8a8-static", near),
    "the same with torch.compile": ("w8a8-static, compiled", near),
    "the same with routed tokens": ("w8a8-static, routed", near),
    "w4a8kv4: perplexity within 2 % of our runtime": ("w4a8kv4", near),
    "w4a4kv4: perplexity within 2 % of our runtime": ("w4a4kv4", near),
    "kv4, rounded in vLLM's float cache: perplexity within 2 % of our runtime": ("kv4", near),
    "portable w8a8 in vLLM without the plug-in: perplexity within 2 % of our runtime": ("portable w8a8", near),
    "prompts begin with the prefix, once": (
        "prompts", lambda f: all(f[k] for k in f if k not in ("text", "server"))),
    "an OpenAI-compatible server answers over HTTP as the engine does, with the prefix counted": (
        "prompts", lambda f: f["server"]["status"] == [200, 200] and f["server"]["same text as the engine"]
        and f["server"]["prompt tokens"]),
    "a sink-aware checkpoint is refused without the plug-in": (
        "without the plug-in", lambda f: f["refused"]),
}  # fmt: skip


def checks(found: dict[str, Figures]) -> dict[str, bool]:
    """Every check whose figures are there."""
    held = {name: check(found[part]) for name, (part, check) in CHECKS.items() if part in found}
    if {"w8a8-static", "naive static"} <= found.keys():
        name = "w8a8-static: the naive checkpoint's perplexity is at least 10 % above"
        held[name] = found["naive static"]["vllm"] >= 1.1 * found["w8a8-static"]["vllm"]
    return held
