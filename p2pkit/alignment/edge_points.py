"""Where a frame's geometry has edges, found without its camera calibration.

The edges stay the same whatever calibration is tried, so that alternatives compare.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from p2pkit.alignment import edge_kernels
from p2pkit.datasets.frame import DepthImage, Frame

LIMITS = (0.08, 3.0)
DEPTH_GAP_PX = 12
ROW_GAP, COLUMN_GAP = 5, 6
RANGE_OF_MEDIAN = (0.15, 8.0)
"""Distances in use, as shares of the median: not the vehicle, and not the farthest specks."""
ORIGIN_M, ORIGIN_SHARE = 0.05, 0.01
"""Nearer than this and than this share of the farthest point is the sensor itself."""
INTENSITY_SHARE = 0.02
MOST_POINTS = 24_000
BLOCKS = 48


class EdgePoints(NamedTuple):
    """Points on the near side of steps in depth, and at steps in a LiDAR's intensity.

    Fields:
        points: in the sensor's frame (m).
        direction: 0 where the step is along the sensor's rows, 1 where along its columns.
        block: which of `BLOCKS` sectors of the field of view each lies in.
    """

    points: Float64[np.ndarray, "edges 3"]
    direction: Int64[np.ndarray, " edges"]
    block: Int64[np.ndarray, " edges"]


def edge_points(frame: Frame, random: np.random.Generator) -> EdgePoints:
    """The steps in a frame's depth; at most `MOST_POINTS` per direction, shared by the views."""
    most = MOST_POINTS // max(len(frame.views), 1)
    if frame.depth is not None:
        found = _steps_of_depth(frame.depth)
    else:
        assert frame.points is not None
        found = _steps_of_points(frame.points, frame.intensity)
    parts: list[EdgePoints] = []
    for direction in (0, 1):
        rows = np.flatnonzero(found.direction == direction)
        if len(rows) > most:
            rows = np.sort(random.choice(rows, most, replace=False))
        parts.append(EdgePoints(*(field[rows] for field in found)))
    return EdgePoints(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def returned(cloud: Float32[np.ndarray, "points 3"]) -> Bool[np.ndarray, " points"]:
    """Which points something was measured at: they are finite, and not at the sensor, where some
    LiDARs put beams that did not come back.
    """
    distance = np.linalg.norm(cloud.astype(np.float64), axis=1)
    distance[~np.isfinite(distance)] = 0
    return distance > min(ORIGIN_M, ORIGIN_SHARE * distance.max(initial=0.0))


def _steps_of_depth(depth: DepthImage) -> EdgePoints:
    """The edge itself lies half a pixel beyond the near side's pixel."""
    camera = depth.camera
    depth_m = (depth.values / depth.units_per_metre).astype(np.float32)
    points: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    for direction in (0, 1):
        near, far = _steps(depth_m, direction, DEPTH_GAP_PX)
        z = depth_m[near[0], near[1]].astype(np.float64)
        v, u = near + 0.5 * np.sign(far - near)
        x, y = (u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z
        points.append(np.stack([x, y, z], axis=1))
        columns.append(near[1] * BLOCKS // camera.width)
    return _joined(points, columns)


def _steps_of_points(
    cloud: Float32[np.ndarray, "points 3"], intensity: Float32[np.ndarray, " points"] | None
) -> EdgePoints:
    """Steps between neighbours in a spherical image around the sensor's spin axis."""
    known = returned(cloud)
    points = cloud[known].astype(np.float64)
    distance = np.linalg.norm(points, axis=1)
    strength = None if intensity is None else intensity[known]
    low, high = np.multiply(RANGE_OF_MEDIAN, np.median(distance) if len(distance) else 1.0)
    usable = (distance > low) & (distance < high)
    points, distance = points[usable], distance[usable]
    strength = None if strength is None else strength[usable]
    azimuth, elevation = _angles(points, distance)
    row_step, column_step = _angular_steps(azimuth, elevation)
    rows = np.floor((elevation - elevation.min(initial=0)) / row_step).astype(np.int64)
    columns = np.floor((azimuth + np.pi) / column_step).astype(np.int64)
    image = np.zeros((rows.max(initial=0) + 1, columns.max(initial=0) + 1), np.float32)
    source = np.full(image.shape, -1, np.int64)
    far_to_near = np.argsort(-distance, kind="stable")
    image[rows[far_to_near], columns[far_to_near]] = distance[far_to_near]
    source[rows[far_to_near], columns[far_to_near]] = far_to_near
    sector = np.minimum(((azimuth + np.pi) / (2 * np.pi) * BLOCKS).astype(np.int64), BLOCKS - 1)
    found: list[np.ndarray] = []
    sectors: list[np.ndarray] = []
    for direction, gap in ((0, ROW_GAP), (1, COLUMN_GAP)):
        near, far = _steps(image, direction, gap)
        here, there = source[near[0], near[1]], source[far[0], far[1]]
        apart = np.abs(far - near).sum(axis=0)[:, None]
        ray, other = points[here] / distance[here, None], points[there] / distance[there, None]
        ray = ray + 0.5 * (other - ray) / apart
        found.append(ray / np.linalg.norm(ray, axis=1)[:, None] * distance[here, None])
        sectors.append(sector[here])
    if strength is not None:
        one, other = _intensity_steps(image, source, strength)
        found[0] = np.concatenate([found[0], 0.5 * (points[one] + points[other])])
        sectors[0] = np.concatenate([sectors[0], sector[one]])
    return _joined(found, sectors)


def _intensity_steps(
    image: Float32[np.ndarray, "rows columns"],
    source: Int64[np.ndarray, "rows columns"],
    intensity: Float32[np.ndarray, " points"],
) -> tuple[Int64[np.ndarray, " steps"], Int64[np.ndarray, " steps"]]:
    """Neighbours along a row on one surface whose intensities differ most: paint, signs."""
    left, right = source[:, :-1], source[:, 1:]
    depth, other = image[:, :-1], image[:, 1:]
    smooth = (left >= 0) & (right >= 0)
    smooth &= np.abs(depth - other) < 0.5 * LIMITS[0] * np.minimum(depth, other)
    one, two = left[smooth], right[smooth]
    change = np.abs(intensity[one] - intensity[two])
    if len(change) == 0:
        return one, two
    strongest = change > max(float(np.quantile(change, 1 - INTENSITY_SHARE)), 0.0)
    return one[strongest], two[strongest]


def _angles(
    points: Float64[np.ndarray, "points 3"], distance: Float64[np.ndarray, " points"]
) -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
    """Azimuth and elevation about the axis from which the elevations spread least.

    A spinning LiDAR sees a band around its axis, so its axis is found whatever it is called.
    """
    sines = points / np.maximum(distance, 1e-9)[:, None]
    spread = np.subtract(*np.percentile(sines, [95, 5], axis=0)) if len(points) else np.zeros(3)
    axis = int(np.argmin(spread))
    one, two = (axis + 1) % 3, (axis + 2) % 3
    azimuth = np.arctan2(points[:, two], points[:, one])
    return azimuth, np.arcsin(np.clip(sines[:, axis], -1, 1))


def _angular_steps(
    azimuth: Float64[np.ndarray, " points"], elevation: Float64[np.ndarray, " points"]
) -> tuple[float, float]:
    """Row and column size of the spherical image (rad), both about one point wide at the most."""
    if len(azimuth) < 2:
        return 0.01, 0.01
    width = max(len(np.unique(np.round(azimuth, 2))) * 0.01, 0.01)
    height = max(float(np.subtract(*np.percentile(elevation, [99, 1]))), 0.01)
    side = float(np.sqrt(width * height / len(azimuth)))
    return float(np.clip(side, 0.002, 0.02)), float(np.clip(0.7 * side, 0.002, 0.02))


def _steps(
    image: Float32[np.ndarray, "rows columns"], direction: int, gap: int
) -> tuple[Int64[np.ndarray, "2 steps"], Int64[np.ndarray, "2 steps"]]:
    """(row, column) of the near and of the far side of each step along rows (0) or columns (1)."""
    turned = np.ascontiguousarray(image.T) if direction == 1 else image
    far = np.full((2, *turned.shape), -1, np.int64)
    edge_kernels.mark_steps(turned, LIMITS, gap, far)
    _, row, column = np.nonzero(far >= 0)
    near_side, far_side = np.stack([row, column]), np.stack([row, far[far >= 0]])
    return (near_side[::-1], far_side[::-1]) if direction == 1 else (near_side, far_side)


def _joined(points: list[np.ndarray], blocks: list[np.ndarray]) -> EdgePoints:
    """One of each list per direction."""
    direction = [np.full(len(part), number, np.int64) for number, part in enumerate(points)]
    return EdgePoints(np.concatenate(points), np.concatenate(direction), np.concatenate(blocks))
