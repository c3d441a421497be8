"""What every loss is given, and what it may know of likely false negatives."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ContrastBatch:
    """Row i of every field is pair i: a point and the pixel that sees it.

    Args:
        point_embedding: from the student; rows of unit length.
        pixel_embedding: from the teacher; rows of unit length.
        cell_id: equal where two pixels fall into one cell of one view's feature map; the number
            itself means nothing but must differ between frames and views.
        voxel_id: equal where two points fall into one voxel of one frame.
        confidence: 0 … 1, how sure it is that the pixel sees the point; None where that is unknown.
        teacher_feature: the teacher's feature of each pixel before the projection; None where no
            loss needs it.
        other_pixels, other_points: embeddings that other processes computed from their own frames:
            further negatives of every anchor. They carry gradients.
        superpixel_id: equal where two pixels lie in one superpixel of one view; None where no loss
            needs it. As with cells, the number means nothing but must differ between frames and
            views.
        other_teacher: the teacher's features of `other_pixels`, for losses that compare them; where
            it is None masks and soft targets speak of the process's own pixels only.
    """

    point_embedding: Float[Tensor, "pairs channels"]
    pixel_embedding: Float[Tensor, "pairs channels"]
    cell_id: Int64[Tensor, " pairs"]
    voxel_id: Int64[Tensor, " pairs"]
    confidence: Float[Tensor, " pairs"] | None = None
    teacher_feature: Float[Tensor, "pairs teacher_channels"] | None = None
    other_pixels: Float[Tensor, "others channels"] | None = None
    other_points: Float[Tensor, "others channels"] | None = None
    superpixel_id: Int64[Tensor, " pairs"] | None = None
    other_teacher: Float[Tensor, "others teacher_channels"] | None = None

    def all_pixels(self) -> Float[Tensor, "candidates channels"]:
        """Own pixels first, then those of other processes."""
        return _joined(self.pixel_embedding, self.other_pixels)

    def all_points(self) -> Float[Tensor, "candidates channels"]:
        """Own points first, then those of other processes."""
        return _joined(self.point_embedding, self.other_points)


def _joined(own: Tensor, others: Tensor | None) -> Tensor:
    return own if others is None else torch.cat([own, others])


def suspected_false_negatives(batch: ContrastBatch) -> float:
    """Fraction of ordered (anchor, other pixel) combinations that share a cell or a voxel.

    |cell or voxel| = |cell| + |voxel| - |cell and voxel|, each from the sizes of groups of equal
    ids, so in O(N log N). 0 with fewer than two pairs.
    """
    pairs = len(batch.cell_id)
    if pairs < 2:
        return 0.0
    cell = torch.unique(batch.cell_id, return_inverse=True)[1]
    voxel = torch.unique(batch.voxel_id, return_inverse=True)[1]
    both = cell * pairs + voxel
    shared = _sharing(cell) + _sharing(voxel) - _sharing(both)
    return shared / (pairs * (pairs - 1))


def _sharing(group: Int64[Tensor, " pairs"]) -> int:
    """How many ordered (i, j), i != j, have equal ids."""
    counts = torch.unique(group, return_counts=True)[1]
    return int((counts * (counts - 1)).sum())
