"""Rigid transforms from the ways that recordings write rotations: quaternions and axis-angle."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from p2pkit.errors import GeometryError

RIGID_TOLERANCE = 1e-3

DRIFT_TOLERANCE = 1e-2
"""Of poses that a tracker chained in float32: 7-Scenes' drift by 3e-4 in a thousand frames."""


def check_rigid(
    transform: np.ndarray, name: str, *, tolerance: float = RIGID_TOLERANCE
) -> Float64[np.ndarray, "4 4"]:
    """Return `transform` as float64 4 x 4 if it is a rotation and a translation.

    Raises:
        GeometryError: wrong shape, not finite, last row not 0 0 0 1, or R not a rotation
            (max |RᵀR - I| or |det R - 1| above `tolerance`); the message gives the value.
    """
    matrix = np.asarray(transform, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise GeometryError(f"{name} has shape {matrix.shape}; expected a 4 x 4 rigid transform")
    if not np.isfinite(matrix).all():
        raise GeometryError(f"{name} contains NaN or infinity; expected a finite rigid transform")
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > RIGID_TOLERANCE:
        raise GeometryError(f"{name} has the last row {matrix[3].tolist()}; expected 0 0 0 1")
    determinant, skew = _determinant_and_skew(matrix[:3, :3])
    if abs(determinant - 1) > tolerance or skew > tolerance:
        raise GeometryError(
            f"{name} is not rigid: det R = {determinant:.6f} (must be 1) and max |RᵀR - I| = "
            f"{skew:.2g} (must be under {tolerance}); check for scale, mirroring or row order"
        )
    return matrix


def nearest_rigid(transform: np.ndarray, name: str) -> Float64[np.ndarray, "4 4"]:
    """A tracker's pose, with the nearest rotation if rounding has made R not quite one.

    R is kept as it is while `check_rigid` accepts it. Up to ten times as far off it is U Vᵀ of its
    singular value decomposition U S Vᵀ, the nearest orthogonal matrix (Schönemann 1966).

    Raises:
        GeometryError: as `check_rigid`, at a tolerance of 1e-2.
    """
    matrix = check_rigid(transform, name, tolerance=DRIFT_TOLERANCE)
    determinant, skew = _determinant_and_skew(matrix[:3, :3])
    if max(skew, abs(determinant - 1)) <= RIGID_TOLERANCE:
        return matrix
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    nearest = matrix.copy()
    nearest[:3, :3] = u @ vt
    return nearest


def _determinant_and_skew(rotation: Float64[np.ndarray, "3 3"]) -> tuple[float, float]:
    """Of a rotation 1 and 0: det R and max |RᵀR - I|."""
    skew = np.abs(rotation.T @ rotation - np.eye(3)).max()
    return float(np.linalg.det(rotation)), float(skew)


def invert_rigid(a_from_b: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
    """b_from_a of a rigid a_from_b, through the transpose (exact where `inv` rounds)."""
    inverse = np.eye(4)
    inverse[:3, :3] = a_from_b[:3, :3].T
    inverse[:3, 3] = -a_from_b[:3, :3].T @ a_from_b[:3, 3]
    return inverse


def transform_points(
    a_from_b: Float64[np.ndarray, "4 4"], points: Float[np.ndarray, "points 3"]
) -> Float[np.ndarray, "points 3"]:
    """Points of frame b in frame a (m), computed in float64, returned in the dtype of `points`."""
    moved = points.astype(np.float64, copy=False) @ a_from_b[:3, :3].T
    moved += a_from_b[:3, 3]
    return moved.astype(points.dtype, copy=False)


UNIT_TOLERANCE = 1e-2


def transform_from_quaternion(
    wxyz: Sequence[float | int], translation: Sequence[float | int], name: str
) -> Float64[np.ndarray, "4 4"]:
    """The transform with this unit quaternion (w, x, y, z: w first) and translation (m).

    The quaternion is normalised, since files round it.

    Raises:
        GeometryError: not 4 and 3 finite numbers, or a length that is off 1 by more than 1e-2.
    """
    quaternion = _finite(wxyz, 4, f"{name}: quaternion")
    length = float(np.linalg.norm(quaternion))
    if abs(length - 1) > UNIT_TOLERANCE:
        raise GeometryError(f"{name}: the quaternion {list(wxyz)} has length {length:g}, not 1")
    w, x, y, z = quaternion / length
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return transform_from_rotation(np.array(rotation), translation, name)


def transform_from_axis_angle(
    axis_angle: Sequence[float | int], translation: Sequence[float | int], name: str
) -> Float64[np.ndarray, "4 4"]:
    """The transform that turns about `axis_angle` by its length (rad), and this translation (m).

    Raises:
        GeometryError: not 3 and 3 finite numbers.
    """
    vector = _finite(axis_angle, 3, f"{name}: axis-angle")
    angle = float(np.linalg.norm(vector))
    x, y, z = vector / angle if angle > 0 else vector
    half_sine = np.sin(angle / 2)
    quaternion = (float(np.cos(angle / 2)), *(float(part * half_sine) for part in (x, y, z)))
    return transform_from_quaternion(quaternion, translation, name)


def transform_from_rotation(
    rotation: Float64[np.ndarray, "3 3"], translation: Sequence[float | int], name: str
) -> Float64[np.ndarray, "4 4"]:
    """The 4 x 4 transform of a rotation matrix and a translation (m)."""
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = _finite(translation, 3, f"{name}: translation")
    return transform


def _finite(
    values: Sequence[float | int], length: int, name: str
) -> Float64[np.ndarray, " numbers"]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GeometryError(f"{name} is {values!r}; expected {length} numbers") from error
    if array.shape != (length,) or not np.isfinite(array).all():
        raise GeometryError(f"{name} is {list(values)!r}; expected {length} finite numbers")
    return array
