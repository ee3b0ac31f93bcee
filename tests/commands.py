"""Runs the installed command line, as a user does."""

import os
import subprocess
import sys
from pathlib import Path

HFSEG = str(Path(sys.executable).with_name("hfseg"))
QUICK = ["--crop-size", "64", "--batch-size", "4", "--workers", "1", "--lr", "1e-3", "--set", "samples=2"]
"""Options that make a run on the demo data small."""


def hfseg(*arguments: str | Path, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `hfseg` and insist on its exit code."""
    done = subprocess.run(
        [HFSEG, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd, env=os.environ
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start `hfseg` in a process group of its own and do not wait."""
    return subprocess.Popen(
        [HFSEG, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ,
        start_new_session=True,
    )
