"""Whether a text fits a model: ids that its embedding has, and no more tokens than it has positions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.models.roles import Roles
from sinkquant.models.rope import rope_kind


def places_of(config: Any) -> int | None:
    """Positions that a model has, by its configuration; None where they do not end.

    Rotary ones go on beyond the length that a model was trained on; what learns one vector a position, or makes a table
    of them, does not.
    """
    stated = getattr(config.get_text_config(), "max_position_embeddings", None)
    return stated if rope_kind(config) == "none" and isinstance(stated, int) and stated > 0 else None


def longest_text(model: Any, roles: Roles, extra: int) -> int | None:
    """Most tokens of text behind `extra` others, such as BOS; None where positions do not end.

    Raises UsageError where nothing is left.
    """
    places = places_of(model.config) if roles.positions is None else roles.positions.places
    if places is None:
        return None
    if places - extra < 2:
        raise UsageError(f"the model has {places} positions, too few for text: give a model for longer texts.")
    return places - extra


def check_ids(ids: Iterable[int], model: Any, what: str, remedy: str) -> None:
    """Raise UsageError where one of `ids` has no row in the model's embedding; `what` is where they come from."""
    rows = len(model.get_input_embeddings().weight)
    beyond = [token for token in ids if token >= rows]
    if beyond:
        raise UsageError(f"{what} has the token id {max(beyond)} but the model's embedding {rows} rows: {remedy}.")


def check_text(ids: Tensor, model: Any, source: str, begin: int | None = None) -> None:
    """`check_ids` for a text (N, T) of `source`, in front of which `begin` will stand."""
    check_ids(
        [int(ids.max()), *([] if begin is None else [begin])],
        model,
        f"the text of {source}",
        "give the tokenizer that belongs to the model",
    )
