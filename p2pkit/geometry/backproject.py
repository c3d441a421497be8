"""From a depth image to points, each linked to its pixel."""

import math
from bisect import bisect_left, bisect_right
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8, UInt16, UInt32

from p2pkit.errors import GeometryError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.checks import check_array
from p2pkit.geometry.kernels import points as kernels


class BackProjection(NamedTuple):
    """Points of one depth image, row-major in their pixels.

    Fields:
        points: x, y, z in the depth camera's frame (m).
        pixel: v * width + u of each point.
        colors: RGB of each point, or None where no image was given.
    """

    points: Float32[np.ndarray, "points 3"]
    pixel: UInt32[np.ndarray, " points"]
    colors: UInt8[np.ndarray, "points 3"] | None


def back_project(
    depth: UInt16[np.ndarray, "height width"],
    camera: Camera,
    *,
    units_per_metre: float,
    depth_range_m: tuple[float, float] = (0.0, math.inf),
    image: UInt8[np.ndarray, "height width 3"] | None = None,
) -> BackProjection:
    """Turn each measured pixel of a depth image into a point.

    The arithmetic is float64, rounded once to float32, and the same as `back_project_pixels` uses.

    Args:
        depth: distance along the optical axis in units; 0 means no measurement and gives no point.
        camera: intrinsics of the depth image.
        units_per_metre: `depth / units_per_metre` is in metres.
        depth_range_m: nearest and farthest depth that gives a point (m), both included.
        image: colours that are registered to the depth image, pixel for pixel.

    Raises:
        GeometryError: `depth` or `image` is not of the camera's size or of another dtype, or the
            unit or range makes no sense.
    """
    check_array("depth", depth, (np.uint16,), (camera.height, camera.width))
    rays = pixel_rays(camera, units_per_metre)
    limits = unit_range(depth_range_m, units_per_metre)
    depth = np.ascontiguousarray(depth)
    count = int(kernels.count_between(depth, limits))
    points = np.empty((count, 3), np.float32)
    pixel = np.empty(count, np.uint32)
    kernels.back_project_image(depth, limits, rays, points, pixel)
    colors = None
    if image is not None:
        check_array("image", image, (np.uint8,), (camera.height, camera.width, 3))
        colors = np.empty((count, 3), np.uint8)
        kernels.gather_colors(np.ascontiguousarray(image).reshape(-1, 3), pixel, colors)
    return BackProjection(points, pixel, colors)


def back_project_pixels(
    depth: UInt16[np.ndarray, " points"],
    pixel: UInt32[np.ndarray, " points"],
    camera: Camera,
    *,
    units_per_metre: float,
) -> Float32[np.ndarray, "points 3"]:
    """Rebuild points from stored depths and pixels, equal to the bit to those of `back_project`.

    Args:
        depth: depth of each pixel (units); 0 gives the origin.
        pixel: v * width + u of each.
        camera: intrinsics of the depth image.
        units_per_metre: `depth / units_per_metre` is in metres.

    Raises:
        GeometryError: the lengths differ, a pixel lies outside the image, or the unit is unusable.
    """
    check_array("pixel", pixel, (np.uint32,), (None,))
    check_array("depth", depth, (np.uint16,), (len(pixel),))
    pixels = camera.width * camera.height
    if len(pixel) and int(pixel.max()) >= pixels:
        raise GeometryError(
            f"pixel index {int(pixel.max())} lies outside the {camera.width} x {camera.height} "
            f"image; it must be under {pixels}: check that camera and pixels belong together"
        )
    points = np.empty((len(pixel), 3), np.float32)
    rays = pixel_rays(camera, units_per_metre)
    kernels.back_project_list(depth, pixel, camera.width, rays, points)
    return points


def unit_range(depth_range_m: tuple[float, float], units_per_metre: float) -> tuple[int, int]:
    """The first and last stored value whose depth lies in the range, (1, 0) where none does."""
    nearest, farthest = depth_range_m
    if not 0 <= nearest <= farthest:
        raise GeometryError(
            f"depth_range_m is {depth_range_m}; expected 0 <= nearest <= farthest (m)"
        )
    values = range(1, 2**16)
    first = bisect_left(values, nearest, key=lambda value: value / units_per_metre)
    last = bisect_right(values, farthest, key=lambda value: value / units_per_metre)
    return (first + 1, last) if first < last else (1, 0)


def pixel_rays(
    camera: Camera, units_per_metre: float
) -> tuple[Float64[np.ndarray, " width"], Float64[np.ndarray, " height"], float]:
    """What one unit of depth is in x for each column, in y for each row, and in z (m)."""
    if not (math.isfinite(units_per_metre) and units_per_metre > 0):
        raise GeometryError(
            f"units_per_metre is {units_per_metre}; it must be finite and positive, e.g. 1000 for "
            "depth in millimetres"
        )
    metres = 1.0 / units_per_metre
    ray_x = (np.arange(camera.width) - camera.cx) / camera.fx * metres
    ray_y = (np.arange(camera.height) - camera.cy) / camera.fy * metres
    return ray_x, ray_y, metres
