"""FasterViT as an encoder of Transformers: any image size with one set of weights.

Source: Hatamizadeh et al., FasterViT: Fast Vision Transformers with Hierarchical Attention, arXiv 2306.06189. Written
from the paper and from the outputs of a network with random weights. The published weights (`nvidia/FasterViT`,
`fastervit_{0..6}_224_1k.pth.tar`) are under NVIDIA's non-commercial licence; `from_published` reads them.
"""

from collections.abc import Mapping
from typing import Any, no_type_check

import torch
from huggingface_hub.dataclasses import strict
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from hfseg.models.backbones.fastervit_blocks import (
    CONV_LEVELS,
    AttentionBlock,
    BranchEnd,
    CarrierTokenizer,
    ConvBlock,
    Downsample,
    Stem,
    join_windows,
    split_windows,
)
from hfseg.models.backbones.fastervit_weights import from_published, published_settings

__all__ = ["VARIANTS", "FasterVitBackbone", "FasterVitConfig", "from_published", "published_settings"]

LEVELS = 4
CARRIER_LEVEL = 2
"""The level whose windows have carrier tokens."""


@no_type_check  # Transformers checks the fields, and takes more arguments than there are fields
@strict
class FasterVitConfig(BackboneConfigMixin, PreTrainedConfig):
    """Configuration of a FasterViT encoder; defaults are FasterViT-0's.

    Of the four levels the first two are convolutional; `num_heads` and `window_size` have one entry for each of the
    two others. `layer_scale_init_value` None leaves layer scale out.
    """

    model_type = "fastervit"

    num_channels: int = 3
    stem_channels: int = 64
    embed_dim: int = 64
    depths: list[int] | tuple[int, ...] = (2, 3, 6, 5)
    num_heads: list[int] | tuple[int, ...] = (8, 16)
    window_size: list[int] | tuple[int, ...] = (7, 7)
    carrier_size: int = 2
    mlp_ratio: float | int = 4.0
    layer_scale_init_value: float | None = None
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.stage_names = ["stem", *(f"stage{level}" for level in range(1, LEVELS + 1))]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """See that the settings fit each other; called by Transformers.

        Raises:
            ValueError: they do not.
        """
        counts = {"depths": LEVELS, "num_heads": LEVELS - CONV_LEVELS, "window_size": LEVELS - CONV_LEVELS}
        for name, count in counts.items():
            if len(getattr(self, name)) != count or min(getattr(self, name)) < 1:
                raise ValueError(f"`{name}` must be {count} positive numbers: got {list(getattr(self, name))}")
        for level, heads in enumerate(self.num_heads, start=CONV_LEVELS):
            if self.embed_dim * 2**level % heads:
                raise ValueError(f"a width of {self.embed_dim * 2**level} cannot be divided among {heads} heads")
        if not 1 <= self.carrier_size <= self.window_size[CARRIER_LEVEL - CONV_LEVELS]:
            raise ValueError(f"`carrier_size` must lie within 1 and the window's size: got {self.carrier_size}")


def _variant(embed_dim: int, depths: list[int], heads: int, scale: float | None = None) -> dict[str, Any]:
    return {
        "embed_dim": embed_dim, "depths": depths, "num_heads": [heads, 2 * heads], "layer_scale_init_value": scale
    }  # fmt: skip


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "fastervit-0": _variant(64, [2, 3, 6, 5], 8),
    "fastervit-1": _variant(80, [1, 3, 8, 5], 8),
    "fastervit-2": _variant(96, [3, 3, 8, 5], 8),
    "fastervit-3": _variant(128, [3, 3, 12, 5], 8),
    "fastervit-4": _variant(196, [3, 3, 12, 5], 16, 1e-5),
    "fastervit-5": _variant(320, [3, 3, 12, 5], 16, 1e-5),
    "fastervit-6": _variant(320, [3, 3, 16, 8], 16, 1e-5),
}
"""Settings of the published sizes. All but one give the published number of parameters; fastervit-4 gives 365.6 M where
424.6 M are published, so its depths are uncertain: `published_settings` reads them from a file."""


class ConvLevel(nn.Module):
    """A level of convolutions, and the step down to the next."""

    def __init__(self, config: Any, *, level: int, drop_paths: list[float]) -> None:
        super().__init__()
        dim = config.embed_dim * 2**level
        self.blocks = nn.ModuleList(ConvBlock(dim, drop_path=rate) for rate in drop_paths)
        self.downsample = Downsample(dim)

    def forward(
        self, features: Float[Tensor, "b c h w"], *, output_attentions: bool
    ) -> tuple[Float[Tensor, "b c h w"], list[Tensor]]:
        """Give the map before the step down; there is no attention to give."""
        for block in self.blocks:
            features = block(features)
        return features, []


