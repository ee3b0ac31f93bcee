"""Runs pieces of code that need processes of their own, because what they show depends on what was imported before."""

import json
import os
import subprocess
import sys

SERVER = """
import json, os, sys, torch, torch._dynamo, torch.distributed.tensor
assert not {"hfseg", "transformers", "timm"} & set(sys.modules)
for code in json.load(sys.stdin):
    if not os.fork():
        exec(code, {"__name__": "__main__"})
        sys.exit()
    if os.wait()[1]:
        sys.exit(f"went wrong:\\n{code}")
"""


def run_alone(*codes: str) -> str:
    """Run each piece in a process that has imported torch and nothing of Transformers or ours; give what all print."""
    command = [sys.executable, "-c", SERVER]
    done = subprocess.run(command, input=json.dumps(codes), capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout
