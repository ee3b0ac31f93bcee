"""Encoders of timm, by `timm:NAME`: https://github.com/huggingface/pytorch-image-models, Apache 2.0.

A class of our own rather than Transformers' `TimmBackbone`: that one keeps channels last where timm does, keeps none of
the model's arguments (so encoders of one image size stay so), and imports timm as soon as its module is imported.
timm itself needs torchvision. Nothing here is imported before an encoder of timm is asked for.
"""

import difflib
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from types import ModuleType
from typing import Any, no_type_check

import torch
from huggingface_hub.dataclasses import strict
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from hfseg.errors import ModelError
from hfseg.models.backbones.neck import four_maps
from hfseg.models.backbones.probe import STRIDES
from hfseg.models.backbones.weights import CLASSIFIER, WeightsFile, read
from hfseg.models.pixels import Pixels
from hfseg.models.sources import COMPUTED, Loaded, quiet, reason

PREFIX = "timm:"
INSTALL = "pip install 'hfseg[timm]'"
ANY_SIZE: Mapping[str, bool] = {"strict_img_size": False, "dynamic_img_size": True}
"""Arguments by which timm's models of one image size take others, where they have them."""


@dataclass(frozen=True)
class Published:
    """The weights that timm has for a name."""

    name: str

    @property
    def location(self) -> str:
        """Where they are: only timm knows."""
        return f"{PREFIX}{self.name}"


@no_type_check  # Transformers checks the fields, and passes more than fields to `__init__`
@strict
class TimmConfig(BackboneConfigMixin, PreTrainedConfig):
    """Settings of `TimmEncoder`: timm's name of the model, its arguments, and the names of all maps it can give.

    `patch_size` is given where all maps are of one stride.
    """

    model_type = "hfseg_timm"

    architecture: str = "resnet50"
    model_args: dict[str, Any] | None = None
    num_channels: int = 3
    image_size: list[int] | None = None
    patch_size: int | None = None
    stage_names: list[str] | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.stage_names = self.stage_names or ["act1", "layer1", "layer2", "layer3", "layer4"]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None), out_indices=kwargs.pop("out_indices", None)
        )
        super().__post_init__(**kwargs)


