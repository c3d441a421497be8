"""Depth sensors mix the near and the far side of an edge into points that float between them."""

import numpy as np
from jaxtyping import UInt16

from p2pkit.errors import GeometryError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.checks import check_array
from p2pkit.geometry.kernels import flying_pixels as edge_kernels

STEEPEST = 6.0
"""Tangent of 80°, the angle between normal and ray up to which a surface is believed.

Between neighbouring pixels such a surface's depth differs by the tangent over the focal length."""


def drop_flying_pixels(
    depth: UInt16[np.ndarray, "height width"], camera: Camera, *, margin: float
) -> UInt16[np.ndarray, "height width"]:
    """Depth with 0 where neither neighbour along a row, or along a column, is on the same surface.

    Args:
        depth: in any unit; 0 means no measurement.
        camera: intrinsics of the depth image: how steep a surface may look depends on its pixels.
        margin: share of the depth by which neighbours on one surface may differ; raised to what a
            surface at 80° to the ray needs.

    Raises:
        GeometryError: the margin is not positive, or the depth is not of the camera's size.
    """
    if not 0 < margin < 1:
        raise GeometryError(f"margin of flying pixels is {margin}; it must lie between 0 and 1")
    check_array("depth", depth, (np.uint16,), (camera.height, camera.width))
    cleared = np.empty_like(depth, order="C")
    across, down = (max(margin, STEEPEST / focal) for focal in (camera.fx, camera.fy))
    edge_kernels.clear_unsupported(np.ascontiguousarray(depth), across, down, cleared)
    return cleared
