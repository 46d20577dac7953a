"""Every prompt of a model with a prefix begins with the prefix's tokens: their rows are the placeholders."""

from __future__ import annotations

from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.renderers.hf import HfRenderer

from sinkquant.integrations.vllm.completion import complete, prefix_of


class PrefixRenderer(HfRenderer):
    """Completes prompts after tokenization and truncation; prompts that are no token ids are refused."""

    def process_for_engine(self, prompt: Any, arrival_time: float, **kwargs: Any) -> Any:
        """As vLLM's, of the completed prompt."""
        return super().process_for_engine(self._completed(prompt), arrival_time, **kwargs)

    async def process_for_engine_async(self, prompt: Any, arrival_time: float, **kwargs: Any) -> Any:
        """As vLLM's, of the completed prompt."""
        return await super().process_for_engine_async(self._completed(prompt), arrival_time, **kwargs)

    def _completed(self, prompt: Any) -> Any:
        prefix = prefix_of(self.model_config.hf_config)
        if not prefix:
            return prompt
        if "prompt_token_ids" not in prompt or "prompt_embeds" in prompt:
            raise VLLMValidationError("this checkpoint has a sink prefix: give the prompt as text or token ids.")
        return complete(prompt, prefix)
