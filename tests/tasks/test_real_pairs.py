"""A real encoder-decoder keeps what it says: words to phonemes."""

from __future__ import annotations

import re
from pathlib import Path

import sinkquant
from tests.conftest import SHARED, existing

GPTQ = ["weights.method=gptq", "activations.spikes=4"]


def test_words_keep_their_phonemes(tmp_path: Path) -> None:
    """Plain static rounding changes 3 % of them, these settings 2 %, and a broken model all."""
    model = existing(SHARED / "assets/models/g2p-bart-us", "set SINKQUANT_SHARED to the folder that holds it")
    text = existing(SHARED / "assets/data/wikitext-2/wiki.test.raw", "set SINKQUANT_SHARED to the folder that holds it")
    found = sorted(set(re.findall(r"[A-Za-z][a-z']{2,14}", text.read_text(encoding="utf-8"))))
    parts = {"calibrated": found[::40], "scored": found[20::40]}
    for name, words in parts.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(words), encoding="utf-8")
    overrides = [*GPTQ, "calibration.sequences=26"]
    data = str(tmp_path / "calibrated.txt")
    sinkquant.quantize(model, recipe="w8a8-npu", output=tmp_path / "out", calibration=data, overrides=overrides)
    scored = tmp_path / "scored.txt"
    compared = sinkquant.evaluate(tmp_path / "out", baseline=model, data=scored, samples=500, write=True)
    assert compared.windows >= 450
    assert compared.kl is not None and compared.kl < 4e-4
    assert compared.figures["same_output"][1] >= 0.965  # 2.5 standard deviations below 98 %
