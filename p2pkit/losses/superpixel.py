"""SLidR's contrast of superpixels (Sautier et al. 2022, arXiv 2203.16258, section 3)."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from p2pkit.errors import TrainingError
from p2pkit.losses.batch import ContrastBatch
from p2pkit.losses.blocks import LOGITS_AT_ONCE
from p2pkit.losses.ppnce import anchor_weight, ppnce
from p2pkit.settings.losses import LossConfig


def superpixel_loss(
    batch: ContrastBatch, config: LossConfig, *, logits_at_once: int = LOGITS_AT_ONCE
) -> Float[Tensor, ""]:
    """One-way InfoNCE of superpixels: the mean of its points finds the mean of its pixels.

    L = -mean_s log( exp(k_s.q_s / t) / sum_s' exp(k_s.q_s' / t) ), where k_s and q_s are the means
    of the point and of the pixel embeddings, each of unit length, over the pairs in superpixel s,
    and s, s' run over the superpixels that have pairs in the batch. As in SLidR the means are not
    brought back to unit length; t is 0.07 there (`config.temperature`).

    SLidR takes q_s over all pixels of the superpixel. Here it is over the pixels of the sampled
    pairs, as k_s is: pixels that no sampled point falls on have no influence.

    With `confidence` `weight` both means weigh each pair by its confidence, and superpixels of no
    confidence at all are left out; the others have equal weight. L is 0 if none is left, or without
    pairs. On a GPU the order of the sums, so the last bits, may change between calls.

    Args:
        batch: with `superpixel_id`.
        config: its temperature and confidence count; others than the defaults of `negatives` and
            `across_ranks` are refused by `LossConfig`.
        logits_at_once: as for `ppnce`, of superpixels.

    Raises:
        TrainingError: the batch lacks superpixels, or the confidence that the settings need.
    """
    if batch.superpixel_id is None:
        raise TrainingError("the loss 'superpixel' needs superpixels, and the batch has none")
    weight = anchor_weight(batch, config)
    kept = torch.ones_like(batch.superpixel_id).bool() if weight is None else weight > 0
    if len(kept) and not kept.any():
        return 0 * (batch.point_embedding.sum() + batch.pixel_embedding.sum())
    group = torch.unique(batch.superpixel_id[kept], return_inverse=True)[1]
    points, pixels = (
        _means(rows[kept], group, None if weight is None else weight[kept])
        for rows in (batch.point_embedding, batch.pixel_embedding)
    )
    return ppnce(points, pixels, temperature=config.temperature, logits_at_once=logits_at_once)


def _means(
    rows: Float[Tensor, "pairs channels"],
    group: Int64[Tensor, " pairs"],
    weight: Float[Tensor, " pairs"] | None,
) -> Float[Tensor, "groups channels"]:
    """(Weighted) mean of the rows of each group; groups are numbered without gaps."""
    groups = int(group.max()) + 1 if len(group) else 0
    share = rows.new_ones(len(rows)) if weight is None else weight.to(rows.dtype)
    sums = rows.new_zeros(groups, rows.shape[1]).index_add(0, group, rows * share[:, None])
    return sums / share.new_zeros(groups).index_add(0, group, share)[:, None]
