"""Super experts: the one that was planted is named, and nobody where none is special."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sinkquant.inputs.batches import Batch
from sinkquant.models.experts import part_experts
from sinkquant.models.trace import trace_roles
from sinkquant.sinks.build import build_report
from sinkquant.sinks.observe import observe_stacks
from sinkquant.sinks.report import SinkReport, Verdict
from sinkquant.sinks.super_experts import super_experts
from tests import tiny
from tests.planted_experts import BLOCK, CHANNEL, EXPERT, NEURON, WEIGHT, planted, text


def detect(family: str, writer: int | str = EXPERT, *, apart: bool = False) -> SinkReport:
    model = planted(family, writer=writer)
    if apart:
        part_experts(model)
    tokenizer = SimpleNamespace(bos_token_id=tiny.BOS, eos_token_id=tiny.EOS, decode=lambda ids: f"<{ids[0]}>")
    held_out = text(2, seed=1)
    return build_report(model, trace_roles(model), tokenizer, text(4), held_out, bos=True, label="planted", digest="d")


@pytest.mark.parametrize(
    ("family", "apart"), [("Mixtral", False), ("Mixtral", True), ("GraniteMoe", False), ("Qwen2Moe", True)]
)
def test_the_planted_expert_is_named(family: str, apart: bool) -> None:
    report = detect(family, apart=apart)
    assert report.verdict == (Verdict.CONTENT,)
    (found,) = report.super_experts
    assert (found.layer, found.expert, found.row, found.column) == (BLOCK, EXPERT, CHANNEL, NEURON)
    assert found.module.startswith(f"model.layers.{BLOCK}.")
    assert found.value == WEIGHT
    assert 0.9 < found.share < 1.1  # behind a factor of the residual too
    assert found.score > 0.9
    assert found.frequency == 1.0
    (sink,) = report.sinks
    assert sink.origin is not None
    origin = sink.origin
    assert (origin.layer, origin.row, origin.column, origin.expert) == (BLOCK, CHANNEL, NEURON, EXPERT)


@pytest.mark.parametrize("writer", ["shared", "nobody"])
def test_nobody_is_named_where_no_routed_expert_writes_it(writer: str) -> None:
    report = detect("Qwen2Moe", writer)
    assert report.super_experts == ()
    assert bool(report.sinks) == (writer == "shared")
    assert all(sink.origin is None or sink.origin.expert is None for sink in report.sinks)


def test_tokens_of_later_batches_are_told_apart() -> None:
    model, plain = planted("Mixtral"), text(2)
    roles, marked = trace_roles(model), plain.clone()
    marked[1, 0] = tiny.BOS
    batches = [Batch({"input_ids": ids}) for ids in (plain, marked)]
    seen = observe_stacks(model, roles, batches)[roles.stacks[0].name]
    where = torch.zeros(4, plain.shape[1], dtype=torch.bool)
    where[3, 0] = True
    (found,) = super_experts(model, seen, where)
    assert (found.layer, found.expert, found.frequency) == (BLOCK, EXPERT, 1.0)
    assert super_experts(model, seen, where.roll(1, dims=0)) == ()
