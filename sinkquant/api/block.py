"""Quantize one block: site by site, each on the inputs that the quantized model will really give it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sinkquant.api.plan import Plan
from sinkquant.calibration.walk import BlockRun, capture_inputs
from sinkquant.models.roles import Site
from sinkquant.quantization.activations import static_range, token_ranges
from sinkquant.quantization.gptq import gptq
from sinkquant.quantization.grid import fake_quantize
from sinkquant.quantization.scheme import LinearScheme
from sinkquant.quantization.weights import QuantizedWeight, round_to_nearest
from sinkquant.runtime.kv import install
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import replace_module
from sinkquant.transforms.hadamard import fast_hadamard

RANGE_ROWS = 2048  # rows that a range search looks at, evenly spaced


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
        if scheme.weight is None and scheme.activation is None:
            continue
        rows = _site_rows(model, run, site, plan, threshold) if _needs_rows(plan, scheme) else None
        _quantize_site(model, site, plan, rows)
    return [run.forward(batch) for batch in run.batches()]


def _needs_rows(plan: Plan, scheme: LinearScheme) -> bool:
    static = scheme.activation is not None and scheme.activation.mode == "static"
    return static or (scheme.weight is not None and plan.recipe.weights.method == "gptq")


def _site_rows(model: nn.Module, run: BlockRun, site: Site, plan: Plan, threshold: float) -> Tensor:
    """Inputs (tokens, width) of the site, as its grid will see them, without padding and sink rows."""
    kept: list[Tensor] = []
    weights = plan.linears[site.linears[0]].weight
    every = 1
    if weights is None or plan.recipe.weights.method != "gptq":  # a range needs a sample, a Hessian all rows
        every = max(1, sum(mask.numel() for mask in run.masks) // RANGE_ROWS)

    def keep(rows: Tensor, mask: Tensor) -> None:
        if plan.recipe.sinks.exclude:
            size = rows.abs().amax(-1).float()
            mask = mask & (size <= threshold * size[mask].median())
        kept.append(rows[mask][::every].clone())

    capture_inputs(run, site.linears[0], keep)
    rows = torch.cat(kept)
    return fast_hadamard(rows) if plan.linears[site.linears[0]].rotate else rows


def _quantize_site(model: nn.Module, site: Site, plan: Plan, rows: Tensor | None) -> None:
    linears = [model.get_submodule(name) for name in site.linears]
    scheme = plan.linears[site.linears[0]]
    input_range, recipe = None, plan.recipe
    if scheme.activation is not None and scheme.activation.mode == "static":
        assert rows is not None
        sample = rows[:: max(1, len(rows) // RANGE_ROWS)]
        stacked = torch.cat([linear.weight for linear in linears])  # type: ignore[misc, list-item]
        search = recipe.activations.clip == "mse"
        input_range = static_range(sample, scheme.activation.grid, search=search, weight=stacked)
    hessian = None
    if scheme.weight is not None and recipe.weights.method == "gptq":
        assert rows is not None
        hessian = _hessian(rows, scheme, input_range)
    for name, linear in zip(site.linears, linears, strict=True):
        assert isinstance(linear, nn.Linear | QuantizedLinear)
        own = plan.linears[name]
        codes = _round(linear.weight, own, plan, hessian)
        replace_module(model, name, QuantizedLinear.from_linear(linear, own, codes, input_range))  # type: ignore[arg-type]


def _hessian(rows: Tensor, scheme: LinearScheme, input_range: tuple[Tensor, Tensor] | None) -> Tensor:
    """XᵀX / n of the quantized inputs, chunk by chunk."""
    total = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for chunk in rows.split(4096):
        if scheme.activation is not None:
            ranges = input_range if input_range is not None else token_ranges(chunk, scheme.activation)
            chunk = fake_quantize(chunk, *ranges, scheme.activation.grid)
        total += (chunk.T @ chunk).double()
    return total / len(rows)


def _round(weight: Tensor, scheme: LinearScheme, plan: Plan, hessian: Tensor | None) -> QuantizedWeight | None:
    settings = plan.recipe.weights
    if scheme.weight is None:
        return None
    search = settings.clip == "mse"
    if hessian is None:
        return round_to_nearest(weight, scheme.weight, search=search)
    return gptq(weight, hessian, scheme.weight, damping=settings.damping, act_order=settings.act_order, search=search)
