"""Encoder-decoders through every command: quantized, loaded with the bits that were proved, evaluated, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sinkquant
from sinkquant.errors import UsageError
from sinkquant.evaluation.difference import difference
from sinkquant.formats.manifest import read_manifest
from sinkquant.inputs.batches import Batch
from sinkquant.models.attention import TAPS
from sinkquant.quantization.scheme import KVScheme
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.tasks.tasks import TASKS
from tests import pairs
from tests.proved import as_proved

SMALL = ("calibration.sequences=2", "calibration.length=256", "tuning.epochs=0", "proof.worst=null")
CASES = [
    ("BART", "w8a8-npu", ()),
    ("BART", "w8a8-static", ()),
    ("BART", "w4a16", ("weights.group_size=16",)),
    ("BART", "w8a8", ()),
    ("T5", "w8a8-npu", ()),
    ("T5", "w8a8-static", ()),
    ("T5", "w4a16", ("weights.group_size=16", "target=sink-aware")),
    ("T5", "w4a8kv4", ("weights.group_size=null",)),
    ("Marian", "w8a8-static", ()),
    ("Marian", "w4a8kv4", ("weights.group_size=null",)),
    ("Whisper", "w8a8-npu", ("transforms.r4=true", "calibration.sequences=9")),
    ("Whisper", "w8a8-static", ("calibration.sequences=9",)),
    ("Whisper", "w4a16", ("weights.group_size=16", "calibration.sequences=9")),
    ("Whisper", "kv4", ("kv_cache.bits=8", "calibration.sequences=9")),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path, str]:
    kind, recipe, overrides = request.param
    source, data = pairs.folder(kind, tmp_path / "model"), pairs.data(kind, tmp_path / "data")
    out = tmp_path / "out"
    sinkquant.quantize(source, recipe=recipe, output=out, calibration=data, overrides=[*SMALL, *overrides])
    return kind, source, out, data


def test_every_command(made: tuple[str, Path, Path, str]) -> None:
    kind, source, out, data = made
    task = TASKS[read_manifest(out).task]
    assert task.name == ("speech" if kind == "Whisper" else "seq2seq-lm")
    model = sinkquant.load(out)
    assert as_proved(model, out)
    found = sinkquant.evaluate(out, baseline=source, data=data, samples=4, write=True)
    assert found.kl is not None and 0 < found.kl < 0.5
    assert set(found.figures) == {"same_output", "exact_match", "word_errors"}
    if read_manifest(out).recipe.name in ("w8a8-npu", "kv4"):  # a process of its own for each is slow
        assert sinkquant.verify(out).difference.identical
    assert sinkquant.inspect(out).verified
    same_with_a_cache(model, task.probe(model))


def same_with_a_cache(model: Any, probe: Batch) -> None:
    """What is written does not depend on whether a cache is used, to which cross attention gives its keys once."""
    sources = {name: tensor for name, tensor in probe.tensors.items() if not name.startswith("decoder")}
    options = {"max_new_tokens": 8, "do_sample": False, "num_beams": 1, "return_dict_in_generate": True,
               "output_logits": True}  # fmt: skip
    with torch.no_grad():
        cached, plain = (model.generate(**sources, **options, use_cache=use) for use in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    assert all(difference(a, b) < 0.03 for a, b in zip(cached.logits, plain.logits, strict=True))


def test_both_stacks_are_quantized_and_convolutions_are_named(tmp_path: Path) -> None:
    source, data = pairs.folder("Whisper", tmp_path / "model"), pairs.data("Whisper", tmp_path / "data")
    out = tmp_path / "out"
    done = sinkquant.quantize(
        source, recipe="w8a8-npu", output=out, calibration=data, overrides=[*SMALL, "calibration.sequences=9"]
    )
    model = sinkquant.load(out)
    linears = {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    assert len(linears) == 2 * 6 + 2 * 10
    assert any("conv" in note and "full precision" in note for note in done.plan.notes)


def test_the_decoder_alone_keeps_keys_and_values(tmp_path: Path) -> None:
    """Of its own tokens and, once, of the encoder's; what packs them has no place for two."""
    source, data, out = (
        pairs.folder("BART", tmp_path / "model"),
        pairs.data("BART", tmp_path / "data"),
        tmp_path / "out",
    )
    overrides = [*SMALL, "kv_cache.balance=true", "kv_cache.recent=4", "transforms.r3=false"]
    sinkquant.quantize(source, recipe="kv4", output=out, calibration=data, overrides=overrides)
    model = sinkquant.load(out)
    schemes = {
        name: stage.scheme
        for name, module in model.named_modules()
        for stage in getattr(module, TAPS, ())
        if stage.scheme != KVScheme()
    }
    assert {name.replace(".0.", ".").replace(".1.", ".") for name in schemes} == {
        "model.decoder.layers.self_attn", "model.decoder.layers.encoder_attn",
    }  # fmt: skip
    for name, scheme in schemes.items():
        cross = name.endswith("encoder_attn")
        expected = KVScheme(4, rotate=True) if cross else KVScheme(4, recent=4, balance=True)
        assert scheme == expected
    same_with_a_cache(model, TASKS["seq2seq-lm"].probe(model))
    with pytest.raises(UsageError, match="leave out the cache"):
        sinkquant.SinkCache(model)
