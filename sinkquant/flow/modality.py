"""One static range for rows of text and of media, or one for each: what a plan allows, and what a site takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import geometric_mean
from typing import Any

import torch
from torch import Tensor

from sinkquant.formats.format import FORMATS
from sinkquant.models.roles import Roles
from sinkquant.quantization.activations import Range, gain_of_own
from sinkquant.quantization.scheme import ActivationScheme, LinearScheme
from sinkquant.recipes.schema import Recipe

PAYS = 1.02  # they are taken where they divide the squared error of the outputs by more than that: less is chance


def allowed(linears: Mapping[str, LinearScheme], recipe: Recipe, roles: Roles) -> dict[str, LinearScheme]:
    """The schemes, with two ranges where static inputs are rows of a stack with media; their sites decide."""
    media = roles.media
    if media is None or recipe.activations.modality == "one" or not FORMATS[recipe.target].ours:
        return dict(linears)
    blocks = next(stack.blocks for stack in roles.stacks if stack.name == media.stack)
    own = {name for block in blocks for site in block.sites if site.stack is None for name in site.linears}
    return {name: _two(scheme) if name in own else scheme for name, scheme in linears.items()}


def _two(scheme: LinearScheme) -> LinearScheme:
    inputs = scheme.activation
    if inputs is None or inputs.mode != "static":
        return scheme
    return replace(scheme, activation=replace(inputs, media=True))


def tells_apart(linears: Mapping[str, LinearScheme]) -> bool:
    """Whether any linear may have two ranges."""
    return any(scheme.activation is not None and scheme.activation.media for scheme in linears.values())


def said(linears: Mapping[str, LinearScheme], recipe: Recipe) -> Iterator[str]:
    """What the plan says of it."""
    apart = sum(scheme.activation is not None and scheme.activation.media for scheme in linears.values())
    if apart and recipe.activations.modality == "own":
        yield f"rows of images have static ranges of their own in {apart} linears"
    elif apart:
        yield f"rows of images have static ranges of their own in those of {apart} linears where that measures better"
    elif recipe.activations.modality == "own":
        yield "activations.modality=own has no effect: no rows of images stand among text here"


@dataclass(frozen=True)
class Chosen:
    """How the inputs of a site are rounded, the static range (ranges,) each, and the `gain` of two over one, where that
    was measured."""

    activation: ActivationScheme | None
    input_range: Range | None = None
    gain: float | None = None


def choose_ranges(
    inputs: ActivationScheme, sample: Tensor, kinds: Sequence[Tensor], search: Callable[[Tensor], Range],
    weight: Tensor, *, always: bool,
) -> Chosen:  # fmt: skip
    """One range for `sample` (tokens, width), or one for each of two `kinds` of rows if that pays, or `always`."""
    one = search(sample)
    if len(kinds) < 2:
        return Chosen(replace(inputs, media=False), one)
    own = [search(rows) for rows in kinds]
    gain = gain_of_own(kinds, one, own, inputs.grid, weight)
    if not always and gain <= PAYS:
        return Chosen(replace(inputs, media=False), one, gain)
    scales, zeros = zip(*own, strict=True)
    return Chosen(inputs, (torch.cat(scales), torch.cat(zeros)), gain)


def by_kind(ranges: Range, media: Tensor) -> Range:
    """Ranges (1,) as they are, (2,) for rows of which `media` (n,) have the second, (n, 1)."""
    scale, zero = ranges
    if len(scale) == 1:
        return ranges
    kinds = media.long()[:, None]
    return scale[kinds], None if zero is None else zero[kinds]


def figures_of(gains: Mapping[str, float], linears: Mapping[str, LinearScheme]) -> dict[str, Any]:
    """`gains` by the first linear of every site where two ranges were tried, and what was made of them."""
    took = {name: gain for name, gain in gains.items() if (a := linears[name].activation) is not None and a.media}
    return {
        "inputs": len(gains), "inputs_with_two_ranges": len(took),
        "error_divided_by": geometric_mean(took.values()) if took else 1.0, "gains": dict(gains),
    }  # fmt: skip
