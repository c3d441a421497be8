"""Figures of a step that tell whether the embeddings collapse."""

import torch
from jaxtyping import Float
from torch import Tensor

MOST_DIRECTIONS = 256
"""Rows that the effective rank of wider embeddings is taken of: eigenvalues of 2048 channels would
take longer than the step."""


def effective_rank(embeddings: Float[Tensor, "rows channels"]) -> float:
    """Exp of the entropy of the normalised eigenvalues of the rows' covariance.

    1 where all rows lie on a line, the number of channels where they spread evenly; 0 where they
    are all the same. Of more than 256 channels it is that of 256 rows, drawn alike in each call,
    so at most 255: it tells a collapse, not the rank itself. Source: Roy and Vetterli, "The
    effective rank", EUSIPCO 2007.
    """
    rows = embeddings.float()
    if rows.shape[1] > MOST_DIRECTIONS < len(rows):
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        rows = rows[drawn[:MOST_DIRECTIONS].to(rows.device)]
    if not len(rows):
        return 0.0
    centred = rows - rows.mean(dim=0)
    # Both products have the same eigenvalues but for zeros.
    is_wide = centred.shape[1] > len(centred)
    values = torch.linalg.eigvalsh(centred @ centred.T if is_wide else centred.T @ centred)
    values = values.clamp_min(0)
    total = values.sum()
    if total <= 1e-12 * len(rows):
        return 0.0
    shares = values / total
    return float(torch.exp(torch.special.entr(shares).sum()))


def channel_spread(embeddings: Float[Tensor, "rows channels"]) -> float:
    """Mean over channels of the rows' standard deviation, times the root of their number.

    1 for unit vectors that are spread evenly over the sphere, 0 where all are the same. Source:
    Chen and He, "Exploring simple siamese representation learning", CVPR 2021, section 4.1.
    """
    if not len(embeddings):
        return 0.0
    deviation = embeddings.float().std(dim=0, correction=0)
    return float(deviation.mean() * embeddings.shape[1] ** 0.5)
