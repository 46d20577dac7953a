"""Whatever is wrong with a model's files, one sentence says what, and blames the file that is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedConfig,
    T5Config,
    ViTConfig,
)

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.models.load import load_model, load_tokenizer
from sinkquant.models.source import resolve
from sinkquant.models.task import refuse_other_tasks
from tests import tiny

Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.random_llama(), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "tiny")


def load(folder: Path) -> Any:
    """In the order of every command."""
    source = resolve(folder)
    return load_tokenizer(source), load_model(source)


def edited(name: str, **changes: object) -> Change:
    """Keys of a JSON file replaced; None in place of a key leaves it out."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return change


def config(**changes: object) -> Change:
    return edited("config.json", **changes)


def written(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def without(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def sharded(folder: Path) -> None:
    names = sorted(load_file(folder / "model.safetensors"))
    shards = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


INVALID = r"cannot load the config\.json of tiny \(.*\): correct it, copy the model again, or update transformers"
TOGETHER = "config.json and weights must"
CASES: dict[str, tuple[Change, str]] = {
    "a size as text": (config(hidden_size="48"), INVALID),
    "no size": (config(hidden_size=None), INVALID),
    "a negative size": (config(hidden_size=-1), INVALID),
    "no heads": (config(num_attention_heads=0), INVALID),
    "heads that do not divide": (config(num_attention_heads=5, head_dim=...), INVALID),
    "layers as text": (config(num_hidden_layers="two"), INVALID),
    "an epsilon as text": (config(rms_norm_eps="x"), INVALID),
    "rope as text": (config(rope_parameters="x"), INVALID),
    "an unknown dtype": (config(dtype="float33"), INVALID),
    "an unknown type": (config(model_type="llamma"), INVALID),
    "the type of another": (config(model_type="vit"), "cannot load tiny "),
    "a number as type": (config(model_type=3), INVALID),
    "no type": (config(model_type=..., architectures=...), INVALID),
    "no key heads": (config(num_key_value_heads=0), TOGETHER),
    "an unknown activation": (config(hidden_act="foo"), rf"KeyError 'foo'\): {TOGETHER}"),
    "an unknown rope": (config(rope_parameters={"rope_type": "foo"}), rf"KeyError 'foo'\): {TOGETHER}"),
    "no words": (config(vocab_size=0), TOGETHER),
    "another hidden size": (config(hidden_size=64), "must come from the same model"),
    "another vocabulary": (config(vocab_size=300), "must come from the same model"),
    "another number of key heads": (config(num_key_value_heads=4), "must come from the same model"),
    "quantized somehow": (config(quantization_config="x"), "is quantized already"),
    "quantized by a list": (config(quantization_config=[1]), "is quantized already"),
    "a list as config": (written("config.json", b"[]"), "no readable config.json"),
    "an empty config": (written("config.json", b""), "no readable config.json"),
    "a cut config": (written("config.json", b'{"model_type": "lla'), "no readable config.json"),
    "a binary config": (written("config.json", b"\xff\xfe\x00"), "no readable config.json"),
    "a deep config": (written("config.json", b"[" * 100_000), "no readable config.json"),
    "empty weights": (written("model.safetensors", b""), "damaged or incomplete"),
    "no weights": (without("model.safetensors"), "holds no weights"),
    "missing shards": (sharded, "lacks model-00002-of-00002.safetensors, one of 2 weight files"),
    "weights as pickle": (pickled, r"only as pickle \(pytorch_model.bin\).*convert them to safetensors"),
    "an index of nothing": (
        lambda folder: (without("model.safetensors")(folder), written("model.safetensors.index.json", b"{}")(folder)),
        "no index of weight files",
    ),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "the tokenizer of tiny .* beside its weights"),
    "half a tokenizer": (without("tokenizer.json"), "cannot load the tokenizer of tiny"),
    "a cut tokenizer": (written("tokenizer.json", b'{"ver'), "cannot load the tokenizer of tiny"),
    "an empty tokenizer": (written("tokenizer.json", b"{}"), "cannot load the tokenizer of tiny"),
    "a broken tokenizer config": (written("tokenizer_config.json", b"[1"), "tokenizer_config.json is no valid JSON"),
    "a tokenizer without words": (
        edited("tokenizer.json", model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[]),
        "makes no tokens of a text",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken_files_are_blamed(folder: Path, case: str) -> None:
    change, said = CASES[case]
    change(folder)
    with pytest.raises(SinkquantError, match=said) as caught:
        load(folder)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    assert ("tokenizer" in text) == ("tokenizer" in case)


def test_an_index_with_all_its_shards_loads(folder: Path) -> None:
    sharded(folder)
    weights = load_file(folder / "model-00001-of-00002.safetensors")
    names = sorted(weights)
    for shard, part in ((1, names[::2]), (2, names[1::2])):
        file = folder / f"model-0000{shard}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, file, metadata={"format": "pt"})
    load(folder)


def test_a_head_of_its_own_is_not_tied_whatever_the_config_says(folder: Path) -> None:
    """Merged LoRA adapters that trained the head leave the flag of the base model."""
    trained = tiny.random_llama()
    trained.config.tie_word_embeddings = False
    trained.lm_head.weight = torch.nn.Parameter(2 * trained.lm_head.weight.detach())
    trained.save_pretrained(folder)
    config(tie_word_embeddings=True)(folder)
    _, model = load(folder)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert model.config.tie_word_embeddings is False


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (ViTConfig(architectures=["ViTForImageClassification"]), r"a ViTForImageClassification \(image classification"),
        (BartConfig(architectures=[BartForConditionalGeneration.__name__]), r"\(encoder and decoder\)"),
        (T5Config(), r"a t5 \(encoder and decoder\)"),
        (BertConfig(architectures=[BertForMaskedLM.__name__]), r"a BertForMaskedLM \(masked lm\)"),
        (LlamaConfig(architectures=[LlamaForSequenceClassification.__name__]), r"\(sequence classification\)"),
        (ViTConfig(), r"a vit \(another task\)"),
    ],
)
def test_models_for_other_tasks_are_named(other: PreTrainedConfig, said: str) -> None:
    with pytest.raises(UsageError, match=rf"{said}.* no causal language model"):
        refuse_other_tasks(other, "it")


@pytest.mark.parametrize(
    "causal",
    [
        LlamaConfig(),
        LlamaConfig(architectures=["LlamaForCausalLM"]),
        LlamaConfig(architectures=["LlamaModel"]),
        LlamaConfig(architectures=["Named by its author"]),
        BartConfig(architectures=["BartForCausalLM"], is_encoder_decoder=False),
    ],
)
def test_causal_models_pass(causal: PreTrainedConfig) -> None:
    refuse_other_tasks(causal, "it")


@pytest.mark.parametrize("nothing", [None, 3, "", object()])
def test_what_names_no_model(nothing: Any) -> None:
    with pytest.raises(UsageError, match="names no model: give a transformers folder"):
        resolve(nothing)


def test_places_beside_the_model_point_to_it(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"give the folder it lies in, {folder}"):
        resolve(folder / "model.safetensors")
    cached = tmp_path / "models--org--name"
    shutil.copytree(folder, cached / "snapshots" / "abc")
    with pytest.raises(UsageError, match=f"give {cached}/snapshots/abc"):
        resolve(cached)
