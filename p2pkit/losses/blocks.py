"""Means over anchors whose comparisons with all candidates need not fit in memory at once."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 8192**2

AnchorLosses = Callable[[Tensor, Tensor, slice], Tensor]
"""Takes anchors, all candidates, and which anchors of the batch these are; a loss per anchor."""


def mean_in_blocks(
    anchors: Float[Tensor, "pairs channels"],
    candidates: Float[Tensor, "candidates channels"],
    losses: AnchorLosses,
    *,
    weight: Float[Tensor, " pairs"] | None = None,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Float[Tensor, ""]:
    """(Weighted) mean of the anchors' losses; 0 if all weights are 0, or without anchors.

    Where anchors times candidates are more than `logits_at_once`, blocks of anchors are worked
    through one after the other and computed again in the backward pass: memory stays bounded, loss
    and gradient are the same. The 0 of no anchors hangs on the same tensors, too, so that each
    process exchanges as many gradients as the others.
    """
    pairs = len(anchors)
    if pairs == 0:
        return 0 * (anchors.sum() + candidates.sum())
    total = pairs if weight is None else weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)

    def block(anchors: Tensor, candidates: Tensor, start: int) -> Tensor:
        rows = slice(start, start + len(anchors))
        found = losses(anchors, candidates, rows)
        return found.sum() if weight is None else (found * weight[rows]).sum()

    size = max(1, logits_at_once // len(candidates))
    if size >= pairs:
        return block(anchors, candidates, 0) / total
    sums = [
        checkpoint(
            block,
            anchors[start : start + size],
            candidates,
            start,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for start in range(0, pairs, size)
    ]
    return torch.stack(sums).sum() / total
