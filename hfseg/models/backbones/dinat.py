"""NAT and DiNAT as encoders of Transformers: any image size, no compiled package, public checkpoints as they are.

Transformers 5 has no NAT, and its DiNAT needs operators that NATTEN no longer has. One class serves both here: NAT is
DiNAT with every dilation 1. Configs and names of parameters are those of Transformers 4, so the checkpoints
`shi-labs/{nat,dinat}-*` load unchanged; `dinat_weights` reads the authors' own files.
Source: arXiv 2204.07143 and 2209.15001; weights by SHI Labs, MIT.
"""

from typing import Any, no_type_check

import torch
from huggingface_hub.dataclasses import strict
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DinatConfig, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from hfseg.models.backbones.dilations import check_dilations
from hfseg.models.backbones.dinat_blocks import Downsampler, Embeddings, Layer, NeighborhoodAttention

PATCH_SIZE = 4


@no_type_check  # Transformers checks the fields, and passes more than fields to `__init__`
@strict
class NatConfig(BackboneConfigMixin, PreTrainedConfig):
    """Configuration of a NAT encoder, with the fields of Transformers 4; defaults are NAT-mini's."""

    model_type = "nat"
    attribute_map = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}  # noqa: RUF012

    patch_size: int = PATCH_SIZE
    num_channels: int = 3
    embed_dim: int = 64
    depths: list[int] | tuple[int, ...] = (3, 4, 6, 5)
    num_heads: list[int] | tuple[int, ...] = (2, 4, 8, 16)
    kernel_size: int = 7
    mlp_ratio: float = 3.0
    qkv_bias: bool = True
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.1
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    layer_scale_init_value: float = 0.0
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.num_layers = len(self.depths)
        self.hidden_size = int(self.embed_dim * 2 ** (len(self.depths) - 1))
        self.stage_names = ["stem", *(f"stage{level}" for level in range(1, len(self.depths) + 1))]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)


class Stage(nn.Module):
    """The layers of one resolution, and the step down to the next."""

    def __init__(self, config: Any, *, level: int, dilations: list[int], drop_paths: list[float]) -> None:
        super().__init__()
        dim, num_heads = config.embed_dim * 2**level, config.num_heads[level]
        self.layers = nn.ModuleList(
            Layer(config, dim=dim, num_heads=num_heads, dilation=dilation, drop_path=rate)
            for dilation, rate in zip(dilations, drop_paths, strict=True)
        )
        self.downsample = Downsampler(dim=dim) if level < len(config.depths) - 1 else None

    def forward(
        self, hidden_states: Float[Tensor, "b h w c"], *, output_attentions: bool
    ) -> tuple[Float[Tensor, "b h w c"], Tensor, Tensor | None]:
        """Give the map before and after the step down, and the probabilities of the last layer when asked for."""
        probabilities = None
        for layer in self.layers:
            hidden_states, probabilities = layer(hidden_states, output_attentions)
        below = hidden_states if self.downsample is None else self.downsample(hidden_states)
        return hidden_states, below, probabilities


class Encoder(nn.Module):
    """The stages."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        rates = torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").tolist()
        dilations = getattr(config, "dilations", None) or [[1] * depth for depth in config.depths]
        check_dilations(dilations, config.depths)
        self.levels = nn.ModuleList(
            Stage(
                config,
                level=level,
                dilations=list(dilations[level]),
                drop_paths=rates[sum(config.depths[:level]) : sum(config.depths[: level + 1])],
            )
            for level in range(len(config.depths))
        )


class NeighborhoodBackbone(BackboneMixin, PreTrainedModel):
    """What NAT and DiNAT are: an encoder whose maps, normalized, lie at strides 4, 8, 16 and 32.

    Sizes that are no multiple of a stride are rounded up. `attentions` are those of the last layer of each stage, and
    `hidden_states` the maps "b h w c" of the stem and the stages before their norm, as in Transformers 4.
    """

    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    has_attentions = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if config.patch_size != PATCH_SIZE:
            raise ValueError(f"patch_size must be {PATCH_SIZE}: got {config.patch_size}")
        widths = [config.embed_dim * 2**level for level in range(len(config.depths))]
        self.num_features = [config.embed_dim, *widths]
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.hidden_states_norms = nn.ModuleDict(
            {stage: nn.LayerNorm(width) for stage, width in zip(self.out_features, self.channels, strict=True)}
        )
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"],
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **_unused: Any,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Encode normalized images; the other arguments are those of every backbone in Transformers."""
        wants_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        wants_attention = self.config.output_attentions if output_attentions is None else output_attentions
        states, attentions = self._states(pixel_values, bool(wants_attention))
        maps = tuple(
            self.hidden_states_norms[name](state).permute(0, 3, 1, 2).contiguous()
            for name, state in zip(self.stage_names, states, strict=True)
            if name in self.out_features
        )
        output = BackboneOutput(
            feature_maps=maps,
            hidden_states=tuple(states) if wants_hidden else None,
            attentions=tuple(attentions) if wants_attention else None,
        )
        return output if return_dict is not False else output.to_tuple()

    def _states(self, pixel_values: Tensor, wants_attention: bool) -> tuple[list[Tensor], list[Tensor]]:
        """The maps of the stem and of every stage, and the probabilities of every stage that were asked for."""
        current = self.embeddings(pixel_values)
        states: list[Tensor] = [current]
        attentions: list[Tensor] = []
        for level in self.encoder.levels:
            state, current, probabilities = level(current, output_attentions=wants_attention)
            states.append(state)
            attentions += [] if probabilities is None else [probabilities]
        return states, attentions

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, NeighborhoodAttention) and module.rpb is not None:
            init.zeros_(module.rpb)
        elif isinstance(module, Layer) and module.layer_scale_parameters is not None:
            init.constant_(module.layer_scale_parameters, self.config.layer_scale_init_value)


class DinatBackbone(NeighborhoodBackbone):
    """DiNAT under Transformers' own config class, in the place of its broken class."""

    config_class = DinatConfig
    base_model_prefix = "dinat"


class NatBackbone(NeighborhoodBackbone):
    """NAT."""

    config_class = NatConfig
    base_model_prefix = "nat"


def set_attention_impl(backbone: nn.Module, impl: str | None) -> None:
    """Force a way of computing attention, by its name in `hfseg.models.ops`; None leaves the choice to the operator."""
    for module in backbone.modules():
        if isinstance(module, NeighborhoodAttention):
            module.impl = impl
