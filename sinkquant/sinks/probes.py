"""The token sequences of the one detection pass: plain text, and experiments that tell position from content."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from sinkquant.inputs.bos import in_front

EXPERIMENTS = 1  # sequences an experiment: there are several, and a sink that depends on text is none


class Kind(StrEnum):
    """What was done to a window."""

    PLAIN = "plain"
    REPLACED = "replaced"  # another first token
    PERMUTED = "permuted"  # the same tokens in another order
    BOS = "bos"  # BOS in front, where the text has none


@dataclass(frozen=True, eq=False)
class Probes:
    """Sequences (N, T) int64 without padding, and for each its kind; `labels` tells replaced tokens apart."""

    ids: Tensor
    kinds: tuple[Kind, ...]
    labels: tuple[str, ...]

    def rows(self, label: str) -> list[int]:
        """Indices of the sequences with this label; a kind's name for kinds without variants."""
        return [i for i, own in enumerate(self.labels) if own == label]


def make_probes(ids: Tensor, bos_id: int | None, eos_id: int | None, bos: bool) -> Probes:
    """Probes of windows `ids` (N, T) without BOS; with `bos` every plain sequence begins with it."""
    begun = in_front(ids[:, :-1], bos_id)  # the length stays
    plain = begun if bos and bos_id is not None else ids
    few = plain[:EXPERIMENTS]
    generator = torch.Generator().manual_seed(0)
    parts = [(Kind.PLAIN, Kind.PLAIN.value, plain)]
    for token in _first_tokens(ids, {bos_id} if bos else set(), eos_id):
        changed = few.clone()
        changed[:, 0] = token
        parts.append((Kind.REPLACED, f"{Kind.REPLACED}:{token}", changed))
    text = few[:, 1:] if bos else few
    order = torch.randperm(text.shape[1], generator=generator).to(ids.device)
    permuted = text[:, order]
    permuted = torch.cat([few[:, :1], permuted], dim=1) if bos else permuted
    parts.append((Kind.PERMUTED, Kind.PERMUTED.value, permuted))
    if bos_id is not None and not bos:
        parts.append((Kind.BOS, Kind.BOS.value, begun[:EXPERIMENTS]))
    return Probes(
        torch.cat([rows for _, _, rows in parts]),
        tuple(kind for kind, _, rows in parts for _ in rows),
        tuple(label for _, label, rows in parts for _ in rows),
    )


def _first_tokens(ids: Tensor, exclude: set[int | None], eos_id: int | None) -> list[int]:
    """Tokens of different kinds: the most frequent, the rarest and the middle one of the text, and EOS."""
    values, counts = ids.unique(return_counts=True)
    ranked = values[counts.argsort(descending=True, stable=True)].tolist()
    wanted = [ranked[0], ranked[len(ranked) // 2], ranked[-1], eos_id]
    return list(dict.fromkeys(t for t in wanted if t is not None and t not in exclude))
