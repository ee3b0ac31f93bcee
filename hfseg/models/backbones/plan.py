"""From `--backbone` and `--pretrained` to an encoder's config and the place of its weights."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING

from hfseg.errors import ModelError
from hfseg.models.backbones import aliases
from hfseg.models.backbones.aliases import Alias
from hfseg.models.pixels import Pixels
from hfseg.models.sources import Source, locate

RANDOM = "none"
"""The value of `pretrained` that asks for random weights."""
READS: Mapping[str, Collection[str]] = {"maskformer-swin": ("swin",)}
"""Families whose weights another family's class can take, beside its own."""
SHED = ("id2label", "label2id", "num_labels", "architectures", "transformers_version", "dtype", "torch_dtype")
"""What a classifier's config says about the classifier, or about the file."""
BEIT = "beit"
BEIT_TAKES = (1 / 3, 1 / 2, 2 / 3, 1)
"""Depths at which BEiT's layers feed its neck: 4, 6, 8, 12 of 12, as its published UPerNets do."""
OUTPUTS = ("out_features", "out_indices", "stage_names")


@dataclass(frozen=True)
class Plan:
    """An encoder to build: its config, where its weights are (None: random), how it takes pixels."""

    name: str
    config: Any
    weights: Source | None
    pixels: Pixels

    @property
    def family(self) -> str:
        """The encoder's family, as Transformers calls it."""
        return str(self.config.model_type)


def plan(
    backbone: str, pretrained: str | None, *, overrides: Mapping[str, Any], drop_path: float | None = None
) -> Plan:
    """Resolve an encoder's name and the origin of its weights.

    `backbone` is an alias, a Hub id or a local folder. Without `pretrained` its own (an alias' default) weights are
    taken; `none` asks for random weights; another id or folder must be of the same family and, where the alias names a
    size, of that size. `overrides` replace values of the config.

    Raises:
        ModelError: the encoder is unknown, its weights cannot be had or are another encoder's, an override has no
            effect, or the config makes no sense.
    """
    alias = aliases.find(backbone)
    if alias is None and "/" not in backbone and not backbone.startswith((".", "~")):
        raise aliases.unknown(backbone)
    own = None if alias else locate(backbone)
    if pretrained == RANDOM:
        weights = None
    elif pretrained is None:
        weights = own or (locate(alias.checkpoint) if alias else None)
    else:
        weights = locate(pretrained)
    described = own or weights
    family = alias.family if alias else str(described and described.model_type)
    if weights is not None:
        _same_family(backbone, family, weights)
    content = dict(described.config) if described else dict(alias.config if alias else {})
    config = _config(backbone, family, {**content, **_drop_path(family, drop_path)}, overrides)
    if alias and weights is not None and not overrides:
        _same_size(alias, config, weights)
    origin = weights or own
    preprocessor = origin.preprocessor if origin else None
    pixels = Pixels.from_preprocessor(preprocessor) if preprocessor else aliases.pixels_of(family)
    return Plan(backbone, config, weights, pixels)


def _same_family(backbone: str, family: str, weights: Source) -> None:
    if weights.model_type in (family, *READS.get(family, ())):
        return
    if weights.model_type == "upernet":
        raise ModelError(
            f"`{weights.location}` is a whole segmentation model (`upernet`): expected weights of a `{family}` encoder",
            hint=f"fine-tune it as it is: --model {weights.location}",
        )
    raise ModelError(
        f"encoder `{backbone}` is of the family `{family}` and `{weights.location}` holds a `{weights.model_type}`: "
        "the weights of one do not fit the other",
        hint=f"leave `--pretrained` out for the encoder's own weights, or say --backbone {weights.location}",
    )


def _same_size(alias: Alias, config: Any, weights: Source) -> None:
    differing = [key for key, value in alias.config.items() if _plain(getattr(config, key)) != _plain(value)]
    sizes = [key for key in differing if isinstance(alias.config[key], list) or key in ("embed_dim", "hidden_size")]
    if alias.is_sized and sizes:
        key = sizes[0]
        raise ModelError(
            f"encoder `{alias.name}` has {key} {alias.config[key]} and `{weights.location}` has "
            f"{_plain(getattr(config, key))}: the weights of one do not fit the other",
            hint=f"say --backbone {weights.location}, or leave `--pretrained` out for {alias.checkpoint}",
        )


def _config(backbone: str, family: str, content: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """Make a config of `family` that gives four maps."""
    config_class = CONFIG_MAPPING[family]
    known = config_class().to_dict()
    strange = [key for key in overrides if key not in known or key in (*OUTPUTS, "model_type")]
    if strange:
        names = sorted(key for key in known if key not in (*SHED, *OUTPUTS, "model_type"))
        raise ModelError(
            f"`model.overrides.{strange[0]}` is not a setting of the encoder family `{family}`",
            hint=f"its settings are {', '.join(names)}",
        )
    kept = {key: value for key, value in content.items() if key not in (*SHED, *OUTPUTS, "model_type")}
    values = {**kept, **overrides}
    try:
        config = config_class(**_consistent(family, values, known))
    except (StrictDataclassError, ValueError, TypeError, IndexError) as error:
        reason = (str(error).splitlines() or [""])[-1].strip()
        raise ModelError(f"config of the encoder `{backbone}` makes no sense: {reason}") from None
    if family not in (aliases.MIT, BEIT) and hasattr(config, "stage_names"):
        config.out_features = config.stage_names[-4:]
    return config


def _consistent(family: str, values: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Set what Transformers leaves at odds with itself."""
    if family == "hgnet_v2":  # it declares hidden_sizes and gives stage_out_channels
        return {**values, "hidden_sizes": list(values.get("stage_out_channels", known["stage_out_channels"]))}
    if family == BEIT:  # one resolution; its neck makes a pyramid of the outputs of four layers
        depth = values.get("num_hidden_layers", known["num_hidden_layers"])
        taken = [f"stage{round(depth * part)}" for part in BEIT_TAKES]
        return {**values, "add_fpn": True, "reshape_hidden_states": True, "out_features": taken}
    if family == "bit":
        groups = 4 * values.get("num_groups", known["num_groups"])
        odd = [width for width in values.get("hidden_sizes", ()) if width % groups]
        if odd:
            raise ValueError(f"hidden_sizes must be divisible by {groups} (4 x num_groups): got {odd[0]}")
    return values


def _drop_path(family: str, rate: float | None) -> dict[str, float]:
    if rate is None:
        return {}
    if "drop_path_rate" not in CONFIG_MAPPING[family]().to_dict() or family in ("hgnet_v2", "resnet"):
        raise ModelError(f"`model.drop_path` has no effect on `{family}`, which has no drop path", hint="leave it out")
    return {"drop_path_rate": rate}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
