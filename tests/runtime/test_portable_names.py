"""A portable checkpoint's files may name modules otherwise than its configuration does."""

from __future__ import annotations

import pytest

from sinkquant.runtime.portable import _is_named

CASES = [
    ("model.layers.3.mlp.up_proj", "model.layers.3.mlp.up_proj", True),
    ("language_model.model.layers.3.mlp.up_proj", "model.language_model.layers.3.mlp.up_proj", True),
    ("model.layers.3.mlp.up_proj", "model.layers.13.mlp.up_proj", False),
    ("model.layers.3.mlp.up_proj", "model.layers.3.mlp.gate_proj", False),
    ("lm_head", "model.lm_head", False),
    ("lm_head", "Linear", False),
]


@pytest.mark.parametrize(("name", "target", "found"), CASES)
def test_what_follows_the_list_of_blocks_decides(name: str, target: str, found: bool) -> None:
    assert _is_named(name, [target]) is found
