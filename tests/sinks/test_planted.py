"""Detection in a tiny Llama in which BOS, wherever it stands, is a sink by construction: exact ground truth."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sinkquant.models.trace import trace_roles
from sinkquant.sinks.build import build_report
from sinkquant.sinks.report import SinkReport, Verdict

BOS, VOCABULARY, WIDTH, HEADS, BLOCKS = 1, 97, 64, 4, 6
MARK, CHANNEL, SECOND = 5, 9, 23  # BOS's own channel, and the two that its sink is written to
BLOCK, NEURON, WEIGHT = 1, 7, 40.0  # who writes it


def planted_llama() -> LlamaForCausalLM:
    """Block 1 reads the mark of BOS and writes two channels; from block 2 on, all heads attend to what carries them."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, attention_bias=True, max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, bos_token_id=BOS, eos_token_id=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    private = [MARK, CHANNEL, SECOND]
    embedding = model.get_input_embeddings().weight
    embedding.normal_()
    embedding[:, private] = 0.0
    embedding[BOS] = 0.0
    embedding[BOS, MARK] = 10.0
    head_dim = WIDTH // HEADS
    slowest = [head * head_dim + head_dim // 2 - 1 for head in range(HEADS)]  # rotary position hardly turns it
    for index, block in enumerate(model.model.layers):
        attention, mlp = block.self_attn, block.mlp
        for reader in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            reader.weight[:, private] = 0.0
        for writer in (attention.o_proj, mlp.down_proj):
            writer.weight[private] = 0.0
        if index == BLOCK:
            for linear in (mlp.gate_proj, mlp.up_proj):
                linear.weight[NEURON] = 0.0
                linear.weight[NEURON, MARK] = 1.0
            mlp.down_proj.weight[:, NEURON] = 0.0
            mlp.down_proj.weight[CHANNEL, NEURON] = WEIGHT
            mlp.down_proj.weight[SECOND, NEURON] = -WEIGHT / 2
        if index > BLOCK:
            attention.k_proj.weight[slowest, CHANNEL] = 1.0
            attention.q_proj.bias[slowest] = 8.0
    return model


def text(rows: int, length: int = 64, seed: int = 0) -> torch.Tensor:
    """Random tokens without BOS, (rows, length)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (rows, length), generator=generator)


def tokenizer() -> SimpleNamespace:
    """What detection asks of a tokenizer."""
    return SimpleNamespace(bos_token_id=BOS, eos_token_id=2, decode=lambda ids: f"<{ids[0]}>")


def detect(ids: torch.Tensor, held_out: torch.Tensor, bos: bool) -> SinkReport:
    model = planted_llama()
    return build_report(model, trace_roles(model), tokenizer(), ids, held_out, bos=bos, label="planted", digest="d")


@pytest.fixture(scope="module")
def first() -> SinkReport:
    """BOS in front of every sequence."""
    return detect(text(4), text(2, seed=1), bos=True)


@pytest.fixture(scope="module")
def inside() -> SinkReport:
    """BOS somewhere in the text."""
    ids, held_out = text(4), text(2, seed=1)
    ids[:, 20] = held_out[:, 9] = BOS
    return detect(ids, held_out, bos=False)


@pytest.mark.parametrize("case", ["first", "inside"])
def test_the_sink_is_bos_by_content(case: str, request: pytest.FixtureRequest) -> None:
    report = request.getfixturevalue(case)
    assert report.verdict == (Verdict.CONTENT,)
    (sink,) = report.sinks
    assert (sink.token_id, sink.token, sink.heads_above, sink.heads) == (BOS, "<1>", 4, 4)
    assert sink.position == (0 if case == "first" else None)
    assert sink.residual_ratio > 100
    assert sink.received_attention > 0.9


def test_emergence_and_the_weight_that_writes_it(first: SinkReport) -> None:
    (sink,) = first.sinks
    assert (sink.emergence, sink.drop) == (BLOCK, None)
    assert sink.origin is not None
    origin = sink.origin
    assert (origin.layer, origin.row, origin.column) == (BLOCK, CHANNEL, NEURON)
    assert origin.value == WEIGHT
    assert first.layers[BLOCK].down_ratio == max(layer.down_ratio for layer in first.layers)


def test_channel_of_the_sink(first: SinkReport) -> None:
    (channel,) = first.channels
    assert channel.index == CHANNEL
    assert not channel.every_token
    assert channel.blocks == tuple(range(BLOCK, BLOCKS))


def test_heads_attend_to_it_behind_its_emergence_only(first: SinkReport) -> None:
    assert [layer.heads_above for layer in first.layers] == [0, 0, 4, 4, 4, 4]


def test_a_prefix_of_bos_absorbs_it(first: SinkReport) -> None:
    assert first.prefix.ids == (BOS,)
    assert first.prefix.absorbed
    assert first.prefix.left == 0
    assert [trial.sinks_left for trial in first.prefix.trials] == [2, 0]
    assert first.prefix.loss_with == pytest.approx(first.prefix.loss_without)
    assert first.residual == ()


def test_a_sink_that_stays_in_the_text_is_residual(inside: SinkReport) -> None:
    """Content alone makes this sink, so no prefix takes it out of the text."""
    assert inside.prefix.ids == ()
    assert not inside.prefix.absorbed
    assert inside.prefix.left == 2
    (left,) = inside.residual
    assert (left.token_id, left.count) == (BOS, 2)
    assert BLOCK in left.blocks


def test_json_round_trip(first: SinkReport) -> None:
    assert SinkReport.from_json(first.to_json()) == first
    assert '"verdict": "content"' in first.to_json()
    mixture = first.model_copy(update={"verdict": (Verdict.POSITIONAL, Verdict.CHANNEL)})
    assert mixture.model_dump()["verdict"] == ["positional", "channel"]
    assert SinkReport.from_json(mixture.to_json()) == mixture
