"""The `sinkquant` command: its sub-commands, and the handler of their errors.

Nothing here may import torch or transformers: `sinkquant --help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sinkquant import __version__
from sinkquant.cli.console import flush, prepare, say
from sinkquant.cli.detect import detect
from sinkquant.cli.evaluate import evaluate
from sinkquant.cli.failures import INTERRUPTED, one_sentence
from sinkquant.cli.inspect import inspect
from sinkquant.cli.quantize import quantize
from sinkquant.cli.recipes import recipes
from sinkquant.cli.signals import signals_end_like_ctrl_c
from sinkquant.cli.verify import verify


class Commands(TyperGroup):
    """The group of all commands; errors of any of them are handled here, before typer shows a traceback."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the command line up to the name of the command."""
        with one_sentence():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        with one_sentence(), signals_end_like_ctrl_c():
            return super().invoke(ctx)


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (detect, quantize, inspect, verify, evaluate, recipes):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(__version__)
        raise typer.Exit


@app.callback()
def sinkquant(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Post-training quantization that takes sink outliers out of the way."""


def run(arguments: list[str] | None = None, name: str | None = None) -> None:
    """Entry point of the installed command; `arguments` and `name` where another command hands on its own."""
    prepare()
    try:
        app(args=arguments, prog_name=name)
    except SystemExit as end:
        sys.exit(_flushed(end.code))
    except KeyboardInterrupt:  # in the moment before or after the work
        sys.exit(INTERRUPTED)


def _flushed(code: Any) -> Any:
    """`code`, or that of a stdout which does not take what was printed."""
    try:
        with one_sentence():
            flush()
    except typer.Exit as end:
        return end.exit_code
    return code
