"""What runs inside vLLM's environment: `python -m eval.vllm.inside JOB.json RESULT.json`.

A job: {"checkpoint": folder, "options": of vllm.LLM, "steps": [[name, arguments], …]}; the result lists what the steps
gave. The engine runs in this process, so that its layers can be looked at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from eval.vllm import layers

GREEDY = {"temperature": 0.0, "max_tokens": 16, "logprobs": 0}


class Engine:
    """vLLM with one checkpoint."""

    def __init__(self, checkpoint: str, options: dict[str, Any]) -> None:
        from vllm import LLM

        base = {"dtype": "float32", "enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 8}
        self.llm, self.checkpoint = LLM(checkpoint, **(base | options)), checkpoint

    def run(self, prompts: list[Any], **settings: Any) -> list[Any]:
        """vLLM's outputs for texts or lists of token ids."""
        from vllm import SamplingParams

        given = [{"prompt_token_ids": p} if isinstance(p, list) else p for p in prompts]
        return self.llm.generate(given, SamplingParams(**settings), use_tqdm=False)

    def score(self, windows: list[list[int]], placeholders: list[int], together: bool = True) -> list[list[float]]:
        """Log-probabilities of tokens 1 … T−1 of every window behind the placeholders."""
        prompts = [placeholders + window for window in windows]
        batches = [prompts] if together else [[prompt] for prompt in prompts]
        outputs = [o for b in batches for o in self.run(b, temperature=0.0, max_tokens=1, prompt_logprobs=0)]
        return [scores(output)[len(placeholders) :] for output in outputs]

    def switch_off(self) -> None:
        """From now on the placeholders' own rows go into the cache."""
        self.llm.apply_model(layers.remove_prefix)
        self.llm.reset_prefix_cache()

    def caching(self, prompt: list[int]) -> dict[str, Any]:
        """The same prompt twice, the second time from the cache."""
        self.llm.reset_prefix_cache()
        first, second = (self.run([prompt], **GREEDY)[0] for _ in range(2))
        return {
            "cached": [first.num_cached_tokens, second.num_cached_tokens],
            "chosen": [chosen(first), chosen(second)],
        }

    def prompts(self, prompts: list[Any]) -> list[dict[str, Any]]:
        """The token ids that vLLM made of every prompt, and its continuation."""
        return [
            {"ids": list(o.prompt_token_ids), "text": o.outputs[0].text, "chosen": chosen(o)}
            for p in prompts
            for o in self.run([p], **GREEDY)
        ]

    def linears(self) -> list[dict[str, Any]]:
        """Every int8 linear against the exact formula."""
        return self.llm.apply_model(lambda model: layers.compare(model, Path(self.checkpoint)))[0]


def scores(output: Any) -> list[float]:
    """Log-probabilities of the prompt's tokens, the first one left out."""
    pairs = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    return [row[token].logprob for token, row in pairs]


def chosen(output: Any) -> list[float]:
    """Log-probabilities of the tokens that were generated."""
    made = output.outputs[0]
    return [row[token].logprob for token, row in zip(made.token_ids, made.logprobs, strict=True)]


def main() -> None:
    """Do the job."""
    job = json.loads(Path(sys.argv[1]).read_text())
    engine = Engine(job["checkpoint"], job["options"])
    results = [getattr(engine, name)(**arguments) for name, arguments in job["steps"]]
    Path(sys.argv[2]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
