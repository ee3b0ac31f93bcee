"""What a model is, in one word: two models with the same fingerprint say the same of every image."""

import hashlib
import json
from typing import Any

import torch

from hfseg.models.segmenter import Segmenter

ORIGIN = ("transformers_version", "_name_or_path", "architectures", "dtype")
"""Entries of a config that say where a model comes from, and not what it computes."""


def fingerprint(segmenter: Segmenter) -> str:
    """Hash all weights and statistics of a model, its settings, and how it takes pixels."""
    digest = hashlib.blake2b(digest_size=16)
    settings = json.loads(segmenter.hf.config.to_json_string(use_diff=False))
    digest.update(json.dumps([_without_origin(settings), repr(segmenter.pixels)], sort_keys=True).encode())
    for name, value in sorted(segmenter.hf.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _without_origin(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_origin(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in ORIGIN
    }
