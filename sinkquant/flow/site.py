"""Quantize one site: linears that share an input, on the rows that the quantized model will really give them.

The rows themselves are not kept. The first pass takes what the range and the spike units are chosen from; the second,
which only some rounding methods need, statistics of the rows as the quantized layer sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sinkquant.errors import SinkquantError
from sinkquant.flow.plan import Plan
from sinkquant.flow.spikes import choose_spikes
from sinkquant.formats.format import FORMATS
from sinkquant.models.roles import Site
from sinkquant.quantization.activations import dynamic_clip, output_error, static_range, token_ranges
from sinkquant.quantization.grid import fake_quantize
from sinkquant.quantization.scheme import ActivationScheme, LinearScheme
from sinkquant.rounding.method import METHODS, Method, require_form
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import replace_module
from sinkquant.runtime.spikes import split_weight, without_spikes
from sinkquant.sinks.rows import ordinary_rows, without_sinks
from sinkquant.transforms.hadamard import fast_hadamard
from sinkquant.walk.experts import seen_by_enough
from sinkquant.walk.statistics import Mean, Peaks, Sample, Statistic
from sinkquant.walk.walk import BlockRun, capture_inputs

RANGE_ROWS = 2048  # rows that a range search looks at, evenly spaced
SPIKE_ROWS = 512  # of them, to find how many spike units pay

Range = tuple[Tensor, Tensor | None]


def quantize_site(model: nn.Module, run: BlockRun, site: Site, plan: Plan, threshold: float) -> None:
    """Replace the linears of `site`; rows beyond `threshold` × the median row's magnitude are those of sinks."""
    work = SiteWork(model, run, site, plan, threshold)
    if work.scheme.weight is None and work.scheme.activation is None:  # nothing that a mean could disturb
        return
    seen = work.look()
    ready = work.prepare(seen)
    activation, input_range = work.ranges(ready, seen)
    for group in site.groups:
        _round(work, group, ready, activation, input_range)


def _round(
    work: SiteWork,
    group: tuple[str, ...],
    ready: Prepared,
    activation: ActivationScheme | None,
    input_range: Range | None,
) -> None:
    """Replace the linears of `group`, which see the same rows of the site's input."""
    model, plan = work.model, work.plan
    values = work.statistics(group[0], ready, activation, input_range)
    for name in group:
        linear = model.get_submodule(name)
        own = replace(plan.linears[name], activation=activation, spikes=len(ready.spikes))
        codes = None
        if own.weight is not None:
            weight = split_weight(linear.weight, ready.spikes, own.rotate)[0] if own.spikes else linear.weight  # type: ignore[arg-type]
            try:
                codes = work.method.round(weight, own.weight, values, plan.recipe.weights)  # type: ignore[arg-type]
                require_form(codes, weight, own.weight)  # type: ignore[arg-type]
            except ValueError as error:
                raise SinkquantError(f"{name} cannot be rounded: {error}.") from error
        made = QuantizedLinear.from_linear(linear, own, codes, input_range, ready.offset, ready.spikes)  # type: ignore[arg-type]
        replace_module(model, name, made)


@dataclass(frozen=True)
class Seen:
    """Of a site's inputs as they come, each where it is needed: the mean (width,) and a sample (about RANGE_ROWS,
    width) of rows that its grid is for, and the largest magnitudes (width,) of all."""

    mean: Tensor | None = None
    sample: Tensor | None = None
    peaks: Tensor | None = None


