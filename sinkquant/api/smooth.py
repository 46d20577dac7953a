"""Smooth all blocks of a model: one pass over a little text, with sinks left out of the moments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sinkquant.api.streams import FloatStream
from sinkquant.calibration.walk import BlockRun, Walk
from sinkquant.models.roles import Block, Roles, Site, SiteKind
from sinkquant.sinks.rows import ordinary_rows
from sinkquant.transforms.smooth import balance, balance_full, scale_norm, scale_pair, transform_heads

TOKENS = 4096  # enough for the moments of a head


def smooth(model: Any, roles: Roles, ids: Tensor, threshold: float) -> None:
    """Balance inputs and weights of every site of every block on `ids` (N, T); the model's function stays the same."""
    walk = Walk(model, roles, ids[: max(1, TOKENS // ids.shape[1])])
    stream = FloatStream(walk.inputs)

    def visit(run: BlockRun) -> list[Tensor]:
        stream.inputs = run.inputs
        stream.advance(run)
        for site in run.roles.sites:
            rows, real = torch.cat(stream.take(site)), torch.cat([mask.reshape(-1) for mask in run.masks])
            _smooth_site(model, run.roles, site, rows[real & ordinary_rows(rows, real, threshold)].double())
        return stream.inputs

    walk.run(visit)


def _smooth_site(model: nn.Module, block: Block, site: Site, rows: Tensor) -> None:
    weights = [weight_of(model, name).double() for name in site.linears]
    # Each linear counts by its relative error: small outputs (values) matter as much as large ones (queries, keys).
    weights = [weight / (rows @ weight.T).pow(2).mean().sqrt().clamp_min(1e-12) for weight in weights]
    columns = torch.stack([weight.pow(2).sum(0) / len(weight) for weight in weights]).sum(0)
    readers = next(((norm, names) for norm, names in block.reads if set(site.linears) <= set(names)), None)
    if readers is not None and set(readers[1]) == set(site.linears) and not block.unexplained:
        scale_norm(model, *readers, balance(rows.pow(2).mean(0), columns))
    elif site.kind is SiteKind.DOWN_INPUT and block.up is not None:
        scale_pair(model, block.up, site.linears[0], balance(rows.pow(2).mean(0), columns))
    elif site.kind is SiteKind.ATTENTION_OUTPUT and block.attention is not None and block.attention.value is not None:
        _smooth_heads(model, block, rows, weights[0])


def weight_of(model: nn.Module, name: str) -> Tensor:
    """The float weight of a linear."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def _smooth_heads(model: nn.Module, block: Block, rows: Tensor, weight: Tensor) -> None:
    attention = block.attention
    assert attention is not None
    shape = (attention.kv_heads, attention.heads // attention.kv_heads, -1)
    x = rows.reshape(len(rows), *shape)  # (tokens, kv heads, group, d)
    w = weight.reshape(len(weight), *shape)
    moments = [torch.einsum("nkgi,nkgj->kij", part, part) / len(part) for part in (x, w)]
    transforms = [balance_full(a, b) for a, b in zip(*moments, strict=True)]
    size = torch.stack([torch.linalg.det(t).abs().log() for t in transforms]).mean() / len(transforms[0])
    transform_heads(model, attention, [t / size.exp() for t in transforms])  # values keep their scale on average
