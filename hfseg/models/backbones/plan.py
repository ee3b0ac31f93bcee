"""From `--backbone` and `--pretrained` to an encoder's config and the place of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, MODEL_FOR_BACKBONE_MAPPING

from hfseg.errors import ModelError
from hfseg.models.backbones import aliases, timm
from hfseg.models.backbones.aliases import Alias
from hfseg.models.backbones.families import readers_of, traits_of
from hfseg.models.backbones.neck import four_maps
from hfseg.models.backbones.weights import WeightsFile, find, read
from hfseg.models.pixels import Pixels
from hfseg.models.sources import Source, locate

RANDOM = "none"
"""The value of `pretrained` that asks for random weights."""
SHED = ("id2label", "label2id", "num_labels", "architectures", "transformers_version", "dtype", "torch_dtype")
"""What a classifier's config says about the classifier, or about the file."""
OUTPUTS = ("out_features", "out_indices", "stage_names")


@dataclass(frozen=True)
class Plan:
    """An encoder to build: its config, where its weights are (None: random), how it takes pixels."""

    name: str
    config: Any
    weights: Source | WeightsFile | timm.Published | None
    pixels: Pixels

    @property
    def family(self) -> str:
        """The encoder's family, as Transformers calls it."""
        return str(self.config.model_type)


def plan(
    backbone: str, pretrained: str | None, *, overrides: Mapping[str, Any], drop_path: float | None = None
) -> Plan:
    """Resolve an encoder's name and the origin of its weights.

    `backbone` is an alias, a Hub id, a local folder, or `timm:` and a name of timm's. Without `pretrained` its own (an
    alias' default) weights are taken; `none` asks for random weights; another id or folder must be of the same family
    and, where the alias names a size, of that size; a file of weights has no config, so the encoder's own or the alias'
    must fit it. `overrides` replace values of the config, and of a timm model its arguments.

    Raises:
        ModelError: the encoder is unknown, its weights cannot be had or are another encoder's, an override has no
            effect, or the config makes no sense.
    """
    if backbone.startswith(timm.PREFIX):
        return _plan_timm(backbone, pretrained, overrides=overrides, drop_path=drop_path)
    alias = aliases.find(backbone)
    if alias is None and "/" not in backbone and not backbone.startswith((".", "~")):
        raise aliases.unknown(backbone)
    own = None if alias else locate(backbone)
    weights = _weights(alias, own, pretrained)
    described = own or (weights if isinstance(weights, Source) else None)
    family = alias.family if alias else _family(str(described and described.model_type))
    if isinstance(weights, Source):
        _same_family(backbone, family, weights)
    content = dict(described.config) if described else dict(alias.config if alias else {})
    if isinstance(weights, WeightsFile):
        content |= _settings_in(weights, backbone, family, content)
    config = _config(backbone, family, {**content, **_drop_path(family, drop_path)}, overrides)
    if alias and isinstance(weights, Source) and not overrides:
        _same_size(alias, config, weights)
    origin = weights if isinstance(weights, Source) else own
    preprocessor = origin.preprocessor if origin else None
    pixels = Pixels.from_preprocessor(preprocessor) if preprocessor else aliases.pixels_of(family)
    return Plan(backbone, config, weights, pixels)


def plan_default(family: str) -> Plan:
    """Plan an encoder of a family without an alias, with the defaults of its config class and random weights.

    Raises:
        ModelError: the defaults make no sense.
    """
    return Plan(family, _config(family, family, {}, {}), None, aliases.pixels_of(family))


def _plan_timm(backbone: str, pretrained: str | None, *, overrides: Mapping[str, Any], drop_path: float | None) -> Plan:
    name = backbone.removeprefix(timm.PREFIX)
    settings = {**overrides, **({} if drop_path is None else {"drop_path_rate": drop_path})}
    config, pixels = timm.describe(name, settings)
    if pretrained in (None, RANDOM):
        return Plan(backbone, config, None if pretrained else timm.Published(name), pixels)
    file = find(str(pretrained))
    if file is None:
        raise ModelError(
            f"weights of `{backbone}` cannot be read from `{pretrained}`: expected a weights file",
            hint="leave `--pretrained` out for timm's own weights",
        )
    return Plan(backbone, config, file, pixels)


def _weights(alias: Alias | None, own: Source | None, pretrained: str | None) -> Source | WeightsFile | None:
    if pretrained == RANDOM:
        return None
    if pretrained is not None:
        return find(pretrained) or locate(pretrained)
    if alias is None:
        return own
    if alias.checkpoint is None:
        files = traits_of(alias.family).files
        raise ModelError(
            f"no model folder on the Hub has weights of `{alias.name}`",
            hint=f"give a file or folder with `--pretrained`{f', such as {files}' if files else ''}; `--pretrained "
            "none` is the only way to random weights",
        )
    return locate(alias.checkpoint)


def _family(model_type: str) -> str:
    """The family whose class takes the weights of `model_type`: its own, where it has a backbone class."""
    readers = readers_of(model_type)
    has_class = model_type in CONFIG_MAPPING and CONFIG_MAPPING[model_type] in MODEL_FOR_BACKBONE_MAPPING
    return model_type if has_class or not readers else readers[0]


def _same_family(backbone: str, family: str, weights: Source) -> None:
    if weights.model_type in (family, *traits_of(family).reads):
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
    default = config_class()
    known = default.to_dict()
    strange = [key for key in overrides if key not in known or key in (*OUTPUTS, "model_type")]
    if strange:
        names = sorted(key for key in known if key not in (*SHED, *OUTPUTS, "model_type"))
        raise ModelError(
            f"`model.overrides.{strange[0]}` is not a setting of the encoder family `{family}`",
            hint=f"its settings are {', '.join(names)}",
        )
    kept = {key: value for key, value in content.items() if key not in (*SHED, *OUTPUTS, "model_type")}
    # tuples among the defaults become lists: some classes of Transformers add lists to them
    lists = {key: value for key, value in known.items() if isinstance(getattr(default, key, None), tuple)}
    try:
        forced = {**_shaped(known), **traits_of(family).forces({**known, **kept, **overrides})}
        config = config_class(**{**lists, **kept, **forced, **overrides})
    except (StrictDataclassError, ValueError, TypeError, IndexError) as error:
        reason = (str(error).splitlines() or [""])[-1].strip()
        raise ModelError(f"config of the encoder `{backbone}` makes no sense: {reason}") from None
    if family != aliases.MIT and hasattr(config, "stage_names"):
        config.out_features = four_maps(config.stage_names)
    return config


def _shaped(known: Mapping[str, Any]) -> dict[str, bool]:
    """Maps rather than rows of tokens, where the class can give both."""
    return {"reshape_hidden_states": True} if "reshape_hidden_states" in known else {}


def _drop_path(family: str, rate: float | None) -> dict[str, float]:
    if rate is None:
        return {}
    if "drop_path_rate" not in CONFIG_MAPPING[family]().to_dict() or not traits_of(family).has_drop_path:
        raise ModelError(f"`model.drop_path` has no effect on `{family}`, which has no drop path", hint="leave it out")
    return {"drop_path_rate": rate}


def _settings_in(file: WeightsFile, backbone: str, family: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of the authors tells of its encoder, which must be as wide as the one that was asked for."""
    settings = traits_of(family).settings_in(read(file.path))
    width = content.get("embed_dim")
    if settings and width and settings["embed_dim"] != width:
        raise ModelError(
            f"encoder `{backbone}` has embed_dim {width} and `{file.location}` has {settings['embed_dim']}: "
            "the weights of one do not fit the other",
            hint="name the encoder that the file is of",
        )
    return settings


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
