"""Detection in trained models: one with a positional sink, one without any."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sinkquant.models.trace import trace_roles
from sinkquant.sinks.build import build_report
from sinkquant.sinks.observe import observe
from sinkquant.sinks.report import SinkReport, Verdict
from sinkquant.sinks.super_experts import super_experts

WINDOWS, HELD_OUT = 8, 4


def detect(path: Path, text: str, length: int) -> SinkReport:
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    ids = tokenizer(text[:40_000], add_special_tokens=False, verbose=False)["input_ids"]
    windows = torch.tensor(ids[: (WINDOWS + HELD_OUT) * length]).reshape(-1, length)
    return build_report(
        model, trace_roles(model), tokenizer, windows[:WINDOWS], windows[WINDOWS:], bos=False, label="m", digest="d"
    )


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path, wiki_valid_text: str) -> SinkReport:
    return detect(smollm2_path, wiki_valid_text, 256)


@pytest.mark.slow
def test_smollm2_has_a_positional_sink(smollm2: SinkReport) -> None:
    assert smollm2.verdict == (Verdict.POSITIONAL,)
    sink = smollm2.sinks[0]
    assert (sink.position, sink.token_id, sink.emergence, sink.drop) == (0, None, 11, 28)
    assert smollm2.channels[0].index == 507
    assert not smollm2.channels[0].every_token
    assert sink.origin is not None
    assert (sink.origin.layer, sink.origin.row) == (11, 507)


@pytest.mark.slow
def test_smollm2_signals_by_block(smollm2: SinkReport) -> None:
    assert 1900 < smollm2.layers[11].down_ratio < 2500
    assert all(6 <= layer.heads_above <= 9 for layer in smollm2.layers[12:29])
    assert all(layer.residual_channel == 507 for layer in smollm2.layers[11:28])
    assert all(layer.key_norm_ratio < 0.5 for layer in smollm2.layers[12:28])


@pytest.mark.slow
def test_smollm2_prefix_absorbs_every_sink_but_the_residual_ones(smollm2: SinkReport) -> None:
    assert len(smollm2.prefix.ids) == 1
    assert smollm2.prefix.absorbed
    assert smollm2.prefix.loss_with < smollm2.prefix.loss_without
    left = {sink.token: set(sink.blocks) for sink in smollm2.residual}
    assert 2 in left[" the"]
    assert {2, 9} <= left[" "]


@pytest.mark.slow
def test_experts_of_a_mixture_that_write_the_spike(mixtral_path: Path, wiki_valid_text: str) -> None:
    """Every expert is SmolLM2's feed-forward with some noise: two of four share the spike that block 11 writes."""
    model = AutoModelForCausalLM.from_pretrained(mixtral_path, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(mixtral_path)(wiki_valid_text[:2000], verbose=False)["input_ids"]
    seen = observe(model, trace_roles(model), torch.tensor(ids[:256]).reshape(4, 64))
    first = torch.zeros_like(seen.ids, dtype=torch.bool)
    first[:, 0] = True
    assert float(seen.residual[:, first].max()) > 20_000
    found = super_experts(model, seen, first)
    assert {(one.layer, one.row, one.module) for one in found} == {(11, 507, "model.layers.11.mlp.experts")}
    assert all(0.4 < one.share < 0.6 and 0.4 < one.score < 0.6 for one in found)
    assert sum(one.frequency for one in found) == 2


def test_the_tiny_model_has_none(model_folder: Path, text_file: Path) -> None:
    report = detect(model_folder, text_file.read_text(encoding="utf-8"), 128)
    assert report.verdict == (Verdict.NONE,)
    assert report.sinks == ()
    assert report.channels == ()
    assert report.prefix.ids == ()
    assert report.prefix.left == 0
    assert "no sinks" in report.prefix.reason
    assert max(layer.residual_ratio for layer in report.layers) < 13
