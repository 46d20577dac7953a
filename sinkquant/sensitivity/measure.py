"""How much the predictions suffer when the weights of one site alone are rounded: measured at the model's end.

The changed block and those behind it are computed again, for every site; those before it are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sinkquant.calibration.walk import BlockRun, Walk, run_and_capture
from sinkquant.models.attention import own_attention
from sinkquant.models.head import ROWS, Head
from sinkquant.models.roles import Roles, Site
from sinkquant.quantization.scheme import LinearScheme
from sinkquant.quantization.weights import round_to_nearest
from sinkquant.sinks.rows import without_sinks
from sinkquant.transforms.hadamard import fast_hadamard

Progress = Callable[[int, int], None]


def measure(
    model: Any, roles: Roles, ids: Tensor, schemes: Mapping[str, LinearScheme], *, search: bool, threshold: float,
    progress: Progress,
) -> dict[str, float] | None:  # fmt: skip
    """KL(full precision ‖ changed) in nats a token by the first linear of every site, on tokens `ids` (N, T).

    `schemes` say how each linear's weights are rounded, to nearest with or without a `search` for the range; inputs,
    keys and values stay in float. Sink rows, beyond `threshold` × the median row, are no part of an input's mean.
    None where the logits are something else than the head behind the final norm, so that they cannot be compared.
    """
    head, runs, means = Head(model, roles), list[BlockRun](), dict[str, Tensor]()
    if not head.is_all(ids[:1, :16]):
        return None

    def keep(run: BlockRun) -> list[Tensor]:
        outputs, inputs = run_and_capture(run)
        means.update({name: _mean(rows, schemes[name], threshold) for name, rows in inputs.items()})
        runs.append(run)
        return outputs

    (expected,) = Walk(model, roles, ids, tokens=ids.numel()).run(keep)
    found: dict[str, float] = {}
    with own_attention(model, roles.attends), torch.no_grad():
        for run in runs:
            ends = []
            for site in run.roles.sites:
                with rounded(model, site, schemes, means[site.linears[0]], search):
                    hidden = run.forward(0)
                for later in runs[run.index + 1 :]:
                    hidden = later.forward(0, [hidden])
                ends.append(hidden)
            losses = _losses(head, torch.stack(ends), expected) / ids.numel()
            found |= {site.linears[0]: loss for site, loss in zip(run.roles.sites, losses.tolist(), strict=True)}
            progress(run.index + 1, len(runs))
    return found


def _mean(rows: Tensor, scheme: LinearScheme, threshold: float) -> Tensor:
    """Of the inputs (tokens, in), as the weights see them."""
    usual = without_sinks(rows, threshold).mean(0)
    return fast_hadamard(usual) if scheme.rotate else usual


def _losses(head: Head, ends: Tensor, expected: Tensor) -> Tensor:
    """Sums over tokens (S,) float64 for what the last block gives, `ends` (S, B, T, D) against `expected` (B, T, D)."""
    rows = max(1, ROWS // len(ends))
    pairs = zip(ends.flatten(1, 2).split(rows, 1), expected.flatten(0, 1).split(rows), strict=True)
    return torch.stack([head.divergence(*pair).double() for pair in pairs]).sum(0)


@contextmanager
def rounded(
    model: nn.Module, site: Site, schemes: Mapping[str, LinearScheme], mean: Tensor, search: bool
) -> Iterator[None]:
    """The weights of one site rounded for the time of the context. Where inputs are centered their `mean` (in,) goes
    through the float weight, as it will."""
    with ExitStack() as restore:
        for name in site.linears:
            module, scheme = model.get_submodule(name), schemes[name]
            weight, bias = module.weight, module.bias
            assert isinstance(weight, nn.Parameter)
            assert bias is None or isinstance(bias, Tensor)
            assert scheme.weight is not None
            changed = round_to_nearest(weight, scheme.weight, search=search).dequantized().to(weight.dtype)
            restore.callback(setattr, module, "weight", weight)
            module.weight = nn.Parameter(changed, requires_grad=False)
            if scheme.center:
                shift = (weight - changed) @ mean
                restore.callback(setattr, module, "bias", bias)
                module.bias = nn.Parameter(shift if bias is None else bias + shift, requires_grad=False)
        yield
