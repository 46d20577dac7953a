"""A runner of the command."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from sinkquant.cli.main import app


@pytest.fixture
def cli() -> Callable[..., object]:
    """`cli("recipes", "--json")`: the result, with exit_code, stdout and stderr."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
