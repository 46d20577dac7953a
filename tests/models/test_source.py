"""What may stand for MODEL, and the one sentence that everything else gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy
import pytest
from gguf import GGUFReader, GGUFWriter
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.models.fingerprint import fingerprint
from sinkquant.models.source import Source, local_folder, resolve, weight_files

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a model from outside."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    return model


def write_gguf(path: Path) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", ""])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5])
    writer.add_tensor("first", numpy.ones((3, 5), dtype=numpy.float32))
    writer.add_tensor("second", numpy.ones(7, dtype=numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_package(site: Path, ggufs: list[str], with_metadata: bool = True) -> None:
    package = site / "own_model"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('a package is never run')")
    for name in ggufs:
        write_gguf(package / name)
    if with_metadata:
        metadata = site / "own_model_weights-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-model-weights\nVersion: 1.0\n")
        files = ["own_model/__init__.py", *(f"own_model/{name}" for name in ggufs)]
        (metadata / "RECORD").write_text("".join(f"{file},,\n" for file in files))


@pytest.mark.parametrize("model", ["nowhere", "./a/b", "a/b/c", "org/name.gguf", "", "x" * 5000, "a b/c", "/etc/\0"])
def test_what_does_not_exist_is_told_the_accepted_forms(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"folder, a hub id \(org/name\), a \.gguf file or package:NAME"):
        resolve(model)


def test_a_local_path_wins_over_a_hub_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    name = f"{folder.parent.name}/{folder.name}"
    assert resolve(name) == Source("folder", str(folder.resolve()), None, "model")
    monkeypatch.chdir(folder)
    assert resolve("HuggingFaceTB/SmolLM2-135M") == Source(
        "hub", "HuggingFaceTB/SmolLM2-135M", None, "HuggingFaceTB/SmolLM2-135M"
    )
    with pytest.raises(UsageError):
        resolve(Path("HuggingFaceTB/SmolLM2-135M"))


def test_a_folder_needs_config_and_safetensors(folder: Path) -> None:
    (folder / "config.json").rename(folder / "kept.json")
    with pytest.raises(UsageError, match=r"holds no config.json: give a transformers folder"):
        resolve(folder)
    write_gguf(folder / "model.gguf")
    with pytest.raises(UsageError, match=r"holds no config.json: give its .gguf file itself"):
        resolve(folder)
    (folder / "kept.json").rename(folder / "config.json")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="holds no weights"):
        resolve(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UsageError, match=r"only as pickle \(pytorch_model.bin\).*convert them to safetensors"):
        resolve(folder)


def test_every_shard_of_the_index_must_be_there(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"a": "two.safetensors", "b": "one.safetensors", "c": "two.safetensors"}})
    )
    (folder / "one.safetensors").write_bytes(b"1")
    with pytest.raises(SinkquantError, match=r"model lacks two.safetensors, one of 2 weight files"):
        resolve(folder)
    (folder / "two.safetensors").write_bytes(b"2")
    assert resolve(folder).kind == "folder"
    assert weight_files(folder) == (folder / "one.safetensors", folder / "two.safetensors")
    for broken in ("", "[]", "{}", '{"weight_map": {"a": 1}}'):
        index.write_text(broken)
        with pytest.raises(SinkquantError, match="is no index of weight files"):
            resolve(folder)


def test_a_gguf_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf")
    assert resolve(str(whole)) == Source("gguf", str(tmp_path.resolve()), "whole.gguf", "whole.gguf")
    reader = GGUFReader(whole)
    start = reader.data_offset
    end = max(tensor.data_offset + tensor.n_bytes for tensor in reader.tensors)
    content = whole.read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in range(end):
        cut.write_bytes(content[:size])
        with pytest.raises(SinkquantError) as caught:
            resolve(cut)
        if size >= start:
            assert f"cut short, {size:,} bytes of {end:,}: download it again" in str(caught.value)
    cut.write_bytes(content[:end])
    assert resolve(cut).gguf_file == "cut.gguf"


def test_other_files_are_no_gguf(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(SinkquantError, match=r"other.gguf is no GGUF file"):
        resolve(other)
    other.write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(SinkquantError, match="broken inside its header"):
        resolve(other)
    text = other.rename(tmp_path / "model.txt")
    with pytest.raises(UsageError, match=r"is a file but no .gguf file"):
        resolve(text)


@pytest.mark.parametrize("name", ["own-model-weights", "Own_Model_Weights", "own_model"])
def test_a_package_is_found_by_either_name_and_not_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, ["w.gguf"])
    monkeypatch.syspath_prepend(tmp_path)
    expected = Source("package", str(tmp_path.resolve() / "own_model"), "w.gguf", f"package:{name}")
    assert resolve(f"package:{name}") == expected
    assert "own_model" not in sys.modules


def test_a_package_without_metadata_is_found_by_its_import_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, ["w.gguf"], with_metadata=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("package:own_model").gguf_file == "w.gguf"


def test_packages_that_cannot_serve_are_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path, ["a.gguf", "b.gguf"])
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"ships 2 GGUF files: give one of .*a\.gguf, .*b\.gguf"):
        resolve("package:own-model-weights")
    with pytest.raises(UsageError, match=r"'pytest' ships no .gguf file"):
        resolve("package:pytest")
    for name in ("", "no-such-thing", "no.such.thing", "__main__x"):
        with pytest.raises(UsageError, match=f"no package '{name}' is installed"):
            resolve(f"package:{name}")


def test_resolving_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    write_gguf(tmp_path / "w.gguf")
    code = (
        "import sys; from sinkquant.models import fingerprint, source;"
        f"print(fingerprint.fingerprint(source.resolve({str(tmp_path / 'w.gguf')!r})));"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")


def test_a_hub_model_without_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        SinkquantError, match=r"cannot be reached .*: check the network and HF_TOKEN, or give a local fol"
    ):
        local_folder(resolve("org/name"))


def test_an_incomplete_cache_serves_as_far_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error: Any = LocalEntryNotFoundError("some file is missing")
    error.snapshot_path = str(tmp_path)  # as newer hub clients do

    def stop(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", stop)
    assert local_folder(resolve("org/name")) == tmp_path
    with pytest.raises(UsageError, match="holds no weights"):
        weight_files(tmp_path)


def test_a_missing_gguf_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "w.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(SinkquantError, match=r"need the gguf package: pip install 'sinkquant\[gguf\]'"):
        resolve(path)


@pytest.mark.parametrize(("kind", "said"), [(GatedRepoError, "only approved"), (RepositoryNotFoundError, "neither a")])
def test_what_the_hub_refuses_is_one_sentence(kind: type, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise kind("no\n\nlong story", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(SinkquantError, match=said) as caught:
        local_folder(resolve("org/name"))
    assert "\n" not in str(caught.value)
    assert "HF_TOKEN" in str(caught.value)


def test_the_fingerprint_is_the_content(folder: Path, tmp_path: Path) -> None:
    before = fingerprint(resolve(folder))
    assert before.startswith("sha256:")
    assert len(before) == 71
    moved = folder.rename(tmp_path / "elsewhere")
    assert fingerprint(resolve(moved)) == before
    (moved / "tokenizer.json").write_text("{}")
    assert fingerprint(resolve(moved)) == before
    seen = {before}
    for name, content in (("config.json", b'{"a": 1}'), ("model.safetensors", b"weightz")):
        (moved / name).write_bytes(content)
        seen.add(fingerprint(resolve(moved)))
    assert len(seen) == 3


def test_the_fingerprint_of_a_gguf_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "w.gguf")
    before = fingerprint(resolve(path))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert fingerprint(resolve(path)) != before
