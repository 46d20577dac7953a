"""What a model is fed: batches of named tensors, and which of their entries are real.

Nothing here knows what a tensor means; tasks do. Sequences of unequal length are padded inside a batch, which `real`
says; batches of one `Batches` may differ in length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor

TOKENS_PER_CALL = 2048  # large enough for full matrix products, small enough for a feed-forward's activations
UNKNOWN = 256  # entries of a sample whose tensors do not tell: the patches of an image


@dataclass(frozen=True, eq=False)
class Batch:
    """N samples: `tensors` by the model's argument names, each (N, …).

    `real`: by the name of a tensor (N, T), True where its entry is no padding; one without has none. `labels`: what
    the samples are scored against, (N, …). `texts`: the same in words, one a sample, where a task compares words.
    `method`: what of the model takes them where it is not the whole, such as `get_image_features` of one of two towers.
    `joined`: names of tensors (N, k, …) that the model takes as (N·k, …): the patches of all images in one list.
    """

    tensors: Mapping[str, Tensor]
    real: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    texts: tuple[str, ...] = ()
    method: str | None = None
    joined: frozenset[str] = frozenset()

    @property
    def arguments(self) -> dict[str, Tensor]:
        """What the model is called with."""
        return {name: t.flatten(0, 1) if name in self.joined else t for name, t in self.tensors.items()}

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: slice) -> Batch:
        """Some of the samples."""
        return replace(self.map(lambda tensor: tensor[rows]), texts=self.texts[rows])

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same change of every tensor, of what is real, and of the labels."""
        return replace(
            self,
            tensors={name: change(tensor) for name, tensor in self.tensors.items()},
            real={name: change(mask) for name, mask in self.real.items()},
            labels=None if self.labels is None else change(self.labels),
        )

    @property
    def length(self) -> int:
        """Entries of a sample's longest sequence, as a measure of what a call costs: ids, frames, or patches."""
        return max(map(_entries, self.tensors.values()))

    def cut(self, tokens: int = TOKENS_PER_CALL) -> Iterator[Batch]:
        """Batches of at most `tokens` entries, one sample at least."""
        rows = max(1, tokens // max(1, self.length))
        for start in range(0, len(self), rows):
            yield self[start : start + rows]

    def to(self, device: torch.device | str) -> Batch:
        """The same on `device`."""
        return self.map(lambda tensor: tensor.to(device))


def _entries(tensor: Tensor) -> int:
    """Of ids (N, T) or of features (N, …, T); of images (N, C, H, W) nobody knows."""
    return UNKNOWN if tensor.dim() > 3 else max(tensor.shape[1:], default=1)


@dataclass(frozen=True, eq=False)
class Batches(Sequence[Batch]):
    """Batches one after the other. `source` names where they come from; `said`: a clause about what was read."""

    items: tuple[Batch, ...]
    source: str = ""
    said: str | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        return self.items[index]

    @property
    def samples(self) -> int:
        """Samples in all batches."""
        return sum(len(item) for item in self.items)

    @property
    def tokens(self) -> int:
        """Entries of all samples, as a measure of what they cost."""
        return sum(len(item) * item.length for item in self.items)

    def cut(self, tokens: int = TOKENS_PER_CALL) -> list[Batch]:
        """Every batch in parts of at most `tokens` entries."""
        return [part for item in self.items for part in item.cut(tokens)]

    def __add__(self, others: Batches) -> Batches:  # type: ignore[override]
        """These, then the others."""
        return replace(self, items=self.items + others.items)

    def part(self, start: int, stop: int | None = None) -> Batches:
        """Samples `start` to `stop`, whatever batches they are in."""
        items, seen, end = [], 0, self.samples if stop is None else stop
        for item in self.items:
            rows = slice(max(0, start - seen), max(0, min(len(item), end - seen)))
            if rows.start < rows.stop:
                items.append(item[rows])
            seen += len(item)
        return replace(self, items=tuple(items))

    @cached_property
    def digest(self) -> str:
        """'sha256:…' of every tensor's name, shape and content, and of what is real."""
        content = sha256()
        for item in self.items:
            for kind in (item.tensors, item.real):
                for name, tensor in sorted(kind.items()):
                    content.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                    content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return f"sha256:{content.hexdigest()}"


def token_batch(ids: Tensor, mask: Tensor | None = None) -> Batch:
    """Token ids (N, T); `mask` (N, T) bool, True = real token (None: no padding)."""
    if mask is None or bool(mask.all()):
        return Batch({"input_ids": ids})
    return Batch({"input_ids": ids, "attention_mask": mask.long()}, {"input_ids": mask.bool()})
