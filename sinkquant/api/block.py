"""Quantize one block: site by site, each on the inputs that the quantized model will really give it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sinkquant.api.plan import Plan
from sinkquant.api.streams import FloatStream
from sinkquant.calibration.walk import BlockRun, capture_inputs
from sinkquant.models.roles import Site
from sinkquant.quantization.activations import dynamic_clip, static_range, token_ranges
from sinkquant.quantization.correction import corrected_weight
from sinkquant.quantization.gptq import gptq
from sinkquant.quantization.grid import fake_quantize
from sinkquant.quantization.refine import refine
from sinkquant.quantization.scheme import LinearScheme
from sinkquant.quantization.weights import QuantizedWeight, round_to_nearest
from sinkquant.runtime.kv import install
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import replace_module
from sinkquant.sinks.rows import ordinary_rows
from sinkquant.transforms.hadamard import fast_hadamard

RANGE_ROWS = 2048  # rows that a range search looks at, evenly spaced
CHUNK = 4096  # rows of a Hessian's partial sums

Range = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of a site's inputs, (in, in) float64: X̃ᵀX̃/n, and XᵀX̃/n where the float inputs X are known."""

    hessian: Tensor
    cross: Tensor | None


def quantize_block(
    model: nn.Module, run: BlockRun, plan: Plan, threshold: float, reference: FloatStream | None = None
) -> list[Tensor]:
    """Replace the block's linears and install its KV scheme; returns the block's outputs.

    `threshold`: rows whose largest magnitude exceeds that many times the median row's are sink rows and are left out
    of ranges and Hessians (if the recipe says so). `reference`: the float stream that the rounding should restore.
    """
    if reference is not None:
        reference.advance(run)
    if run.roles.attention is not None:
        module = model.get_submodule(run.roles.attention.module)
        install(module, plan.kv, getattr(module, "sink_key", None), getattr(module, "sink_value", None))
    for site in run.roles.sites:
        scheme = plan.linears[site.linears[0]]
        if scheme.weight is None and scheme.activation is None:
            continue
        rows, wanted = _site_rows(run, site, plan, threshold, reference) if _needs_rows(plan, scheme) else (None, None)
        _quantize_site(model, site, plan, rows, wanted, threshold)
    return [run.forward(batch) for batch in run.batches()]


def _needs_rows(plan: Plan, scheme: LinearScheme) -> bool:
    return _needs_sample(plan, scheme) or _needs_moments(plan, scheme)


def _needs_sample(plan: Plan, scheme: LinearScheme) -> bool:
    """Static ranges always; a clip of dynamic ones where our runtime applies it and the grid is coarse."""
    if scheme.activation is None:
        return False
    clipped = plan.recipe.target == "sink-aware" and plan.recipe.activations.clip == "mse"
    return scheme.activation.mode == "static" or (clipped and scheme.activation.bits < 8)


def _needs_moments(plan: Plan, scheme: LinearScheme) -> bool:
    return scheme.weight is not None and plan.recipe.weights.method == "gptq"


def _site_rows(
    run: BlockRun, site: Site, plan: Plan, threshold: float, reference: FloatStream | None
) -> tuple[Tensor, Tensor | None]:
    """Inputs (tokens, width) of the site without padding and sink rows, and the float stream's for the same tokens."""
    kept, wanted = [], []
    floats = reference.take(site) if reference is not None else None
    scheme = plan.linears[site.linears[0]]
    every = 1
    if not _needs_moments(plan, scheme):  # a range needs a sample, a Hessian all rows
        every = max(1, sum(mask.numel() for mask in run.masks) // RANGE_ROWS)

    def keep(rows: Tensor, mask: Tensor) -> None:
        # Without a prefix the rounded weights must still produce the sinks: a Hessian that does not know their
        # direction would move all rounding errors into it.
        if plan.recipe.sinks.exclude and (plan.prefix or not _needs_moments(plan, scheme)):
            mask = mask & ordinary_rows(rows, mask, threshold)
        kept.append(rows[mask][::every].clone())
        if floats is not None:
            wanted.append(floats.pop(0)[mask][::every])

    capture_inputs(run, site.linears[0], keep)
    turn = fast_hadamard if scheme.rotate else torch.clone
    return turn(torch.cat(kept)), turn(torch.cat(wanted)) if wanted else None


def _quantize_site(
    model: nn.Module, site: Site, plan: Plan, rows: Tensor | None, wanted: Tensor | None, threshold: float
) -> None:
    linears = [model.get_submodule(name) for name in site.linears]
    scheme, recipe = plan.linears[site.linears[0]], plan.recipe
    input_range, activation = None, scheme.activation
    if activation is not None and _needs_sample(plan, scheme):
        assert rows is not None
        sample = rows[:: max(1, len(rows) // RANGE_ROWS)]
        if recipe.sinks.exclude:
            sample = sample[ordinary_rows(sample, torch.ones(len(sample), dtype=torch.bool), threshold)]
        stacked = torch.cat([linear.weight for linear in linears])  # type: ignore[misc, list-item]
        if activation.mode == "static":
            search = recipe.activations.clip == "mse"
            input_range = static_range(sample, activation.grid, search=search, weight=stacked)
        else:
            activation = replace(activation, clip=dynamic_clip(sample, activation, stacked))
            scheme = replace(scheme, activation=activation)
    moments = None
    if _needs_moments(plan, scheme):
        assert rows is not None
        moments = _moments(rows, wanted, scheme, input_range)
    for name, linear in zip(site.linears, linears, strict=True):
        assert isinstance(linear, nn.Linear | QuantizedLinear)
        own = replace(plan.linears[name], activation=activation)
        codes = _round(linear.weight, own, plan, moments)
        replace_module(model, name, QuantizedLinear.from_linear(linear, own, codes, input_range))  # type: ignore[arg-type]


def _moments(rows: Tensor, wanted: Tensor | None, scheme: LinearScheme, input_range: Range | None) -> Moments:
    """Moments of the inputs as the quantized layer sees them, chunk by chunk."""
    hessian = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    cross = None if wanted is None else torch.zeros_like(hessian)
    for start in range(0, len(rows), CHUNK):
        seen = rows[start : start + CHUNK]
        if scheme.activation is not None:
            ranges = input_range if input_range is not None else token_ranges(seen, scheme.activation)
            seen = fake_quantize(seen, *ranges, scheme.activation.grid)
        hessian += (seen.T @ seen).double()
        if cross is not None and wanted is not None:
            cross += (wanted[start : start + CHUNK].T @ seen).double()
    return Moments(hessian / len(rows), None if cross is None else cross / len(rows))


def _round(weight: Tensor, scheme: LinearScheme, plan: Plan, moments: Moments | None) -> QuantizedWeight | None:
    settings = plan.recipe.weights
    if scheme.weight is None:
        return None
    search = settings.clip == "mse"
    if moments is None:
        return round_to_nearest(weight, scheme.weight, search=search)
    if moments.cross is not None:
        weight = corrected_weight(weight, moments.hessian, moments.cross, settings.correct_damping)
    start = gptq(
        weight, moments.hessian, scheme.weight, damping=settings.damping, act_order=settings.act_order, search=search
    )
    return refine(weight, start, moments.hessian, scheme.weight, damping=settings.damping, sweeps=settings.sweeps)
