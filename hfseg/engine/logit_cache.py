"""Logits on the disk, a byte for each class of each place: what a frozen model said of pixels it may be shown again."""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hfseg.engine.checkpoint import write_file
from hfseg.errors import CheckpointError

LEVELS = 255
"""Steps between the largest logit of a place and the smallest one of the image."""
_FACTS, _FORMAT = "cache.json", 1
_CHECKSUM_BYTES = 4

log = logging.getLogger(__name__)


class LogitCache:
    """Logits of single samples by a key of their pixels.

    A sample that is shown otherwise has another key. Files that are not as they were written are named, and taken for
    missing. Several processes may use one folder.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], *, keep: int | None = None) -> None:
        """Open a folder, or make it; `facts` are what the logits depend on beside the pixels.

        `keep` is how many classes of each place are kept.

        Raises:
            CheckpointError: the folder holds the logits of something else, or is no cache.
        """
        self.folder = folder
        self.keep = keep
        wanted = json.loads(json.dumps({"format": _FORMAT, **facts, "classes": keep}))
        path = folder / _FACTS
        if path.is_file():
            _check_same(path, wanted)
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CheckpointError(f"`{folder}` is no cache of logits", hint="give a new or empty folder")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(wanted, indent=2))

    def read(self, key: str) -> Float[Tensor, "k h w"] | None:
        """Give the logits of a key; None where they are not there."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        payload = content[_CHECKSUM_BYTES:]
        try:
            if content[:_CHECKSUM_BYTES] != _checksum(payload):
                raise SafetensorError("it is not as it was written")
            return restored(load(payload))
        except (SafetensorError, KeyError) as error:
            log.warning("cached logits `%s` are damaged: %s; they are computed anew", path, error)
            return None

    def write(self, key: str, logits: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        """Keep logits, and give what `read` will give, so that nothing depends on whether they were there before."""
        parts = compact(logits.detach().cpu().float().contiguous(), keep=self.keep)
        payload, path = save(parts), self._path(key)
        path.parent.mkdir(exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_bytes(_checksum(payload) + payload)
        fresh.replace(path)
        return restored(parts)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.logits"


def pixel_key(pixel_values: Shaped[Tensor, "*t 3 h w"]) -> str:
    """Hash what is shown of one sample: bytes, or floats of 0..1 in steps of a byte, which flips leave as they are."""
    scaled = (pixel_values * 255).round() if pixel_values.is_floating_point() else pixel_values
    pixels = scaled.to(torch.uint8).cpu().contiguous()
    digest = hashlib.blake2b(repr(tuple(pixels.shape)).encode(), digest_size=16)
    digest.update(pixels.numpy().data)
    return digest.hexdigest()


def compact(logits: Float[Tensor, "k h w"], *, keep: int | None = None) -> dict[str, Tensor]:
    """Write logits as the largest of each place and how far each class lies below it, in steps whose squares count.

    The steps are fine where a class is likely and coarse where it is not. With `keep`, the most likely classes are
    written with their numbers, and then what every other class has where these share what is left evenly.
    """
    count = logits.shape[0]
    peak = logits.amax(0).half()
    parts = {"peak": peak, "num_labels": torch.tensor(count)}
    if keep is not None and keep < count:
        ordered, classes = logits.sort(0, descending=True)
        left = ordered[keep:].logsumexp(0, keepdim=True) - torch.tensor(float(count - keep)).log()
        logits = torch.cat([ordered[:keep], left])
        parts["classes"] = classes[:keep].to(torch.uint8 if count <= 256 else torch.int16)
    gaps = (logits.amax(0) - logits).clamp(min=0)
    span = gaps.max()
    steps = (gaps / span.clamp(min=torch.finfo(span.dtype).tiny)).sqrt() * LEVELS
    return {**parts, "span": span, "gaps": steps.round().to(torch.uint8)}


def restored(parts: Mapping[str, Tensor]) -> Float[Tensor, "k h w"]:
    """Read what `compact` wrote."""
    gaps = (parts["gaps"].float() / LEVELS).square() * parts["span"]
    logits = parts["peak"].float() - gaps
    if "classes" not in parts:
        return logits
    others = logits[-1:].expand(int(parts["num_labels"]), -1, -1)
    return others.scatter(0, parts["classes"].long(), logits[:-1])


def _check_same(path: Path, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise CheckpointError(f"`{path}` is damaged", hint="delete the folder of the cache") from None
    different = [
        f"`{key}` is {found.get(key)}, expected {wanted[key]}" for key in wanted if found.get(key) != wanted[key]
    ]
    if different:
        raise CheckpointError(
            f"cached logits in `{path.parent}` are of something else: {', '.join(different)}",
            hint="give another `distill.cache`, or delete that folder",
        )


def _checksum(payload: bytes) -> bytes:
    return zlib.crc32(payload).to_bytes(_CHECKSUM_BYTES, "little")
