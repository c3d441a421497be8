"""Which points a view sees, and how sure each pair is; docs/check-details.md has the equations."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8, UInt16, UInt32

from p2pkit.errors import GeometryError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.kernels import occlusion as occlusion_kernels
from p2pkit.geometry.kernels import points as kernels
from p2pkit.geometry.project import Projection

LARGEST_REACH_PX = 64.0


@dataclass(frozen=True)
class Margins:
    """When a point is hidden, and how sure a pair is.

    Args:
        margin_m, margin_relative: a point is hidden if it lies behind its blocker by more than the
            larger of this distance (m) and this share of its depth.
        edge_px: farther than this from any depth edge, an edge costs no confidence (px).
        motion_px: apparent motion between point and image that halves the confidence (px).
    """

    margin_m: float = 0.05
    margin_relative: float = 0.05
    edge_px: float = 4.0
    motion_px: float = 8.0

    def __post_init__(self) -> None:
        if not (self.margin_m >= 0 and self.margin_relative >= 0):
            raise GeometryError(
                f"margin_m is {self.margin_m} and margin_relative {self.margin_relative}; both "
                "must be at least 0"
            )
        if not (0 < self.edge_px <= LARGEST_REACH_PX and self.motion_px > 0):
            raise GeometryError(
                f"edge_px is {self.edge_px} (above 0, at most {LARGEST_REACH_PX:g}) and motion_px "
                f"{self.motion_px} (above 0)"
            )


class Visibility(NamedTuple):
    """What a view sees of each point; rows stay aligned with the points.

    Fields:
        seen: in the image and not hidden.
        confidence: 0 … 255 for 0 … 1; 0 where not seen.
    """

    seen: Bool[np.ndarray, " points"]
    confidence: UInt8[np.ndarray, " points"]


def visibility(
    projection: Projection,
    camera: Camera,
    margins: Margins,
    *,
    spacing_px: float = 0.0,
    motion_m: float = 0.0,
    hide: bool = True,
) -> Visibility:
    """The points that a view sees and the confidence of their pairs.

    confidence = occlusion · edge · motion, each in 0 … 1 and 1 where there is no doubt:

        occlusion = 1 - behind / margin(depth)         behind: depth minus its blocker's depth
        edge      = min(1, (distance to the nearest depth edge) / edge_px)
        motion    = 1 / (1 + f · motion_m / depth / motion_px)

    Args:
        projection: of the points into this camera.
        camera: of the image.
        margins: see there.
        spacing_px: distance of neighbouring scan lines of a sparse sensor in the image; 0 where
            every pixel may have a point. Under 2 px a point's blocker is the nearest point in the
            3 x 3 pixels around it. Else cells are `spacing_px / 4` wide and the blocker must be
            nearer on two opposite sides (Pintus et al. 2011 ask the same of sectors): the road is
            nearer below each of its points, but not above.
        motion_m: |time between points and image| times the sensor's speed (m).
        hide: false for an image that is registered to the depth: nothing hides its own pixels.

    Raises:
        GeometryError: the projection does not fit the camera.
    """
    cell = 1 if spacing_px < 2 else max(1, round(spacing_px / 4))
    nearest, cells = _z_buffer(projection, camera, cell)
    behind = np.zeros(len(cells))
    if hide and spacing_px < 2:
        spread = kernels.spread_minimum(nearest, 1)
        occlusion_kernels.depth_behind(cells, projection.depth_m, spread.ravel(), behind)
    elif hide:
        reach = math.ceil(spacing_px / cell)
        blockers = occlusion_kernels.side_blockers(nearest, reach)
        occlusion_kernels.depth_behind(cells, projection.depth_m, blockers.ravel(), behind)
    seen = np.empty(len(cells), np.bool_)
    confidence = np.empty(len(cells), np.uint8)
    limits = (float(margins.margin_m), float(margins.margin_relative))
    points = (projection.visible, cells, projection.depth_m, behind)
    motion = motion_limits(camera, margins, motion_m)
    edges = edge_doubts(nearest, margins, cell)
    occlusion_kernels.see(points, limits, edges, motion, seen, confidence)
    return Visibility(seen, confidence)


def line_spacing_px(projection: Projection, camera: Camera) -> float:
    """Distance between neighbouring scan lines in the image (px); 0 without enough points.

    In upright strips as wide as the mean distance between points, the gaps between successive
    points down the strip, each counted by its length; their median. It is about 1 for dense depth
    and tens of pixels for a 32-line LiDAR.
    """
    pixel_uv = projection.pixel_uv
    if not projection.visible.all():
        pixel_uv = pixel_uv.compress(projection.visible, axis=0)
    if len(pixel_uv) < 64:
        return 0.0
    u, v = pixel_uv[:, 0].astype(np.float64), np.ascontiguousarray(pixel_uv[:, 1])
    extent = [np.ptp(np.percentile(axis, [1, 99])) for axis in (u, v.astype(np.float64))]
    width = max(1.0, math.sqrt(float(extent[0] * extent[1]) / len(u)))
    # By strip and, in it, by v, both in one whole number: sorting them is four times as fast as
    # `argsort`.
    strip = np.floor((u + 0.5) / width).astype(np.uint64)
    order = np.sort(strip << np.uint64(32) | _ordered_bits(v))
    v = _floats_of((order & np.uint64(0xFFFFFFFF)).astype(np.uint32)).astype(np.float64)
    gap = np.diff(v)[np.diff(order >> np.uint64(32)) == 0]
    gap = np.sort(gap[gap > 0])
    if len(gap) == 0:
        return 0.0
    middle = np.searchsorted(np.cumsum(gap), gap.sum() / 2)
    return float(min(gap[middle], LARGEST_REACH_PX, camera.height / 4))


def _ordered_bits(values: Float32[np.ndarray, " values"]) -> UInt32[np.ndarray, " values"]:
    """Whole numbers in the order of floats: their bits, those of negative ones reversed."""
    bits = values.view(np.uint32)
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))


def _floats_of(ordered: UInt32[np.ndarray, " values"]) -> Float32[np.ndarray, " values"]:
    """The floats of `_ordered_bits`."""
    positive = ordered >> np.uint32(31)
    return np.where(positive, ordered & np.uint32((1 << 31) - 1), ~ordered).view(np.float32)


def _z_buffer(
    projection: Projection, camera: Camera, cell: int
) -> tuple[Float32[np.ndarray, "rows columns"], np.ndarray]:
    rows, columns = -(-camera.height // cell), -(-camera.width // cell)
    nearest = np.full((rows, columns), np.inf, np.float32)
    cells = np.empty(len(projection.visible), np.int64)
    if not kernels.nearest_depth(*projection, cell, nearest, cells):
        raise GeometryError(
            f"a visible point lies outside the {camera.width} x {camera.height} px image; pass the "
            "camera that the projection was made with"
        )
    return nearest, cells


def edge_doubts(
    nearest: Float32[np.ndarray, "rows columns"], margins: Margins, cell: int = 1
) -> tuple[UInt16[np.ndarray, " cells"], Float64[np.ndarray, " squares"]]:
    """Squared distance of each cell, row-major, to the nearest depth edge (cells), and what each
    leaves of the confidence.

    Args:
        nearest: z-buffer (m); infinite where no point falls.
        margins: see there.
        cell: width of its cells (px).
    """
    edge = np.zeros(nearest.shape, np.bool_)
    limits = (float(margins.margin_m), float(margins.margin_relative))
    occlusion_kernels.mark_jumps(nearest, limits, edge)
    limit = math.ceil(margins.edge_px / cell) + 1  # farther ones cost nothing
    factors = occlusion_kernels.edge_factors(limit, float(cell), float(margins.edge_px))
    return occlusion_kernels.edge_squares(edge, limit).ravel(), factors


def motion_limits(camera: Camera, margins: Margins, motion_m: float) -> tuple[float, float]:
    """Focal length times the sensor's way (px m), and the motion that halves confidence (px)."""
    return float(max(camera.fx, camera.fy) * motion_m), float(margins.motion_px)
