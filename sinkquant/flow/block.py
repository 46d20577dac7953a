"""Quantize one block: its keys and values, then site by site."""

from __future__ import annotations

from torch import Tensor, nn

from sinkquant.flow.plan import Plan
from sinkquant.flow.site import quantize_site
from sinkquant.runtime.kv import install
from sinkquant.walk.walk import BlockRun, run_block


def quantize_block(model: nn.Module, run: BlockRun, plan: Plan, threshold: float) -> list[Tensor]:
    """Replace the block's linears and install its KV scheme; returns the block's outputs.

    `threshold`: rows whose largest magnitude exceeds that many times the median row's are sink rows and are left out
    of ranges and Hessians (if the recipe says so).
    """
    if run.roles.attention is not None:
        module = model.get_submodule(run.roles.attention.module)
        install(module, plan.kv, getattr(module, "sink_key", None), getattr(module, "sink_value", None))
    for site in run.roles.sites:
        quantize_site(model, run, site, plan, threshold)
    return run_block(run)
