"""Quantize one site: linears that share an input, on the rows that the quantized model will really give them.

The rows themselves are not kept. The first pass takes their mean and a sample for the range; the second, which only
some rounding methods need, statistics of the rows as the quantized layer sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sinkquant.errors import SinkquantError
from sinkquant.flow.plan import Plan
from sinkquant.models.roles import Site
from sinkquant.quantization.activations import dynamic_clip, static_range, token_ranges
from sinkquant.quantization.grid import fake_quantize
from sinkquant.quantization.scheme import ActivationScheme, LinearScheme
from sinkquant.rounding.method import METHODS, Method
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import replace_module
from sinkquant.sinks.rows import ordinary_rows, without_sinks
from sinkquant.transforms.hadamard import fast_hadamard
from sinkquant.walk.statistics import Mean, Sample
from sinkquant.walk.walk import BlockRun, capture_inputs

RANGE_ROWS = 2048  # rows that a range search looks at, evenly spaced

Range = tuple[Tensor, Tensor | None]


def quantize_site(model: nn.Module, run: BlockRun, site: Site, plan: Plan, threshold: float) -> None:
    """Replace the linears of `site`; rows beyond `threshold` × the median row's magnitude are those of sinks."""
    work = SiteWork(model, run, site, plan, threshold)
    if work.scheme.weight is None and work.scheme.activation is None:  # nothing that a mean could disturb
        return
    offset, sample = work.look()
    activation, input_range = work.ranges(sample, offset)
    values = work.statistics(activation, input_range, offset)
    for name, linear in zip(site.linears, work.linears, strict=True):
        own = replace(plan.linears[name], activation=activation)
        codes = None
        if own.weight is not None:
            try:
                codes = work.method.round(linear.weight, own.weight, values, plan.recipe.weights)  # type: ignore[arg-type]
            except ValueError as error:
                raise SinkquantError(f"{name} cannot be rounded: {error}.") from error
        replace_module(model, name, QuantizedLinear.from_linear(linear, own, codes, input_range, offset))  # type: ignore[arg-type]


@dataclass(frozen=True)
class SiteWork:
    """A site, its block on its way through the text, and what the plan wants of it."""

    model: nn.Module
    run: BlockRun
    site: Site
    plan: Plan
    threshold: float

    @property
    def linears(self) -> list[nn.Module]:
        """The modules."""
        return [self.model.get_submodule(name) for name in self.site.linears]

    @property
    def scheme(self) -> LinearScheme:
        """Of the first linear; inputs are treated alike in all."""
        return self.plan.linears[self.site.linears[0]]

    @property
    def method(self) -> Method:
        """How weights are rounded."""
        return METHODS[self.plan.recipe.weights.method]

    @property
    def needs(self) -> bool:
        """Whether rounding needs statistics."""
        return self.scheme.weight is not None and bool(self.method.needs)

    def rows(self, keep: Callable[[Tensor], None]) -> None:
        """Hand over the site's inputs (tokens, width), part by part, as its grid sees them; no padding, no sinks."""
        # Without a prefix the rounded weights must still produce the sinks: a statistic that does not know their
        # direction would move all rounding errors into it.
        exclude = self.plan.recipe.sinks.exclude and (bool(self.plan.prefix) or not self.needs)

        def take(rows: Tensor, real: Tensor) -> None:
            rows = rows[real & ordinary_rows(rows, real, self.threshold) if exclude else real]
            keep(fast_hadamard(rows) if self.scheme.rotate else rows)

        capture_inputs(self.run, self.site.linears[0], take)

    def look(self) -> tuple[Tensor | None, Tensor | None]:
        """The mean (width,) and a sample (about RANGE_ROWS, width) of the inputs, each where it is needed."""
        if not (self.scheme.center or self._searches):
            return None, None
        mean, sample = Mean(), Sample(max(1, sum(mask.numel() for mask in self.run.masks) // RANGE_ROWS))

        def keep(rows: Tensor) -> None:
            sample.add(rows)
            if self.scheme.center:
                mean.add(without_sinks(rows, self.threshold))

        self.rows(keep)
        for statistic in (mean, sample) if self.scheme.center else (sample,):
            statistic.reduce()
        return mean.value if self.scheme.center else None, sample.value

    @property
    def _searches(self) -> bool:
        """Static ranges always; a clip of dynamic ones where our runtime applies it and the grid is coarse."""
        activation, recipe = self.scheme.activation, self.plan.recipe
        if activation is None:
            return False
        clipped = recipe.target == "sink-aware" and recipe.activations.clip == "mse"
        return activation.mode == "static" or (clipped and activation.bits < 8)

    def ranges(self, sample: Tensor | None, offset: Tensor | None) -> tuple[ActivationScheme | None, Range | None]:
        """The scheme of the inputs, clipped if they are dynamic, and their static range if they are not."""
        activation, recipe = self.scheme.activation, self.plan.recipe
        if activation is None or sample is None or not self._searches:
            return activation, None
        sample = sample if offset is None else sample - offset
        sample = sample[:: max(1, len(sample) // RANGE_ROWS)]
        if recipe.sinks.exclude:
            sample = without_sinks(sample, self.threshold)
        stacked = torch.cat([linear.weight for linear in self.linears])  # type: ignore[misc]
        if activation.mode == "static":
            search = recipe.activations.clip == "mse"
            return activation, static_range(sample, activation.grid, search=search, weight=stacked)
        return replace(activation, clip=dynamic_clip(sample, activation, stacked)), None

    def statistics(
        self, activation: ActivationScheme | None, input_range: Range | None, offset: Tensor | None
    ) -> dict[str, Tensor]:
        """What the rounding method needs, of the inputs as the quantized layer sees them."""
        if not self.needs:
            return {}
        found = {name: make() for name, make in self.method.needs.items()}

        def keep(rows: Tensor) -> None:
            rows = rows if offset is None else rows - offset
            if activation is not None:
                ranges = input_range if input_range is not None else token_ranges(rows, activation)
                rows = fake_quantize(rows, *ranges, activation.grid)
            for statistic in found.values():
                statistic.add(rows)

        self.rows(keep)
        for statistic in found.values():
            statistic.reduce()
        return {name: statistic.value for name, statistic in found.items()}
