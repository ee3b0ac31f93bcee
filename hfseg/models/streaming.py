"""Streams: a model with memory segments a video frame by frame, and computes nothing twice.

A frame costs one pass of the encoder and one read. What later frames read of it (keys and values; the encoder's map
where memory slots have weights of their own) is kept in a ring buffer. Where memory is `step` frames apart, all frames
are kept, `memory_frames` x `step` of them, and every `step`-th is read, as in the clips of data sets.
"""

from collections import deque
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import PositiveInt
from torch import Tensor, nn

from hfseg.config import Config
from hfseg.errors import ModelError
from hfseg.models.attention import Maps, stack_frames
from hfseg.models.segmenter import Segmenter
from hfseg.models.tmanet import TmanetForSemanticSegmentation
from hfseg.values import SegOutput, places_before


class FrameStream(nn.Module):
    """A Segmenter that is given the frames of videos one after the other, and gives what it gives for their clips.

    At the start, the oldest frame there is stands in for those that are missing, as in clips from data sets. Several
    videos of one size can go side by side, as a batch; a frame of another size than the last begins a video. `dtype` is
    the floating type of what is kept, half for instance; without it, that of the model. `step` is how many frames lie
    from each frame in memory to the next; without it, as many as the model was trained with. For inference: the
    segmenter is put into evaluation mode, and no gradient flows.

    Raises:
        ModelError: the model has no memory.
        ValueError: `step` is below 1.
    """

    def __init__(self, segmenter: Segmenter, *, dtype: torch.dtype | None = None, step: int | None = None) -> None:
        super().__init__()
        if step is not None and step < 1:
            raise ValueError(f"frames in memory lie {step} apart: expected 1 or more")
        if not isinstance(segmenter.hf, TmanetForSemanticSegmentation):
            raise ModelError(
                f"`{type(segmenter.hf).__name__}` has no memory: expected a model of the decoder `tmanet`",
                hint="it can be shown the frames of a video as images",
            )
        self.segmenter, self.dtype = segmenter.eval(), dtype
        self.memory_frames, self.step = segmenter.memory_frames or 0, step or segmenter.memory_step
        self._kept: deque[Maps] = deque(maxlen=self.memory_frames * self.step)
        self._shape: torch.Size | None = None

    def forward(self, pixel_values: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]) -> SegOutput:
        """Segment the next frame, bytes of 0..255 or floats of 0..1, and remember it."""
        if pixel_values.shape != self._shape:
            self.reset()
        self._shape = pixel_values.shape
        hf = self.segmenter.hf
        block = hf.decode_head.block
        with torch.inference_mode():
            prepared = block.prepare(hf.encode(self.segmenter.normalize(pixel_values)))
            own = block.remember(prepared)
            kept = own if self.dtype is None else block.compact(own, self.dtype)
            logits = hf.decode_head.classify(block.read(prepared, self._memory(kept), own))
        self._kept.append(kept)
        return SegOutput(logits)

    def reset(self) -> None:
        """Forget the frames before: the next one begins a video, or a scene."""
        self._kept.clear()

    @property
    def kept_bytes(self) -> int:
        """Size of the ring buffer as it is filled now."""
        return sum(each.nbytes for frame in self._kept for each in frame.values())

    def _memory(self, own: Maps) -> Maps | None:
        """What is remembered of the frames before, `step` apart; the first stands in for those that are missing."""
        if not self.memory_frames:
            return None
        there = [*self._kept, own]  # at the start the frame is its own past
        return stack_frames(
            [there[place] for place in places_before(len(there) - 1, self.memory_frames, step=self.step)]
        )


class StreamConfig(Config):
    """How a model with memory remembers the frames of a clip."""

    step: PositiveInt | None = None
    """Frames that are predicted, from each frame in memory to the next; as in training where it is not given."""
    precision: Literal["fp16", "bf16"] | None = None
    """Floating type in which frames are remembered, at half the room; the model's own where it is not given."""

    def build(self, segmenter: Segmenter) -> FrameStream:
        """Open a stream.

        Raises:
            ModelError: the model has no memory.
        """
        dtypes = {None: None, "fp16": torch.float16, "bf16": torch.bfloat16}
        return FrameStream(segmenter, dtype=dtypes[self.precision], step=self.step)
