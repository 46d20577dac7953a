"""What an interrupted run is recognised by knows the code."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from sinkquant.evaluation.versions import code_digest


def test_remote_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("transformers_modules.mine.modeling")
    module.__file__ = str(tmp_path / "modeling.py")
    model = type("Model", (), {"__module__": module.__name__})()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / "modeling.py").write_text("one = 1")
    (tmp_path / "helper.py").write_text("two = 2")
    first = code_digest(model)
    assert first == code_digest(model) != code_digest(object())
    (tmp_path / "helper.py").write_text("two = 3")
    assert code_digest(model) != first


def test_our_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "sinkquant"
    (package / "evaluation").mkdir(parents=True)
    monkeypatch.setattr("sinkquant.evaluation.versions.__file__", str(package / "evaluation/versions.py"))
    digests = set()
    for name, text in (("gptq.py", "a"), ("gptq.py", "b"), ("other.py", "b")):
        (package / name).write_text(text)
        digests.add(code_digest(object()))
    assert len(digests) == 3
