"""From points to pixels of an image, and which of them another surface hides."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from p2pkit.errors import GeometryError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.checks import check_array
from p2pkit.geometry.kernels import points as kernels
from p2pkit.geometry.transforms import check_rigid


class Projection(NamedTuple):
    """Where each point falls in an image; rows stay aligned with the points.

    Fields:
        pixel_uv: u, v (px, centres at integers); 0 for points that are not in front of the camera.
        depth_m: distance along the optical axis (m); not positive behind the camera.
        visible: in front and inside [-0.5, width - 0.5) x [-0.5, height - 0.5), so that the nearest
            pixel exists.
    """

    pixel_uv: Float32[np.ndarray, "points 2"]
    depth_m: Float32[np.ndarray, " points"]
    visible: Bool[np.ndarray, " points"]


def project(
    points: Float32[np.ndarray, "points 3"],
    camera: Camera,
    camera_from_points: Float64[np.ndarray, "4 4"] | None = None,
) -> Projection:
    """Project points into an image, in float64, rounded once to float32.

    A point that is NaN, infinite or more than 1e9 px aside is invisible with `pixel_uv` 0.

    Args:
        points: x, y, z (m).
        camera: intrinsics of the undistorted image.
        camera_from_points: from the points' frame to the camera's; None if they share one.

    Raises:
        GeometryError: `camera_from_points` is not rigid.
    """
    check_array("points", points, (np.float32,), (None, 3))
    matrix = np.eye(4)
    if camera_from_points is not None:
        matrix = np.ascontiguousarray(check_rigid(camera_from_points, "camera_from_points"))
    pixel_uv = np.empty((len(points), 2), np.float32)
    depth_m = np.empty(len(points), np.float32)
    visible = np.empty(len(points), np.bool_)
    size = (camera.width, camera.height)
    kernels.project_points(
        np.ascontiguousarray(points), matrix, intrinsics(camera), size, pixel_uv, depth_m, visible
    )
    return Projection(pixel_uv, depth_m, visible)


def project_visible(
    points: Float32[np.ndarray, "points 3"],
    camera: Camera,
    camera_from_points: Float64[np.ndarray, "4 4"],
) -> tuple[Int64[np.ndarray, " visible"], Projection]:
    """The rows of the points that are visible in an image, and the projection of these alone.

    The arguments are those of `project`.

    Raises:
        GeometryError: as `project`.
    """
    check_array("points", points, (np.float32,), (None, 3))
    matrix = np.ascontiguousarray(check_rigid(camera_from_points, "camera_from_points"))
    room = len(points) + 1  # the kernel writes each point before it knows whether it counts
    rows, depth_m = np.empty(room, np.int64), np.empty(room, np.float32)
    pixel_uv = np.empty((room, 2), np.float32)
    pose, size = (matrix, intrinsics(camera)), (camera.width, camera.height)
    count = kernels.project_visible(
        np.ascontiguousarray(points), pose, size, rows, pixel_uv, depth_m
    )
    visible = np.ones(count, np.bool_)
    return rows[:count], Projection(pixel_uv[:count], depth_m[:count], visible)


def intrinsics(camera: Camera) -> tuple[float, float, float, float]:
    """fx, fy, cx and cy (px) as the kernels take them."""
    return (float(camera.fx), float(camera.fy), float(camera.cx), float(camera.cy))


def nearest_pixels(
    pixel_uv: Float32[np.ndarray, "pixels 2"], width: int, height: int
) -> tuple[Int64[np.ndarray, " pixels"], Int64[np.ndarray, " pixels"]]:
    """Column and row of the pixel nearest to each (u, v) (px), the border's for those outside."""
    u, v = np.rint(pixel_uv).astype(np.int64).T
    return np.clip(u, 0, width - 1), np.clip(v, 0, height - 1)


def nearest_colors(
    image: UInt8[np.ndarray, "height width 3"], pixel_uv: Float32[np.ndarray, "pixels 2"]
) -> UInt8[np.ndarray, "pixels 3"]:
    """RGB of the pixel nearest to each (u, v) (px), the border's for those outside."""
    check_array("image", image, (np.uint8,), (None, None, 3))
    check_array("pixel_uv", pixel_uv, (np.float32,), (None, 2))
    colors = np.empty((len(pixel_uv), 3), np.uint8)
    kernels.nearest_colors(np.ascontiguousarray(image), np.ascontiguousarray(pixel_uv), colors)
    return colors


def visible_after_occlusion(
    projection: Projection,
    camera: Camera,
    *,
    splat_px: int = 1,
    downscale: int = 1,
    margin_m: float = 0.05,
    margin_relative: float = 0.05,
) -> Bool[np.ndarray, " points"]:
    """Mark points that lie behind a nearer one as invisible (z-buffer test).

    Each visible point covers (2 splat_px + 1)² cells of an image of 1/downscale the size; a point
    is hidden if it is deeper than the nearest one covering its cell by more than both margins.
    Sparse LiDAR needs a lower resolution or a wider splat than an image of dense depth.

    Args:
        projection: from `project` with the same camera.
        camera: intrinsics of the image.
        splat_px: how far a point reaches to each side (cells).
        downscale: edge of a cell (px).
        margin_m: smallest depth difference that hides (m).
        margin_relative: the same as a fraction of the point's depth; slanted surfaces need it.

    Raises:
        GeometryError: an option is out of range, or the projection does not fit the camera.
    """
    if splat_px < 0 or downscale < 1 or not (margin_m >= 0 and margin_relative >= 0):
        raise GeometryError(
            f"occlusion options are splat_px={splat_px} (at least 0), downscale={downscale} (at "
            f"least 1), margin_m={margin_m} and margin_relative={margin_relative} (at least 0)"
        )
    count = len(projection.visible)
    check_array("projection.pixel_uv", projection.pixel_uv, (np.float32,), (count, 2))
    check_array("projection.depth_m", projection.depth_m, (np.float32,), (count,))
    rows, columns = -(-camera.height // downscale), -(-camera.width // downscale)
    nearest = np.full((rows, columns), np.inf, np.float32)
    cells = np.empty(count, np.int64)
    if not kernels.nearest_depth(*projection, downscale, nearest, cells):
        raise GeometryError(
            f"a visible point lies outside the {camera.width} x {camera.height} px image; pass the "
            "camera that the projection was made with"
        )
    nearest = kernels.spread_minimum(nearest, splat_px)
    kept = np.empty(count, np.bool_)
    margins = (float(margin_m), float(margin_relative))
    kernels.within_margin(cells, projection.depth_m, nearest.ravel(), margins, kept)
    return kept
