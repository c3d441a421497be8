import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from p2pkit.errors import GeometryError
from p2pkit.geometry.transforms import transform_from_axis_angle, transform_from_quaternion

ANGLES = st.floats(-3.0, 3.0, allow_subnormal=False)


@settings(deadline=None)
@given(x=ANGLES, y=ANGLES, z=ANGLES)
def test_axis_angle_is_the_matrix_exponential(x: float, y: float, z: float) -> None:
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned = transform_from_axis_angle([x, y, z], [1.0, 2.0, 3.0], "pose")
    np.testing.assert_allclose(turned[:3, :3], expm(skew), atol=1e-12)
    np.testing.assert_array_equal(turned[:3, 3], [1.0, 2.0, 3.0])


@settings(deadline=None)
@given(parts=st.lists(st.floats(-1, 1), min_size=4, max_size=4))
def test_quaternion_is_w_first(parts: list[float]) -> None:
    length = np.linalg.norm(parts)
    if length < 0.1:
        return
    wxyz = [part / length for part in parts]
    transform = transform_from_quaternion(wxyz, [0, 0, 0], "pose")
    expected = Rotation.from_quat([*wxyz[1:], wxyz[0]]).as_matrix()
    np.testing.assert_allclose(transform[:3, :3], expected, atol=1e-12)


def test_rounded_quaternions_are_normalised_and_wrong_ones_refused() -> None:
    rounded = transform_from_quaternion([0.7071, 0.7071, 0, 0], [0, 0, 0], "pose")
    np.testing.assert_allclose(rounded[:3, :3] @ rounded[:3, :3].T, np.eye(3), atol=1e-12)
    with pytest.raises(GeometryError, match=r"pose: the quaternion .* has length 1\.5"):
        transform_from_quaternion([1.5, 0, 0, 0], [0, 0, 0], "pose")
    with pytest.raises(GeometryError, match="4 finite numbers"):
        transform_from_quaternion([1.0, 0.0, 0.0], [0, 0, 0], "pose")
    with pytest.raises(GeometryError, match="translation"):
        transform_from_quaternion([1.0, 0.0, 0.0, 0.0], [0.0, float("nan"), 0.0], "pose")
