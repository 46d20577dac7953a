"""The prefix as constants: keys and values of the sink tokens, computed once in full precision.

The tokens run at positions −P … −1, so that the text keeps positions 0 …; rotary embedding is relative, which makes
this equal to the prefix in context (see docs/prefix.md). Where positions are a table, the text's begins behind them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sinkquant.errors import SinkquantError
from sinkquant.models.attention import AttentionCall, taps
from sinkquant.models.roles import Roles
from sinkquant.transforms.positions import turned


def refuse_prefix(roles: Roles) -> str | None:
    """Why this model cannot have a prefix, or None."""
    if not roles.attends:
        return "the attention of this architecture is computed elsewhere than in transformers' attention interface"
    if roles.text is None:
        return "tokens see those behind them, so what stands in front of a text would depend on the text"
    if roles.rope == "none" and roles.positions is None:
        return "positions are neither rotary nor a table that could begin behind the prefix, which would shift the text"
    if roles.rope == "dynamic":
        return "the rotary frequencies change with the length of the text, so the prefix would not stay constant"
    if any(block.attention is None for block in roles.text.blocks):
        return "some blocks have no attention that a prefix could be put in"
    return None


def holders(model: nn.Module, roles: Roles) -> list[nn.Module]:
    """The attention modules that a prefix stands in."""
    blocks = () if roles.text is None else roles.text.blocks
    return [model.get_submodule(block.attention.module) for block in blocks if block.attention is not None]


def prefix_states(model: nn.Module, roles: Roles, ids: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """(key, value) of every block that text goes through, each (kv heads, P, head dim) float32, in the basis that the
    attention works in.

    The model has to run through our attention function. A table of positions is that of the text behind the prefix
    (`positions.turn`).
    """
    reason = refuse_prefix(roles)
    if reason:
        raise SinkquantError(f"no prefix is possible: {reason}; use --set sinks.prefix=none.")
    modules = holders(model, roles)
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, call: AttentionCall) -> AttentionCall:
        found[module] = call.key[0].float().clone(), call.value[0].float().clone()
        return call

    device = next(model.parameters()).device
    table, tokens = roles.positions, torch.tensor([ids], device=device)
    where = {} if table is not None else {"position_ids": torch.arange(-len(ids), 0, device=device)[None]}
    with taps(modules, keep), torch.no_grad(), turned(model, table, -len(ids)):
        model(input_ids=tokens, use_cache=False, **where)
    return [found[module] for module in modules]
