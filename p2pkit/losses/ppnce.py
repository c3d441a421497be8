"""PPNCE, the point-pixel contrastive loss of PPKT (Liu et al. 2021, arXiv 2104.04687)."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from p2pkit.errors import TrainingError
from p2pkit.losses.batch import ContrastBatch
from p2pkit.losses.blocks import LOGITS_AT_ONCE, mean_in_blocks
from p2pkit.settings.losses import LossConfig

IgnoreRows = Callable[[slice], Tensor | None]


def ppnce(
    point_embedding: Float[Tensor, "pairs channels"],
    pixel_embedding: Float[Tensor, "candidates channels"],
    *,
    temperature: float = 0.04,
    ignore: Bool[Tensor, "pairs pairs"] | None = None,
    weight: Float[Tensor, " pairs"] | None = None,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Float[Tensor, ""]:
    """One-way InfoNCE: each point finds its own pixel among all sampled pixels.

    L = -mean_i log( exp(z3_i.z2_i / t) / sum_j exp(z3_i.z2_j / t) ). Points are the anchors; no
    term has pixels as anchors. The embeddings are taken as they are: the heads normalise them.

    Args:
        point_embedding: z3, one row per pair.
        pixel_embedding: z2, row i is the positive of point i; further rows are negatives only.
        temperature: t.
        ignore: where true, pixel j (column) is left out of the sum of anchor i (row). The diagonal,
            i.e. the positive, always stays.
        weight: of each anchor: L = sum_i w_i l_i / sum_i w_i with w_i >= 0, 0 if all are 0; None
            weighs all alike. Pixels are negatives of others whatever their weight.
        logits_at_once: similarities held in memory; more pairs are worked through in blocks of
            anchors, each computed again in the backward pass, with the same loss and gradient.

    Returns:
        The loss; 0 of no pairs.
    """
    losses = partial(
        _anchor_losses,
        temperature=temperature,
        ignore_rows=lambda rows: None if ignore is None else ignore[rows],
    )
    return mean_in_blocks(
        point_embedding, pixel_embedding, losses, weight=weight, logits_at_once=logits_at_once
    )


def ppnce_loss(batch: ContrastBatch, config: LossConfig) -> Float[Tensor, ""]:
    """`ppnce` with `config`'s temperature, mask and weights; the mask is never built as a whole.

    Raises:
        TrainingError: the batch lacks what the settings need.
    """
    losses = partial(
        _anchor_losses,
        temperature=config.temperature,
        ignore_rows=ignored_rows(batch, config),
    )
    return mean_in_blocks(
        batch.point_embedding, batch.all_pixels(), losses, weight=anchor_weight(batch, config)
    )


def symmetric_ppnce_loss(batch: ContrastBatch, config: LossConfig) -> Float[Tensor, ""]:
    """Mean of `ppnce` and of the same with pixels as the anchors and points as the candidates.

    L = (L(z3, z2) + L(z2, z3)) / 2, the two-way InfoNCE of CLIP (Radford et al. 2021, arXiv
    2103.00020, figure 3). Masks are symmetric and hold both ways.

    Raises:
        TrainingError: as `ppnce_loss`.
    """
    losses = partial(
        _anchor_losses,
        temperature=config.temperature,
        ignore_rows=ignored_rows(batch, config),
    )
    weight = anchor_weight(batch, config)
    pixels = mean_in_blocks(batch.pixel_embedding, batch.all_points(), losses, weight=weight)
    return (ppnce_loss(batch, config) + pixels) / 2


def soft_ppnce_loss(batch: ContrastBatch, config: LossConfig) -> Float[Tensor, ""]:
    """`ppnce` whose target is spread over the pixels that the teacher finds alike.

    L = -mean_i sum_j q_ij log p_ij, with p_ij the softmax over j of z3_i.z2_j / t and q_ij that of
    f_i.f_j / s, where f are the teacher's own features at unit length and s is `soft_temperature`:
    relational targets as in ReSSL (Zheng et al. 2021, arXiv 2107.09282). j runs over the pixels of
    other processes, too, where the batch has their teacher features. Masked pixels are in neither
    softmax. As s falls to 0 this becomes `ppnce`.

    Raises:
        TrainingError: as `ppnce_loss`, or the batch has no teacher features.
    """
    teacher, ignore_rows = unit_teacher(batch), ignored_rows(batch, config)

    def losses(anchors: Tensor, candidates: Tensor, rows: slice) -> Tensor:
        ignore = ignore_rows(rows)
        logits = _masked(anchors, candidates, rows, config.temperature, ignore)
        alike = _masked(teacher[rows], teacher, rows, config.soft_temperature, ignore)
        target = functional.softmax(alike, dim=1)
        log_share = functional.log_softmax(logits, dim=1)[:, : len(teacher)]
        # The share of a masked pixel is 0, whose logarithm times a target of 0 would be NaN.
        log_share = log_share.masked_fill(target == 0, 0.0)
        return -(target.to(logits.dtype) * log_share).sum(dim=1)

    weight = anchor_weight(batch, config)
    return mean_in_blocks(batch.point_embedding, batch.all_pixels(), losses, weight=weight)


def anchor_weight(batch: ContrastBatch, config: LossConfig) -> Float[Tensor, " pairs"] | None:
    """Weight of each anchor; None where all have the same.

    Raises:
        TrainingError: the settings need weights and the batch has none.
    """
    if config.confidence == "ignore":
        return None
    if batch.confidence is None:
        raise TrainingError("loss.confidence is 'weight', but the batch has no confidence")
    return batch.confidence


def unit_teacher(batch: ContrastBatch) -> Float[Tensor, "known teacher_channels"]:
    """The teacher's features at unit length, without gradient: of the own pixels, then of those of
    other processes where the batch has them.

    Raises:
        TrainingError: the batch has none.
    """
    if batch.teacher_feature is None:
        raise TrainingError("this loss compares the teacher's features, and the batch has none")
    own, others = batch.teacher_feature, batch.other_teacher
    known = own if others is None else torch.cat([own, others])
    return functional.normalize(known.detach(), dim=1)


def ignored_rows(batch: ContrastBatch, config: LossConfig) -> IgnoreRows:
    """Which pixels (columns) some anchors (rows) leave out, as a function of the rows.

    It gives bool [rows, pairs], with the columns of other processes' pixels where they may be left
    out, too, or None where the anchors keep all.
    """
    negatives = config.negatives
    teacher = unit_teacher(batch) if negatives == "mask-similar" else None

    def ignored(rows: slice) -> Tensor | None:
        if teacher is not None:
            return teacher[rows] @ teacher.T >= config.similarity
        cell = batch.cell_id[rows, None] == batch.cell_id if "cell" in negatives else None
        voxel = batch.voxel_id[rows, None] == batch.voxel_id if "voxel" in negatives else None
        if cell is not None and voxel is not None:
            return cell | voxel
        return voxel if cell is None else cell

    return ignored


def _anchor_losses(
    anchors: Tensor,
    candidates: Tensor,
    rows: slice,
    *,
    temperature: float,
    ignore_rows: IgnoreRows,
) -> Tensor:
    """Loss of each anchor, where the positive of anchor i of the batch is candidate i."""
    logits = _masked(anchors, candidates, rows, temperature, ignore_rows(rows))
    positive = torch.arange(rows.start, rows.stop, device=anchors.device)
    return functional.cross_entropy(logits, positive, reduction="none")


def _masked(
    anchors: Tensor, candidates: Tensor, rows: slice, temperature: float, ignore: Tensor | None
) -> Tensor:
    logits = anchors @ candidates.T / temperature
    if ignore is None:
        return logits
    positive = torch.arange(rows.start, rows.stop, device=anchors.device)
    negatives_only = ignore.scatter(1, positive[:, None], False)
    beyond = logits.shape[1] - ignore.shape[1]
    return logits.masked_fill(functional.pad(negatives_only, (0, beyond)), -torch.inf)
