"""Where a frame's geometry has edges, found without its camera calibration.

The edges stay the same whatever calibration is tried, so that alternatives compare.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from p2pkit.datasets.frame import DepthImage, Frame
from p2pkit.evaluation import edge_kernels

DEPTH_LIMITS = (0.1, 0.08, 3.0)
POINT_LIMITS = (0.3, 0.08, 3.0)
DEPTH_GAP_PX = 12
RANGE_M = (1.5, 80.0)
MOST_POINTS = 4000
BLOCKS = 24


class EdgePoints(NamedTuple):
    """Points on the near side of steps in depth.

    Fields:
        points: in the sensor's frame (m).
        direction: 0 where the step is along the sensor's rows, 1 where along its columns.
        block: which of `BLOCKS` sectors of the field of view each lies in.
    """

    points: Float64[np.ndarray, "edges 3"]
    direction: Int64[np.ndarray, "edges"]
    block: Int64[np.ndarray, "edges"]


def edge_points(frame: Frame, random: np.random.Generator) -> EdgePoints:
    """The steps in a frame's depth, at most `MOST_POINTS` per direction, drawn by `random`."""
    if frame.depth is not None:
        found = _steps_of_depth(frame.depth)
    else:
        assert frame.points is not None
        found = _steps_of_points(frame.points)
    parts: list[EdgePoints] = []
    for direction in (0, 1):
        rows = np.flatnonzero(found.direction == direction)
        if len(rows) > MOST_POINTS:
            rows = np.sort(random.choice(rows, MOST_POINTS, replace=False))
        parts.append(EdgePoints(*(field[rows] for field in found)))
    return EdgePoints(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def _steps_of_depth(depth: DepthImage) -> EdgePoints:
    camera = depth.camera
    depth_m = (depth.values / depth.units_per_metre).astype(np.float32)
    points: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    for direction in (0, 1):
        v, u = np.nonzero(_marked(depth_m, direction, DEPTH_LIMITS, DEPTH_GAP_PX))
        z = depth_m[v, u].astype(np.float64)
        points.append(np.stack([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z]))
        columns.append(u * BLOCKS // camera.width)
    return _joined([part.T for part in points], columns)


def _steps_of_points(cloud: Float32[np.ndarray, "points 3"]) -> EdgePoints:
    """Steps between neighbours in a spherical image around the sensor's spin axis."""
    points = cloud.astype(np.float64)
    distance = np.linalg.norm(points, axis=1)
    usable = np.isfinite(distance) & (distance > RANGE_M[0]) & (distance < RANGE_M[1])
    points, distance = points[usable], distance[usable]
    azimuth, elevation = _angles(points, distance)
    row_step, column_step = _angular_steps(azimuth, elevation)
    rows = np.floor((elevation - elevation.min(initial=0)) / row_step).astype(np.int64)
    columns = np.floor((azimuth + np.pi) / column_step).astype(np.int64)
    image = np.zeros((rows.max(initial=0) + 1, columns.max(initial=0) + 1), np.float32)
    source = np.full(image.shape, -1, np.int64)
    far_to_near = np.argsort(-distance, kind="stable")
    image[rows[far_to_near], columns[far_to_near]] = distance[far_to_near]
    source[rows[far_to_near], columns[far_to_near]] = far_to_near
    found: list[np.ndarray] = []
    for direction, gap in ((0, 5), (1, 6)):
        found.append(source[_marked(image, direction, POINT_LIMITS, gap)])
    sector = np.minimum(((azimuth + np.pi) / (2 * np.pi) * BLOCKS).astype(np.int64), BLOCKS - 1)
    return _joined([points[rows] for rows in found], [sector[rows] for rows in found])


def _angles(
    points: Float64[np.ndarray, "points 3"], distance: Float64[np.ndarray, "points"]
) -> tuple[Float64[np.ndarray, "points"], Float64[np.ndarray, "points"]]:
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
    azimuth: Float64[np.ndarray, "points"], elevation: Float64[np.ndarray, "points"]
) -> tuple[float, float]:
    """Row and column size of the spherical image (rad), both about one point wide at the most."""
    if len(azimuth) < 2:
        return 0.01, 0.01
    width = max(len(np.unique(np.round(azimuth, 2))) * 0.01, 0.01)
    height = max(float(np.subtract(*np.percentile(elevation, [99, 1]))), 0.01)
    side = float(np.sqrt(width * height / len(azimuth)))
    return float(np.clip(side, 0.002, 0.02)), float(np.clip(0.7 * side, 0.002, 0.02))


def _marked(
    image: Float32[np.ndarray, "rows columns"],
    direction: int,
    limits: tuple[float, float, float],
    gap: int,
) -> Bool[np.ndarray, "rows columns"]:
    turned = np.ascontiguousarray(image.T) if direction == 1 else image
    marked = np.zeros(turned.shape, np.bool_)
    edge_kernels.mark_steps(turned, limits, gap, marked)
    return marked.T if direction == 1 else marked


def _joined(
    points: list[Float[np.ndarray, "edges 3"]], blocks: list[Int64[np.ndarray, "edges"]]
) -> EdgePoints:
    direction = [np.full(len(part), number, np.int64) for number, part in enumerate(points)]
    return EdgePoints(np.concatenate(points), np.concatenate(direction), np.concatenate(blocks))
