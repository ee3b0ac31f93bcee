"""The machine and the versions that a run used."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from hfseg.engine.runtime import Runtime


def environment(runtime: Runtime) -> dict[str, str]:
    """Describe the machine and the versions a run used, for `env.json`."""
    packages = ("hfseg", "torch", "transformers", "accelerate", "datasets", "evaluate", "pillow", "numpy")
    device = runtime.device
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({platform.machine()})",
        "processes": str(runtime.world_size),
        "cpu_threads": str(torch.get_num_threads()),
        "precision": runtime.config.precision,
        "commit": _commit(),
        **{name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the working tree that hfseg runs from, or `released` outside of one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return "released"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    described = subprocess.run(command, capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"
