"""Code that a model brings along: never run unasked, and with the flag every command works to the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, dynamic_module_utils

import sinkquant
from sinkquant.formats.manifest import read_manifest, write_manifest
from tests import tiny

RECIPES = ["w8a8-static", "w8a8"]
SMALL = ["calibration.sequences=2", "calibration.length=64"]

CONFIG = """
from transformers import LlamaConfig
from .own_helper import touch

touch()


class OwnConfig(LlamaConfig):
    model_type = "own_llama"
"""
MODEL = """
from transformers import LlamaForCausalLM
from .own_config import OwnConfig


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
HELPER = """
import os


def touch():
    open(os.environ["OWN_CODE_RAN"], "w").close()
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose class comes in files beside its weights."""
    folder = tiny.save(tiny.random_llama(), tmp_path_factory.mktemp("own") / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own_llama", "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "own_config.OwnConfig", "AutoModelForCausalLM": "own_model.OwnForCausalLM"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in {"own_config": CONFIG, "own_model": MODEL, "own_helper": HELPER, "unrelated": "1 / 0"}.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A file that is there once the model's code has run."""
    path = tmp_path_factory.mktemp("ran") / "ran"
    modules = tmp_path_factory.mktemp("modules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OWN_CODE_RAN", str(path))
        patch.setenv("HF_MODULES_CACHE", str(modules))
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
        patch.syspath_prepend(modules)
        yield path


@pytest.fixture(scope="module", params=RECIPES)
def checkpoint(request: pytest.FixtureRequest, own: Path, ran: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / request.param
    overrides = [*SMALL, "sinks.prefix=[256]"] if request.param == "w8a8-static" else SMALL
    dtype = "auto" if request.param == "w8a8-static" else "bfloat16"
    sinkquant.quantize(
        own, recipe=request.param, output=out, overrides=[*overrides, f"export.dtype={dtype}"], trust_remote_code=True
    )
    return out


def test_every_command_works_to_the_end(checkpoint: Path, own: Path) -> None:
    assert sinkquant.verify(checkpoint, trust_remote_code=True).difference.identical
    assert sinkquant.inspect(checkpoint).quantized
    model = sinkquant.load(checkpoint, dtype=torch.float32, trust_remote_code=True)
    assert type(model).__name__ == "OwnForCausalLM"
    packed = sinkquant.load(checkpoint, execution="auto", dtype=torch.float32, trust_remote_code=True)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        torch.testing.assert_close(packed(ids).logits, model(ids).logits, rtol=1e-3, atol=1e-3)
    text = own / "README.txt"
    text.write_text(tiny.sentences(200))
    found = sinkquant.evaluate(checkpoint, baseline=own, text=text, window=64, max_tokens=512, trust_remote_code=True)
    assert found.kl < 0.1


def test_detect_works_with_the_flag(own: Path, ran: Path) -> None:
    assert sinkquant.detect(own, trust_remote_code=True)


def test_the_code_that_is_imported_travels_and_is_listed(checkpoint: Path) -> None:
    files = read_manifest(checkpoint).files
    assert {name for name in files if name.endswith(".py")} == {"own_config.py", "own_model.py", "own_helper.py"}


def test_a_saved_model_is_of_the_same_kind(checkpoint: Path, tmp_path: Path) -> None:
    sinkquant.load(checkpoint, trust_remote_code=True, execution="auto").save_pretrained(tmp_path / "again")
    first, again = (json.loads((folder / "config.json").read_text()) for folder in (checkpoint, tmp_path / "again"))
    assert first["model_type"] == again["model_type"]


UNASKED: dict[str, Callable[[Path, Path], object]] = {
    "detect": lambda own, _: sinkquant.detect(own),
    "quantize": lambda own, out: sinkquant.quantize(own, recipe="w8a8", output=out / "x", overrides=SMALL),
    "load": lambda _, out: sinkquant.load(out),
    "load without checksums": lambda _, out: sinkquant.load(out, checksums=False, execution="auto"),
    "verify": lambda _, out: sinkquant.verify(out),
    "evaluate": lambda own, out: sinkquant.evaluate(out, baseline=own),
}


@pytest.mark.parametrize("name", UNASKED)
def test_nothing_runs_unasked(name: str, checkpoint: Path, own: Path, ran: Path, tmp_path: Path) -> None:
    ran.unlink(missing_ok=True)
    with pytest.raises(sinkquant.UsageError, match=r"brings Python code .* allow it with .*trust-remote-code"):
        UNASKED[name](own, checkpoint)
    assert not ran.exists()


def test_from_pretrained_does_not_run_it_either(checkpoint: Path, ran: Path) -> None:
    ran.unlink(missing_ok=True)
    with pytest.raises((sinkquant.UsageError, ValueError), match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=False)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["torch", "json", "sinkquant", "transformers", "sitecustomize", "yaml"])
def test_no_module_comes_from_the_checkpoint_or_the_working_folder(name: str, tmp_path: Path) -> None:
    """Beside the checkpoint and, as another tool may list it, in it."""
    fixture = Path(__file__).resolve().parents[1] / "fixtures" / "v0.1.0" / "sink-aware"
    folder = shutil.copytree(fixture, tmp_path / "checkpoint")
    hostile = "import os\nopen(os.environ['HOSTILE'], 'w').close()\nraise SystemExit(9)\n"
    (tmp_path / f"{name}.py").write_text(hostile)
    (folder / name).mkdir()  # a package: what is no file is not looked at
    (folder / name / "__init__.py").write_text(hostile)
    script = "import sys, sinkquant\nprint('found', sinkquant.verify(sys.argv[1]).files)\n"
    environment = os.environ | {"HOSTILE": str(tmp_path / "ran")}
    for cwd, given in ((folder, "."), (tmp_path, "checkpoint")):
        done = subprocess.run(
            [sys.executable, "-P", "-c", script, given], cwd=cwd, env=environment, capture_output=True, text=True,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not (tmp_path / "ran").exists()
        assert done.stdout.startswith("found"), done.stderr


@pytest.mark.parametrize("reference", [[None, "own_tokenizer.Own"], "own_tokenizer.Own", "some/where--tokenizer.Own"])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "processor_config.json"])
def test_code_of_a_tokenizer_is_asked_for_as_well(reference: object, name: str, tmp_path: Path) -> None:
    folder = tiny.save(tiny.random_llama(), tmp_path / "model")
    settings = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps(settings | {"auto_map": {"AutoTokenizer": reference}}))
    with pytest.raises(sinkquant.UsageError, match=r"brings Python code .* allow it with .*trust-remote-code"):
        sinkquant.detect(folder)


def test_python_files_that_nothing_names_need_no_leave(tmp_path: Path) -> None:
    """0.1.0 copied them."""
    fixture = Path(__file__).resolve().parents[1] / "fixtures" / "v0.1.0" / "sink-aware"
    folder = shutil.copytree(fixture, tmp_path / "checkpoint")
    (folder / "own.py").write_text("1 / 0")
    write_manifest(folder, json.loads((folder / "sinkquant.json").read_text()))
    assert sinkquant.load(folder)
