"""Scores image by image: their means, and the images that are predicted worst."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float64, Int
from torch import Tensor

from hfseg.metrics.areas import iou_of


@dataclass(frozen=True)
class ImageScores:
    """IoU averaged over images, 0 to 1, where the usual mIoU adds up the pixels of all images first.

    The pixels of a class in a large picture of it weigh as much here as those in a small one. An image counts for the
    classes that are labelled or predicted in it: a class that is predicted where it is not has IoU 0 there.

    Source: Wang et al., "Revisiting Evaluation Metrics for Semantic Segmentation", NeurIPS 2023, arXiv:2310.19252,
    whose mIoU^I and mIoU^C these are (mIoU^D is the usual one).
    """

    mean_iou_over_images: float
    """Mean over images of each image's mean over its classes."""
    class_mean_iou_over_images: float
    """Mean over classes of each class's mean over its images: rare classes weigh as much as frequent ones."""
    ious: Float64[Tensor, " n"]
    """Mean IoU of each image; NaN where every pixel is ignored."""

    @classmethod
    def from_areas(cls, areas: Int[Tensor, "n 3 k"]) -> "ImageScores":
        """Score the areas of each image."""
        iou = iou_of(areas.cpu())
        of_images = iou.nanmean(1)
        return cls(float(of_images.nanmean()), float(iou.nanmean(0).nanmean()), of_images)

    def worst(self, ids: Sequence[str], number: int) -> list[tuple[str, float]]:
        """List the images of the lowest mean IoU, the lowest first, by id.

        Raises:
            ValueError: there are not as many ids as images.
        """
        ranked = sorted(zip(ids, self.ious.tolist(), strict=True), key=lambda image: image[1])
        return [image for image in ranked if image[1] == image[1]][:number]
