"""Whether a model's answers are its head behind the last block."""

from __future__ import annotations

import pytest

from sinkquant.models.head import Head
from sinkquant.models.trace import trace_roles
from tests.stacks import KINDS, make

IS_ALL = {"OPT": True, "GPT-2": True, "BERT": False, "ViT": False, "DINOv2": False, "T5": False, "LLaVA": False}


@pytest.mark.parametrize("kind", IS_ALL)
def test_answers_that_are_the_head_behind_one_stack(kind: str) -> None:
    model = make(kind)
    roles = trace_roles(model, KINDS[kind].batch(1))
    assert Head(model, roles).is_all(KINDS[kind].batch(1)) == IS_ALL[kind]
