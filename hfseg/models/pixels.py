"""Pixels: how bytes become what a model takes, as `preprocessor_config.json` says it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hfseg.errors import ModelError

Triple = tuple[float, float, float]

BYTE = 255.0
BILINEAR = 2
"""Pillow's number for bilinear resampling, as image processors write it."""


@dataclass(frozen=True)
class Pixels:
    """Mean and standard deviation per channel of values in 0..1, and the order of the channels.

    A model takes `(byte / 255 - mean) / std`; `bgr` models take blue, green, red.
    """

    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)
    bgr: bool = False

    @classmethod
    def from_preprocessor(cls, preprocessor: Mapping[str, Any]) -> "Pixels":
        """Read the content of a `preprocessor_config.json`.

        A rescale factor other than 1/255 is folded into mean and deviation. A file without mean does not normalize.

        Raises:
            ModelError: mean or deviation are not one or three numbers, or one that is divided by is not positive.
        """
        kind = preprocessor.get("image_processor_type") or preprocessor.get("feature_extractor_type") or ""
        bgr = bool(preprocessor.get("do_flip_channel_order", kind.startswith("MobileViT")))
        factor = preprocessor.get("rescale_factor", 1 / BYTE) if preprocessor.get("do_rescale", True) else 1.0
        _check_positive(float(factor), "rescale_factor")
        fold = factor * BYTE
        if not preprocessor.get("do_normalize", "image_mean" in preprocessor):
            return cls((0.0, 0.0, 0.0), (1 / fold,) * 3, bgr)
        mean, std = (_triple(preprocessor.get(key), key) for key in ("image_mean", "image_std"))
        _check_positive(min(std), "image_std")
        return cls((mean[0] / fold, mean[1] / fold, mean[2] / fold), (std[0] / fold, std[1] / fold, std[2] / fold), bgr)

    def to_preprocessor(self, size: tuple[int, int] | None) -> dict[str, Any]:
        """Write the content of a `preprocessor_config.json`; images are resized to `size` (height, width) if given.

        SegFormer's processor does exactly this and no more, for whichever model; MobileViT's is the one that knows BGR.

        Raises:
            ModelError: the channels are BGR and normalized; no image processor does both.
        """
        height, width = size or (512, 512)
        common = {
            "do_resize": size is not None,
            "size": {"height": height, "width": width},
            "resample": BILINEAR,
            "do_rescale": True,
            "rescale_factor": 1 / BYTE,
            "do_reduce_labels": False,
        }
        if not self.bgr:
            normalize = {"do_normalize": True, "image_mean": list(self.mean), "image_std": list(self.std)}
            return {"image_processor_type": "SegformerImageProcessor", **common, **normalize}
        if (self.mean, self.std) != (UNIT.mean, UNIT.std):
            raise ModelError(f"model takes BGR channels with mean {self.mean}: expected BGR without normalization")
        return {
            "image_processor_type": "MobileViTImageProcessor",
            **common,
            "do_center_crop": False,
            "do_flip_channel_order": True,
        }


HALF = Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Bytes to -1..1."""
UNIT = Pixels((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Bytes to 0..1."""


def _triple(value: Any, key: str) -> Triple:
    numbers = [value] * 3 if isinstance(value, (int, float)) else value
    if not isinstance(numbers, list) or len(numbers) != 3 or not all(isinstance(n, (int, float)) for n in numbers):
        raise ModelError(f"`{key}` in preprocessor_config.json is not three numbers: got {value!r}")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def _check_positive(number: float, key: str) -> None:
    if number <= 0:
        raise ModelError(f"`{key}` in preprocessor_config.json must be positive: got {number:g}")
