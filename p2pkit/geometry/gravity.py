"""Which way is up in a room, from surface normals: floors, tables and ceilings are level."""

import numpy as np
from jaxtyping import Float32, Float64, UInt16

from p2pkit.errors import GeometryError
from p2pkit.geometry.backproject import back_project
from p2pkit.geometry.camera import Camera

Direction = tuple[float, float, float]
_CONES_DEGREES = (40.0, 20.0, 10.0, 6.0)
_FEWEST = 100


def level_normals(
    depth: UInt16[np.ndarray, "height width"], camera: Camera, units_per_metre: float, step: int = 6
) -> Float64[np.ndarray, "normals 3"]:
    """Unit normals of patches `step` pixels wide, in the camera's frame; either sign.

    Patches with a hole in them or across a depth edge of more than 5 % are left out.
    """
    found = back_project(depth, camera, units_per_metre=units_per_metre)
    grid = np.zeros((depth.size, 3))
    grid[found.pixel] = found.points
    grid = grid.reshape(*depth.shape, 3)[::step, ::step]
    here, right, below = grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1]
    z = here[..., 2]
    near = [np.abs(other[..., 2] - z) < 0.05 * z for other in (right, below)]
    usable = (z > 0) & near[0] & near[1]
    normals = np.cross((right - here)[usable], (below - here)[usable])
    lengths = np.linalg.norm(normals, axis=1)
    return normals[lengths > 0] / lengths[lengths > 0, None]


def up_direction(
    normals: Float64[np.ndarray, "normals 3"], guess: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, "3"]:
    """The mean of the normals within narrowing cones around `guess`; `guess` where there are few.

    Args:
        normals: unit length, either sign.
        guess: up to 40° off, as for a camera held about upright.

    Raises:
        GeometryError: `guess` has no direction.
    """
    length = float(np.linalg.norm(guess))
    if not (np.isfinite(length) and length > 0):
        raise GeometryError(f"the guess for up is {guess.tolist()}; expected a direction")
    up = guess / length
    for degrees in _CONES_DEGREES:
        cosine = normals @ up
        level = np.abs(cosine) > np.cos(np.deg2rad(degrees))
        if level.sum() < _FEWEST:
            break
        mean = (normals[level] * np.sign(cosine[level])[:, None]).sum(axis=0)
        up = mean / np.linalg.norm(mean)
    return up


def rotation_to_z_up(up: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "3 3"]:
    """The smallest rotation that takes the unit vector `up` to (0, 0, 1).

    Within 0.1° of straight down, where 1 + z has lost its digits, one that turns over x first.
    """
    x, y, z = up
    if z < -1 + 1e-6:
        turned = np.diag([1.0, -1.0, -1.0])
        return rotation_to_z_up(turned @ up) @ turned
    cross = np.array([[0.0, 0.0, -x], [0.0, 0.0, -y], [x, y, 0.0]])
    return np.eye(3) + cross + cross @ cross / (1 + z)


def turn_between(one: Direction, other: Direction) -> Float64[np.ndarray, "3 3"] | None:
    """The rotation that takes the up axis `one` to `other`; None where they are the same."""
    if np.allclose(one, other):
        return None
    return rotation_to_z_up(np.array(other)).T @ rotation_to_z_up(np.array(one))


def turned(
    points: Float32[np.ndarray, "points 3"], turn: Float64[np.ndarray, "3 3"] | None
) -> Float32[np.ndarray, "points 3"]:
    """The points (m) after the turn, if any."""
    return points if turn is None else (points @ turn.T).astype(np.float32)
