"""Build, quantize, score, write the table; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from eval.peers import environment, table
from eval.peers.environment import Failed
from eval.peers.setting import Setting
from eval.peers.tools import PEERS
from eval.runs import RESULTS, Row, Subject, keep, parse, read, weight_bytes


def windows(subject: Subject) -> dict[str, Any]:
    """Token ids for all peers alike: the calibration windows of our recipes, and the text that is scored."""
    from sinkquant.evaluation.windows import text_windows
    from sinkquant.inputs.bos import bos_policy, bos_token_id, in_front
    from sinkquant.inputs.text import load_calibration
    from sinkquant.models.load import load_tokenizer
    from sinkquant.models.source import resolve
    from sinkquant.recipes import load_recipe

    tokenizer = load_tokenizer(resolve(subject.model))
    begins = bos_policy(subject.bos, tokenizer)
    wanted = load_recipe("w8a8", subject.overrides).calibration
    calibration = load_calibration(
        str(subject.calibration), tokenizer, sequences=wanted.sequences, length=wanted.length, seed=wanted.seed,
    )  # fmt: skip
    begin = bos_token_id(tokenizer) if begins else None
    text = text_windows(
        subject.text.read_text(encoding="utf-8"), tokenizer, window=subject.window + begins, max_tokens=subject.tokens,
        bos_id=begin,
    )  # fmt: skip
    return {
        "calibration": in_front(calibration.ids, begin).tolist(),
        "text": text.tolist(),
        "name": subject.text.name,
        "lead": int(begins),
    }


def measure(peer: str, setting: Setting, subject: Subject, tokens: dict[str, Any]) -> Row:
    """One row; where a step fails, what was found until then, the step and its message."""
    tool, row = PEERS[peer], {"step": "install"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "out"
        job = tokens | {
            "peer": peer, "group": setting.group, "setting": setting.name, "model": str(subject.model),
            "folder": str(folder),
        }  # fmt: skip
        try:
            python = environment.build(peer, tool.PACKAGES)
            row["step"] = "quantize"
            row |= inside(python, job | {"step": "quantize"})
            row |= {
                "bytes": weight_bytes(folder),
                "baseline_bytes": weight_bytes(subject.model),
                "step": "load and score",
            }
            row |= scored(python, job | {"step": "score"}, tool.OURS_LOADS)
        except Failed as failure:
            return row | {"failure": str(failure)}
    del row["step"]
    return row


def scored(python: Path, job: dict[str, Any], ours: bool) -> Row:
    """Scores by our environment where it knows the format, else by the peer's; the code is the same."""
    refused = {}
    if ours:
        try:
            return inside(Path(sys.executable), job) | {"loaded_by": "plain transformers"}
        except Failed as failure:
            refused = {"refused": str(failure)}
    return inside(python, job) | {"loaded_by": "its own package"} | refused


def inside(python: Path, job: dict[str, Any]) -> Row:
    """What the step gives, in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        given, result = Path(temporary) / "job.json", Path(temporary) / "result.json"
        given.write_text(json.dumps(job))
        environment.call([python, "-m", "eval.peers.inside", given, result])
        found: Row = json.loads(result.read_text())
    return found


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(prog="python -m eval.peers", description="What users would pick today.")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="PEER")
    parser.add_argument("--group", help="settings of these bits alone, such as W4A16")
    parser.add_argument("--again", action="store_true", help="measure rows again that are there, failures among them")
    options, subject = parse(parser)
    name = "peers" if options.model == "smollm2" else f"peers-{options.model}"
    file, tokens, again = RESULTS / f"{name}.json", windows(subject), options.again
    shape = f"{len(tokens['calibration'])} × {len(tokens['calibration'][0])} tokens of {subject.calibration.name}"
    about = {"model": subject.model.name, "calibration": shape, "bos": "in context" if tokens["lead"] else "none"}
    for peer in options.only:
        for setting in PEERS[peer].SETTINGS:
            key = {"peer": peer, "group": setting.group, "setting": setting.name, "source": setting.source}
            if options.group not in (None, setting.group):
                continue
            if not again and any(key.items() <= row.items() for row in read(file)):
                continue
            print(f"{peer}: {setting.group}, {setting.name} …", flush=True)
            row = key | about | measure(peer, setting, subject, tokens)
            print(f"  {row.get('failure') or row['result_perplexity']}", flush=True)
            keep(name, key, row, lambda rows: table.markdown(rows, read(RESULTS / f"{options.model}.json")))


if __name__ == "__main__":
    main()
