"""vllm.json and vllm.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval.vllm.judge import Figures, checks

HEAD = """# The vLLM plug-in ({version}, CPU, float32)

SmolLM2-135M-Instruct, {count} windows of {length} tokens of WikiText-2's test text, calibration on 4 × 512 tokens;
made by `python -m eval.vllm`. Only differences between the runtimes matter here, not the perplexities themselves.

| check | holds |
|---|---|
"""
COLUMNS = """
| checkpoint | perplexity, our runtime | vLLM | off | mean difference of log-probabilities |
|---|---|---|---|---|
"""


def read(folder: Path) -> dict[str, Figures]:
    """The figures of an earlier run."""
    path = folder / "vllm.json"
    return json.loads(path.read_text())["figures"] if path.exists() else {}


def write(folder: Path, found: dict[str, Figures], version: str, count: int, length: int) -> None:
    """Both files; checks that were not reached are left out."""
    held = checks(found)
    facts = {"vllm": version, "windows": count, "tokens": length, "checks": held, "figures": found}
    (folder / "vllm.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    text = HEAD.format(version=version, count=count, length=length)
    text += "".join(f"| {name} | {'yes' if holds else '**no**'} |\n" for name, holds in held.items()) + COLUMNS
    for name, f in found.items():
        if "off" in f:
            text += f"| {name} | {f['ours']:.3f} | {f['vllm']:.3f} | {f['off']:+.2%} | {f['mean difference']:.4f} |\n"
    for name, f in found.items():
        if "off" not in f:
            text += f"\n**{name}**: " + "; ".join(f"{k} {show(v)}" for k, v in f.items()) + ".\n"
    (folder / "vllm.md").write_text(text)


def show(value: Any) -> str:
    """A figure in few digits; strings in quotes."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {show(v)}" for k, v in value.items()) + ")"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
