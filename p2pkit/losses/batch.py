"""What every loss is given, and what it may be told about likely false negatives."""

from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from p2pkit.errors import ConfigError

NEGATIVES = (
    "paper",
    "mask-same-cell",
    "mask-same-voxel",
    "mask-same-cell-or-voxel",
    "mask-similar",
)
CONFIDENCE = ("ignore", "weight")
REGRESSIONS = ("cosine", "l2")
"""Losses without negatives, which a trained pixel projection would bring to a constant."""
SOFT = "ppnce-soft"
"""The loss whose targets are the teacher's similarities."""
SUPERPIXEL = "superpixel"
"""The loss that compares superpixels instead of pairs."""


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
        other_pixels, other_points: embeddings that other processes computed of frames of their own:
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


@dataclass(frozen=True)
class LossConfig:
    """Which loss, and its settings.

    Args:
        name: a key of `p2pkit.losses.LOSSES`.
        temperature: divides the cosine similarities; 0.04 in PPKT, 0.07 in SLidR.
        negatives: `paper` keeps all other sampled pixels as negatives; `mask-same-cell`,
            `mask-same-voxel` and `mask-same-cell-or-voxel` leave those out that share the anchor's
            cell or voxel, since their features are nearly the positive's; `mask-similar` those
            whose teacher feature has a cosine of at least `similarity` with the anchor's.
        confidence: `ignore` counts all anchors alike; `weight` counts each by its pair's
            confidence, which says how surely the pixel sees the point; with the loss `superpixel`
            the pairs within each superpixel.
        similarity: threshold of `mask-similar`.
        soft_temperature: divides the teacher's similarities in the targets of `ppnce-soft`.
        across_ranks: with several processes, the pixels of the others are negatives, too.

    Raises:
        ConfigError: a temperature is not positive, the threshold no cosine, a choice is not one of
            those, `superpixel` is given settings that speak of single pairs, or a loss without
            negatives such as speak of negatives.
    """

    name: str = "ppnce"
    temperature: float = 0.04
    negatives: str = "paper"
    confidence: str = "ignore"
    similarity: float = 0.95
    soft_temperature: float = 0.05
    across_ranks: bool = False

    def __post_init__(self) -> None:
        for name in ("temperature", "soft_temperature"):
            if not 0 < getattr(self, name) < inf:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must be positive and finite"
                )
        if not -1 < self.similarity <= 1:
            raise ConfigError(
                f"similarity is {self.similarity}; a cosine above -1, at most 1, is needed"
            )
        if self.negatives not in NEGATIVES:
            raise ConfigError(
                f"negatives is {self.negatives!r}; choose one of {', '.join(NEGATIVES)}"
            )
        if self.confidence not in CONFIDENCE:
            raise ConfigError(
                f"confidence is {self.confidence!r}; choose one of {', '.join(CONFIDENCE)}"
            )
        if self.name == SUPERPIXEL and self.negatives != "paper":
            raise ConfigError(
                f"negatives is {self.negatives!r}, which masks pairs, but the loss is "
                f"{SUPERPIXEL!r}, which compares superpixels: set negatives=paper"
            )
        self._check_without_negatives()
        if self.name == SUPERPIXEL and self.across_ranks:
            raise ConfigError(
                f"across_ranks is true, but the loss {SUPERPIXEL!r} compares the superpixels of "
                "one process, as SLidR does: set across_ranks=false"
            )

    @property
    def compares_teacher(self) -> bool:
        """Whether it depends on how alike the teacher finds two pixels."""
        return self.name == SOFT or self.negatives == "mask-similar"

    def _check_without_negatives(self) -> None:
        if self.name not in REGRESSIONS:
            return
        if self.negatives != "paper":
            raise ConfigError(
                f"negatives is {self.negatives!r}, but the loss {self.name!r} compares each pair "
                "with itself alone and has no negatives to mask: set negatives=paper"
            )
        if self.across_ranks:
            raise ConfigError(
                f"across_ranks is true, but the loss {self.name!r} has no negatives that other "
                "processes could add to: set across_ranks=false"
            )


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
