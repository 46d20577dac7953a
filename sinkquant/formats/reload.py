"""What `verify` runs in a process of its own: load a checkpoint, take its probe, write it as JSON.

python -m sinkquant.formats.reload FOLDER transformers|vllm ANSWER.json [trust-remote-code]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sinkquant.errors import SinkquantError
from sinkquant.formats.manifest import read_manifest


def in_transformers(folder: Path, ids: list[int], trust: bool) -> dict[str, Any]:
    """The probe of the checkpoint in float32, a portable one as it is without sinkquant."""
    from sinkquant.formats.load import read
    from sinkquant.tasks.probe import take_probe
    from sinkquant.tasks.tasks import TASKS

    task = TASKS[read_manifest(folder).task]
    return take_probe(task, read(folder, execution="stock", trust_remote_code=trust), ids)


def in_vllm(folder: Path, ids: list[int], trust: bool) -> dict[str, Any]:
    """The losses that vLLM states for the prompt; a prefix that the plug-in puts in front is left out again."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=str(folder), dtype="float32", enforce_eager=True, max_model_len=2 * len(ids), trust_remote_code=trust
    )
    asked = SamplingParams(max_tokens=1, prompt_logprobs=0)
    answer = engine.generate([{"prompt_token_ids": ids}], asked, use_tqdm=False)[0]
    stated = list(zip(answer.prompt_token_ids, answer.prompt_logprobs, strict=True))[-(len(ids) - 1) :]
    return {"ids": ids, "nll": [-entry[token].logprob for token, entry in stated]}


RUNTIMES = {"transformers": in_transformers, "vllm": in_vllm}


def main() -> None:
    """One JSON object in a file (engines print to stdout): the probe, or the sentence of an expected error."""
    folder, runtime, target = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    try:
        probe = read_manifest(folder).probe
        answer = RUNTIMES[runtime](folder, probe.ids if probe else [], "trust-remote-code" in sys.argv[4:])
    except SinkquantError as error:
        answer = {"error": str(error)}
    target.write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
