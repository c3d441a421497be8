"""Linear heads that take point and pixel features into one embedding space."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

EMBEDDING_CHANNELS = 128
NORM_EPSILON = 1e-12


class PointProjection(nn.Module):
    """Linear map with bias on the student's feature of each point, then unit length.

    Args:
        in_channels: width of the student's features.
        out_channels: width of the embedding; 128 in PPKT, 64 in SLidR.
    """

    def __init__(self, in_channels: int, out_channels: int = EMBEDDING_CHANNELS) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)

    def forward(
        self, features: Float[Tensor, "pairs channels"]
    ) -> Float[Tensor, "pairs out_channels"]:
        """Embeddings of length 1, float32 at least; shorter than 1e-12 they stay as short."""
        return _unit(self.linear(features))


class FixedPixels(nn.Module):
    """Teacher features as they are, at unit length: nothing to train on the 2D side.

    The point projection then maps to the teacher's own channels.
    """

    def forward(self, features: Float[Tensor, "pairs channels"]) -> Float[Tensor, "pairs channels"]:
        """Embeddings of length 1, float32 at least."""
        return _unit(features)


class PixelProjection(nn.Module):
    """PPKT's upsampling feature projection layer (UPL), on teacher features already sampled.

    The paper applies a 1x1 convolution to the teacher's map and upsamples the result. Bilinear
    weights sum to one and the convolution is linear, so sampling the unprojected map first and
    projecting the sampled rows gives the same numbers and the same gradients. That holds only
    while nothing but the linear map stands before the upsampling: the unit length comes after it.

    Args:
        in_channels: width of the teacher's map.
        out_channels: width of the embedding, that of the `PointProjection` beside it.
    """

    def __init__(self, in_channels: int, out_channels: int = EMBEDDING_CHANNELS) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)

    def forward(
        self, features: Float[Tensor, "pairs channels"]
    ) -> Float[Tensor, "pairs out_channels"]:
        """Embeddings of length 1, float32 at least; shorter than 1e-12 they stay as short."""
        return _unit(self.linear(features))


def _unit(rows: Float[Tensor, "pairs channels"]) -> Float[Tensor, "pairs channels"]:
    """Rows of length 1. Half precision has no number as small as 1e-12: it would divide 0 by 0."""
    full = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return functional.normalize(full, dim=1, eps=NORM_EPSILON)
