"""Segmenter: bytes in, logits at the decoder's stride out, around a Hugging Face segmentation model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import UperNetForSemanticSegmentation
from transformers.modeling_layers import GradientCheckpointingLayer

from hfseg.errors import ModelError
from hfseg.models import anatomy
from hfseg.models.depth import Unit, parameter_depths
from hfseg.models.ops import freely_chosen
from hfseg.models.pixels import BYTE, Pixels
from hfseg.values import SegOutput

PROBE_SIZE = 128
"""Pixels on a side of dry forwards: four on the coarsest map of a pyramid, so that only pooled maps are 1 x 1."""
OWN_STRIDE: Final = 32
"""Pixels between neighbours on the last map of every pyramid; smaller images have less than one place there."""
SQUARE_ONLY = ("dpt", "data2vec-vision")
"""Families whose classes in Transformers take square images only."""
ONE_SIZE_ONLY = ("data2vec-vision",)
"""Families whose classes in Transformers take images of `image_size` only."""


class Segmenter(nn.Module):
    """A Hugging Face segmentation model with its normalization; `hf` is what is saved.

    Logits stay at the stride of the decoder (generic models may upsample inside themselves). Auxiliary logits come in
    training mode only, where the model has an auxiliary head. Frozen modules stay in evaluation mode under `train()`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, hf: Any, pixels: Pixels, *, new_parameters: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.hf = hf
        self.pixels = pixels
        self.new_parameters = new_parameters
        """Names in `hf` of the parameters that no checkpoint gave: they start from random weights."""
        self.frozen_modules: tuple[str, ...] = ()
        """Names in `hf` of the modules that stay in evaluation mode; set by `hfseg.models.freeze`."""
        self.frozen_parameters: tuple[str, ...] = ()
        """Names in `hf` of the parameters whose gradient was switched off by `hfseg.models.freeze`."""
        self.register_buffer("mean", torch.tensor(pixels.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std).view(1, 3, 1, 1), persistent=False)

    @property
    def memory_frames(self) -> int | None:
        """How many frames before the current one the model was made to read; None of a model that takes images only."""
        frames: int | None = getattr(self.hf.config, "memory_frames", None)
        return frames

    @property
    def memory_step(self) -> int:
        """How many frames lie from each frame in memory to the next, as the model was trained; 1 without memory."""
        step: int = getattr(self.hf.config, "memory_step", 1)
        return step

    def forward(self, pixel_values: UInt8[Tensor, "b *t 3 h w"] | Float[Tensor, "b *t 3 h w"]) -> SegOutput:
        """Segment bytes of 0..255 or floats of 0..1: images "b 3 h w", or the last frames of clips "b t 3 h w".

        Raises:
            ModelError: clips are given to a model that takes images only, or that has slots for fewer frames, or the
                model's class takes images of another size only, or larger ones.
        """
        self._check_kind(pixel_values)
        self._check_size(*pixel_values.shape[-2:])
        try:
            return self._segment(pixel_values)
        except RuntimeError as error:
            height, width = pixel_values.shape[-2:]
            if min(height, width) >= OWN_STRIDE:
                raise
            raise ModelError(
                f"images of {height} x {width} pixels are too small for `{type(self.hf).__name__}`: {error}",
                hint=f"show larger ones, {OWN_STRIDE} pixels or more a side: --short-side, to train --crop-size",
            ) from None

    def _segment(self, pixel_values: UInt8[Tensor, "b *t 3 h w"] | Float[Tensor, "b *t 3 h w"]) -> SegOutput:
        normalized = self.normalize(pixel_values)
        if isinstance(self.hf, UperNetForSemanticSegmentation):  # its own forward upsamples, and drops auxiliary logits
            maps = self.hf.backbone.forward_with_filtered_kwargs(normalized).feature_maps
            wanted = self.training and self.hf.auxiliary_head is not None
            return SegOutput(self.hf.decode_head(maps), self.hf.auxiliary_head(maps) if wanted else None)
        with _captured(getattr(self.hf, "auxiliary_head", None) if self.training else None) as outputs:
            logits = self.hf(pixel_values=normalized).logits
        return SegOutput(logits, outputs[0] if outputs else None)

    def normalize(
        self, pixel_values: UInt8[Tensor, "b *t 3 h w"] | Float[Tensor, "b *t 3 h w"]
    ) -> Float[Tensor, "b *t 3 h w"]:
        """Turn bytes of 0..255 or floats of 0..1 into what the Hugging Face model takes."""
        scaled = pixel_values if pixel_values.is_floating_point() else pixel_values.to(self.mean.dtype) / BYTE
        ordered = scaled.flip(-3) if self.pixels.bgr else scaled
        return (ordered - self.mean) / self.std

    def train(self, mode: bool = True) -> "Segmenter":
        """Switch to training mode, all but the frozen modules."""
        super().train(mode)
        if mode and self.frozen_modules:
            modules = dict(self.hf.named_modules())
            for name in self.frozen_modules:
                modules[name].training = False
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the encoder's blocks in the backward pass instead of keeping what they computed.

        Raises:
            ModelError: the encoder's class in Transformers has no gradient checkpointing, or recomputing its blocks
                would move the statistics of their batch norms twice a step.
        """
        encoder = self.hf.get_submodule(anatomy.encoder_name(self.hf))
        which = f"gradient checkpointing: `{type(encoder).__name__}` of Transformers"
        hint = "families that can: segformer, swin, swinv2, maskformer-swin, pvt_v2, beit, dpt, data2vec-vision"
        if not getattr(encoder, "supports_gradient_checkpointing", False):
            raise ModelError(f"{which} has none", hint=hint)
        blocks = [module for module in encoder.modules() if isinstance(module, GradientCheckpointingLayer)]
        if any(isinstance(inner, _BatchNorm) for block in blocks for inner in block.modules()):
            raise ModelError(f"{which} recomputes batch norms, whose statistics would move twice a step", hint=hint)
        current = "activation_checkpointing_enable"  # the older name warns where this one exists
        enable = getattr(encoder, current, None) or encoder.gradient_checkpointing_enable
        enable({"use_reentrant": False})

    def depths(self, *, by: Unit) -> dict[str, int]:
        """Give each parameter's depth, from the stem at 0 to the heads, for layer-wise learning rates."""
        return {f"hf.{name}": depth for name, depth in parameter_depths(self.hf, by=by).items()}

    @property
    def minimum_train_batch(self) -> int:
        """How many images a training step needs: 2 where a batch norm that is not frozen sees 1 x 1 maps, else 1."""
        trained = [name for name in self.pooled_norms() if name not in self.frozen_modules]
        return 2 if trained else 1

    def check_train_batch(self, batch_size: int) -> None:
        """See that a batch is large enough to train on.

        Raises:
            ModelError: a batch norm over pooled maps would see a single value per channel.
        """
        if batch_size < self.minimum_train_batch:
            raise ModelError(
                f"batch size {batch_size} is too small to train `{type(self.hf).__name__}`: expected 2 or more, "
                f"because `{self.pooled_norms()[0]}` normalizes 1 x 1 maps over the batch",
                hint="use --batch-size 2 with gradient accumulation, or freeze that module",
            )

    def pooled_norms(self) -> tuple[str, ...]:
        """Name the batch norms in `hf` that see 1 x 1 maps, found by a dry forward in evaluation mode."""
        seen: list[str] = []

        def note(name: str) -> Any:
            return lambda _module, inputs: seen.append(name) if inputs[0].shape[-2:] == (1, 1) else None

        norms = [(name, module) for name, module in self.hf.named_modules() if isinstance(module, _BatchNorm)]
        handles = [module.register_forward_pre_hook(note(name)) for name, module in norms]
        try:
            with evaluating(self), freely_chosen(), torch.no_grad():
                self(self.probe_images())
        finally:
            for handle in handles:
                handle.remove()
        return tuple(seen)

    def probe_images(self) -> Float[Tensor, "1 *t 3 h w"]:
        """One black image of a small size that the model takes, or a clip of as many as it was made to read."""
        size = self.hf.config.image_size if self.hf.config.model_type in ONE_SIZE_ONLY else PROBE_SIZE
        frames = (self.memory_frames + 1,) if self.memory_frames else ()
        return torch.zeros(1, *frames, 3, size, size, device=self.mean.device, dtype=self.mean.dtype)

    def _check_kind(self, pixel_values: Tensor) -> None:
        if pixel_values.ndim == 4:
            return
        frames = pixel_values.shape[1]
        if self.memory_frames is None:
            raise ModelError(
                f"`{type(self.hf).__name__}` takes images: got clips of {frames} frames",
                hint="train a model with memory: --decoder tmanet",
            )
        block = self.hf.config.attention
        if block.get("slots") and frames - 1 > (most := block["slots"] - block["include_current"]):
            raise ModelError(
                f"the model has weights for {most} frames before the current one, one set for each: got {frames - 1}",
                hint=f"show it {most} or fewer; without `attention.slots` a model takes any number",
            )

    def _check_size(self, height: int, width: int) -> None:
        family = self.hf.config.model_type
        if family in ONE_SIZE_ONLY and (height, width) != (self.hf.config.image_size,) * 2:
            size = self.hf.config.image_size
            raise ModelError(f"`{family}` takes images of {size} x {size} pixels only: got {height} x {width}")
        if family in SQUARE_ONLY and height != width:
            raise ModelError(f"`{family}` takes square images only: got {height} x {width} pixels")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put every module inside into evaluation mode, and back as each was."""
    before = [(inner, inner.training) for inner in module.modules()]
    for inner, _ in before:
        inner.training = False
    try:
        yield
    finally:
        for inner, mode in before:
            inner.training = mode


@contextmanager
def _captured(module: nn.Module | None) -> Iterator[list[Any]]:
    """Collect what `module` gives while the block runs; nothing where there is no module."""
    outputs: list[Any] = []
    if module is None:
        yield outputs
        return
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()
