"""`from_pretrained` by itself looks at manifest, configuration and the list of weight files, which costs little."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import sinkquant
from sinkquant.formats.manifest import write_manifest

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "v0.1.0" / "sink-aware"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = shutil.copytree(FIXTURE, tmp_path / "sealed")
    write_manifest(folder, json.loads((folder / "sinkquant.json").read_text()))
    return folder


def test_what_is_whole_loads_and_a_copy_that_is_saved_as_well(checkpoint: Path, tmp_path: Path) -> None:
    for load in (AutoModelForCausalLM.from_pretrained, sinkquant.load):
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
        load(checkpoint).save_pretrained(tmp_path / "again")
        assert "manifest_checksum" not in (tmp_path / "again" / "config.json").read_text()
        AutoModelForCausalLM.from_pretrained(tmp_path / "again")


def test_format_1_loads(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(FIXTURE)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("sinkquant.json", '"notes"', '"motes"'),
        ("config.json", '"clip": 1.0', '"clip": 1.5'),
        ("config.json", '"attention_dropout": 0.0', '"attention_dropout":  0.0'),
    ],
)
def test_a_change_is_noticed(name: str, old: str, new: str, checkpoint: Path) -> None:
    replace(checkpoint / name, old, new)
    with pytest.raises(sinkquant.SinkquantError, match=f"{name} has changed"):
        AutoModelForCausalLM.from_pretrained(checkpoint)


def test_a_manifest_that_is_gone_is_noticed(checkpoint: Path) -> None:
    (checkpoint / "sinkquant.json").unlink()
    with pytest.raises(sinkquant.SinkquantError, match=r"lacks sinkquant.json"):
        AutoModelForCausalLM.from_pretrained(checkpoint)


def test_weights_that_are_not_listed_are_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "other.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(sinkquant.SinkquantError, match=r"other.safetensors, which sinkquant.json does not list"):
        AutoModelForCausalLM.from_pretrained(checkpoint)


def test_a_snapshot_of_the_hub_may_lack_the_manifest(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "sinkquant.json").unlink()
    (tmp_path / "snapshots").mkdir()
    AutoModelForCausalLM.from_pretrained(checkpoint.rename(tmp_path / "snapshots" / "0123"))
