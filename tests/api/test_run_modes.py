"""Runs other than in float32 with asserts: bfloat16, and `python -O`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import sinkquant
from sinkquant.formats.manifest import read_manifest
from tests.tiny import byte_tokenizer, sentences

RECIPES = {"w8a8-static": 0.02, "w8a8": 0.02, "w4a16": 0.1, "w4a8kv4": 0.2}
"""How far the predictions may lie from the float32 model's, in nats a token."""

RUN = """
import sys, sinkquant
model, text, out = sys.argv[1:]
small = ["calibration.sequences=4", "calibration.length=64", "sinks.prefix=[1]"]
sinkquant.quantize(model, recipe="w4a8kv4", output=out, overrides=small, calibration=text)
try:
    sinkquant.quantize(model, recipe="w4a8kv4", output=out, overrides=small, calibration=text)
except sinkquant.UsageError as error:
    print(__debug__, error)
"""


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("execution", ["reference", "auto"])
def test_bfloat16_predicts_what_float32_does(
    quantized: Callable[..., Path], model_folder: Path, recipe: str, execution: str
) -> None:
    model = sinkquant.load(quantized(recipe), dtype=torch.bfloat16, execution=execution)  # type: ignore[arg-type]
    assert model.dtype == torch.bfloat16
    exact = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    ids = torch.tensor(byte_tokenizer()(sentences(40, seed=2)).input_ids[:640]).reshape(10, 64)
    with torch.no_grad():
        expected, got = exact(ids).logits.log_softmax(-1), model(ids).logits.float().log_softmax(-1)
    assert float((expected.exp() * (expected - got)).sum(-1).mean()) < RECIPES[recipe]
    answer = model.generate(ids[:2, :32], max_new_tokens=8, do_sample=False)
    assert answer.shape == (2, 40)


def test_without_asserts_the_same_bytes_and_sentences(
    quantized: Callable[..., Path], model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-O", "-c", RUN, model_folder, text_file, out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False ") and "exists and is kept" in done.stdout
    assert read_manifest(out).files == read_manifest(quantized("w4a8kv4", "sinks.prefix=[1]")).files
