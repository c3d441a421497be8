"""From a depth image and the image that colours it to thinned points, each with its pixel."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, UInt8, UInt16, UInt32

from p2pkit.errors import GeometryError
from p2pkit.geometry.backproject import back_project_pixels, pixel_rays, unit_range
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.checks import check_array
from p2pkit.geometry.confidence import Margins, edge_doubts, motion_limits
from p2pkit.geometry.kernels import depth_pairs as kernels
from p2pkit.geometry.kernels.points import spread_minimum
from p2pkit.geometry.project import intrinsics
from p2pkit.geometry.transforms import check_rigid
from p2pkit.geometry.voxelize import VoxelDeduplication, voxel_deduplicate


@dataclass(frozen=True, eq=False)
class ColorView:
    """The image that gives the points of a depth image their colours.

    Args:
        image: RGB, undistorted.
        camera: its intrinsics.
        camera_from_depth: from the depth camera's frame to this one's (m).
        valid: where the image has content; None: everywhere.
        motion_m: |time between depth and image| times the sensor's speed (m).
    """

    image: UInt8[np.ndarray, "height width 3"]
    camera: Camera
    camera_from_depth: Float64[np.ndarray, "4 4"]
    valid: Bool[np.ndarray, "height width"] | None = None
    motion_m: float = 0.0


@dataclass(frozen=True)
class Thinning:
    """Which depth pixels become points.

    Args:
        depth_range_m: nearest and farthest depth (m), both included.
        voxel_size: edge of a voxel, which keeps its first point (m); 0 keeps all.
        margins: when a point is hidden, and how sure a pair is.
    """

    depth_range_m: tuple[float, float] = (0.0, math.inf)
    voxel_size: float = 0.0
    margins: Margins = field(default_factory=Margins)


class DepthPairs(NamedTuple):
    """The points that are kept, row-major in their depth pixels.

    Fields:
        measured: number of depth pixels in the range, whether kept or not.
        pixel: v * width + u in the depth image of each kept point.
        depth: of that pixel (units).
        colors: RGB of the nearest pixel of the image.
        confidence: of the pair, 0 … 255: see `confidence.visibility`.
        seen: all pixels of the depth image that the view sees, or None.
        voxels: of the points of these pixels, or None.
    """

    measured: int
    pixel: UInt32[np.ndarray, " kept"]
    depth: UInt16[np.ndarray, " kept"]
    colors: UInt8[np.ndarray, "kept 3"]
    confidence: UInt8[np.ndarray, " kept"]
    seen: UInt32[np.ndarray, " seen"] | None = None
    voxels: VoxelDeduplication | None = None


def pair_depth(
    depth: UInt16[np.ndarray, "height width"],
    camera: Camera,
    view: ColorView,
    thinning: Thinning,
    *,
    units_per_metre: float,
    with_seen: bool = False,
) -> DepthPairs:
    """Keep the first depth pixel of each voxel whose point the view sees.

    Equal to the bit to `back_project`, `project`, `visibility` of dense depth, the valid pixels and
    `voxel_deduplicate`, one after the other, in less time, except where a depth pixel covers more
    than three pixels of the image: see `blocker_reach`. Nothing hides points from an image that is
    registered to the depth: of the same camera at the same place.

    Args:
        depth: distance along the optical axis (units); 0 means no measurement.
        camera: intrinsics of the depth image.
        view: the image.
        thinning: which pixels are kept.
        units_per_metre: `depth / units_per_metre` is in metres.
        with_seen: return `seen` and `voxels`; has no effect where all points are kept.

    Raises:
        GeometryError: an array is not of its camera's size, a transform is not rigid, or a setting
            makes no sense.
    """
    _check(depth, camera, view, thinning)
    limits = unit_range(thinning.depth_range_m, units_per_metre)
    source = (np.ascontiguousarray(depth), limits, pixel_rays(camera, units_per_metre))
    matrix = np.ascontiguousarray(check_rigid(view.camera_from_depth, "camera_from_depth"))
    pose = (matrix, intrinsics(view.camera))
    size = (view.camera.height + 2, view.camera.width + 2)  # with a border
    nearest = np.full(size, np.inf, np.float32)
    measured = int(kernels.fill_nearest(source, pose, nearest))
    squares, factors = edge_doubts(nearest, thinning.margins)
    if (reach := blocker_reach(camera, view.camera)) > 1:
        nearest = spread_minimum(nearest, reach - 1)
    shown = _shown(view, squares, nearest)
    margins = (float(thinning.margins.margin_m), float(thinning.margins.margin_relative))
    motion = motion_limits(view.camera, thinning.margins, view.motion_m)
    registered = camera == view.camera and np.array_equal(matrix, np.eye(4))
    doubts = (margins, factors, motion, not registered)
    kept, seen = _room(max(measured, 1), thinning.voxel_size > 0, with_seen)
    edge = float(thinning.voxel_size)
    count, found = kernels.thin_depth(source, edge, pose, shown, doubts, kept, seen)
    if found < 0:
        _raise_no_voxel(depth, camera, count, units_per_metre, thinning.voxel_size)
    # Copies, so that a frame does not hold room for all of its pixels.
    pixel, units, colors, confidence, coordinates = (array[:count].copy() for array in kept)
    if not len(seen[0]):
        return DepthPairs(measured, pixel, units, colors, confidence)
    voxels = VoxelDeduplication(seen[2][:count], seen[1][:found], coordinates)
    return DepthPairs(measured, pixel, units, colors, confidence, seen[0][:found], voxels)


def blocker_reach(depth: Camera, image: Camera) -> int:
    """How far around a pixel of the image a depth pixel that hides it may lie (px).

    1 up to three pixels of the image for each of the depth, in a row; then as many more as leave no
    gap between the depth pixels of a surface.
    """
    finer = max(image.fx / depth.fx, image.fy / depth.fy)
    return max(1, math.ceil((finer - 1) / 2 - 1e-6))  # focal lengths are rounded


def _shown(view: ColorView, squares: np.ndarray, nearest: np.ndarray) -> kernels.View:
    """What the kernel knows of each pixel of the image and each cell of the z-buffer."""
    valid = np.ones(0, np.bool_) if view.valid is None else view.valid.ravel()
    image = np.ascontiguousarray(view.image).reshape(-1, 3)
    return (valid, squares, image, nearest.ravel(), nearest.shape[1])


def _check(depth: np.ndarray, camera: Camera, view: ColorView, thinning: Thinning) -> None:
    size = (view.camera.height, view.camera.width)
    check_array("depth", depth, (np.uint16,), (camera.height, camera.width))
    check_array("image", view.image, (np.uint8,), (*size, 3))
    if view.valid is not None:
        check_array("valid", view.valid, (np.bool_,), size)
    if not (math.isfinite(thinning.voxel_size) and thinning.voxel_size >= 0):
        raise GeometryError(f"voxel_size is {thinning.voxel_size} m; it must be at least 0")


def _raise_no_voxel(
    depth: np.ndarray, camera: Camera, pixel: int, units_per_metre: float, voxel_size: float
) -> None:
    """Raise the error of a point whose voxel does not fit in 32 bits."""
    row = np.array([pixel], np.uint32)
    units = depth.reshape(-1)[row]
    point = back_project_pixels(units, row, camera, units_per_metre=units_per_metre)
    voxel_deduplicate(point, voxel_size)


def _room(
    pixels: int, voxels: bool, with_seen: bool
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """What the kernel fills, for as many pixels; memory that it leaves alone costs nothing."""
    kept = (
        np.empty(pixels, np.uint32),
        np.empty(pixels, np.uint16),
        np.empty((pixels, 3), np.uint8),
        np.empty(pixels, np.uint8),
        np.empty((pixels if voxels else 0, 3), np.int32),
    )
    room = pixels if voxels and with_seen else 0
    return kept, (np.empty(room, np.uint32), np.empty(room, np.int64), np.empty(room, np.int64))