@dataclass(frozen=True)
class Prepared:
    """What happens to the inputs before they are rounded: `spikes` (k,) taken out, rotated, `offset` (width,) off."""

    spikes: Tensor
    rotate: bool
    offset: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """(tokens, width) -> (tokens, width)."""
        rows = without_spikes(rows, self.spikes) if len(self.spikes) else rows
        rows = fast_hadamard(rows) if self.rotate else rows
        return rows if self.offset is None else rows - self.offset


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

    @property
    def leaves_sinks_out(self) -> bool:
        """Whether ranges need not hold sink rows: a prefix has taken them out of the text, they have ranges of their
        own, or they are routed."""
        inputs = self.scheme.activation
        isolated = bool(self.plan.prefix) or inputs is None or inputs.mode == "dynamic" or inputs.route is not None
        return self.plan.recipe.sinks.exclude and isolated

    def rows(self, name: str, keep: Callable[[Tensor], None], every: Callable[[Tensor], None] | None = None) -> None:
        """Hand the inputs (tokens, width) of module `name` over, part by part, as they come: to `keep` without padding
        and sinks, to `every` without padding. An expert that few tokens choose sees them all."""
        # Without a prefix the rounded weights must still produce the sinks: a statistic that does not know their
        # direction would move all rounding errors into it.
        exclude = self.leaves_sinks_out and (bool(self.plan.prefix) or not self.needs)

        def take(rows: Tensor, real: Tensor) -> None:
            if every is not None:
                every(rows[real])
            keep(rows[real & ordinary_rows(rows, real, self.threshold) if exclude else real])

        with seen_by_enough(self.run, name):
            capture_inputs(self.run, name, take)

    def look(self) -> Seen:
        """One pass over the inputs, where one is needed."""
        center, spikes = self.scheme.center, self.scheme.spikes > 0
        if not (center or spikes or self._searches):
            return Seen()
        mean, peaks = Mean(), Peaks()
        sample = Sample(max(1, sum(mask.numel() for mask in self.run.masks) // RANGE_ROWS))

        def keep(rows: Tensor) -> None:
            sample.add(rows)
            if center:
                mean.add(without_sinks(rows, self.threshold))

        self.rows(self.site.source, keep, peaks.add if spikes else None)
        used: list[Statistic] = [sample, *([mean] if center else []), *([peaks] if spikes else [])]
        for statistic in used:
            statistic.reduce()
        return Seen(mean.value if center else None, sample.value, peaks.value if spikes else None)

    @property
    def _searches(self) -> bool:
        """Static ranges always; a clip of dynamic ones where our runtime applies it and the grid is coarse."""
        activation, recipe = self.scheme.activation, self.plan.recipe
        if activation is None:
            return False
        clipped = FORMATS[recipe.target].ours and recipe.activations.clip == "mse"
        return activation.mode == "static" or (clipped and activation.bits < 8)

    def prepare(self, seen: Seen) -> Prepared:
        """Which channels are spike units, and the mean of what is left."""

        def without(spikes: Tensor) -> Prepared:
            plain = Prepared(spikes, self.scheme.rotate)
            return plain if seen.mean is None else replace(plain, offset=plain(seen.mean))

        activation, asked = self.scheme.activation, self.plan.recipe.activations
        if activation is None or seen.peaks is None or seen.sample is None:
            return without(torch.empty(0, dtype=torch.int64))
        sample = self.ranged(seen.sample)
        sample = sample[:: max(1, len(sample) // SPIKE_ROWS)]

        def error(spikes: Tensor) -> float:
            weights = [split_weight(linear.weight, spikes, self.scheme.rotate)[0] for linear in self.linears]  # type: ignore[arg-type]
            return output_error(without(spikes)(sample), activation, torch.cat(weights), search=asked.clip == "mse")

        return without(choose_spikes(seen.peaks, self.scheme.spikes, error if asked.spikes == "auto" else None))

    def ranged(self, sample: Tensor) -> Tensor:
        """At most RANGE_ROWS of the rows (tokens, width) as they come, those that the range has to hold."""
        sample = sample[:: max(1, len(sample) // RANGE_ROWS)]
        return without_sinks(sample, self.threshold) if self.leaves_sinks_out else sample

    def ranges(self, ready: Prepared, seen: Seen) -> tuple[ActivationScheme | None, Range | None]:
        """The scheme of the inputs, clipped if they are dynamic, and their static range if they are not."""
        activation, recipe = self.scheme.activation, self.plan.recipe
        if activation is None or seen.sample is None or not self._searches:
            return activation, None
        sample = ready(self.ranged(seen.sample))
        weight = torch.cat([linear.weight for linear in self.linears])  # type: ignore[misc]
        if activation.mode == "static":
            return activation, static_range(
                sample, activation.grid, search=recipe.activations.clip == "mse", weight=weight
            )
        return replace(activation, clip=dynamic_clip(sample, activation, weight)), None

    def statistics(
        self, name: str, ready: Prepared, activation: ActivationScheme | None, input_range: Range | None
    ) -> dict[str, Tensor]:
        """What the rounding method needs, of the inputs of linear `name` as it sees them when it is quantized."""
        if not self.needs:
            return {}
        found = {name: make() for name, make in self.method.needs.items()}

        def keep(rows: Tensor) -> None:
            rows = ready(rows)
            if activation is not None:
                ranges = input_range if input_range is not None else token_ranges(rows, activation)
                rows = fake_quantize(rows, *ranges, activation.grid)
            for statistic in found.values():
                statistic.add(rows)

        self.rows(name, keep)
        for statistic in found.values():
            statistic.reduce()
        return {name: statistic.value for name, statistic in found.items()}
