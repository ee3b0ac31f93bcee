"""What is counted of a batch for the scores: pixels over the set, and areas of every image."""

from dataclasses import dataclass

from jaxtyping import Int, Integer
from torch import Tensor

from hfseg.metrics.areas import areas_of
from hfseg.metrics.boundary import boundary_maps, width_px
from hfseg.metrics.confusion import confusions
from hfseg.values import Counts


@dataclass(frozen=True)
class Counting:
    """Counts the pixels of a batch, leaving out what its labels ignore.

    `total["confusion"]` holds pixels by label (rows) and prediction. `images["areas"]` holds for each image how many
    pixels of each class were hit, labelled and predicted; `images["boundary"]` the same inside the boundary bands, if
    `boundary_width` says how wide these are, as a share of the image's diagonal.
    """

    num_labels: int
    ignore_index: int = 255
    boundary_width: float | None = None

    def __call__(self, pred: Int[Tensor, "b h w"], labels: Integer[Tensor, "b h w"]) -> Counts:
        """Count where the tensors are; they stay as they are.

        Raises:
            ValueError: the shapes differ; a kept label, or its prediction, lies outside [0, num_labels).
        """
        matrices = confusions(pred, labels, num_labels=self.num_labels, ignore_index=self.ignore_index)
        images = {"areas": areas_of(matrices)}
        if self.boundary_width is not None:
            images["boundary"] = self._boundary(pred, labels, self.boundary_width)
        return Counts(total={"confusion": matrices.sum(0)}, images=images)

    def _boundary(
        self, pred: Int[Tensor, "b h w"], labels: Integer[Tensor, "b h w"], width: float
    ) -> Int[Tensor, "b 3 k"]:
        distance = width_px(labels.shape[-2], labels.shape[-1], width)
        k = self.num_labels
        inside = boundary_maps(pred, labels, num_labels=k, ignore_index=self.ignore_index, distance=distance)
        matrices = confusions(*inside, num_labels=k + 1, ignore_index=k + 1)
        return areas_of(matrices)[..., :k]  # the last class is what lies in no band
