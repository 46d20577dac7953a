"""`optimum-cli sinkquant …` is `sinkquant …`.

optimum looks for the commands of other packages in files of optimum/commands/register. The distribution in
optimum-sinkquant/ puts one there; it imports this module on every call, so this module imports nothing heavy.
"""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo


class SinkquantCommand(BaseOptimumCLICommand):
    """Hands everything behind its name to the command of sinkquant, help included."""

    COMMAND = CommandInfo(name="sinkquant", help="Quantize models whose sink tokens break low-bit ranges.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """A command of sinkquant and its arguments, as they are."""
        parser.add_argument("command", nargs="?", help="A command of sinkquant, for example quantize.")
        parser.add_argument("arguments", nargs=REMAINDER, help="Its arguments; `COMMAND --help` lists them.")

    def run(self) -> None:
        """Leaves the process with the exit code of the command."""
        from sinkquant.cli.main import run

        given = [self.args.command, *self.args.arguments] if self.args.command else ["--help"]
        run(given, "optimum-cli sinkquant")


REGISTER_COMMANDS = [SinkquantCommand]
