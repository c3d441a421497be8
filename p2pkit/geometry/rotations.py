"""Rigid transforms from the ways that recordings write rotations: quaternions and axis-angle."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from p2pkit.errors import GeometryError

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
        raise GeometryError(f"{name} is {values!r}; {length} numbers are needed") from error
    if array.shape != (length,) or not np.isfinite(array).all():
        raise GeometryError(f"{name} is {list(values)!r}; {length} finite numbers are needed")
    return array
