"""The real MiniLM: what static int8 without anything online must keep of it, and sentence-transformers beside it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import sinkquant
from sinkquant.inputs.batches import Batch
from sinkquant.inputs.sentences import tokenized
from sinkquant.tasks.tasks import TASKS
from tests.conftest import CACHE, existing

pytestmark = pytest.mark.long

SENTENCES = ("The lighthouse was lit in 1846.", "Its keeper wrote down the weather.", "A list sorts itself in place.")


@pytest.fixture(scope="module")
def minilm() -> Path:
    return existing(CACHE / "minilm-l6", "fetch all-MiniLM-L6-v2 into the assets cache")


@pytest.fixture(scope="module")
def statically(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("minilm") / "out"
    sinkquant.quantize(minilm, recipe="w8a8-npu", output=out, overrides=["calibration.sequences=8"])
    return out


def test_vectors_and_neighbours_stay(minilm: Path, statically: Path) -> None:
    found = sinkquant.evaluate(statically, baseline=minilm, samples=1000)
    assert found.task == "embedding" and found.routed_rows is None
    assert found.figures["cosine"][1] >= 0.998
    assert found.figures["low_cosine"][1] >= 0.996
    assert found.figures["neighbours"][1] >= 0.94


def test_a_portable_checkpoint_is_one_of_sentence_transformers(minilm: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("sentence-transformers is not installed")
    from sentence_transformers import SentenceTransformer

    out = tmp_path / "out"
    sinkquant.quantize(minilm, recipe="w8a8", output=out, overrides=["calibration.sequences=2"])
    vectors = []
    for folder in (minilm, out):
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        with torch.no_grad():  # compressed-tensors unpacks when the model is called, and not when its forward is
            model[0].auto_model(input_ids=torch.tensor([[101, 102]]))
        vectors.append(torch.tensor(model.encode(list(SENTENCES))))
    assert torch.cosine_similarity(*vectors).min() > 0.99
    tensors, real = tokenized(AutoTokenizer.from_pretrained(out), SENTENCES)
    ours = TASKS["embedding"].answer(sinkquant.load(out), Batch(tensors, {"input_ids": real}))
    assert torch.cosine_similarity(ours, vectors[1]).min() > 0.99999
