"""Quantize one block: site by site, each on the inputs that the quantized model will really give it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sinkquant.api.plan import Plan
from sinkquant.calibration.walk import BlockRun, capture_inputs
from sinkquant.models.roles import Site
from sinkquant.quantization.activations import dynamic_clip, static_range, token_ranges
from sinkquant.quantization.gptq import gptq
from sinkquant.quantization.grid import fake_quantize
from sinkquant.quantization.refine import refine
from sinkquant.quantization.scheme import LinearScheme
from sinkquant.quantization.weights import QuantizedWeight, round_to_nearest
from sinkquant.runtime.kv import install
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import replace_module
from sinkquant.sinks.rows import ordinary_rows, without_sinks
from sinkquant.transforms.hadamard import fast_hadamard

RANGE_ROWS = 2048  # rows that a range search looks at, evenly spaced
CHUNK = 4096  # rows of a Hessian's partial sums


def quantize_block(model: nn.Module, run: BlockRun, plan: Plan, threshold: float) -> list[Tensor]:
    """Replace the block's linears and install its KV scheme; returns the block's outputs.

    `threshold`: rows whose largest magnitude exceeds that many times the median row's are sink rows and are left out
    of ranges and Hessians (if the recipe says so).
    """
    if run.roles.attention is not None:
        module = model.get_submodule(run.roles.attention.module)
        install(module, plan.kv, getattr(module, "sink_key", None), getattr(module, "sink_value", None))
    for site in run.roles.sites:
        scheme = plan.linears[site.linears[0]]
        if scheme.weight is None and scheme.activation is None:  # then there is nothing that a mean could disturb
            continue
        rows = _site_rows(run, site, plan, threshold) if _needs_rows(plan, scheme) else None
        _quantize_site(model, site, plan, rows, threshold)
    return [run.forward(batch) for batch in run.batches()]


def _needs_rows(plan: Plan, scheme: LinearScheme) -> bool:
    return scheme.center or _needs_sample(plan, scheme) or _needs_hessian(plan, scheme)


def _needs_sample(plan: Plan, scheme: LinearScheme) -> bool:
    """Static ranges always; a clip of dynamic ones where our runtime applies it and the grid is coarse."""
    if scheme.activation is None:
        return False
    clipped = plan.recipe.target == "sink-aware" and plan.recipe.activations.clip == "mse"
    return scheme.activation.mode == "static" or (clipped and scheme.activation.bits < 8)


def _needs_hessian(plan: Plan, scheme: LinearScheme) -> bool:
    return scheme.weight is not None and plan.recipe.weights.method == "gptq"


def _site_rows(run: BlockRun, site: Site, plan: Plan, threshold: float) -> Tensor:
    """Inputs (tokens, width) of the site, as its grid will see them, without padding and sink rows."""
    kept: list[Tensor] = []
    scheme = plan.linears[site.linears[0]]
    every = 1
    if not _needs_hessian(plan, scheme):  # a range needs a sample, a Hessian all rows
        every = max(1, sum(mask.numel() for mask in run.masks) // RANGE_ROWS)

    def keep(rows: Tensor, mask: Tensor) -> None:
        # Without a prefix the rounded weights must still produce the sinks: a Hessian that does not know their
        # direction would move all rounding errors into it.
        if plan.recipe.sinks.exclude and (plan.prefix or not _needs_hessian(plan, scheme)):
            mask = mask & ordinary_rows(rows, mask, threshold)
        kept.append(rows[mask][::every].clone())

    capture_inputs(run, site.linears[0], keep)
    rows = torch.cat(kept)
    return fast_hadamard(rows) if scheme.rotate else rows


def _quantize_site(model: nn.Module, site: Site, plan: Plan, rows: Tensor | None, threshold: float) -> None:
    linears = [model.get_submodule(name) for name in site.linears]
    scheme, recipe = plan.linears[site.linears[0]], plan.recipe
    input_range, activation, offset = None, scheme.activation, None
    if scheme.center:
        assert rows is not None
        offset = without_sinks(rows, threshold).mean(0)
        rows = rows - offset
    if activation is not None and _needs_sample(plan, scheme):
        assert rows is not None
        sample = rows[:: max(1, len(rows) // RANGE_ROWS)]
        if recipe.sinks.exclude:
            sample = without_sinks(sample, threshold)
        stacked = torch.cat([linear.weight for linear in linears])  # type: ignore[misc, list-item]
        if activation.mode == "static":
            search = recipe.activations.clip == "mse"
            input_range = static_range(sample, activation.grid, search=search, weight=stacked)
        else:
            activation = replace(activation, clip=dynamic_clip(sample, activation, stacked))
            scheme = replace(scheme, activation=activation)
    hessian = None
    if _needs_hessian(plan, scheme):
        assert rows is not None
        hessian = _hessian(rows, scheme, input_range)
    for name, linear in zip(site.linears, linears, strict=True):
        assert isinstance(linear, nn.Linear | QuantizedLinear)
        own = replace(plan.linears[name], activation=activation)
        codes = _round(linear.weight, own, plan, hessian)
        replace_module(model, name, QuantizedLinear.from_linear(linear, own, codes, input_range, offset))  # type: ignore[arg-type]


def _hessian(rows: Tensor, scheme: LinearScheme, input_range: tuple[Tensor, Tensor] | None) -> Tensor:
    """XᵀX / n (in, in) float64 of the inputs as the quantized layer sees them, chunk by chunk."""
    total = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for seen in rows.split(CHUNK):
        if scheme.activation is not None:
            ranges = input_range if input_range is not None else token_ranges(seen, scheme.activation)
            seen = fake_quantize(seen, *ranges, scheme.activation.grid)
        total += (seen.T @ seen).double()
    return total / len(rows)


def _round(weight: Tensor, scheme: LinearScheme, plan: Plan, hessian: Tensor | None) -> QuantizedWeight | None:
    settings = plan.recipe.weights
    if scheme.weight is None:
        return None
    search = settings.clip == "mse"
    if hessian is None:
        return round_to_nearest(weight, scheme.weight, search=search)
    start = gptq(weight, hessian, scheme.weight, damping=settings.damping, act_order=settings.act_order, search=search)
    return refine(weight, start, hessian, scheme.weight, damping=settings.damping, sweeps=settings.sweeps)
