"""Voxels around the up axis of a sensor, which widen with the distance as its points do."""

import numpy as np
from jaxtyping import Float32, Float64, Int32

from p2pkit.geometry.gravity import rotation_to_z_up

Up = tuple[float, float, float]
Size = tuple[float, float, float]


def cylindrical(
    points: Float32[np.ndarray, "points 3"], size: Size, up: Up
) -> Float32[np.ndarray, "points 3"]:
    """Radius, angle and height of each point around the origin, in voxels.

    Args:
        points: x, y, z in the sensor's frame (m).
        size: of a voxel: radius (m), angle (degrees), height (m).
        up: unit vector that points up.

    Source: SLidR (Sautier et al. 2022). Angles span -180° to 180°; the two sides of that seam are
    not neighbours.
    """
    x, y, z = rotation_to_z_up(np.array(up)) @ points.T.astype(np.float64)
    parts = np.hypot(x, y), np.degrees(np.arctan2(y, x)), z
    return (np.stack(parts, axis=1) / np.array(size)).astype(np.float32)


def cylinder_centres(
    coordinates: Int32[np.ndarray, "voxels 3"], size: Size, up: Up
) -> Float64[np.ndarray, "voxels 3"]:
    """Centre (m) of each voxel of `cylindrical`, rounded down."""
    radius, degrees, height = ((coordinates + 0.5) * np.array(size)).T
    angle = np.radians(degrees)
    upright = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
    return upright @ rotation_to_z_up(np.array(up))
