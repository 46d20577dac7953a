"""What tracing finds in encoders, towers and pairs of stacks: one row a family in `tests/stacks.py`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import transformers
from torch import nn

from sinkquant.models.roles import AttentionKind, Roles, SiteKind
from sinkquant.models.trace import trace_roles
from sinkquant.tasks.images import IMAGE_CLASSIFICATION
from tests.stacks import KINDS, make


@pytest.fixture(scope="module")
def traced() -> dict[str, tuple[Any, Roles]]:
    return {}


def roles_of(traced: dict[str, tuple[Any, Roles]], kind: str) -> tuple[Any, Roles]:
    if kind not in traced:
        model = make(kind)
        traced[kind] = model, trace_roles(model, KINDS[kind].batch(1))
    return traced[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_stacks(kind: str, traced: dict[str, tuple[Any, Roles]]) -> None:
    _, roles = roles_of(traced, kind)
    assert roles.attends == KINDS[kind].attends
    for stack, tower in zip(roles.stacks, KINDS[kind].towers, strict=True):
        assert (stack.name, stack.rows, stack.causal, stack.width) == (tower.name, tower.rows, tower.causal, 48)
        assert stack.reads == tower.reads
        assert stack.gives == (stack.blocks[tower.given].name,)
        assert (len(stack.embeddings), stack.final_norm is not None) == (tower.embeddings, tower.final)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks(kind: str, traced: dict[str, tuple[Any, Roles]]) -> None:
    model, roles = roles_of(traced, kind)
    for stack, tower in zip(roles.stacks, KINDS[kind].towers, strict=True):
        for block in stack.blocks:
            assert block.down == f"{block.name}.{tower.down}"
            assert "".join(attention.kind[0] for attention in block.attentions) == tower.kinds
            assert len(block.sites) == tower.sites
            linears = {n for n, m in model.get_submodule(block.name).named_modules() if isinstance(m, nn.Linear)}
            assert set(block.linears) == {f"{block.name}.{name}" for name in linears}
            for attention in block.attentions:
                cross = attention.kind is AttentionKind.CROSS
                assert attention.causal == (tower.causal and not cross)
                assert attention.plain == tower.plain
            self_or_none = block.attentions[0] if block.attentions else None
            assert block.attention == self_or_none


@pytest.mark.parametrize("kind", [kind for kind in KINDS if any(tower.reads for tower in KINDS[kind].towers)])
def test_keys_and_values_of_cross_attention_have_the_rows_of_the_encoder(
    kind: str, traced: dict[str, tuple[Any, Roles]]
) -> None:
    _, roles = roles_of(traced, kind)
    encoder, decoder = roles.stacks
    for block in decoder.blocks:
        _, cross = block.attentions
        (site,) = (site for site in block.sites if site.stack is not None)
        assert site.stack == encoder.name
        assert set(site.linears) == {cross.key, cross.value}
        asked = next(site for site in block.sites if cross.query in site.linears)
        assert (asked.linears, asked.stack) == ((cross.query,), None)
        assert {s.kind for s in (site, asked)} == {SiteKind.ATTENTION_INPUT}
        assert len({cross.query, cross.key, cross.value, cross.output}) == 4


PROJECTIONS = {  # query, key, value, output within a block
    "ViT": ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    "BERT": ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    "Whisper": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    "T5": tuple(f"layer.0.SelfAttention.{name}" for name in "qkvo"),
}


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_projections(kind: str, traced: dict[str, tuple[Any, Roles]]) -> None:
    _, roles = roles_of(traced, kind)
    for block in roles.blocks:
        found = block.attention
        assert found is not None
        names = (found.query, found.key, found.value, found.output)
        assert names == tuple(f"{block.name}.{name}" for name in PROJECTIONS[kind])


def test_a_scale_behind_a_writer_is_found(traced: dict[str, tuple[Any, Roles]]) -> None:
    _, roles = roles_of(traced, "DINOv2")
    for block in roles.blocks:
        assert [writer.scale for writer in block.writers] == [f"{block.name}.layer_scale{i}" for i in (1, 2)]


def test_an_embedding_that_two_stacks_share_is_not_rotated(traced: dict[str, tuple[Any, Roles]]) -> None:
    _, roles = roles_of(traced, "T5")
    assert roles.tied and roles.embedding is None
    assert not any(stack.rotates for stack in roles.stacks)


READERS = {
    "ViT": ("classifier",),
    "CLIP": ("visual_projection",),
    "T5": tuple(f"decoder.block.{i}.layer.1.EncDecAttention.{name}" for i in range(3) for name in "kv"),
    "Whisper": tuple(f"model.decoder.layers.{i}.encoder_attn.{name}_proj" for i in range(3) for name in "kv"),
    "LLaVA": (),  # the projector reads the block before the last one, without the norm
    "DINOv2": (),  # the norm's output is what the model gives
    "GPT-2": ("lm_head",),
}


@pytest.mark.parametrize("kind", READERS)
def test_readers_of_the_first_final_norm(kind: str, traced: dict[str, tuple[Any, Roles]]) -> None:
    _, roles = roles_of(traced, kind)
    assert roles.stacks[0].final_readers == READERS[kind]


def test_streams_that_nothing_unknown_writes_are_closed(traced: dict[str, tuple[Any, Roles]]) -> None:
    closed = {kind: [stack.closed for stack in roles_of(traced, kind)[1].stacks] for kind in KINDS}
    assert closed == {
        "ViT": [True], "DINOv2": [True], "CLIP": [False, True], "SigLIP": [True, True], "BERT": [False],
        "ModernBERT": [False], "MPNet": [False], "BART": [False, False], "Marian": [False, False], "T5": [True, True],
        "Whisper": [False, True], "GPT-2": [True], "OPT": [True], "LLaVA": [False, True],
    }  # fmt: skip


STAGES: dict[str, dict[str, Any]] = {
    "Swin": {"embed_dim": 16, "depths": [1, 2, 1], "num_heads": [2, 4, 4], "patch_size": 4, "window_size": 4},
    "Segformer": {"depths": [1, 2, 1, 1], "hidden_sizes": [16, 32, 48, 64], "num_attention_heads": [1, 2, 4, 4]},
}


@pytest.mark.parametrize("family", STAGES)
def test_stages_of_unequal_numbers_of_places_are_stacks_of_their_own(family: str) -> None:
    config = getattr(transformers, f"{family}Config")(image_size=64, **STAGES[family])
    model = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    roles = trace_roles(model, IMAGE_CLASSIFICATION.probe(model))
    assert [len(stack.blocks) for stack in roles.stacks] == STAGES[family]["depths"]
    assert all(block.linears for stack in roles.stacks for block in stack.blocks)


def test_a_scale_with_axes_of_one_is_no_expert() -> None:
    config = transformers.SwiftFormerConfig(image_size=64, depths=[1, 1, 2, 1], embed_dims=[16, 32, 64, 64])
    model = transformers.SwiftFormerForImageClassification(config).eval()
    roles = trace_roles(model, IMAGE_CLASSIFICATION.probe(model))
    assert any("layer_scale_1" in name for name, _ in model.named_parameters())
    assert not any("experts" in note for block in roles.blocks for note in block.unexplained)


def test_an_encoder_is_not_run_again_where_its_decoder_alone_is_changed() -> None:
    kind = next(kind for kind in KINDS if any(tower.reads for tower in KINDS[kind].towers))
    model, calls = make(kind), Counter[str]()
    encoder, decoder = (model.get_submodule(f"{tower.name}.0.{tower.down}") for tower in KINDS[kind].towers)
    encoder.register_forward_pre_hook(lambda *_: calls.update(["encoder"]))
    decoder.register_forward_pre_hook(lambda *_: calls.update(["decoder"]))
    trace_roles(model, KINDS[kind].batch(1))
    assert 0 < calls["encoder"] < calls["decoder"]