class AttentionLevel(nn.Module):
    """A level of window attention, and the step down to the next if there is one."""

    def __init__(self, config: Any, *, level: int, drop_paths: list[float]) -> None:
        super().__init__()
        dim = config.embed_dim * 2**level
        has_carriers = level == CARRIER_LEVEL
        self.window_size, self.carrier_size = config.window_size[level - CONV_LEVELS], config.carrier_size
        self.blocks = nn.ModuleList(
            AttentionBlock(config, level=level, has_carriers=has_carriers, drop_path=rate) for rate in drop_paths
        )
        self.global_tokenizer = CarrierTokenizer(dim) if has_carriers else None
        self.downsample = Downsample(dim) if level < LEVELS - 1 else None

    def forward(
        self, features: Float[Tensor, "b c h w"], *, output_attentions: bool
    ) -> tuple[Float[Tensor, "b c h w"], list[Tensor]]:
        """Give the map before the step down, and the attention of each block when asked for.

        The map is padded by zeros at the right and the bottom to whole windows. Padded places take part like others,
        as in Swin; they are cut off at the end of the level.
        """
        height, width = features.shape[2:]
        size = self.window_size
        padded = pad(features, (0, -width % size, 0, -height % size))
        rows, columns = padded.shape[2] // size, padded.shape[3] // size
        windows, carriers, attentions = split_windows(padded.permute(0, 2, 3, 1), size), None, []
        if self.global_tokenizer is not None:
            carriers = self.global_tokenizer(padded, (rows * self.carrier_size, columns * self.carrier_size))
        for block in self.blocks:
            windows, carriers, probabilities = block(windows, carriers, output_attentions)
            attentions += [] if probabilities is None else [probabilities]
        joined = join_windows(windows, rows=rows, size=size)[:, :height, :width]
        return joined.permute(0, 3, 1, 2).contiguous(), attentions


class FasterVitBackbone(BackboneMixin, PreTrainedModel):
    """FasterViT: the maps of its four levels, at strides 4, 8, 16 and 32, as they are before each step down.

    Sizes that are no multiple of a stride are rounded up. One set of weights serves all sizes, square or not: position
    terms are computed for the grid at hand (`fastervit_positions`). Windows always measure `window_size`, so the terms
    inside them are those of training. The grid of carrier tokens grows with the image, and coordinates run from one end
    of it to the other, so these terms stretch; at 224 x 224 it has 4 x 4 tokens. Likewise each carrier token is the
    mean of more places on larger maps (`CarrierTokenizer`). Both are what the published any-resolution network does,
    compared at 224 x 224 and 448 x 448; on grids that are not square each axis is treated so by itself.

    `hidden_states` are the maps of the stem and the levels, `attentions` those within windows, one for each block of
    the last two levels.
    """

    config_class = FasterVitConfig
    base_model_prefix = "fastervit"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    has_attentions = True
    _no_split_modules = ("AttentionBlock", "ConvBlock")

    def __init__(self, config: FasterVitConfig) -> None:
        super().__init__(config)
        self.num_features = [config.embed_dim, *(config.embed_dim * 2**level for level in range(LEVELS))]
        rates = torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").split(list(config.depths))
        self.patch_embed = Stem(config)
        self.levels = nn.ModuleList(
            (ConvLevel if level < CONV_LEVELS else AttentionLevel)(config, level=level, drop_paths=rate.tolist())
            for level, rate in enumerate(rates)
        )
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b channels height width"],
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **_unused: Any,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Encode normalized images; the other arguments are those of every backbone in Transformers."""
        wants_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        wants_attention = self.config.output_attentions if output_attentions is None else output_attentions
        current = self.patch_embed(pixel_values)
        states, attentions = [current], []
        level: Any
        for level in self.levels:
            state, probabilities = level(current, output_attentions=bool(wants_attention))
            current = state if level.downsample is None else level.downsample(state)
            states.append(state)
            attentions += probabilities
        maps = (state for name, state in zip(self.stage_names, states, strict=True) if name in self.out_features)
        output = BackboneOutput(
            feature_maps=tuple(maps),
            hidden_states=tuple(states) if wants_hidden else None,
            attentions=tuple(attentions) if wants_attention else None,
        )
        return output if return_dict is not False else output.to_tuple()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BranchEnd) and module.gamma is not None:
            init.constant_(module.gamma, self.config.layer_scale_init_value)
