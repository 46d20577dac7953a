"""How what the last block gives becomes answers."""

from __future__ import annotations

import pytest
import torch

from sinkquant.models.attention import own_attention
from sinkquant.models.head import Ending, Head, ending
from sinkquant.models.stubs import call_model
from sinkquant.models.trace import trace_roles
from sinkquant.walk.walk import Walk, run_block
from tests.stacks import KINDS, make

ENDS = {"OPT": Head, "GPT-2": Head, "BERT": Ending, "ViT": Ending, "DINOv2": None, "T5": None, "LLaVA": None}


@pytest.mark.parametrize("kind", ENDS)
def test_answers_row_by_row_or_by_the_whole_end(kind: str) -> None:
    model = make(kind)
    end = ending(model, trace_roles(model, KINDS[kind].batch(1)), KINDS[kind].batch(1))
    assert (None if end is None else type(end)) == ENDS[kind]


@pytest.mark.parametrize("kind", ["GPT-2", "ViT"])
def test_losses_are_the_divergence_of_the_models_answers(kind: str) -> None:
    model, batch = make(kind), KINDS[kind].batch(2)
    roles = trace_roles(model, KINDS[kind].batch(1))
    end = ending(model, roles, KINDS[kind].batch(1))
    assert end is not None
    seen = []
    for factor in (1.0, 1.5):
        with torch.no_grad(), own_attention(model, roles.attends):
            for block in roles.blocks:
                model.get_submodule(block.writers[-1].linear).weight.mul_(factor)
            (hidden,) = Walk(model, roles, [batch]).run(run_block)
            seen.append((hidden, call_model(model, batch).logits.double().log_softmax(-1)))
    (target, before), (got, after) = seen
    loss = sum(float(part) for part in end.losses(got, target, batch))
    assert loss == pytest.approx(float((before.exp() * (before - after)).sum(-1).mean()), rel=1e-3)
    assert loss > 1e-3
