"""Orders of voxels along space-filling curves, as Point Transformer V3 serialises them."""

from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor

from p2pkit.errors import ConfigError, GeometryError

DEEPEST = 20
"""Bits per axis: three axes leave room for the batch index in 63 bits."""


def z_order(cells: Int64[Tensor, "voxels 3"], depth: int) -> Int64[Tensor, " voxels"]:
    """Morton codes: the bits of x, y and z interleaved, x the most significant of each triple."""
    code = torch.zeros_like(cells[:, 0])
    for bit in range(depth):
        for axis in range(3):
            code |= ((cells[:, axis] >> bit) & 1) << (3 * bit + 2 - axis)
    return code


def hilbert_order(cells: Int64[Tensor, "voxels 3"], depth: int) -> Int64[Tensor, " voxels"]:
    """Positions along the 3D Hilbert curve (Skilling 2004, "Programming the Hilbert curve")."""
    axes = list(cells.unbind(dim=1))
    for bit in range(depth - 1, 0, -1):
        lower = (1 << bit) - 1
        for axis in range(3):
            is_set = (axes[axis] >> bit) & 1 == 1
            swapped = (axes[0] ^ axes[axis]) & lower
            swapped = torch.where(is_set, torch.zeros_like(swapped), swapped)
            axes[0] = torch.where(is_set, axes[0] ^ lower, axes[0] ^ swapped)
            if axis:
                axes[axis] = axes[axis] ^ swapped
    for axis in (1, 2):
        axes[axis] = axes[axis] ^ axes[axis - 1]
    flip = torch.zeros_like(axes[0])
    for bit in range(depth - 1, 0, -1):
        flip = torch.where((axes[2] >> bit) & 1 == 1, flip ^ ((1 << bit) - 1), flip)
    return z_order(torch.stack([axis ^ flip for axis in axes], dim=1), depth)


CURVES: dict[str, Callable[[Tensor, int], Tensor]] = {"z": z_order, "hilbert": hilbert_order}
SWAPPED = "-trans"
"""Of a curve's name: x and y change places first."""
ORDERS = ("z", "z-trans", "hilbert", "hilbert-trans")


def serialization_code(
    cells: Int64[Tensor, "voxels 4"], order: str, depth: int
) -> Int64[Tensor, " voxels"]:
    """Sort keys of voxels: the batch index above the position along a curve.

    Args:
        cells: batch index, x, y, z (voxels); none negative.
        order: one of `ORDERS`.
        depth: bits per axis.

    Raises:
        ConfigError: the order is unknown.
        GeometryError: a coordinate needs more bits than `depth`, or `depth` exceeds `DEEPEST`.
    """
    if order not in ORDERS:
        raise ConfigError(f"no order is called {order!r}; choose one of {', '.join(ORDERS)}")
    if depth > DEEPEST or int(cells[:, 1:].max()) >= 1 << depth or int(cells.min()) < 0:
        raise GeometryError(
            f"voxels from {cells[:, 1:].amin(dim=0).tolist()} to "
            f"{cells[:, 1:].amax(dim=0).tolist()} do not fit in {min(depth, DEEPEST)} bits per "
            "axis; use larger voxels, and check the points for far outliers"
        )
    xyz = cells[:, 1:]
    if order.endswith(SWAPPED):
        xyz = xyz[:, [1, 0, 2]]
    return (cells[:, 0] << (3 * depth)) | CURVES[order.removesuffix(SWAPPED)](xyz, depth)
