"""`optimum-cli sinkquant …`, with the registration file where its wheel would install it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optimum.commands.optimum_cli", reason="optimum is not installed: pip install optimum")

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTION = ROOT / "optimum-sinkquant"


@pytest.fixture
def optimum_cli(tmp_path: Path):
    spec = importlib.util.find_spec("optimum.commands.optimum_cli")
    assert spec is not None and spec.origin is not None
    register = importlib.util.find_spec("optimum.commands.register")
    folders = register.submodule_search_locations if register else None
    if not any((Path(folder) / "register_sinkquant.py").exists() for folder in folders or ()):  # no wheel put it there
        shutil.copytree(Path(spec.origin).parents[1], tmp_path / "optimum")
        target = tmp_path / "optimum" / "commands" / "register"
        target.mkdir(exist_ok=True)
        shutil.copy(DISTRIBUTION / "optimum/commands/register/register_sinkquant.py", target)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        paths = [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]
        code = "import sys; from optimum.commands.optimum_cli import main; main(); print(*sys.modules, file=sys.stderr)"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_help_of_a_command_is_ours(optimum_cli) -> None:
    done = optimum_cli("sinkquant", "quantize", "--help")
    assert done.returncode == 0, done.stderr
    assert "optimum-cli sinkquant quantize" in done.stdout
    assert "--recipe" in done.stdout


def test_bad_input_keeps_its_sentence_and_its_exit_code(optimum_cli, tmp_path: Path) -> None:
    done = optimum_cli("sinkquant", "quantize", "nowhere", "--recipe", "w8a9", "-o", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "w8a8" in done.stderr


def test_the_registration_imports_nothing_heavy() -> None:
    assert "import REGISTER_COMMANDS" in next(DISTRIBUTION.rglob("register_sinkquant.py")).read_text(encoding="utf-8")
    source = (ROOT / "sinkquant/integrations/optimum_register.py").read_text(encoding="utf-8")
    top = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not any(heavy in line for line in top for heavy in ("torch", "transformers", "sinkquant.api"))
