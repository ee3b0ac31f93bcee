"""What a student learns from a teacher: how its logits and features differ from the teacher's.

All terms compare on the student's own grid: what the teacher says is resized to it bilinearly. A cell of the grid
counts with the share of the pixels below it that are not ignored, so that a cell whose pixels are all ignored does not
count at all. Every term is 0 where student and teacher agree, and where nothing counts; only the student is
differentiated.
"""

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from hfseg.logits import resize_logits
from hfseg.losses.cross_entropy import positive


def soft_cross_entropy(
    student: Float[Tensor, "b k h w"],
    teacher: Float[Tensor, "b k h2 w2"],
    labels: Integer[Tensor, "b h3 w3"],
    *,
    ignore_index: int,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """Average T^2 KL(teacher, student) of the softmax of logits / T over the cells.

    It is the soft cross entropy less the entropy of the teacher, which has no gradient. T^2 keeps the gradient as large
    beside other losses whatever T is.
    Source: Hinton et al., arXiv 1503.02531, section 2; cell by cell as in Liu et al., arXiv 1903.04197, eq. 2.
    """
    student, teacher, share = _together(student, teacher, labels, ignore_index)
    ours, theirs = (F.log_softmax(logits / temperature, 1) for logits in (student, teacher))
    apart = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
    return temperature**2 * (share * apart).sum() / positive(share.sum())


def channel_wise(
    student: Float[Tensor, "b k h w"],
    teacher: Float[Tensor, "b k h2 w2"],
    labels: Integer[Tensor, "b h3 w3"],
    *,
    ignore_index: int,
    temperature: float = 4.0,
) -> Float[Tensor, ""]:
    """Average T^2 KL(teacher, student) over channels and images, of softmaxes over the cells of each channel (CWD).

    A cell enters the softmax with its share as a factor; images without a cell that counts are left out.
    Source: Shu et al., arXiv 2011.13256, eq. 2 to 4, on logits, where it was best, with T = 4.
    """
    student, teacher, share = _together(student, teacher, labels, ignore_index)
    counts = share.flatten(1).amax(1) > 0
    weight = torch.where(counts[:, None, None], share, 1).flatten(1)[:, None]
    ours, theirs = (F.log_softmax(logits.flatten(2) / temperature + weight.log(), -1) for logits in (student, teacher))
    apart = torch.where(weight > 0, theirs.exp() * (theirs - ours), 0).sum(-1).mean(1)  # -inf - -inf where nothing is
    return temperature**2 * (counts * apart).sum() / positive(counts.sum())


def feature_distance(
    projected: Float[Tensor, "b c h w"],
    teacher: Float[Tensor, "b c h2 w2"],
    labels: Integer[Tensor, "b h3 w3"],
    *,
    ignore_index: int,
) -> Float[Tensor, ""]:
    """Average the squared difference of the student's features, projected to the teacher's width, over the cells.

    Source: Romero et al., FitNets, arXiv 1412.6550, eq. 3, as a mean over channels in the place of half the sum.
    """
    projected, teacher, share = _together(projected, teacher, labels, ignore_index)
    return (share * (projected - teacher).square().mean(1)).sum() / positive(share.sum())


def pairwise(
    student: Float[Tensor, "b c h w"],
    teacher: Float[Tensor, "b d h2 w2"],
    labels: Integer[Tensor, "b h3 w3"],
    *,
    ignore_index: int,
    nodes: int = 16,
) -> Float[Tensor, ""]:
    """Average the squared difference of the cosines between all pairs of nodes; widths may differ.

    The cells are averaged to at most `nodes` x `nodes` nodes. A pair counts with the product of its nodes' shares.
    Source: Liu et al., arXiv 1903.04197, eq. 3, each node connected to all; the paper fixes how many cells a node has
    (2 x 2), and this how many nodes there are, on which the memory depends: `nodes`^4 numbers an image.
    """
    student, teacher, share = _together(student, teacher, labels, ignore_index)
    size = (min(nodes, share.shape[1]), min(nodes, share.shape[2]))
    weight = F.adaptive_avg_pool2d(share[:, None], size)
    pairs = weight.flatten(2).mT * weight.flatten(2)
    ours, theirs = (
        _cosines(F.adaptive_avg_pool2d(maps * share[:, None], size) / positive(weight)) for maps in (student, teacher)
    )
    return (pairs * (ours - theirs).square()).sum() / positive(pairs.sum())


def labelled_share(
    labels: Integer[Tensor, "b h w"], size: tuple[int, int], *, ignore_index: int, dtype: torch.dtype
) -> Float[Tensor, "b h2 w2"]:
    """Give the share of the pixels below each cell of a grid of `size` that are not ignored."""
    kept = (labels.int() != ignore_index).to(dtype)
    return F.adaptive_avg_pool2d(kept[:, None], size)[:, 0]


def _together(
    student: Tensor, teacher: Tensor, labels: Tensor, ignore_index: int
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b d h w"], Float[Tensor, "b h w"]]:
    """Bring both to the student's grid, in float32 or what is more precise, and find what each cell counts."""
    dtype = torch.promote_types(student.dtype, torch.float32)
    size = (student.shape[-2], student.shape[-1])
    share = labelled_share(labels, size, ignore_index=ignore_index, dtype=dtype)
    return student.to(dtype), resize_logits(teacher.detach().to(dtype), size), share


def _cosines(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n n"]:
    """Compare every place of a map with every other."""
    unit = F.normalize(maps.flatten(2), dim=1)
    return unit.mT @ unit
