"""Quantize one block: its keys and values, then site by site."""

from __future__ import annotations

from torch import Tensor, nn

from sinkquant.flow.plan import Plan
from sinkquant.flow.site import quantize_sites
from sinkquant.models.roles import Block
from sinkquant.runtime.cached import install_cached
from sinkquant.runtime.kv import install, scheme_of
from sinkquant.walk.experts import side_by_side
from sinkquant.walk.walk import BlockRun, run_block


def quantize_block(model: nn.Module, run: BlockRun, plan: Plan, threshold: float) -> list[Tensor]:
    """Replace the block's linears and install its KV scheme; returns the block's outputs.

    `threshold`: rows whose largest magnitude exceeds that many times the median row's are sink rows and are left out
    of ranges and Hessians (if the recipe says so).
    """
    install_kv(model, run.roles, plan)
    for sites in side_by_side(run, run.roles.sites):
        quantize_sites(model, run, sites, plan, threshold)
    return run_block(run)


def install_kv(model: nn.Module, block: Block, plan: Plan) -> None:
    """Give the block's attentions what they get of the plan's KV scheme; a prefix stays."""
    for attention in block.attentions:
        module = model.get_submodule(attention.module)
        sinks = [getattr(module, name, None) for name in ("sink_key", "sink_value")]
        install(module, scheme_of(plan.kv, attention), sinks[0], sinks[1])
    for cached in block.cached:
        install_cached(model.get_submodule(cached.module), plan.kv, cached, model.config)
