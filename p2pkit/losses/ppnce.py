"""PPNCE, the point-pixel contrastive loss of PPKT (Liu et al. 2021, arXiv 2104.04687)."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from p2pkit.errors import TrainingError
from p2pkit.losses.batch import ContrastBatch, LossConfig

LOGITS_AT_ONCE = 8192**2

IgnoreRows = Callable[[slice], Tensor | None]


def ppnce(
    point_embedding: Float[Tensor, "pairs channels"],
    pixel_embedding: Float[Tensor, "pairs channels"],
    *,
    temperature: float = 0.04,
    ignore: Bool[Tensor, "pairs pairs"] | None = None,
    weight: Float[Tensor, " pairs"] | None = None,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Float[Tensor, ""]:
    """One-way InfoNCE: each point finds its own pixel among all sampled pixels.

    L = -mean_i log( exp(z3_i.z2_i / t) / sum_j exp(z3_i.z2_j / t) ). Points are the anchors; there
    is no term in which pixels are. The embeddings are taken as they are: the heads normalise them.

    Args:
        point_embedding: z3, one row per pair.
        pixel_embedding: z2, row i is the positive of point i.
        temperature: t.
        ignore: where true, pixel j (column) is left out of the sum of anchor i (row). The diagonal,
            i.e. the positive, always stays.
        weight: of each anchor: L = sum_i w_i l_i / sum_i w_i with w_i >= 0, 0 if all are 0; None
            weighs all alike. Pixels are negatives of others whatever their weight.
        logits_at_once: similarities held in memory; more pairs are worked through in blocks of
            anchors, each computed again in the backward pass, with the same loss and gradient.

    Raises:
        TrainingError: there are no pairs.
    """
    return _ppnce_in_blocks(
        point_embedding,
        pixel_embedding,
        temperature,
        lambda rows: None if ignore is None else ignore[rows],
        weight,
        logits_at_once,
    )


def ppnce_loss(batch: ContrastBatch, config: LossConfig) -> Float[Tensor, ""]:
    """`ppnce` with `config`'s temperature, mask and weights; the mask is never built as a whole.

    Raises:
        TrainingError: there are no pairs, or weights are asked for and the batch has none.
    """
    if config.confidence == "weight" and batch.confidence is None:
        raise TrainingError("loss.confidence is 'weight', but the batch has no confidence")

    def ignore_rows(rows: slice) -> Tensor | None:
        return same_group_rows(batch, config.negatives, rows)

    return _ppnce_in_blocks(
        batch.point_embedding,
        batch.pixel_embedding,
        config.temperature,
        ignore_rows,
        batch.confidence if config.confidence == "weight" else None,
        LOGITS_AT_ONCE,
    )


def same_group_rows(
    batch: ContrastBatch, negatives: str, rows: slice
) -> Bool[Tensor, "rows pairs"] | None:
    """Which pixels (columns) the anchors `rows` leave out; None where they keep all."""
    cell = batch.cell_id[rows, None] == batch.cell_id if "cell" in negatives else None
    voxel = batch.voxel_id[rows, None] == batch.voxel_id if "voxel" in negatives else None
    if cell is not None and voxel is not None:
        return cell | voxel
    return voxel if cell is None else cell


def _ppnce_in_blocks(
    points: Tensor,
    pixels: Tensor,
    temperature: float,
    ignore_rows: IgnoreRows,
    weight: Tensor | None,
    logits_at_once: int,
) -> Tensor:
    pairs = len(points)
    if pairs == 0:
        raise TrainingError("PPNCE of no pairs is undefined; a batch needs at least one pair")
    total = pairs if weight is None else weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)

    def block(points: Tensor, pixels: Tensor, start: int) -> Tensor:
        rows = slice(start, start + len(points))
        losses = _anchor_losses(points, pixels, temperature, start, ignore_rows(rows))
        return losses.sum() if weight is None else (losses * weight[rows]).sum()

    size = max(1, logits_at_once // pairs)
    if size >= pairs:
        return block(points, pixels, 0) / total
    sums = [
        checkpoint(
            block,
            points[start : start + size],
            pixels,
            start,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for start in range(0, pairs, size)
    ]
    return torch.stack(sums).sum() / total


def _anchor_losses(
    points: Tensor, pixels: Tensor, temperature: float, start: int, ignore: Tensor | None
) -> Tensor:
    """Loss of each anchor, where anchor i's positive is pixel `start + i`."""
    logits = points @ pixels.T / temperature
    positive = torch.arange(start, start + len(points), device=points.device)
    if ignore is not None:
        negatives_only = ignore.scatter(1, positive[:, None], False)
        logits = logits.masked_fill(negatives_only, -torch.inf)
    return functional.cross_entropy(logits, positive, reduction="none")
