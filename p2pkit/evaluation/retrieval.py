"""How well points find their own pixel: a measure of pretraining that needs no labels."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from p2pkit.errors import ConfigError

SIMILARITIES_AT_ONCE = 2**24
TIE_WIDTH = 1e-6


def retrieval_top1(
    point_embedding: Float[Tensor, "pairs channels"],
    pixel_embedding: Float[Tensor, "pairs channels"],
    *,
    cell_id: Int64[Tensor, " pairs"] | None = None,
) -> float:
    """Fraction of points whose most similar pixel among all N candidates is the right one.

    Pixels whose similarity is within 1e-6 of the best (rounding) tie: each of k of them scores 1/k,
    so that embeddings that say nothing score chance, 1/N.

    Args:
        point_embedding: rows of unit length.
        pixel_embedding: row i is the pixel of point i.
        cell_id: where given, any pixel in the same cell of the teacher's map is right too, since
            their features are nearly the same; None requires the exact pixel.

    Raises:
        ConfigError: no pairs are given.
    """
    pairs = len(point_embedding)
    if pairs == 0:
        raise ConfigError("expected at least one pair for retrieval, found none")
    own = torch.arange(pairs, device=point_embedding.device) if cell_id is None else cell_id
    rows = max(1, SIMILARITIES_AT_ONCE // pairs)
    right = 0.0
    for start in range(0, pairs, rows):
        part = slice(start, start + rows)
        similarity = point_embedding[part].detach() @ pixel_embedding.detach().T
        best = similarity >= similarity.amax(dim=1, keepdim=True) - TIE_WIDTH
        hits = best & (own[part, None] == own)
        right += float((hits.sum(dim=1) / best.sum(dim=1)).double().sum())
    return right / pairs


def cell_chance(cell_id: Int64[Tensor, " pairs"]) -> float:
    """How often a pixel that is picked at random lies in the point's own cell of the teacher's map.

    sum_c (n_c / N)^2 over cells c with n_c of the N pixels; 1/N where each has its own cell.
    """
    counts = torch.unique(cell_id, return_counts=True)[1].double()
    return float((counts / len(cell_id)).square().sum())
