"""Quantize sites: linears that share an input, on the rows that the quantized model will really give them.

The rows themselves are not kept. The first pass takes what the range and the spike units are chosen from; the second,
which only some rounding methods need, statistics of the rows as the quantized layer sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sinkquant.errors import SinkquantError
from sinkquant.flow.modality import Chosen, by_kind, choose_ranges
from sinkquant.flow.plan import Plan
from sinkquant.flow.spikes import choose_spikes
from sinkquant.formats.format import FORMATS
from sinkquant.hadamard.transform import fast_hadamard
from sinkquant.models.roles import Site
from sinkquant.quantization.activations import Range, dynamic_clip, output_error, static_range, token_ranges
from sinkquant.quantization.grid import fake_quantize
from sinkquant.quantization.scheme import ActivationScheme, LinearScheme
from sinkquant.recipes.schema import Recipe
from sinkquant.rounding.method import METHODS, Method, require_form
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import replace_module
from sinkquant.runtime.spikes import split_weight, without_spikes
from sinkquant.walk.experts import expert_of, seen_by_enough
from sinkquant.walk.rows import ordinary_rows, without_sinks
from sinkquant.walk.statistics import Mean, Peaks, Sample, Statistic
from sinkquant.walk.walk import BlockRun, Take, capture_inputs

RANGE_ROWS = 2048  # rows that a range search looks at, evenly spaced
SPIKE_ROWS = 512  # of them, to find how many spike units pay

HELD = 2**30  # bytes of Hessians that are in memory at the same time, if one alone is not more

Keep = Callable[[Tensor, Tensor], None]  # rows (tokens, width), and which of them are media (tokens,)
Takes = dict[str, Take]  # by the module whose inputs they are


def quantize_sites(model: nn.Module, run: BlockRun, sites: Sequence[Site], plan: Plan, threshold: float) -> None:
    """Replace the linears of sites of which none feeds another, looked at in the same passes.

    Rows beyond `threshold` × the median row's magnitude are those of sinks.
    """
    works = [work for site in sites if (work := SiteWork(model, run, site, plan, threshold)).changes]
    takes: Takes = {}
    found = [work.look(takes) for work in works]
    hand_over(run, takes)
    jobs = [job for work, seen in zip(works, found, strict=True) for job in work.jobs(seen())]
    for part in _parts(jobs):
        takes = {}
        needed = [job.statistics(takes) for job in part]
        hand_over(run, takes)
        for job, values in zip(part, needed, strict=True):
            job.replace(values())


def hand_over(run: BlockRun, takes: Takes) -> None:
    """One pass that hands the input rows of modules over, if any are asked for; an expert that few tokens choose sees
    them all."""
    if takes:
        with seen_by_enough(run, takes):
            capture_inputs(run, takes)


def _parts(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """Jobs whose statistics are in memory at the same time: of experts as many as fit."""
    widths: list[int] = [linear.in_features for job in jobs for linear in job.work.linears]  # type: ignore[misc]
    together = max(1, HELD // (8 * max(widths, default=1) ** 2))
    return (jobs[start : start + together] for start in range(0, len(jobs), together))


@dataclass(frozen=True)
class Seen:
    """Of a site's inputs as they come, each where it is needed: the mean (width,) and a sample (about RANGE_ROWS,
    width) of rows that its grid is for, and the largest magnitudes (width,) of all. `kinds`: such a sample of rows of
    text, and one of rows of media."""

    mean: Tensor | None = None
    sample: Tensor | None = None
    peaks: Tensor | None = None
    kinds: tuple[Tensor, ...] = ()


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
        """Of the first linear whose weight is rounded, and inputs too, if there is one; inputs are treated alike in all
        where they are rounded."""
        schemes = [self.plan.linears[name] for name in self.site.linears]
        return max(schemes, key=lambda scheme: (scheme.weight is not None, scheme.activation is not None))

    @property
    def recipe(self) -> Recipe:
        """That of the part which the site is in."""
        return self.plan.recipe_of(self.run.part)

    @property
    def prefixed(self) -> bool:
        """Whether a prefix has taken the sinks out of the site's rows."""
        return self.run.part in self.plan.prefixed

    @property
    def method(self) -> Method:
        """How weights are rounded."""
        return METHODS[self.recipe.weights.method]

    @property
    def changes(self) -> bool:
        """Whether anything is quantized; else there is nothing that a mean could disturb."""
        return self.scheme.weight is not None or self.scheme.activation is not None

    @property
    def needs(self) -> bool:
        """Whether rounding needs statistics."""
        return self.scheme.weight is not None and bool(self.method.needs)

    @property
    def leaves_sinks_out(self) -> bool:
        """Whether ranges need not hold sink rows: a prefix has taken them out of the text, they have ranges of their
        own, or they are routed."""
        inputs = self.scheme.activation
        isolated = self.prefixed or inputs is None or inputs.mode == "dynamic" or inputs.route is not None
        return self.recipe.sinks.exclude and isolated

    def take(self, keep: Keep, every: Callable[[Tensor], None] | None = None) -> Take:
        """What takes inputs (tokens, width) part by part, as they come: `keep` without padding and sinks, `every`
        without padding."""
        # Without a prefix the rounded weights must still produce the sinks: a statistic that does not know their
        # direction would move all rounding errors into it.
        exclude = self.leaves_sinks_out and (self.prefixed or not self.needs)

        def take(rows: Tensor, real: Tensor, media: Tensor) -> None:
            if every is not None:
                every(rows[real])
            kept = real & ordinary_rows(rows, real, self.threshold) if exclude else real
            keep(rows[kept], media[kept])

        return take

    def look(self, takes: Takes) -> Callable[[], Seen]:
        """Adds to `takes` what a pass over the inputs is needed for; gives what was seen, when it is done."""
        center, spikes = self.scheme.center, self.scheme.spikes > 0
        if not (center or spikes or self._searches):
            return Seen
        mean, peaks = Mean(), Peaks()
        sample, kinds = _sample(sum(mask.numel() for mask in self.run.masks)), self._kinds()

        def keep(rows: Tensor, media: Tensor) -> None:
            sample.add(rows)
            for kind, of_kind in zip(kinds, (~media, media), strict=False):
                kind.add(rows[of_kind])
            if center:
                mean.add(without_sinks(rows, self.threshold))

        takes[self.site.source] = self.take(keep, peaks.add if spikes else None)
        used: list[Statistic] = [sample, *kinds, *([mean] if center else []), *([peaks] if spikes else [])]

        def seen() -> Seen:
            for statistic in used:
                statistic.reduce()
            of_kinds = tuple(kind.value for kind in kinds)
            return Seen(mean.value if center else None, sample.value, peaks.value if spikes else None, of_kinds)

        return seen

    def _kinds(self) -> tuple[Sample, ...]:
        """A sample of rows of text and one of rows of media, where the plan lets them have ranges of their own; an
        expert is not told which are which."""
        activation, media = self.scheme.activation, self.run.media_of(self.site.source)
        if activation is None or not activation.media or media is None:
            return ()
        if any(expert_of(self.run, name) for name in (self.site.source, *self.site.linears)):
            return ()
        seen, all_rows = sum(int(mask.sum()) for mask in media), sum(mask.numel() for mask in media)
        return _sample(all_rows - seen), _sample(seen)

    @property
    def _searches(self) -> bool:
        """Static ranges always; a clip of dynamic ones where our runtime applies it and the grid is coarse."""
        activation, recipe = self.scheme.activation, self.recipe
        if activation is None:
            return False
        clipped = FORMATS[recipe.target].ours and recipe.activations.clip == "mse"
        return activation.mode == "static" or (clipped and activation.bits < 8)

    def prepare(self, seen: Seen) -> Prepared:
        """Which channels are spike units, and the mean of what is left."""

        def without(spikes: Tensor) -> Prepared:
            plain = Prepared(spikes, self.scheme.rotate)
            return plain if seen.mean is None else replace(plain, offset=plain(seen.mean))

        activation, asked = self.scheme.activation, self.recipe.activations
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

    def ranges(self, ready: Prepared, seen: Seen) -> Chosen:
        """How the inputs are rounded: dynamic ones clipped, static ones in one range or in two."""
        activation, asked = self.scheme.activation, self.recipe.activations
        if activation is None or seen.sample is None or not self._searches:
            return Chosen(activation)
        weight = torch.cat([linear.weight for linear in self.linears])  # type: ignore[misc]

        def search(rows: Tensor) -> Range:
            return static_range(rows, activation.grid, search=asked.clip == "mse", weight=weight)

        sample = ready(self.ranged(seen.sample))
        if activation.mode == "dynamic":
            return Chosen(replace(activation, clip=dynamic_clip(sample, activation, weight)))
        kinds = [ready(self.ranged(kind)) for kind in seen.kinds if len(kind)]
        return choose_ranges(activation, sample, kinds, search, weight, always=asked.modality == "own")

    def jobs(self, seen: Seen) -> list[Job]:
        """What is left to do, group by group of the linears that see the same rows of the site's input."""
        ready = self.prepare(seen)
        chosen = self.ranges(ready, seen)
        if chosen.gain is not None:
            self.run.gains[self.site.linears[0]] = chosen.gain
        linears = self.plan.linears
        return [
            Job(self, group, ready, chosen.activation if linears[group[0]].activation else None, chosen.input_range)
            for group in self.site.groups
        ]


