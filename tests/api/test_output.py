"""`quantize` asks about its output before any work, and a run goes on only where the sums have the same order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sinkquant
from sinkquant.api import quantize as quantizing
from sinkquant.errors import UsageError


@pytest.mark.parametrize("recipe", ["w8a8", None])
@pytest.mark.parametrize("what", ["model", "above the model", "home", "text"])
def test_what_is_no_checkpoint_survives_overwrite(
    what: str, recipe: str | None, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        pytest.fail("the work began")

    monkeypatch.setattr(quantizing, "load_model", work)
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


def test_other_threads_are_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"recipe": {}, "model_fingerprint": "f", "prefix": []}

    def identity(threads: int) -> dict[str, object]:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        return quantizing._identity(facts, torch.zeros(1, 4, dtype=torch.int64), 64.0, torch.nn.Linear(1, 1))

    assert identity(1) == identity(1) != identity(2)
