"""Where the tensors of a sink-aware checkpoint go in vLLM's model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor
from vllm.model_executor.models.utils import WeightsMapper

# Our buffers lie on the module that holds vLLM's attention layer `attn`.
ATTENTION = re.compile(r"(?<!\.attn)\.((?:sink|query|key|value)_(?:key|value|transform|offset))$")


@dataclass
class CheckpointMapper(WeightsMapper):
    """A mapper of vLLM that also takes the leading axis off the final norm (see `flag_final_norm`).

    vLLM combines mappers with `|`; the result must stay one of this class.
    """

    final_norm: str | None = None

    @classmethod
    def of(cls, final_norm: str | None, centered: list[str], mapper: WeightsMapper) -> CheckpointMapper:
        """`mapper` with the attention's buffers, without the tensors that no layer needs.

        `centered`: linears whose bias holds the mean's share; vLLM would drop a bias that its model does not have.
        """
        leaves = sorted({name.rpartition(".")[2] for name in centered})
        renames: dict[Any, Any] = {ATTENTION: r".attn.\1"}
        if leaves:
            renames[re.compile(rf"\b({'|'.join(map(re.escape, leaves))})\.bias$")] = r"\1.centered_bias"
        ours = WeightsMapper(orig_to_new_regex=renames, orig_to_new_suffix={".weight_shape": None})
        return cls(**_maps(mapper | ours), final_norm=final_norm)

    def __or__(self, other: WeightsMapper) -> CheckpointMapper:
        """Ours, then the other's."""
        return CheckpointMapper(**_maps(WeightsMapper(**_maps(self)) | other), final_norm=self.final_norm)

    def __ror__(self, other: WeightsMapper) -> CheckpointMapper:
        """The other's, then ours."""
        return CheckpointMapper(**_maps(other | WeightsMapper(**_maps(self))), final_norm=self.final_norm)

    def apply(self, weights: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, Tensor]]:
        """Names and tensors as vLLM's model has them."""
        flag = f"{self.final_norm}.weight"
        return super().apply((name, data.reshape(-1) if name == flag else data) for name, data in weights)


def _maps(mapper: WeightsMapper) -> dict[str, Any]:
    return {field.name: getattr(mapper, field.name) for field in fields(WeightsMapper)}
