"""The command line: flags become a config, a recipe runs it, results go to stdout, everything else to stderr."""

from hfseg.cli import data, look, measure, train
from hfseg.cli.app import app
from hfseg.cli.main import main

__all__ = ["app", "data", "look", "main", "measure", "train"]
