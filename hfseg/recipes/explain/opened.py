"""What every kind of explanation starts from: an opened model, names for its layers and classes, a list of pictures."""

import difflib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hfseg.data import model_input
from hfseg.engine.checkpoint import write_file
from hfseg.engine.inference import ProtocolConfig, SquashConfig, resize_pixels
from hfseg.errors import DataError, ModelError
from hfseg.labels import LabelSpace
from hfseg.models import Segmenter, anatomy
from hfseg.recipes.explain.clips import Pixels

INDEX = "pictures.json"

NamedImages = Iterable[tuple[str, UInt8[np.ndarray, "*_t _h _w 3"]]]
"""Images, or for models with memory clips, with the names of their pictures, without ending."""


@dataclass
class Opened:
    """A model that was opened for explaining."""

    segmenter: Segmenter
    space: LabelSpace
    protocol: ProtocolConfig
    """How the model is shown an image; explained is its view of the whole, at the size to which this brings it."""
    output: Path
    """Folder for the pictures."""
    progress: Callable[[str], None]
    skipped: list[str] = field(default_factory=list)
    """The names of the images that there was nothing to explain in."""

    def see(self, pixels: Pixels) -> Float[Tensor, "1 *t 3 h2 w2"]:
        """Bring an image, or the frames of a clip, to the size at which the model is shown whole images, as values of
        0..1 on its device.
        """
        frames = pixels if pixels.ndim == 4 else pixels[None]
        seen = model_input(frames, short_side=self.protocol.loader_short_side)
        pixel_values = torch.from_numpy(seen).permute(0, 3, 1, 2).to(self.segmenter.mean.device)
        if isinstance(self.protocol, SquashConfig):
            size = self.protocol.size
            pixel_values = resize_pixels(pixel_values, (size, size) if isinstance(size, int) else size)
        pixel_values = pixel_values if pixel_values.is_floating_point() else pixel_values / 255
        return pixel_values if pixels.ndim == 3 else pixel_values[None]

    def layer_name(self, text: str | None) -> str:
        """Find the full name of a layer, as `layer_name` does."""
        return f"hf.{layer_name(self.segmenter.hf, text)}"

    def class_id(self, text: str) -> int:
        """Find a class by its name or its id.

        Raises:
            DataError: there is no such class; names all there are, and the closest one.
        """
        names = self.space.names
        folded = [name.casefold() for name in names]
        if text.casefold() in folded:
            return folded.index(text.casefold())
        if text.isdigit() and int(text) < len(names):
            return int(text)
        close = difflib.get_close_matches(text.casefold(), folded, n=1)
        listed = ", ".join(f"{index} {name}" for index, name in enumerate(names))
        meant = f"did you mean `{names[folded.index(close[0])]}`? " if close else ""
        raise DataError(f"class `{text}` is not known to the model", hint=f"{meant}its classes: {listed}")


@dataclass(frozen=True)
class Line:
    """A picture in the list that the page of a run reads; `kind` is cam, attention, receptive_field or faithfulness."""

    file: str
    kind: str
    title: str
    caption: str


def list_pictures(folder: Path, lines: Sequence[Line]) -> None:
    """Add pictures to the list of a folder, in the place of those of the same file."""
    path = folder / INDEX
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    fresh = {line.file for line in lines}
    kept = [row for row in before if row["file"] not in fresh and (folder / row["file"]).is_file()]
    folder.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps([*kept, *(asdict(line) for line in lines)], indent=2, ensure_ascii=False))


def layer_name(hf: torch.nn.Module, text: str | None) -> str:
    """Find the full name of a module in a Hugging Face model; the encoder's last stage where none is named.

    `stage1`, `stage2` ... are the encoder's stages, of a plain transformer its blocks; `encoder.X` is X inside the
    encoder; `head.X` is X inside a head; everything else is a full name, or one inside the encoder.

    Raises:
        ModelError: there is no such module; names the closest, and the stages.
    """
    stages = anatomy.stages(hf)
    known = {name for name, _ in hf.named_modules() if name}
    for name in _candidates(hf, stages, text or f"stage{len(stages)}"):
        if name in known:
            return name
    close = difflib.get_close_matches(str(text), [*(f"stage{i + 1}" for i in range(len(stages))), *known], n=3)
    meant = f"did you mean {' or '.join(f'`{name}`' for name in close)}? " if close else ""
    raise ModelError(
        f"layer `{text}` is not known: `{type(hf).__name__}` has no such module",
        hint=f"{meant}stage1 to stage{len(stages)} are `{stages[0]}` to `{stages[-1]}`",
    )


def _candidates(hf: torch.nn.Module, stages: Sequence[str], text: str) -> list[str]:
    number = text.removeprefix("stage")
    if text.startswith("stage") and number.isdigit():
        return [stages[int(number) - 1]] if 0 < int(number) <= len(stages) else []
    encoder = anatomy.encoder_name(hf)
    first, _, rest = text.partition(".")
    inside = [encoder, *(f"{encoder}.{name}" for name, _ in hf.get_submodule(encoder).named_children())]
    found = [text, *(f"{outer}.{text}" for outer in inside)]
    if first == "encoder":
        found += [f"{outer}.{rest}" if rest else outer for outer in inside]
    if first == "head":
        found += [f"{head}.{rest}" if rest else head for head in anatomy.head_names(hf)]
    return found
