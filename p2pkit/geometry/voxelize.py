"""Which voxel each point lies in, and one point per voxel."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from p2pkit.errors import GeometryError
from p2pkit.geometry.checks import check_array
from p2pkit.geometry.kernels import points as kernels


class VoxelDeduplication(NamedTuple):
    """One point for each occupied voxel, and the way back.

    Fields:
        keep: index of the first point of each voxel, ascending.
        voxel_of_point: for each point the row of `keep` that stands for its voxel.
        coordinates: integer position of each voxel.
    """

    keep: Int64[np.ndarray, " voxels"]
    voxel_of_point: Int64[np.ndarray, " points"]
    coordinates: Int32[np.ndarray, "voxels 3"]


def voxel_deduplicate(
    points: Float32[np.ndarray, "points 3"], voxel_size: float
) -> VoxelDeduplication:
    """Keep the first point of each voxel.

    A point's voxel is floor(point / voxel_size), computed in float64, so that -0.01 m lies in voxel
    -1.

    Args:
        points: x, y, z in any frame (m).
        voxel_size: edge of a voxel (m).

    Raises:
        GeometryError: `voxel_size` is not positive, a coordinate is NaN or infinite, or a voxel
            index does not fit in int32.
    """
    check_array("points", points, (np.float32,), (None, 3))
    if not (math.isfinite(voxel_size) and voxel_size > 0):
        raise GeometryError(f"voxel_size is {voxel_size} m; it must be finite and positive")
    keep = np.empty(len(points), np.int64)
    voxel_of_point = np.empty(len(points), np.int64)
    coordinates = np.empty((len(points), 3), np.int32)
    count = kernels.first_of_each_voxel(
        np.ascontiguousarray(points), float(voxel_size), keep, voxel_of_point, coordinates
    )
    if count < 0:
        _raise_bad_point(points, voxel_size)
    return VoxelDeduplication(keep[:count].copy(), voxel_of_point, coordinates[:count].copy())


def majority_labels(
    points: Float32[np.ndarray, "points 3"],
    labels: UInt8[np.ndarray, " points"],
    voxels: VoxelDeduplication,
) -> UInt8[np.ndarray, " voxels"]:
    """The commonest label in each voxel; of equally common ones that of the nearer point.

    Nearer is to the voxel's kept point, so that its own label wins where it is among them. Every
    label counts, also one that means void.

    Args:
        points: x, y, z in any frame (m).
        labels: of each point.
        voxels: of the same points, from `voxel_deduplicate`.

    Raises:
        GeometryError: `labels` has another type or length than the points.
    """
    count = len(voxels.voxel_of_point)
    check_array("points", points, (np.float32,), (count, 3))
    check_array("labels", labels, (np.uint8,), (count,))
    found = np.empty(len(voxels.keep), np.uint8)
    kernels.commonest_labels(
        np.ascontiguousarray(points),
        np.ascontiguousarray(labels),
        voxels.keep,
        voxels.voxel_of_point,
        found,
    )
    return found


def _raise_bad_point(points: Float32[np.ndarray, "points 3"], voxel_size: float) -> None:
    index = np.floor(points.astype(np.float64) / voxel_size)
    limits = np.iinfo(np.int32)
    row = int(np.argmin(((index >= limits.min) & (index <= limits.max)).all(axis=1)))
    raise GeometryError(
        f"point {row} is {points[row].tolist()} m: with voxels of {voxel_size} m its voxel index "
        "does not fit in 32 bits; drop points that are NaN, infinite or that far away"
    )