def _sample(rows: int) -> Sample:
    """About RANGE_ROWS of so many rows."""
    return Sample(max(1, rows // RANGE_ROWS))


@dataclass(frozen=True)
class Job:
    """Linears of a site that see the same rows, and how their inputs are rounded."""

    work: SiteWork
    names: tuple[str, ...]
    ready: Prepared
    activation: ActivationScheme | None
    input_range: Range | None

    def statistics(self, takes: Takes) -> Callable[[], dict[str, Tensor]]:
        """Adds to `takes` what the rounding method needs of the inputs as the quantized linears see them; gives it,
        when the pass is done."""
        if not self.work.needs:
            return dict
        found = {name: make() for name, make in self.work.method.needs.items()}

        def keep(rows: Tensor, media: Tensor) -> None:
            rows = self.ready(rows)
            if self.activation is not None:
                given = self.input_range
                ranges = by_kind(given, media) if given is not None else token_ranges(rows, self.activation)
                rows = fake_quantize(rows, *ranges, self.activation.grid)
            for statistic in found.values():
                statistic.add(rows)

        def values() -> dict[str, Tensor]:
            for statistic in found.values():
                statistic.reduce()
            return {name: statistic.value for name, statistic in found.items()}

        takes[self.names[0]] = self.work.take(keep)
        return values

    def replace(self, values: dict[str, Tensor]) -> None:
        """Put quantized linears in place of those of the model."""
        model, plan, ready = self.work.model, self.work.plan, self.ready
        for name in self.names:
            linear: Any = model.get_submodule(name)
            own = replace(plan.linears[name], activation=self.activation, spikes=len(ready.spikes))
            if own.weight is None and own.activation is None:  # a super expert in full precision
                continue
            codes = None
            if own.weight is not None:
                weight = split_weight(linear.weight, ready.spikes, own.rotate)[0] if own.spikes else linear.weight
                try:
                    codes = self.work.method.round(weight, own.weight, values, self.work.recipe.weights)
                    require_form(codes, weight, own.weight)
                except ValueError as error:
                    raise SinkquantError(f"{name} cannot be rounded: {error}.") from error
            made = QuantizedLinear.from_linear(linear, own, codes, self.input_range, ready.offset, ready.spikes)  # type: ignore[arg-type]
            replace_module(model, name, made)
