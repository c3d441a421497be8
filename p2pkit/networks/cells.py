"""Features of the voxels of one stride, as a decoder gives them out."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

STRIDES = (8, 4)
"""Of the decoder stages that detection reads (voxels)."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Features of the voxels of one stride, with their places, in any order.

    Args:
        places: batch index, then the lowest corner x, y, z (voxels of stride 1).
        rows: features of each.
        stride: their edge (voxels of stride 1).
    """

    places: Int64[Tensor, "cells 4"]
    rows: Float[Tensor, "cells channels"]
    stride: int