class TimmEncoder(BackboneMixin, PreTrainedModel):
    """A model of timm that gives its maps, channels first; its parameters are initialized by timm.

    Images are padded by zeros at the right and the bottom to whole places of the coarsest map, because some models take
    no others. So a map of stride s measures the image divided by s, rounded up.
    """

    config: TimmConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    has_attentions = False

    def __init__(self, config: TimmConfig, *, pretrained: bool = False) -> None:
        super().__init__(config)
        self.model = import_timm().create_model(
            config.architecture,
            pretrained=pretrained,
            features_only=True,
            in_chans=config.num_channels,
            out_indices=tuple(config.out_indices),
            **(config.model_args or {}),
        )
        self.num_features = [stage["num_chs"] for stage in self.model.feature_info.info]
        self.strides = [int(stride) for stride in self.model.feature_info.reduction()]
        self.is_channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b c h w"],
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_unused: Any,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Encode normalized images; `hidden_states` are the maps."""
        height, width = pixel_values.shape[-2:]
        unit = max(self.strides)
        given = self.model(F.pad(pixel_values, (0, -width % unit, 0, -height % unit)))
        first = (each.permute(0, 3, 1, 2).contiguous() for each in given) if self.is_channels_last else given
        maps = tuple(
            each[..., : ceil(height / stride), : ceil(width / stride)]
            for each, stride in zip(first, self.strides, strict=True)
        )
        output = BackboneOutput(feature_maps=maps, hidden_states=maps if output_hidden_states else None)
        return output.to_tuple() if return_dict is False else output

    def _init_weights(self, module: nn.Module) -> None:
        """Compute what timm does not store; Transformers asks for it when it opens a saved model."""
        compute = getattr(module, "init_non_persistent_buffers", None)
        if callable(compute):
            compute()


def import_timm() -> ModuleType:
    """Import timm.

    Raises:
        ModelError: it is not installed, or torchvision, which it imports, is not there or does not fit torch.
    """
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        if error.name and error.name.partition(".")[0] == "timm":
            raise ModelError("encoders of timm need the package timm, which is not installed", hint=INSTALL) from None
        raise _no_torchvision(error) from None
    except (RuntimeError, AttributeError, OSError) as error:
        raise _no_torchvision(error) from None


def describe(name: str, settings: Mapping[str, Any]) -> tuple[TimmConfig, Pixels]:
    """Make the config of timm's model `name`, and say how its weights take pixels; `settings` are model arguments.

    Raises:
        ModelError: timm cannot be had, has no such model, or the model has no such argument or fewer than four maps.
    """
    timm = import_timm()
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3, cutoff=0.5)
        guess = f"did you mean {' or '.join(f'`{PREFIX}{match}`' for match in close)}?" if close else None
        raise ModelError(f"timm {timm.__version__} has no model `{name}`", hint=guess)
    arguments = set(inspect.signature(type(_sketch(name, {})).__init__).parameters) - {"self", "kwargs"}
    strange = sorted(set(settings) - arguments)
    if strange:
        known = ", ".join(sorted(arguments))
        raise ModelError(f"`{strange[0]}` is not an argument of timm's `{name}`", hint=f"its arguments are {known}")
    chosen = {**{key: value for key, value in ANY_SIZE.items() if key in arguments}, **settings}
    sketch = _sketch(name, chosen)
    stages = list(getattr(sketch, "feature_info", ()))
    stage_names = [stage["module"] for stage in stages]
    strides = {int(stage["reduction"]) for stage in stages}
    if len(stage_names) < len(STRIDES):
        raise ModelError(f"encoder `{PREFIX}{name}` gives {len(stage_names)} maps: expected {len(STRIDES)} or more")
    published = sketch.pretrained_cfg
    config = TimmConfig(
        architecture=name,
        model_args=chosen,
        image_size=list(published["input_size"][1:]),
        patch_size=strides.pop() if len(strides) == 1 else None,
        stage_names=stage_names,
        out_features=four_maps(stage_names, first_layer=0),
    )
    return config, Pixels(tuple(published["mean"]), tuple(published["std"]))


def load_published(config: TimmConfig) -> TimmEncoder:
    """Build a model with the weights that timm has for it.

    Raises:
        ModelError: there are none, or they are not on this machine and cannot be fetched.
    """
    name = f"{PREFIX}{config.architecture}"
    hint = "give a file with `--pretrained`; `--pretrained none` is the only way to random weights"
    if not import_timm().is_model_pretrained(config.architecture):
        raise ModelError(f"timm has no weights of `{name}`", hint=hint)
    try:
        with quiet():
            return TimmEncoder(config, pretrained=True)
    except OSError as error:  # what the Hub's client raises for what is not in its cache, too
        raise ModelError(f"weights of `{name}` cannot be fetched: {reason(error)}", hint=hint) from None


def load_weights(config: TimmConfig, file: WeightsFile) -> Loaded:
    """Build a model with the weights of a file of timm's names, and say how they fitted.

    Raises:
        ModelError: the file cannot be read.
    """
    with quiet():
        model = TimmEncoder(config)
    whole = _sketch(config.architecture, config.model_args or {})
    state = {_plain(name): value for name, value in read(file.path).items() if not COMPUTED.search(name)}
    own = {name: value for name, value in model.state_dict().items() if not COMPUTED.search(name)}
    found = {name: state[_plain(name)] for name in own if _plain(name) in state}
    fitting = {name: value for name, value in found.items() if value.shape == own[name].shape}
    model.load_state_dict(fitting, strict=False)
    known = {_plain(name) for name in (*own, *whole.state_dict())}
    return Loaded(
        model,
        missing=tuple(sorted(set(own) - set(found))),
        unexpected=tuple(sorted(name for name in state if name not in known and not CLASSIFIER.match(name))),
        mismatched=tuple(
            (name, tuple(value.shape), tuple(own[name].shape)) for name, value in found.items() if name not in fitting
        ),
    )


def _plain(name: str) -> str:
    """A parameter's name without the difference between a model and its feature extractor, which flattens lists."""
    return name.removeprefix("model.").removeprefix("model.").replace("_", ".")


def _sketch(name: str, arguments: Mapping[str, Any]) -> Any:
    """The whole model without weights, to be looked at."""
    try:
        with torch.device("meta"):
            return import_timm().create_model(name, pretrained=False, **arguments)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ModelError(f"encoder `{PREFIX}{name}` cannot be built: {reason(error)}") from None


def _no_torchvision(error: Exception) -> ModelError:
    return ModelError(
        f"timm needs torchvision, which cannot be imported: {reason(error)}",
        hint=f"install the build of torchvision that belongs to torch {torch.__version__}: see https://pytorch.org",
    )
