"""From a model and text to a SinkReport: observe once, classify, choose the prefix, list what is left."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from sinkquant.models.roles import Roles
from sinkquant.sinks.absorption import PrefixTest, choose_leading, choose_prefix, no_prefix, residual_sinks
from sinkquant.sinks.classify import (
    agreement,
    choose_threshold,
    content_sinks,
    is_positional,
    outlier_channels,
    sink_channels,
    sink_tokens,
    sweep_thresholds,
    verdicts,
)
from sinkquant.sinks.measure import layer_stats, measure_sink, occurrences
from sinkquant.sinks.observe import Observation, observe
from sinkquant.sinks.probes import Kind, make_probes
from sinkquant.sinks.report import ANY_TOKEN, Sink, SinkReport
from sinkquant.sinks.super_experts import super_experts
from sinkquant.sinks.survey import reported

MAX_CONTENT = 8  # content sinks that are listed, the most frequent ones
LEADING = 4  # frequent text tokens that are tried in the place of BOS


def build_report(
    model: Any,
    roles: Roles,
    tokenizer: Any,
    ids: Tensor,
    heldout: Tensor,
    *,
    bos: bool,
    label: str,
    digest: str,
    max_prefix: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> SinkReport:
    """Detect the sinks of `model` on windows `ids` (N, T) and `heldout` (M, T), both without BOS and padding.

    `bos`: sequences are meant to begin with BOS, which is then put in front. `label` names the model and `digest` the
    text in the report; `progress(done, blocks)` follows the detection pass.
    """
    start = perf_counter()
    bos_id, eos_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    device = next(model.parameters()).device
    ids, heldout = ids.to(device), heldout.to(device)
    probes = make_probes(ids, bos_id, eos_id, bos)
    rows = probes.rows(Kind.PLAIN.value)
    seen = observe(model, roles, probes.ids, plain=len(rows), progress=progress)

    ratio = seen.residual_ratio[:, rows]
    sweep = sweep_thresholds(ratio)
    threshold = choose_threshold(sweep, agreement(ratio, seen.received[:, rows]))
    positional = is_positional(seen, probes, threshold)
    content = content_sinks(seen, probes, threshold, positional)
    wide = outlier_channels(seen.channels)

    everywhere = torch.tensor([kind != Kind.BOS for kind in probes.kinds], device=device)
    first = torch.zeros_like(seen.ids, dtype=torch.bool)
    first[:, 0] = everywhere
    sinks: list[Sink] = []
    if positional:
        share = float(sink_tokens(seen, threshold)[everywhere, 0].float().mean())
        sinks.append(
            measure_sink(
                model, roles, seen, first, threshold, token=ANY_TOKEN, token_id=None, position=0, frequency=share
            )
        )
    texts = TokenTexts(tokenizer)
    ranked = sorted(content, key=lambda token: -_weight(seen, content[token], threshold))[:MAX_CONTENT]
    for token in ranked:
        where = content[token]
        only_first = bool(where[:, 0].sum() == where.sum())
        share = int(where.sum()) / occurrences(seen, token, everywhere)
        sinks.append(
            measure_sink(
                model,
                roles,
                seen,
                where,
                threshold,
                token=texts[token],
                token_id=token,
                position=0 if only_first else None,
                frequency=share,
            )
        )
    where = torch.stack([*content.values(), first & positional]).any(dim=0)

    usual = (bos_id,) if bos and bos_id is not None else ()
    test = PrefixTest(model, roles, heldout, usual, threshold)
    if not sinks:
        what = "channels are large on every token, which no prefix can change" if wide else "the model has no sinks"
        choice, behind = no_prefix(test, f"{what}: no prefix is needed")
    else:
        leading = next((t for t in (bos_id, eos_id) if t is not None), int(ids.flatten().mode().values))
        if positional and not bos:  # a model that is used with BOS keeps it
            values, counts = ids.flatten().unique(return_counts=True)
            frequent = values[counts.argsort(descending=True, stable=True)[:LEADING]].tolist()
            leading, _ = choose_leading(test, list(dict.fromkeys([leading, *frequent])), bos_id)
        candidates = list(dict.fromkeys([leading, *ranked]))
        choice, behind = choose_prefix(test, candidates, texts, max_prefix)
    return SinkReport(
        model=label,
        verdict=verdicts(positional, bool(content), bool(wide)),
        sinks=tuple(sinks),
        channels=(*sink_channels(seen, where, threshold), *wide),
        prefix=choice,
        residual=residual_sinks(behind, threshold, texts),
        layers=layer_stats(seen, rows),
        threshold=threshold,
        sweep=sweep,
        bos="added" if bos else "none",
        tokens=probes.ids.numel(),
        seconds=perf_counter() - start,
        calibration=digest,
        waste=reported(seen.waste),
        super_experts=super_experts(model, seen, where),
    )


def _weight(seen: Observation, where: Tensor, threshold: float) -> int:
    """Layers × frequency: in how many places and blocks the token stands out."""
    return int(((seen.residual_ratio >= threshold) & where).sum())


class TokenTexts(dict[int, str]):
    """Token texts, decoded when asked for."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token: int) -> str:
        self[token] = self._tokenizer.decode([token])
        return self[token]
