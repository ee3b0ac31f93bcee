"""Model folders: written so that plain Transformers opens them, and read back.

A folder holds config.json (names, palette), model.safetensors and preprocessor_config.json (mean, deviation). A folder
that exists is replaced whole: a run that dies while writing leaves the old one or the new one, never a mixture.
"""

import json
import shutil
from pathlib import Path

from hfseg.config import Config
from hfseg.errors import ModelError
from hfseg.labels import LabelSpace
from hfseg.models.adapter import adapter_scale, merged
from hfseg.models.adapter_folder import write_adapters
from hfseg.models.labelling import read_labels, write_labels
from hfseg.models.loading import load_segmentation
from hfseg.models.segmenter import Segmenter
from hfseg.models.sources import locate, quiet


def save_model(
    segmenter: Segmenter,
    labels: LabelSpace,
    directory: Path | str,
    *,
    size: tuple[int, int] | None = None,
    base: Config | None = None,
) -> None:
    """Write a model folder, from which `pipeline("image-segmentation")` runs; adapters are merged into their layers.

    `size` (height, width) is what plain Transformers will resize images to; without it images keep their size. With
    `base`, the settings that a model with adapters was built by, what was trained is written alone: `open_model` opens
    it where that model is at hand.

    Raises:
        ModelError: the label space has another number of classes than the model.
        ValueError: `base` is given and the model has no adapters.
    """
    hf = segmenter.hf
    if labels.num_labels != hf.config.num_labels:
        raise ModelError(f"model has {hf.config.num_labels} classes: the label space has {labels.num_labels}")
    if base is not None and adapter_scale(hf) is None:
        raise ValueError("`base` belongs to adapters, and the model has none")
    write_labels(hf.config, labels)
    directory = Path(directory)
    fresh, old = (directory.with_name(f".{directory.name}.{word}") for word in ("writing", "replaced"))
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    scale = adapter_scale(hf)
    weights = {name: value.cpu() for name, value in hf.state_dict().items()}  # XLA's cannot be written from there
    with quiet():
        if scale is None:
            hf.save_pretrained(fresh, state_dict=weights)
        elif base is None:
            hf.save_pretrained(fresh, state_dict=merged(weights, scale=scale))
        else:
            write_adapters(hf, fresh, base=base)
    preprocessor = json.dumps(segmenter.pixels.to_preprocessor(size), indent=2)
    (fresh / "preprocessor_config.json").write_text(f"{preprocessor}\n", encoding="utf-8")
    if directory.exists():
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
    fresh.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def open_model(path_or_id: Path | str) -> tuple[Segmenter, LabelSpace]:
    """Open a run folder (its `best-miou/`), a model folder or a Hub id, in evaluation mode.

    The label space has the model's names and colours; raw mask values are taken to be the train ids.

    Raises:
        ModelError: there is no such model, it is no semantic segmentation model, it is incomplete, or it needs code of
            its own.
    """
    hf, pixels = load_segmentation(locate(str(path_or_id)))
    segmenter = Segmenter(hf, pixels)
    segmenter.eval()
    return segmenter, read_labels(hf.config)
