"""Masked language models and embedding models through every command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import sinkquant
from sinkquant.errors import UsageError
from sinkquant.formats.manifest import read_manifest
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.tasks.tasks import TASKS
from tests import tiny
from tests.proved import as_proved
from tests.tasks.encoders import SIZES, save

SMALL = ("calibration.sequences=8", "calibration.length=64")


@dataclass(frozen=True)
class Row:
    """A model, the recipe, the task that is asked for (None: found) and the one that it is, what notes say."""

    kind: str
    recipe: str
    task: str
    asked: bool = False
    said: str = ""
    overrides: tuple[str, ...] = ()


ROWS = (
    Row("bert", "w8a8-npu", "embedding"),
    Row("bert", "w8a8", "embedding"),
    Row("bert-mlm", "w8a8-static", "masked-lm"),
    Row("bert-mlm", "w4a16", "masked-lm", overrides=("weights.group_size=16",)),
    Row("bert-mlm", "w8a8", "embedding", asked=True),  # the file has no pooler
    Row("bert-pretraining", "w8a8-npu", "masked-lm", asked=True),  # the file has one head more
    Row("modernbert", "w8a8-static", "embedding", said="R1 is left out"),
    Row("modernbert-mlm", "w8a8-npu", "masked-lm"),
    Row("nomic-mlm", "w8a8-static", "masked-lm"),  # the head's bias is another module's too
    Row("modernbert-mlm", "w8a8", "masked-lm"),
    Row("mpnet", "w8a8-npu", "embedding", said="weights and inputs alone are rounded"),
    Row("deberta-mlm", "w8a8-npu", "masked-lm", said="weights and inputs alone are rounded"),
    Row("llama", "w8a8-static", "embedding", asked=True, said="needs its basis"),
    Row("llama", "w8a8-static", "embedding", asked=True, overrides=("sinks.prefix=[256]",)),
    Row(
        "llama", "w8a8-static", "embedding", asked=True, said="would turn every vector", overrides=("sinks.prefix=[7]",)
    ),
    Row("qwen3", "w8a8", "embedding"),
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "sentences.txt"
    path.write_text(tiny.sentences(600), encoding="utf-8")
    return path


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join([row.kind, row.recipe, row.task, *row.overrides]))
def test_every_command(row: Row, texts: Path, tmp_path: Path) -> None:
    folder, out = save(row.kind, tmp_path / "model"), tmp_path / "out"
    done = sinkquant.quantize(
        folder, recipe=row.recipe, output=out, calibration=str(texts), overrides=(*SMALL, *row.overrides),
        task=row.task if row.asked else None,
    )  # fmt: skip
    assert any(row.said in note for note in done.plan.notes), done.plan.notes
    manifest = read_manifest(out)
    assert manifest.task == row.task

    model = sinkquant.load(out)
    assert as_proved(model, out)
    task = TASKS[row.task]
    stock = getattr(transformers, task.auto).from_pretrained(out, dtype=torch.float32).eval()
    assert type(stock).__name__ == type(model).__name__
    probe = task.probe(model, 2)
    assert torch.allclose(task.answer(stock, probe), task.answer(model, probe), rtol=1e-4, atol=1e-5)

    found = sinkquant.evaluate(out, baseline=folder, data=texts, samples=40)
    assert found.task == row.task and found.windows == 40
    if row.task == "masked-lm":
        assert found.kl is not None and found.kl < 0.1 and found.top1_agreement is not None
        assert found.top1_agreement > 0.8 and found.baseline_perplexity is not None
    else:
        assert found.figures["cosine"][1] > 0.99 and found.figures["low_cosine"][1] > 0.98
        assert found.figures["neighbours"][1] > 0.7
    carried = bool(manifest.prefix)
    begins = "in context" if row.kind in ("llama", "qwen3") else "none"
    assert (found.bos_baseline, found.bos_result) == (begins, "prefix" if carried else begins)
    assert sinkquant.inspect(out).folder == str(out)


def test_verify_compares_what_the_task_answers(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sinkquant.quantize(
        save("bert", tmp_path / "model"), recipe="w8a8", output=out, calibration=str(texts), overrides=SMALL
    )
    assert sinkquant.verify(out).difference.acceptable


@pytest.mark.parametrize(
    ("kind", "task", "message"),
    [
        ("bert-mlm", "causal-lm", "no causal language model"),
        ("llama", "masked-lm", "no AutoModelForMaskedLM"),
        ("bert", "masked-lm", "lacks"),
        ("bert", "image-features", "no image encoder"),
        ("llama", "seq2seq-lm", "no encoder-decoder of text"),  # transformers maps decoders that hear to its class
    ],
)
def test_another_task_is_refused_before_the_work(kind: str, task: str, message: str, tmp_path: Path) -> None:
    folder = save(kind, tmp_path / "model")
    with pytest.raises(sinkquant.SinkquantError, match=message):
        sinkquant.quantize(folder, recipe="w8a8-npu", output=tmp_path / "out", task=task)
    assert not (tmp_path / "out").exists()


def test_tensors_of_no_class_of_the_family_are_refused(tmp_path: Path) -> None:
    folder = save("bert-mlm", tmp_path / "model")
    file = folder / "model.safetensors"
    save_file({**load_file(file), "adapter.weight": torch.ones(2)}, file, metadata={"format": "pt"})
    with pytest.raises(sinkquant.SinkquantError, match=r"no place for, the first is adapter\.weight"):
        sinkquant.quantize(folder, recipe="w8a8", output=tmp_path / "out", task="embedding")


def test_one_text_is_too_few(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("A single sentence, and nothing else.\n")
    folder = save("bert", tmp_path / "model")
    with pytest.raises(UsageError, match="calibration and proof need one each"):
        sinkquant.quantize(folder, recipe="w8a8-npu", output=tmp_path / "out", calibration=str(tmp_path / "one.txt"))


def test_bos_is_seen_and_not_counted() -> None:
    """Texts behind BOS in context and texts behind the same prefix have the same vector."""
    task = TASKS["embedding"]
    torch.manual_seed(0)
    model = transformers.LlamaModel(transformers.LlamaConfig(**{**SIZES, "num_key_value_heads": 2})).eval()
    ids, real = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    batch = Batch({"input_ids": ids, "attention_mask": real.long()}, {"input_ids": real})
    (begun,) = task.begun(Batches((batch,)), 256)
    assert begun.tensors["input_ids"][:, 0].tolist() == [256, 256]
    behind = task.alone(model, batch, (256,))
    assert torch.allclose(task.answer(model, begun), behind, atol=1e-5)
    assert not torch.allclose(task.answer(model, batch), behind, atol=1e-3)


@pytest.mark.parametrize(("kind", "bits", "metric"), [("bert", 8, "cosine"), ("bert-mlm", 4, "perplexity")])
def test_a_recipe_is_chosen_by_the_metric_of_the_task(
    kind: str, bits: int, metric: str, texts: Path, tmp_path: Path
) -> None:
    model = save(kind, tmp_path / "model")
    overrides = [*SMALL, "tuning.epochs=0", "calibration.length=32"]
    made = sinkquant.quantize(model, bits=bits, output=tmp_path / "out", calibration=texts, overrides=overrides)
    assert made.choice is not None
    assert (made.metric, f"gives {metric} " in made.choice.reason) == (metric, True)
