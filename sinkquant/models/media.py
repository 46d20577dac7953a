"""Rows of text in whose place a model puts what a tower makes of an image or a sound; the ids tell which.

Linears that treat such rows in another way ask `MediaRows`, one a model, which hooks fill for as long as it is called.
A block that runs alone, during a walk, is told by `given`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sinkquant.errors import SinkquantError

ROWS = "media_rows"  # attribute of a model
KINDS = ("image", "video", "audio")


def media_ids(config: Any) -> tuple[int, ...]:
    """The ids that stand for images, films and sounds, by transformers' names for them; none in models of text."""
    found = (getattr(config, f"{kind}_token_id", None) for kind in KINDS)
    return tuple(sorted({token for token in found if isinstance(token, int)}))


@dataclass(frozen=True)
class Media:
    """Rows of the stack `stack` stand for media where the model's `argument` is one of `ids`."""

    stack: str
    argument: str
    ids: tuple[int, ...]

    def find(self, ids: Tensor) -> Tensor:
        """(N, T) bool of token ids (N, T)."""
        return torch.isin(ids, torch.tensor(self.ids, device=ids.device))


class MediaRows:
    """Which rows stand for media, in the call that is under way."""

    def __init__(self, media: Media) -> None:
        self.media = media
        self.rows: Tensor | None = None  # (N, T) bool
        self._before: list[Tensor | None] = []

    def kinds(self, x: Tensor) -> Tensor:
        """0 for every row of text of `x` (…, width), 1 for every one of media, (…, 1) int64.

        Raises SinkquantError where the model has not been told which rows are which.
        """
        rows, shape = self.rows, x.shape[:-1]
        if rows is None or rows.numel() != shape.numel():
            raise SinkquantError(
                "the rows of images have ranges of their own here, and nothing tells which they are: call the model "
                f"with {self.media.argument}, not with embeddings, or quantize it with --set activations.modality=one."
            )
        return rows.to(x.device).reshape(*shape, 1).long()

    @contextmanager
    def given(self, rows: Tensor) -> Iterator[None]:
        """`rows` (N, T) for the time of the context."""
        before, self.rows = self.rows, rows
        try:
            yield
        finally:
            self.rows = before

    def enter(self, place: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called in front of a module whose argument number `place` is ours; without one what is known stays."""
        self._before.append(self.rows)
        ids = args[place] if len(args) > place else kwargs.get(self.media.argument)
        if ids is not None:
            self.rows = self.media.find(ids)

    def leave(self, *_: Any) -> None:
        """Called behind it, whatever came of it."""
        self.rows = self._before.pop()

    def __deepcopy__(self, memo: dict[int, Any]) -> MediaRows:
        """A copy of a model, which is not under way."""
        memo[id(self)] = made = MediaRows(self.media)
        return made


def watch_media(model: nn.Module, media: Media) -> None:
    """Let `model` know its media rows whenever it is called, or a part of it that has the stack in it and takes the
    ids. Done once."""
    if media_rows(model) is not None:
        return
    rows = MediaRows(media)
    setattr(model, ROWS, rows)
    parts = media.stack.split(".")
    for end in range(len(parts)):
        module = model.get_submodule(".".join(parts[:end]))
        takes = list(inspect.signature(module.forward).parameters)
        if media.argument in takes:
            enter = partial(rows.enter, takes.index(media.argument))
            module.register_forward_pre_hook(enter, with_kwargs=True)
            module.register_forward_hook(rows.leave, always_call=True)


def media_rows(model: nn.Module) -> MediaRows | None:
    """What `watch_media` has given the model."""
    return getattr(model, ROWS, None)
