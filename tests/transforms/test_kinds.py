"""What only changes weights keeps the function of encoders, towers and pairs of stacks."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from eval.families.build import scale
from eval.families.configs import tiny_config
from sinkquant.flow.plan import BOUND, make_plan, weight_shapes
from sinkquant.models.record import run_probe
from sinkquant.models.roles import AttentionKind
from sinkquant.models.trace import trace_roles
from sinkquant.recipes import load_recipe
from sinkquant.transforms.apply import fused_steps
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
    for stack in roles.stacks:
        fold_norms(model, stack, final=False, shifting=roles.shifting)
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


def test_keys_without_positions_need_no_bias_for_that_of_their_norm() -> None:
    """Whisper's have none, beside queries and values that have one."""
    model = make("Whisper")
    roles = trace_roles(model, KINDS["Whisper"].batch(1))
    assert roles.shifting == {a.key for block in roles.blocks for a in block.attentions if a.kind is AttentionKind.SELF}
    for stack in roles.stacks:
        fold_norms(model, stack, final=False, shifting=roles.shifting)
    assert not any(model.get_submodule(norm.name).bias.any() for block in roles.blocks for norm, _ in block.reads)


def test_rotary_keys_need_a_bias_for_that_of_their_norm() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("stablelm")).eval().requires_grad_(False)
    scale(model)
    roles = trace_roles(model)
    assert model.get_submodule(roles.blocks[0].reads[0][0].name).bias.any()
    assert roles.shifting == set()


ROTATED = {  # R1 where everything that reads or writes a stream is known, else why not
    "ViT": ("vit.layers",),
    "SigLIP": ("text_model.encoder.layers",),
    "Whisper": ("model.decoder.layers",),
    "GPT-2": ("transformer.h",),
    "OPT": ("model.decoder.layers",),
    "LLaVA": ("model.language_model.layers",),
}
LEFT_OUT = {
    "DINOv2": "R1 is left out: what reads the stream behind the last block needs its basis",
    "BERT": "R1 is left out: norms stand on the stream itself, which keeps its basis",
    "BART": f"R1 is left out of model.decoder.layers: {BOUND}",
    "Whisper": "R1 is left out of model.encoder.layers: the stream begins with something that no rotation can go into",
    "T5": f"R1 is left out of encoder.block: {BOUND}",
}


@pytest.mark.parametrize("kind", [*ROTATED, *(kind for kind in LEFT_OUT if kind not in ROTATED)])
def test_streams_are_rotated_where_layer_norms_read_them(kind: str) -> None:
    model, batch = make(kind), KINDS[kind].batch(2)
    roles = trace_roles(model, KINDS[kind].batch(1))
    plan = make_plan(load_recipe("w8a8", ()), (), roles, weight_shapes(model, roles), None)
    assert plan.rotations.stream == plan.rotations.fold_norms == ROTATED.get(kind, ())
    assert LEFT_OUT.get(kind, plan.notes[0]) in plan.notes
    before = run_probe(model, batch, own=roles.attends)
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _, step in fused_steps(model, roles, plan.rotations):
        step()
    after = run_probe(model, batch, own=roles.attends)
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, first[name])}
    for stack in roles.stacks:
        written = {name if name in first else f"{name}.weight" for name in stack.embeddings}
        assert written & changed == (written if stack.name in plan.rotations.stream else set())
