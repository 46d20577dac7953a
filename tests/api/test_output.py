"""`quantize` asks about its output before any work, and a run goes on only where the sums have the same order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

import sinkquant
from sinkquant.errors import UsageError
from sinkquant.flow import begin as loading
from sinkquant.flow.facts import identity
from sinkquant.flow.plan import make_plan, weight_shapes
from sinkquant.models.source import resolve
from sinkquant.models.trace import trace_roles
from sinkquant.recipes import load_recipe
from tests.sessions import text_session


@pytest.mark.parametrize("recipe", ["w8a8", None])
@pytest.mark.parametrize("what", ["model", "above the model", "home", "text"])
def test_what_is_no_checkpoint_survives_overwrite(
    what: str, recipe: str | None, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        pytest.fail("the work began")

    monkeypatch.setattr(loading, "load_model", work)
    precious = tmp_path / "precious"
    precious.mkdir()
    if what == "text":
        (precious / "thesis.txt").touch()
    monkeypatch.setenv("HOME", str(precious if what == "home" else tmp_path / "elsewhere"))
    out = {"model": model_folder, "above the model": model_folder.parent}.get(what, precious)
    with pytest.raises(UsageError, match=f"{out} is kept, it "):
        sinkquant.quantize(model_folder, recipe=recipe, output=out, overwrite=True)
    assert (model_folder / "config.json").is_file()
    assert (precious / "thesis.txt").exists() == (what == "text")


def test_other_threads_are_another_run(
    model_folder: Path, tiny_llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = trace_roles(tiny_llama)
    session = text_session(tiny_llama, torch.zeros(1, 4, dtype=torch.int64), roles)
    session.source = resolve(model_folder)
    plan = make_plan(load_recipe("w8a8"), (), roles, weight_shapes(tiny_llama, roles), None)

    def of(threads: int) -> dict[str, object]:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        return identity(session, plan)

    assert of(1) == of(1) != of(2)
