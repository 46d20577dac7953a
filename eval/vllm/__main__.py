"""Build, quantize, measure, write the table; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from eval.vllm import checkpoints, environment, judge, ours, server, table

RESULTS = environment.ROOT / "eval" / "results"
LENGTH, COUNT = 512, 8
JUNK = 777  # any token: a placeholder's own row is never read
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


class Run:
    """One evaluation: vLLM's Python, the checkpoints, and windows of text as token ids."""

    def __init__(self, python: Path, folders: dict[str, Path], windows: list[list[int]], work: Path) -> None:
        self.python, self.folders, self.windows, self.work = python, folders, windows, work
        self.environment = {**os.environ, **SETTINGS}

    def prefix(self, name: str) -> list[int]:
        """The prefix of a checkpoint, as token ids."""
        config = json.loads((self.folders[name] / "config.json").read_text())
        return config["sinkquant"].get("prefix", [])

    def inside(self, name: str, steps: list[Any], plugins: str | None = None, **options: Any) -> list[Any]:
        """Run `steps` (see `eval.vllm.inside`) in vLLM with a checkpoint."""
        job, result = self.work / f"{name}.job.json", self.work / f"{name}.result.json"
        job.write_text(json.dumps({"checkpoint": str(self.folders[name]), "options": options, "steps": steps}))
        extra = IN_PROCESS | ({} if plugins is None else {"VLLM_PLUGINS": plugins})
        command = [self.python, "-m", "eval.vllm.inside", job, result]
        done = subprocess.run(
            command, env=self.environment | extra, cwd=environment.ROOT, capture_output=True, text=True
        )
        if done.returncode:
            told = [line.strip() for line in done.stderr.splitlines() if "rror" in line and "http" not in line]
            raise RuntimeError(told[-1] if told else done.stderr[-500:])
        return json.loads(result.read_text())

    def float_prefix(self) -> dict[str, Any]:
        """A float model behind a prefix of junk tokens, its batches and its cache."""
        junk = [JUNK] * len(self.prefix("float"))
        facts = json.loads((self.folders["float"] / "config.json").read_text())["sinkquant"]
        several = [window[:n] for window, n in zip(self.windows, (512, 37, 200, 300), strict=False)]
        steps = [
            ["score", {"windows": self.windows, "placeholders": junk}],
            ["score", {"windows": several, "placeholders": junk}],
            ["score", {"windows": several, "placeholders": junk, "together": False}],
            ["caching", {"prompt": junk + self.windows[0][:400]}],
            ["score", {"windows": self.windows[:1], "placeholders": junk}],
            ["switch_off", {}],
            ["score", {"windows": self.windows, "placeholders": junk}],
        ]
        # Prefill in pieces: only the first piece of a prompt holds placeholders.
        options = {"hf_overrides": {"sinkquant": {**facts, "prefix": junk}}, "max_num_batched_tokens": 300}
        found = self.inside("float", steps, **options)
        reference = ours.log_probabilities(self.folders["float"], self.windows)
        return judge.float_prefix(reference, *[found[i] for i in (0, 1, 2, 3, 4, 6)])

    def perplexity(self, name: str, plugins: str | None = None, **options: Any) -> dict[str, Any]:
        """Of our runtime and of vLLM."""
        steps = [["score", {"windows": self.windows, "placeholders": self.prefix(name)}]]
        theirs = self.inside(name, steps, plugins, **options)[0]
        return judge.perplexities(ours.log_probabilities(self.folders[name], self.windows), theirs)

    def linears(self) -> dict[str, Any]:
        """Int8 linears one by one."""
        return judge.linears(self.inside("static", [["linears", {}]])[0])

    def prompts_and_server(self) -> dict[str, Any]:
        """Texts and token ids with and without the prefix; the same text over HTTP."""
        prefix, text = self.prefix("static"), "The capital of France is"
        ids = self.windows[0][:20]
        given = [text, ids, prefix + ids]
        found = self.inside("static", [["prompts", {"prompts": given}]])[0]
        log = self.work / "server.log"
        with server.served(self.python, self.folders["static"], self.environment, log) as address:
            body = {"prompt": text, "max_tokens": 16, "temperature": 0, "logprobs": 0}
            completion = server.ask(address, "/v1/completions", body)
            messages = [{"role": "user", "content": "Name a color."}]
            chat = server.ask(address, "/v1/chat/completions", {"messages": messages, "max_tokens": 8})
        return judge.prompts(prefix, ids, found) | {"server": judge.server(found[0], completion, chat)}

    def without_plugin(self) -> dict[str, Any]:
        """A sink-aware checkpoint in vLLM without the plug-in: an error, never an answer."""
        try:
            self.inside("static", [["prompts", {"prompts": ["Hello"]}]], plugins="")
        except RuntimeError as error:
            return {"refused": True, "message": str(error)}
        return {"refused": False}


def text_windows(model: Path, text: Path) -> list[list[int]]:
    """The first tokens of a text, no special tokens added."""
    from sinkquant.models.load import load_tokenizer
    from sinkquant.models.source import resolve

    tokenizer = load_tokenizer(resolve(str(model)))
    ids = tokenizer(text.read_text(encoding="utf-8")[: COUNT * LENGTH * 12], add_special_tokens=False).input_ids
    return [ids[i * LENGTH : (i + 1) * LENGTH] for i in range(COUNT)]


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environment", type=Path, help="folder of vLLM's environment")
    for name in ("model", "calibration", "text", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--part", action="append", help="measure this part only (again); others keep their figures")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    python = environment.build(given.environment.resolve())
    folders = checkpoints.make(given.model, given.calibration, given.work.resolve())
    run = Run(python, folders, text_windows(given.model, given.text), given.work)
    parts = {
        "float prefix": run.float_prefix,
        "int8 linears": run.linears,
        "w8a8-static": lambda: run.perplexity("static"),
        "w8a8-static, compiled": lambda: run.perplexity("static", enforce_eager=False),
        "naive static": lambda: run.perplexity("naive"),
        "kv4": lambda: run.perplexity("kv4"),
        "w8a8-static, routed": lambda: run.perplexity("routed"),
        "w4a8kv4": lambda: run.perplexity("w4a8kv4"),
        "w4a4kv4": lambda: run.perplexity("w4a4kv4"),
        "portable w8a8": lambda: run.perplexity("portable", plugins=""),
        "prompts": run.prompts_and_server,
        "without the plug-in": run.without_plugin,
    }
    found = table.read(given.output) if given.part else {}
    for name, part in parts.items():
        if given.part and name not in given.part:
            continue
        found[name] = part()
        print(name, json.dumps(found[name]), flush=True)
        table.write(given.output, found, environment.VLLM, COUNT, LENGTH)


if __name__ == "__main__":
    main()
