"""Folders of adapters: what was trained alone, and which model it belongs to.

Beside config.json and preprocessor_config.json, as in every model folder, there are adapters.safetensors (the matrices,
by the names they have in training, and the heads) and adapter.json (the settings that the model was built by, what the
matrices count, and the sum of the weights that stayed as they were).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfseg.config import Config
from hfseg.errors import ModelError
from hfseg.labels import LabelSpace
from hfseg.models.adapter import adapter_scale, apart, merged
from hfseg.models.pixels import Pixels

FACTS, WEIGHTS = "adapter.json", "adapters.safetensors"


def write_adapters(hf: Any, folder: Path, *, base: Config) -> None:
    """Write what was trained of a model with adapters, and the settings `base` that the model was built by."""
    fixed, trained = apart(hf)
    save_file({name: value.detach().cpu().contiguous() for name, value in trained.items()}, folder / WEIGHTS)
    facts = {"base": base.model_dump(mode="json"), "scale": adapter_scale(hf), "sha256": _sum(fixed)}
    (folder / FACTS).write_text(f"{json.dumps(facts, indent=2)}\n", encoding="utf-8")
    hf.config.save_pretrained(folder)


def is_adapter_folder(folder: Path) -> bool:
    """Whether a model folder holds adapters alone."""
    return (folder / FACTS).is_file()


def read_adapters(folder: Path, labels: LabelSpace) -> tuple[Any, Pixels]:
    """Build the model that adapters belong to and merge them; give the Hugging Face model and how it takes pixels.

    Raises:
        ModelError: the files are damaged, the model cannot be had, or its weights are not those of the training.
    """
    from hfseg.models import ModelConfig  # the union of all models, which open folders themselves

    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        settings = TypeAdapter(ModelConfig).validate_python(facts["base"])
        scale, expected = float(facts["scale"]), str(facts["sha256"])
        trained = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, ValidationError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"adapters in `{folder}` cannot be read: {reason}") from None
    base = settings.build(labels)
    state = base.hf.state_dict()
    fixed = {name: value for name, value in state.items() if name not in trained}
    if _sum(fixed) != expected:
        raise ModelError(
            f"adapters in `{folder}` belong to other weights than those of their model today: sha256 {expected[:12]} "
            f"was trained on, got {_sum(fixed)[:12]}",
            hint=f"see `base` in {FACTS}: which weights it names, and whether they have changed",
        )
    base.hf.load_state_dict(merged({**state, **trained}, scale=scale))
    return base.hf, base.pixels


def _sum(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
