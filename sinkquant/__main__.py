"""`python -m sinkquant`: the command line."""

from sinkquant.cli.main import run

if __name__ == "__main__":
    run()
