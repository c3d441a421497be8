"""Which negatives of a contrast are probably what their anchor is, and how much they weigh."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from p2pkit.errors import ConfigError
from p2pkit.losses import ContrastBatch, LossConfig
from p2pkit.losses.ppnce import ignored_rows, unit_teacher


@dataclass(frozen=True, eq=False)
class Negatives:
    """All comparisons of a batch: row i is anchor (point) i, column j is pixel j.

    Args:
        student: cosine of the point's and the pixel's embeddings, which the loss sees.
        teacher: cosine of the teacher's own features of pixels i and j.
        kept: whether j is a negative of i, i.e. another pair that the loss does not leave out.
        push: softmax share of j among the candidates of i, 0 where not kept. The gradient of
            PPNCE by the similarity of i and j is this share over the temperature, so it says how
            hard i is pushed away from j.
        same_cell, same_voxel: whether i and j share the teacher's cell or the student's voxel.
        similar: whether `teacher` is at least the loss's `similarity`.
    """

    student: Float[Tensor, "pairs pairs"]
    teacher: Float[Tensor, "pairs pairs"]
    kept: Bool[Tensor, "pairs pairs"]
    push: Float[Tensor, "pairs pairs"]
    same_cell: Bool[Tensor, "pairs pairs"]
    same_voxel: Bool[Tensor, "pairs pairs"]
    similar: Bool[Tensor, "pairs pairs"]

    @property
    def suspected(self) -> Bool[Tensor, "pairs pairs"]:
        """Kept negatives that are probably what their anchor is, by any of the three signs."""
        return self.kept & (self.same_cell | self.same_voxel | self.similar)


@dataclass(frozen=True)
class NegativeShare:
    """What some of the negatives are of all that the loss keeps.

    Args:
        count: share of their number.
        push: share of the push of all negatives away from their anchors.
        same_label: share of them that carry their anchor's label; None without labels or negatives.
    """

    count: float
    push: float
    same_label: float | None


def compare_negatives(batch: ContrastBatch, config: LossConfig) -> Negatives:
    """Compare every anchor of a batch with every pixel. Memory grows with the pairs' square.

    Raises:
        ConfigError: fewer than two pairs, so no negatives.
        TrainingError: the batch has no teacher features.
    """
    pairs = len(batch.point_embedding)
    if pairs < 2:
        raise ConfigError(f"{pairs} pairs have no negatives; expected at least 2")
    student = batch.point_embedding.detach() @ batch.pixel_embedding.detach().T
    features = unit_teacher(batch)
    teacher = features @ features.T
    positive = torch.eye(pairs, dtype=torch.bool, device=student.device)
    ignored = ignored_rows(batch, config)(slice(0, pairs))
    left_out = positive.new_zeros(()) if ignored is None else ignored & ~positive
    logits = (student / config.temperature).masked_fill(left_out, -torch.inf)
    kept = ~(positive | left_out)
    return Negatives(
        student=student,
        teacher=teacher,
        kept=kept,
        push=functional.softmax(logits, dim=1) * kept,
        same_cell=batch.cell_id[:, None] == batch.cell_id,
        same_voxel=batch.voxel_id[:, None] == batch.voxel_id,
        similar=teacher >= config.similarity,
    )


def negative_share(
    negatives: Negatives,
    which: Bool[Tensor, "pairs pairs"],
    label: Int64[Tensor, " pairs"] | None = None,
    *,
    void: int = -1,
) -> NegativeShare:
    """How many of the kept negatives are `which`, and how much of the push is theirs.

    Args:
        negatives: of a batch.
        which: some comparisons; those that are not kept do not count.
        label: class of each pair; comparisons with `void` do not count towards `same_label`.
        void: the label that means nothing.
    """
    chosen = which & negatives.kept
    all_push, all_count = negatives.push.sum(), negatives.kept.sum()
    push = (negatives.push * chosen).sum() / all_push.clamp_min(torch.finfo(all_push.dtype).tiny)
    count = chosen.sum() / all_count.clamp_min(1)
    same: float | None = None
    if label is not None:
        known = chosen & (label != void)[:, None] & (label != void)
        if known.any():
            same = float((known & (label[:, None] == label)).sum() / known.sum())
    return NegativeShare(float(count), float(push), same)
