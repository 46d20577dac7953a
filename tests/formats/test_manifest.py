"""A checkpoint is the files of its manifest, unchanged, and nothing else; whatever is broken is one sentence."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sinkquant
from sinkquant.formats.manifest import amend_manifest, read_manifest, verify, write_manifest

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "v0.1.0"
KINDS = ["sink-aware", "portable"]


def sealed(kind: str, folder: Path) -> Path:
    """A checkpoint of this kind as this version writes it."""
    shutil.copytree(FIXTURES / kind, folder)
    write_manifest(folder, json.loads((folder / "sinkquant.json").read_text()))
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return sealed("sink-aware", tmp_path / "sealed")


def by_load(folder: Path) -> object:
    return sinkquant.load(folder, execution="auto")


CHECKS = [verify, by_load, sinkquant.inspect, sinkquant.verify]


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_found(kind: str, tmp_path: Path) -> None:
    """`python -m eval.flips` does this 400 times with `load` and `verify`; both begin with what is called here."""
    folder = sealed(kind, tmp_path / "sealed")
    files, draw = sorted(path for path in folder.rglob("*") if path.is_file()), random.Random(0)
    assert {"config.json", "sinkquant.json", "model.safetensors"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for _ in range(50):
            changed = bytearray(content)
            changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(sinkquant.SinkquantError, match=r"copy the checkpoint again|install the version"):
                verify(folder)
        path.write_bytes(content)
    assert verify(folder).format == 2


@pytest.mark.parametrize("check", CHECKS)
def test_the_seal_itself_is_found(check: Callable[[Path], object], checkpoint: Path) -> None:
    """Digits, key and value of what config.json says of the manifest, each changed alone."""
    config = (checkpoint / "config.json").read_text()
    digits = config.index('"manifest_checksum": "sha256:') + len('"manifest_checksum": "sha256:')
    other = "0" if config[digits] != "0" else "1"
    for broken in (
        config[:digits] + other + config[digits + 1 :], config[:digits] + config[digits + 1 :],
        config.replace("manifest_checksum", "manifest_checksun"), config.replace("sha256:", "sha255:"),
    ):  # fmt: skip
        (checkpoint / "config.json").write_text(broken)
        with pytest.raises(sinkquant.SinkquantError, match="has changed"):
            check(checkpoint)


UNLISTED = [
    "model-00001-of-00002.safetensors", "model.safetensors.index.json", "adapter_config.json", "unknown",
    "adapter_model.safetensors", "pytorch_model.bin", "special_tokens_map.json", "chat_template.jinja", "vocab.txt",
    "additional_chat_templates/tool.jinja", "custom_generate/generate.py", "preprocessor_config.json", "spiece.model",
    "modeling_own.py",
]  # fmt: skip


@pytest.mark.parametrize("check", [verify, by_load, sinkquant.inspect])
@pytest.mark.parametrize("name", UNLISTED)
def test_what_is_not_listed_is_refused(check: Callable[[Path], object], name: str, checkpoint: Path) -> None:
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_text("{}")
    with pytest.raises(sinkquant.SinkquantError, match=f"holds {name}, which sinkquant.json does not list: remove it"):
        check(checkpoint)


def test_what_nobody_reads_may_lie_beside(checkpoint: Path) -> None:
    for name in ("README.md", ".gitattributes", ".DS_Store", "LICENSE.txt", "NOTICE", "report.html", "sinks.png"):
        (checkpoint / name).write_text("beside")
    (checkpoint / ".git").mkdir()
    (checkpoint / ".git" / "config.json").write_text("{}")
    assert verify(checkpoint)


def test_weights_beside_the_listed_shards_are_refused_without_checksums_too(checkpoint: Path) -> None:
    shutil.copy(checkpoint / "model.safetensors", checkpoint / "model-00001-of-00001.safetensors")
    with pytest.raises(sinkquant.SinkquantError, match="does not list"):
        sinkquant.load(checkpoint, checksums=False)


@pytest.mark.parametrize("kind", KINDS)
def test_an_amended_manifest_is_sealed_again(kind: str, tmp_path: Path) -> None:
    folder = sealed(kind, tmp_path / "sealed")
    before = read_manifest(folder)
    amend_manifest(folder, {"notes": ["größer \udcff"], "choice": {"recipe": "a"}})
    after = verify(folder)
    assert after.notes == ["größer \udcff"]
    assert after.files == before.files


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A manifest of format 1, which nothing protects, after `change`."""
    content = json.loads((FIXTURES / "sink-aware" / "sinkquant.json").read_text())
    change(content)
    (folder / "sinkquant.json").write_text(json.dumps(content))


