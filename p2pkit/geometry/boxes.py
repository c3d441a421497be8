"""Upright boxes: which points lie in them, their corners, and how much two of them overlap.

A box has its middle (m), its sides along its own x and y and its height (m), and its yaw about z
(rad). Boxes that are compared are in the same axes, z up.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from p2pkit.errors import MissingDependencyError

Centers = Float[np.ndarray, "boxes 3"]
Sizes = Float[np.ndarray, "boxes 3"]
Yaws = Float[np.ndarray, " boxes"]


def points_in_boxes(
    points: Float[np.ndarray, "points 3"], center: Centers, size: Sizes, yaw: Yaws
) -> Bool[np.ndarray, "points boxes"]:
    """Which points lie in which boxes, their faces included; none in a box with NaN."""
    inside = np.zeros((len(points), len(yaw)), bool)
    for row in range(len(yaw)):
        x, y, z = (points.astype(np.float64) - center[row]).T
        cos, sin = np.cos(yaw[row]), np.sin(yaw[row])
        half = size[row] / 2
        inside[:, row] = (
            (np.abs(cos * x + sin * y) <= half[0])
            & (np.abs(cos * y - sin * x) <= half[1])
            & (np.abs(z) <= half[2])
        )
    return inside


def footprints(center: Centers, size: Sizes, yaw: Yaws) -> Float64[np.ndarray, "boxes 4 2"]:
    """The corners of each box seen from above (m), counterclockwise."""
    half = size[:, None, :2].astype(np.float64) / 2
    local = half * np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    x, y = local[..., 0], local[..., 1]
    turned = np.stack([cos * x - sin * y, sin * x + cos * y], axis=2)
    return turned + center[:, None, :2].astype(np.float64)


def box_iou(
    center: Centers,
    size: Sizes,
    yaw: Yaws,
    other_center: Float[np.ndarray, "others 3"],
    other_size: Float[np.ndarray, "others 3"],
    other_yaw: Float[np.ndarray, " others"],
) -> Float64[np.ndarray, "boxes others"]:
    """Volume of the intersection over that of the union, of each box with each other one.

    The footprints are intersected as polygons by shapely; pairs too far apart to touch cost
    nothing.

    Raises:
        MissingDependencyError: shapely is not installed.
    """
    try:
        import shapely
    except ImportError as error:
        raise MissingDependencyError(
            "the overlap of boxes needs shapely: pip install 'p2pkit[detect]'"
        ) from error
    iou = np.zeros((len(yaw), len(other_yaw)))
    low, high = _heights(center, size)
    other_low, other_high = _heights(other_center, other_size)
    height = np.minimum(high[:, None], other_high) - np.maximum(low[:, None], other_low)
    reach = np.linalg.norm(size[:, :2], axis=1) / 2
    other_reach = np.linalg.norm(other_size[:, :2], axis=1) / 2
    apart = np.linalg.norm(center[:, None, :2] - other_center[None, :, :2], axis=2)
    rows, others = np.nonzero((height > 0) & (apart < reach[:, None] + other_reach))
    if not len(rows):
        return iou
    ours: Any = shapely.polygons(footprints(center, size, yaw))
    theirs: Any = shapely.polygons(footprints(other_center, other_size, other_yaw))
    area = np.asarray(shapely.area(shapely.intersection(ours[rows], theirs[others])))
    shared = area * height[rows, others]
    volume = np.prod(size, axis=1)[rows] + np.prod(other_size, axis=1)[others]
    iou[rows, others] = shared / (volume - shared)
    return iou


def _heights(
    center: Centers, size: Sizes
) -> tuple[Float64[np.ndarray, " boxes"], Float64[np.ndarray, " boxes"]]:
    middle, half = center[:, 2].astype(np.float64), size[:, 2].astype(np.float64) / 2
    return middle - half, middle + half
