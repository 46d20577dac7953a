"""Which files travel with a model, by name and by what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from sinkquant.errors import UsageError
from sinkquant.formats.write import copy_side_files
from sinkquant.models.side_files import left_out, side_files
from sinkquant.models.source import Source, resolve

TAKEN = [
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tokenizer.model.v3", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "source.spm", "target.spm", "target_vocab.json", "qwen.tiktoken", "tekken.json", "normalizer.json", "dict.txt",
    "bpe.codes", "generation_config.json", "chat_template.jinja", "chat_template.json", "processor_config.json",
    "additional_chat_templates/tool_use.jinja", "additional_chat_templates/rag.jinja", "preprocessor_config.json",
    "video_preprocessor_config.json", "LICENSE", "LICENSE.txt", "LICENCE.md", "NOTICE", "USE_POLICY.md", "README.md",
]  # fmt: skip
LEFT = [
    ".env", ".gitattributes", "optimizer.pkl", "tokenizer.pkl", "vocab.pt", "training_args.bin", "modeling_own.py",
    "tokenization_own.py", "config.json", "model.safetensors", "pytorch_model.bin", "trainer_state.json", "notes.txt",
    "LICENSE.py", "LICENSE.pkl", "tokenizer.json.bak", "tokenizer.sh", "adapter_model.safetensors", "runs/events.json",
    "additional_chat_templates/run.py", "other/tool_use.jinja", "id_rsa", "secrets.json", "model.gguf", "model.onnx",
    "tokenizer\n.json",
]  # fmt: skip


def put(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"\xff\r\n" + name.encode())


def test_side_files_are_copied_byte_for_byte_and_nothing_else_is(tmp_path: Path) -> None:
    source, out = tmp_path / "model", tmp_path / "out"
    out.mkdir()
    for name in TAKEN + LEFT:
        put(source, name)
    copy_side_files(Source("folder", str(source), None, "model"), out)
    copied = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert copied == {name: (source / name).read_bytes() for name in TAKEN}


@pytest.mark.parametrize("name", ["LICENSE", "chat_template.jinja", "additional_chat_templates/tool.jinja"])
def test_links_are_not_followed_and_named(name: str, tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "model"
    secret.write_text("secret")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(secret)
    assert side_files(folder) == []
    assert left_out(folder) == [name]


def test_a_linked_folder_of_templates_is_not_followed(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/tool.jinja")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    assert side_files(tmp_path / "model") == []


def test_the_links_of_the_hubs_cache_are_files(tmp_path: Path) -> None:
    put(tmp_path, "blobs/0123")
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer.json").symlink_to("../../blobs/0123")
    (snapshot / "vocab.json").symlink_to("/etc/hostname")
    assert [path.name for path in side_files(snapshot)] == ["tokenizer.json"]
    assert left_out(snapshot) == ["vocab.json"]


def test_an_adapter_beside_the_weights_is_refused(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors"):
        put(tmp_path, name)
    with pytest.raises(UsageError, match=r"holds a PEFT adapter .*: merge it into the model first"):
        resolve(tmp_path)
