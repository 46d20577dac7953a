"""What only changes weights keeps the function of encoders, towers and pairs of stacks."""

from __future__ import annotations

import pytest
import torch

from sinkquant.models.record import run_probe
from sinkquant.models.trace import trace_roles
from sinkquant.transforms.norms import fold_norms
from sinkquant.transforms.rotate import rotate_values
from sinkquant.transforms.rotation import Rotation
from tests.stacks import KINDS, make


@pytest.mark.parametrize("kind", KINDS)
def test_folded_norms_and_rotated_values_change_nothing(kind: str) -> None:
    model, batch = make(kind), KINDS[kind].batch(2)
    roles = trace_roles(model, KINDS[kind].batch(1))
    before = run_probe(model, batch, own=False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fold_norms(model, roles, final=False)
    for block in roles.blocks:
        for attention in block.attentions:
            if attention.plain:
                rotate_values(model, attention, Rotation(attention.value_dim, 0))
    changed = {
        name for name, tensor in model.state_dict().items() if name not in state or not torch.equal(tensor, state[name])
    }
    values = {f"{a.value}.weight" for block in roles.blocks for a in block.attentions if a.plain}
    assert changed >= values
    torch.testing.assert_close(run_probe(model, batch, own=False), before, rtol=1e-4, atol=1e-4)
