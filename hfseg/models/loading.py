"""Opening a whole segmentation model, with nothing missing and nothing left over."""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from transformers import CONFIG_MAPPING, MODEL_FOR_BACKBONE_MAPPING, MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING

from hfseg.errors import ModelError
from hfseg.models.adapter_folder import is_adapter_folder, read_adapters
from hfseg.models.labelling import read_labels
from hfseg.models.pixels import Pixels
from hfseg.models.sources import Source, load

SUFFIX = "ForSemanticSegmentation"


def load_segmentation(source: Source) -> tuple[Any, Pixels]:
    """Load a semantic segmentation model and how it takes pixels; adapters are merged into the model they belong to.

    Raises:
        ModelError: it is no semantic segmentation model, its config does not say what can be, parameters are missing,
            left over or of another shape, or nothing says how it takes pixels.
    """
    _check_kind(source)
    if source.preprocessor is None:
        raise ModelError(
            f"`{source.location}` holds no preprocessor_config.json: its mean and deviation are not known",
            hint="add one with `image_mean` and `image_std`",
        )
    config = _opened_config(source)
    if is_adapter_folder(Path(source.location)):
        hf, pixels = read_adapters(Path(source.location), read_labels(config))
        hf.config = config  # with what training has set, such as the distance of the frames in memory
        return hf, pixels
    loaded = load(MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING[type(config)], source, config=config)
    for what, names in (("lacks", loaded.missing), ("holds unknown", loaded.unexpected)):
        if names:
            shown = ", ".join(f"`{name}`" for name in names[:4])
            raise ModelError(
                f"`{source.location}` {what} {len(names)} parameters of `{type(loaded.model).__name__}`: "
                f"{shown}{' ...' if len(names) > 4 else ''}",
                hint="the file is of another model, or incomplete",
            )
    if loaded.mismatched:
        name, old, new = loaded.mismatched[0]
        raise ModelError(
            f"`{source.location}` does not fit its own config.json: `{name}` is {list(old)} in the file, "
            f"expected {list(new)}"
        )
    return loaded.model, Pixels.from_preprocessor(source.preprocessor)


def _opened_config(source: Source) -> Any:
    try:
        return CONFIG_MAPPING[source.model_type].from_dict(dict(source.config))
    except StrictDataclassError as error:
        reason = str(error).splitlines()[-1].strip()
    except ValidationError as error:
        reason = "; ".join(problem["msg"] for problem in error.errors())
    raise ModelError(f"config.json of `{source.location}` cannot be: {reason}")


def _check_kind(source: Source) -> None:
    architectures = source.config.get("architectures") or []
    known = CONFIG_MAPPING[source.model_type] in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING
    if known and (not architectures or architectures[0].endswith(SUFFIX)):
        return
    name = architectures[0] if architectures else source.model_type
    is_encoder = CONFIG_MAPPING[source.model_type] in MODEL_FOR_BACKBONE_MAPPING
    raise ModelError(
        f"`{source.location}` is a `{name}`: expected a semantic segmentation model (`...{SUFFIX}`)",
        hint=f"it can be an encoder: --backbone {source.location}" if is_encoder else None,
    )
