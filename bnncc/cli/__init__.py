"""The command line. Exit codes: 0 done, 1 the model, 2 usage or input data, 3 the environment."""

from bnncc.cli.app import main

__all__ = ["main"]
