"""Upright boxes: how many points lie in them, their corners, and how much two of them overlap.

Boxes that are compared are in the same axes.
"""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64

from p2pkit.errors import MissingDependencyError
from p2pkit.geometry.kernels import boxes as kernels

TILES = 32
"""Along x and along y."""
SPARE_M = 1e-3
"""By which boxes reach further, so that rounding leaves no point of theirs out."""


class Upright(NamedTuple):
    """Boxes in axes with z up.

    Fields:
        center: the middle of each (m).
        size: its sides along its own x and y, and its height (m).
        yaw: from the axes' x to its own, about z (rad).
    """

    center: Float[np.ndarray, "boxes 3"]
    size: Float[np.ndarray, "boxes 3"]
    yaw: Float[np.ndarray, " boxes"]


def count_in_boxes(
    points: Float[np.ndarray, "points 3"], boxes: Upright
) -> Int64[np.ndarray, " boxes"]:
    """How many points each box holds, those on its faces included; 0 with NaN or infinity.

    A point is only compared with the boxes that reach into its tile of the ground.
    """
    counts = np.zeros(len(boxes.yaw), np.int64)
    rows = np.column_stack((boxes.center, boxes.size / 2, np.cos(boxes.yaw), np.sin(boxes.yaw)))
    usable = np.flatnonzero(np.isfinite(rows).all(axis=1))
    if not len(usable):
        return counts
    rows = rows[usable].astype(np.float64)
    reach = np.hypot(rows[:, 3], rows[:, 4])[:, None] + SPARE_M
    low, high = rows[:, :2] - reach, rows[:, :2] + reach
    edges = np.linspace(low.min(axis=0), high.max(axis=0), TILES + 1)
    reaches = (edges[1:, None] >= low) & (edges[:-1, None] <= high)
    tiles = (reaches[:, None, :, 0] & reaches[None, :, :, 1]).reshape(TILES * TILES, -1)
    first = np.append(0, np.cumsum(tiles.sum(axis=1)))
    per_metre = TILES / (edges[-1] - edges[0])
    found = np.zeros(len(usable), np.int64)
    kernels.count_in_boxes(
        np.ascontiguousarray(points, np.float64),
        rows,
        (edges[0], per_metre, TILES),
        (first, np.nonzero(tiles)[1]),
        found,
    )
    counts[usable] = found
    return counts


def footprints(boxes: Upright) -> Float64[np.ndarray, "boxes 4 2"]:
    """The corners of each box seen from above (m), counterclockwise."""
    half = boxes.size[:, None, :2].astype(np.float64) / 2
    local = half * np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    cos, sin = np.cos(boxes.yaw)[:, None], np.sin(boxes.yaw)[:, None]
    x, y = local[..., 0], local[..., 1]
    turned = np.stack([cos * x - sin * y, sin * x + cos * y], axis=2)
    return turned + boxes.center[:, None, :2].astype(np.float64)


def polygons() -> ModuleType:
    """The library that intersects footprints, shapely.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import shapely
    except ImportError as error:
        raise MissingDependencyError(
            "the overlap of boxes needs shapely: pip install 'p2pkit[detect]'"
        ) from error
    return shapely


def box_iou(boxes: Upright, others: Upright) -> Float64[np.ndarray, "boxes others"]:
    """Volume of the intersection over that of the union, of each box with each other one.

    The footprints are intersected as polygons by shapely; pairs too far apart to touch cost
    nothing.

    Raises:
        MissingDependencyError: shapely is not installed.
    """
    shapely = polygons()
    iou = np.zeros((len(boxes.yaw), len(others.yaw)))
    (low, high), (other_low, other_high) = _heights(boxes), _heights(others)
    height = np.minimum(high[:, None], other_high) - np.maximum(low[:, None], other_low)
    reach, other_reach = (np.linalg.norm(x.size[:, :2], axis=1) / 2 for x in (boxes, others))
    apart = np.linalg.norm(boxes.center[:, None, :2] - others.center[None, :, :2], axis=2)
    rows, columns = np.nonzero((height > 0) & (apart < reach[:, None] + other_reach))
    if not len(rows):
        return iou
    ours: Any = shapely.polygons(footprints(boxes))
    theirs: Any = shapely.polygons(footprints(others))
    area = np.asarray(shapely.area(shapely.intersection(ours[rows], theirs[columns])))
    shared = area * height[rows, columns]
    volume = np.prod(boxes.size, axis=1)[rows] + np.prod(others.size, axis=1)[columns]
    iou[rows, columns] = shared / (volume - shared)
    return iou


def _heights(
    boxes: Upright,
) -> tuple[Float64[np.ndarray, " boxes"], Float64[np.ndarray, " boxes"]]:
    middle, half = boxes.center[:, 2].astype(np.float64), boxes.size[:, 2].astype(np.float64) / 2
    return middle - half, middle + half
