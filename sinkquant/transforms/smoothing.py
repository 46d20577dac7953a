"""Smooth all blocks of a model: one pass over a little text, with sinks left out of the moments."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from sinkquant.inputs.batches import Batches
from sinkquant.models.attention import taps
from sinkquant.models.roles import Attention, Block, Roles, Site
from sinkquant.transforms.keys import KVMoments, balance_keys
from sinkquant.transforms.rotation import random_signs
from sinkquant.transforms.smooth import balance, balance_full, scale_norm, scale_pair, transform_heads
from sinkquant.walk.rows import ordinary_rows
from sinkquant.walk.statistics import Sample
from sinkquant.walk.walk import BlockRun, Walk, run_and_show, run_block

TOKENS = 4096  # enough for the moments of a head


def smooth(
    model: nn.Module, roles: Roles, few: Batches, threshold: float, *, linears: bool, keys: bool, center: bool,
    seed: int, left: Collection[str] = (), apart: Collection[str] = (),
) -> None:  # fmt: skip
    """Balance every block: inputs against weights, keys against queries; the function stays once the attention makes
    use of the keys' transforms.

    `threshold`: of the rows of sinks, which the moments are taken without. `center`: the inputs' means will be taken
    out before rounding, so that only what varies counts. `seed` draws the signs that the channels get on the way,
    which makes a Hadamard transform behind them a random one for free. `left`: stacks that are left
    alone, `apart`: those whose linears are.
    """
    walk = Walk(model, roles, few.part(0, max(1, TOKENS // few[0].length)))

    everywhere = linears

    def visit(run: BlockRun) -> list[Tensor]:
        linears = everywhere and run.stack.name not in apart
        if run.stack.name in left or not (linears or keys):
            return run_block(run)
        attention, moments = run.roles.attention, KVMoments()
        modules = [model.get_submodule(attention.module)] if attention is not None else []
        samples: dict[str, Sample] = {}

        def show(name: str, rows: Tensor, real: Tensor) -> None:
            if linears:
                samples.setdefault(name, Sample(1)).add(rows[real & ordinary_rows(rows, real, threshold)])

        with taps(modules, moments):
            outputs = run_and_show(run, show)
        transforms, drawn = None, seed + 1 + run.index
        first = {name: site.linears[0] for site in run.roles.sites if linears for name in site.linears}
        noise = {
            attention.output: _value_noise(model, attention, samples[first[attention.value]].value)
            for attention in run.roles.attentions if attention.plain and attention.value in first
        }  # fmt: skip
        for site in run.roles.sites if linears else ():
            if site.linears[0] not in samples:  # of an expert that no token chose
                continue
            rows = samples.pop(site.linears[0]).value.double()
            rows = rows - rows.mean(0) if center else rows
            made = _smooth_site(model, run.roles, site, rows, drawn, noise.get(site.linears[0]))
            if made is not None and run.roles.attention_of(site.linears[0]) is attention:
                transforms = made
        if keys and attention is not None and attention.causal:
            assert isinstance(moments.values, Tensor)
            values = moments.values / moments.count
            if transforms is not None:
                values = torch.stack([mean @ t for mean, t in zip(values, transforms, strict=True)])
            balance_keys(modules[0], moments, values, drawn)
        return outputs

    walk.run(visit)


def _value_noise(model: nn.Module, attention: Attention, rows: Tensor) -> Tensor:
    """Second moments (kv heads, d, d) that values would have if the channels of their inputs (tokens, width) did not
    correlate: the shape of the noise that comes with them when inputs and weights of their projection are rounded."""
    assert attention.value is not None
    weight = weight_of(model, attention.value).double().unflatten(0, (attention.kv_heads, -1))
    return torch.einsum("kid,d,kjd->kij", weight, rows.double().pow(2).mean(0), weight)


def _smooth_site(
    model: nn.Module, block: Block, site: Site, rows: Tensor, seed: int, noise: Tensor | None
) -> list[Tensor] | None:
    """Returns the transforms of the values where the site is the attention's output, with the values' `noise`."""
    weights = [weight_of(model, name).double() for name in site.linears]
    # Each linear counts by its relative error: small outputs (values) matter as much as large ones (queries, keys).
    weights = [weight / (rows @ weight.T).pow(2).mean().sqrt().clamp_min(1e-12) for weight in weights]
    columns = torch.stack([weight.pow(2).sum(0) / len(weight) for weight in weights]).sum(0)
    diagonal = balance(rows.pow(2).mean(0), columns) * random_signs(len(columns), seed, rows.dtype, rows.device)
    readers = next(((norm, names) for norm, names in block.reads if set(site.linears) <= set(names)), None)
    if readers is not None:
        scale_norm(model, *readers, diagonal)
    elif site.linears[0] == block.down and block.up is not None:
        scale_pair(model, block.up, site.linears[0], diagonal)
    attention = block.attention_of(site.linears[0])
    if readers is None and attention is not None and noise is not None:
        return _smooth_heads(model, attention, rows, weights[0], seed, noise)
    return None


def weight_of(model: nn.Module, name: str) -> Tensor:
    """The float weight of a linear."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def _smooth_heads(
    model: nn.Module, attention: Attention, rows: Tensor, weight: Tensor, seed: int, noise: Tensor
) -> list[Tensor]:
    """Attention averages: what varies little behind it may vary much in the values, whose noise then counts."""
    shape = (attention.kv_heads, attention.heads // attention.kv_heads, -1)
    x = rows.reshape(len(rows), *shape)  # (tokens, kv heads, group, d)
    w = weight.reshape(len(weight), *shape)
    moments = [torch.einsum("nkgi,nkgj->kij", part, part) / len(part) for part in (x, w)]
    transforms = [balance_full(a, b, seed) for a, b in zip(moments[0] + noise, moments[1], strict=True)]
    size = torch.stack([torch.linalg.slogdet(t).logabsdet for t in transforms]).mean() / len(transforms[0])
    transforms = [t / size.exp() for t in transforms]  # values keep their scale on average
    transform_heads(model, attention, transforms)
    return transforms
