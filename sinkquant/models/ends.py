"""The two ends of a model that tokens have: where they are looked up, and where they are scored."""

from __future__ import annotations

from typing import Any

from torch import nn


def embedding_of(model: Any) -> nn.Module | None:
    """The module that looks tokens up, None in models of something else."""
    try:
        return model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def head_of(model: Any) -> nn.Module | None:
    """The module that scores tokens, None where a model ends in features or classes."""
    try:
        return model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
