"""Keys and values rounded where they are cached, for attentions that do not go through our attention function.

The attention is given a view of its cache that returns rounded keys and values; of an empty cache where it has none, so
that a pass without a cache is the same as one with it. The cache itself stays as it is: in float, or packed.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sinkquant.errors import SinkquantError
from sinkquant.hadamard.transform import fast_hadamard, fast_hadamard_transpose
from sinkquant.models.attention import Pending
from sinkquant.models.cached import with_view
from sinkquant.models.roles import Cached
from sinkquant.quantization.kv import KVGrid
from sinkquant.quantization.scheme import KVScheme

STAGE = "cached_stage"  # attribute of an attention module


@dataclass
class CachedStage:
    """Rounds the keys and values that the cache of one attention returns.

    Where the scheme rotates, keys and values alike are rounded in a rotated basis and turned back: queries are not
    seen, nor does a rotation of the values go into any weight.
    """

    scheme: KVScheme
    cached: Cached
    config: Any = field(repr=False)  # of the model: which layers a cache has
    ran: bool = False

    def __call__(self, key: Tensor | Pending, value: Tensor | Pending) -> tuple[Tensor, Tensor]:
        """Keys and values (B, Hkv, S, d) as they come back, from a packed cache or as if there were one."""
        if not self.ran:
            self.ran = True
        grid = KVGrid(self.scheme.bits, self.scheme.clip)
        if isinstance(key, Pending) and isinstance(value, Pending):
            written = key.layer.write(self._turned(key.states), self._turned(value.states), (grid, grid))
            read = [torch.cat([versions.quantized, versions.exact], dim=2) for versions in written]
        else:
            assert isinstance(key, Tensor)
            assert isinstance(value, Tensor)
            read = [grid.fake(self._turned(x)) for x in (key, value)]
        back = [fast_hadamard_transpose(x) if self.scheme.rotate else x for x in read]
        return back[0], back[1]

    def _turned(self, x: Tensor) -> Tensor:
        return fast_hadamard(x) if self.scheme.rotate else x


def install_cached(module: nn.Module, scheme: KVScheme, cached: Cached, config: Any) -> None:
    """Give an attention module its stage; nothing where it keeps full precision.

    Raises SinkquantError where the module takes no cache by that name.
    """
    if scheme.bits >= 16:
        return
    if cached.argument not in inspect.signature(module.forward).parameters:
        raise SinkquantError(
            f"{type(module).__name__} takes no {cached.argument!r}, in which the checkpoint rounds keys and values; "
            "load it with the transformers version stated in its manifest."
        )
    if not hasattr(module, STAGE):
        module.register_forward_pre_hook(_give_view, with_kwargs=True)
        module.register_forward_hook(_check_it_ran)
    setattr(module, STAGE, CachedStage(scheme, cached, config))


def _give_view(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    stage: CachedStage = getattr(module, STAGE)
    return with_view(module, stage.cached.argument, (args, kwargs), stage, stage.config)


def _check_it_ran(module: nn.Module, args: Any, output: Any) -> None:
    if not getattr(module, STAGE).ran:
        raise SinkquantError(
            f"{type(module).__name__} computed its attention without its cache, and so without rounded keys and "
            "values; load the checkpoint with the transformers version stated in its manifest."
        )
