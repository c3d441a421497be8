"""What a student can be fed of a point besides its colour and intensity: height, range, normal."""

import numpy as np
from jaxtyping import Float, Float32
from scipy.spatial import KDTree

from p2pkit.geometry.checks import check_array
from p2pkit.geometry.kernels import normals as kernels

GROUND_SHARE = 0.01
"""Height counts from the lowest 1 % of the points, so that stray ones below the ground do not."""
NEIGHBOURS = 16


def height_above_ground(
    points: Float32[np.ndarray, "points 3"], up: tuple[float, float, float]
) -> Float32[np.ndarray, " points"]:
    """Height (m) of each point above the first percentile of all along the unit vector `up`."""
    check_array("points", points, (np.float32,), (None, 3))
    along = points @ np.array(up, np.float32)
    return along - np.quantile(along, GROUND_SHARE).astype(np.float32) if len(along) else along


def range_from_sensor(
    points: Float32[np.ndarray, "points 3"],
) -> Float32[np.ndarray, " points"]:
    """Distance (m) of each point from the origin, where the sensor is."""
    check_array("points", points, (np.float32,), (None, 3))
    return np.sqrt(np.einsum("ij,ij->i", points, points))


def surface_normals(
    points: Float32[np.ndarray, "points 3"], neighbours: int = NEIGHBOURS
) -> Float32[np.ndarray, "points 3"]:
    """Unit normal of the plane through each point's nearest neighbours, towards the sensor.

    The plane is the one with the least squared distances (principal components). The sensor is at
    the origin. Where the neighbours lie on a line, the normal is the direction to the sensor.

    Args:
        points: x, y, z in the sensor's frame (m).
        neighbours: how many points make a plane, the point itself among them.
    """
    check_array("points", points, (np.float32,), (None, 3))
    normals = np.zeros_like(points)
    if not len(points):
        return normals
    exact = points.astype(np.float64)
    found = KDTree(exact).query(exact, k=min(neighbours, len(points)))[1]
    kernels.neighbour_normals(exact, found.reshape(len(points), -1).astype(np.int64), normals)
    return normals


def turned_normals(
    normals: Float32[np.ndarray, "points 3"], linear: Float[np.ndarray, "3 3"]
) -> Float32[np.ndarray, "points 3"]:
    """Normals after the points were mapped by `linear`, a scaled rotation or mirror."""
    scale = np.cbrt(abs(np.linalg.det(linear)))
    return (normals @ (linear.T / scale)).astype(np.float32)
