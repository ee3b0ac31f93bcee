"""Cross entropy that counts more where classes meet."""

from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from hfseg.bands import boundary_band
from hfseg.losses.cross_entropy import beside, positive, weight_of
from hfseg.losses.strip_sums import strip_total


def boundary(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b h2 w2"],
    *,
    ignore_index: int,
    width: int = 3,
    gain: float = 4.0,
    class_weights: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Average the cross entropy; pixels at most `width` pixels from another class count 1 + `gain` times.

    It is a weighted average, so that `gain` does not change how large the loss is beside other terms. Neither ignored
    pixels nor the border of the crop make a boundary.
    Source: the weight map of Ronneberger et al., U-Net, arXiv 1505.04597, eq. 2, with the band of boundary IoU (Cheng
    et al., arXiv 2103.16562) in the place of its bell, which needs a distance transform.
    """
    size = (labels.shape[-2], labels.shape[-1])
    weights = beside(logits, class_weights)
    kept = labels.int() != ignore_index
    band = boundary_band(labels, kept, distance=width, at_border=False)

    def summed(resized: Tensor, rows: slice) -> Tensor:
        target = labels[:, rows].long()
        entropy = F.cross_entropy(resized, target, weight=weights, ignore_index=ignore_index, reduction="none")
        return (entropy * (1 + gain * band[:, rows])).sum()

    total = strip_total(logits, size, summed)
    weight = weight_of(labels, weights, where=kept) + gain * weight_of(labels, weights, where=band)
    return total / positive(weight).to(total.dtype)
