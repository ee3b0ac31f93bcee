"""The command line: flags become a config, a recipe runs it, results go to stdout, everything else to stderr."""

from hfseg.cli import compare, data, explain, look, measure, show, train
from hfseg.cli.app import app
from hfseg.cli.main import main

__all__ = ["app", "compare", "data", "explain", "look", "main", "measure", "show", "train"]