def deep(content: dict[str, Any]) -> None:
    for _ in range(900):
        content["figures"] = {"a": content["figures"]}


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "no files": lambda c: c.pop("files"),
    "empty files": lambda c: c.update(files={}),
    "files of another type": lambda c: c.update(files=list(c["files"])),
    "no weights": lambda c: c["files"].pop("model.safetensors"),
    "no config": lambda c: c["files"].pop("config.json"),
    "above": lambda c: c["files"].update({"../x": "sha256:" + "0" * 64}),
    "absolute": lambda c: c["files"].update({"/etc/passwd": "sha256:" + "0" * 64}),
    "above by detour": lambda c: c["files"].update({"a/../../x": "sha256:" + "0" * 64}),
    "absolute in Windows": lambda c: c["files"].update({"C:\\x": "sha256:" + "0" * 64}),
    "above in Windows": lambda c: c["files"].update({"..\\x": "sha256:" + "0" * 64}),
    "nul": lambda c: c["files"].update({"a\0b": "sha256:" + "0" * 64}),
    "long": lambda c: c["files"].update({"a" * 5000: "sha256:" + "0" * 64}),
    "no checksum": lambda c: c["files"].update({"config.json": "sha256:"}),
    "checksum of another type": lambda c: c["files"].update({"config.json": None}),
    "no recipe": lambda c: c.pop("recipe"),
    "recipe of another type": lambda c: c.update(recipe="w8a8"),
    "target": lambda c: c["recipe"].update(target="elsewhere"),
    "limit": lambda c: c["recipe"]["weights"].update(limit="63"),
    "no prefix": lambda c: c.pop("prefix"),
    "prefix of another type": lambda c: c.update(prefix="256"),
    "prefix of texts": lambda c: c.update(prefix=["256"]),
    "no notes": lambda c: c.update(notes=None),
    "model": lambda c: c.update(model=7),
    "versions": lambda c: c.update(versions=[1]),
    "figures": lambda c: c.update(figures=None),
    "probe without losses": lambda c: c["probe"].pop("nll"),
    "probe of nan": lambda c: c["probe"].update(nll=[float("nan")] * len(c["probe"]["nll"])),
    "probe of texts": lambda c: c["probe"].update(nll=["1"] * len(c["probe"]["nll"])),
    "short probe": lambda c: c["probe"].update(nll=[1.0]),
    "empty probe": lambda c: c.update(probe={"ids": [], "nll": [], "logits": ""}),
    "report": lambda c: c.update(report=[1]),
    "layers": lambda c: c.update(report={"layers": [{"residual_ratio": "1"}]}),
    "format": lambda c: c.update(format="\x1b[31m" * 1000),
    "no format": lambda c: c.pop("format"),
    "newer format": lambda c: c.update(format=10**30),
    "format 2 unsealed": lambda c: c.update(format=2),
    "huge": lambda c: c.update(prefix=[10**4000]),
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_manifest_is_one_sentence(name: str, check: Callable[[Path], object], tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "sink-aware", tmp_path / "broken")
    edited(folder, BROKEN[name])
    one_sentence(check, folder)


def one_sentence(check: Callable[[Path], object], folder: Path) -> None:
    with pytest.raises(sinkquant.SinkquantError) as caught:
        check(folder)
    said = str(caught.value)
    assert str(folder) in said and said.endswith(".") and said.isprintable() and len(said) < 500


NO_JSON: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "no UTF-8": lambda path: path.write_bytes(b'{"a": "\xff"}'),
    "a list": lambda path: path.write_bytes(b"[]"),
    "a number": lambda path: path.write_bytes(b"1"),
    "deep": lambda path: path.write_bytes(b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
    "a long number": lambda path: path.write_bytes(b'{"format": ' + b"1" * 10_000 + b"}"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a broken link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("file", ["sinkquant.json", "config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("name", NO_JSON)
def test_a_broken_file_is_one_sentence(name: str, file: str, check: Callable[[Path], object], checkpoint: Path) -> None:
    NO_JSON[name](checkpoint / file)
    one_sentence(check, checkpoint)
