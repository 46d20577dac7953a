"""The lower bounds that are tried are those of pyproject.toml."""

from __future__ import annotations

import tomllib

import pytest

from eval.lower_bounds import ROOT, bounds


def test_every_dependency_has_a_lower_bound() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    got = dict(line.split("==") for line in bounds(wanted, pinned))
    assert len(got) == len(wanted)
    assert got["transformers"] == "5.18" and f"torch=={got['torch']}" in pinned


@pytest.mark.parametrize("line", ["torch", "torch<3", "torch>=2,<3"])
def test_another_form_is_refused(line: str) -> None:
    with pytest.raises(SystemExit, match="NAME>=VERSION"):
        bounds([line], ["torch==2.13.0"])
