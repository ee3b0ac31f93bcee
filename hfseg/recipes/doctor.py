"""`hfseg doctor`: what this machine has and lacks for training, each fact with its remedy; changes nothing.

Nothing heavy is imported before the fact that needs it, so that a broken library is a line and not a crash.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from packaging.requirements import Requirement

from hfseg.engine.machine import Fact, devices, memory, room, threads, torch_build

HUB_TIMEOUT_S = 3
EXAMPLE, CROP, KERNEL_SIZE = "dinat-mini", 512, 7
"""Whose attention is told about."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def run() -> list[Fact]:
    """Look at interpreter, libraries, devices, the Hub, disk and memory; takes seconds, most of them imports."""
    facts = [python(), *libraries()]
    if not is_healthy(facts):
        return facts
    vision = torchvision()
    facts += [vision, torch_build(), *devices(), *optional_libraries(), *machine()]
    return [*facts, *attention()] if vision.status == "ok" else facts


def is_healthy(facts: list[Fact]) -> bool:
    """Whether hfseg can work here."""
    return all(fact.status != "broken" for fact in facts)


def to_json(facts: list[Fact]) -> dict[str, Any]:
    """Write the facts as plain values."""
    return {"healthy": is_healthy(facts), "facts": [asdict(fact) for fact in facts]}


def to_text(facts: list[Fact]) -> str:
    """Write the facts as a table, hints below their lines."""
    width = max(len(fact.name) for fact in facts)
    lines = []
    for fact in facts:
        lines.append(f"{fact.status:<8} {fact.name:<{width}}  {fact.value}")
        if fact.hint:
            lines.append(f"{'':<8} {'':<{width}}  hint: {fact.hint}")
    return "\n".join(lines)


def python() -> Fact:
    """The interpreter and the platform."""
    return Fact("python", f"{platform.python_version()} on {platform.platform()}")


def libraries() -> Iterator[Fact]:
    """Every library that hfseg needs, against the range it needs it in."""
    for text in importlib.metadata.requires("hfseg") or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield library(requirement)


def library(requirement: Requirement) -> Fact:
    """One library against the range of its versions; nothing is imported."""
    remedy = f"pip install '{requirement}'"
    found = version(requirement.name)
    if found is None:
        return Fact(requirement.name, f"not installed, needed {requirement.specifier}", "broken", remedy)
    if not requirement.specifier.contains(found, prereleases=True):
        return Fact(requirement.name, f"{found}, needed {requirement.specifier}", "broken", remedy)
    return Fact(requirement.name, f"{found} ({requirement.specifier})")


def torchvision() -> Fact:
    """Whether torchvision, which hfseg never imports, would break Transformers: it is tried in a process of its own."""
    if find_spec("torchvision") is None:
        return Fact("torchvision", "not installed: not needed")
    tried = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    found = version("torchvision") or "of unknown version"
    if tried.returncode == 0:
        return Fact("torchvision", f"{found}: can be imported; not needed, but for encoders of timm")
    reason = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
    return Fact(
        "torchvision",
        f"{found}: cannot be imported ({reason}), and Transformers imports it where it is installed",
        "broken",
        f"`pip uninstall torchvision`, or install the one that was built for torch {version('torch')}",
    )


def optional_libraries() -> Iterator[Fact]:
    """What hfseg can use and does not need."""
    for name, role in {"timm": "for --backbone timm:NAME only", "torch_xla": "on TPUs only"}.items():
        yield Fact(name, f"{version(name) or 'not installed'}: {role}")


def attention() -> Iterator[Fact]:
    """Which way neighborhood attention takes for each map of an example, and why the optional ways cannot run."""
    import torch

    from hfseg.models.backbones import find
    from hfseg.models.backbones.dilations import STRIDES, auto_dilations
    from hfseg.models.ops import Case, choose, fused_natten, fused_triton

    device, precision = "cuda" if torch.cuda.is_available() else "cpu", torch.float32
    alias = find(EXAMPLE)
    assert alias is not None
    levels = auto_dilations(alias.config["depths"], kernel_size=KERNEL_SIZE, crop=(CROP, CROP))
    head_dim = alias.config["embed_dim"] // alias.config["num_heads"][0]
    for stride, level in zip(STRIDES, levels, strict=True):
        side = CROP // stride
        cases = [Case(device, precision, side, side, head_dim, KERNEL_SIZE, d, True) for d in sorted(set(level))]
        ways = ", ".join(f"dilation {case.dilation} {choose(case)}" for case in cases)
        yield Fact(f"attention {side}x{side}", f"{ways} ({EXAMPLE}, crop {CROP}, on {device})")
    facts = {"device": device, "dtype": precision, "head_dim": head_dim}
    triton = fused_triton.refusal(**facts, kernel_size=KERNEL_SIZE)
    yield way("triton", fused_triton.installed_version(), triton)
    natten = fused_natten.refusal(**facts, has_table=True, needs_grad=True)
    yield way("natten", fused_natten.installed_version(), natten)


def way(name: str, found: str | None, refusal: str | None) -> Fact:
    """An optional way of neighborhood attention; none is needed."""
    if found is None:
        return Fact(name, "not installed: not needed")
    if refusal is not None:
        return Fact(name, f"{found}: not used, not needed ({refusal})")
    return Fact(name, f"{found}: with model.attention_impl={name}")


def machine() -> Iterator[Fact]:
    """The Hub, its cache, disk, memory, threads."""
    from huggingface_hub import constants

    yield hub(os.environ, constants.ENDPOINT)
    yield room("cache", Path(constants.HF_HUB_CACHE), "point HF_HOME to a larger disk")
    yield room(
        "working folder", Path.cwd(), "give --output on a larger disk; a run keeps up to six copies of the model"
    )
    yield memory()
    yield threads(os.environ)


def hub(environ: Mapping[str, str], endpoint: str) -> Fact:
    """Whether weights and data can be fetched; asks for one header, and waits no longer than three seconds."""
    offline = [name for name in OFFLINE if environ.get(name, "").upper() in {"1", "TRUE", "YES", "ON"}]
    if offline:
        return Fact("hub", f"offline by {', '.join(offline)}: what is in the cache can be used")
    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=HUB_TIMEOUT_S):
            return Fact("hub", f"{endpoint} answers")
    except HTTPError as error:
        return Fact("hub", f"{endpoint} answers with {error.code}")
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        hint = "fetch weights elsewhere with `hf download NAME`, copy the cache here, and set HF_HUB_OFFLINE=1"
        return Fact("hub", f"{endpoint} cannot be reached: {reason}", "warning", hint)


def version(name: str) -> str | None:
    """The installed version of a library, None where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
