"""Heights, ranges and normals against naive references, and how they turn with the points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.geometry.students.cylinders import cylinder_centres, cylindrical
from p2pkit.geometry.students.point_inputs import (
    height_above_ground,
    range_from_sensor,
    surface_normals,
    turned_normals,
)
from p2pkit.geometry.voxelize import voxel_deduplicate


def cloud(seed: int = 0, count: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-3, 3, (count, 3)).astype(np.float32)


def naive_normals(points: np.ndarray, neighbours: int) -> np.ndarray:
    """The eigenvector of the smallest eigenvalue, one point at a time."""
    found = np.zeros(points.shape)
    exact = points.astype(np.float64)
    for row, point in enumerate(exact):
        nearest = np.argsort(((exact - point) ** 2).sum(axis=1), kind="stable")[:neighbours]
        normal = np.linalg.eigh(np.cov(exact[nearest].T))[1][:, 0]
        found[row] = -normal if normal @ point > 0 else normal
    return found


def test_height_counts_from_the_lowest_percent() -> None:
    points = cloud(count=1001)
    points[:5, 2] = -50
    found = height_above_ground(points, (0.0, 0.0, 1.0))
    assert found == pytest.approx(points[:, 2] - np.sort(points[:, 2])[10], abs=1e-5)
    tilted = height_above_ground(points, (0.0, -1.0, 0.0))
    assert tilted == pytest.approx(-points[:, 1] - np.sort(-points[:, 1])[10], abs=1e-5)
    assert height_above_ground(points[:0], (0.0, 0.0, 1.0)).shape == (0,)


def test_range_is_the_distance_from_the_origin() -> None:
    points = cloud()
    expected = [float(np.hypot(np.hypot(x, y), z)) for x, y, z in points]
    assert range_from_sensor(points) == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32), st.sampled_from([8, 16]))
def test_normals_are_those_of_the_eigenvectors(seed: int, neighbours: int) -> None:
    points = cloud(seed)
    found, expected = surface_normals(points, neighbours), naive_normals(points, neighbours)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    # Either is right where the two smallest eigenvalues are the same.
    assert (np.einsum("ij,ij->i", found, expected) > 0.999).mean() > 0.99
    assert np.einsum("ij,ij->i", found, points).max() <= 1e-5


def test_normals_of_a_wall_and_a_floor_face_the_sensor() -> None:
    u, v = np.random.default_rng(1).uniform(-2, 2, (2, 400))
    wall = np.column_stack([np.full(400, 6.0), u, v]).astype(np.float32)
    floor = np.column_stack([u, v, np.full(400, -1.7)]).astype(np.float32)
    np.testing.assert_allclose(surface_normals(wall), [[-1, 0, 0]] * 400, atol=1e-3)
    np.testing.assert_allclose(surface_normals(floor), [[0, 0, 1]] * 400, atol=1e-3)


def test_points_without_a_surface_face_the_sensor() -> None:
    line = np.column_stack([np.arange(1, 9), np.zeros(8), np.zeros(8)]).astype(np.float32)
    np.testing.assert_allclose(surface_normals(line), [[-1, 0, 0]] * 8, atol=1e-6)
    np.testing.assert_allclose(surface_normals(line[:1]), [[-1, 0, 0]], atol=1e-6)
    assert not surface_normals(np.zeros((1, 3), np.float32)).any()
    assert surface_normals(line[:0]).shape == (0, 3)


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_turned_normals_are_those_of_the_turned_points(mirror: float) -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    linear = 1.07 * rotation @ np.diag([mirror, 1.0, 1.0])
    points = cloud(3)
    moved = (points.astype(np.float64) @ linear.T).astype(np.float32)
    expected = turned_normals(surface_normals(points), linear)
    aligned = np.einsum("ij,ij->i", surface_normals(moved), expected)
    assert (aligned > 0.999).mean() > 0.99


def test_cylindrical_voxels_are_radius_angle_and_height() -> None:
    points, size = 4 * cloud(), (0.5, 10.0, 0.2)
    found = cylindrical(points, size, (0.0, 0.0, 1.0))
    for (x, y, z), voxel in zip(points.tolist(), found.tolist(), strict=True):
        wanted = [np.hypot(x, y) / 0.5, np.degrees(np.arctan2(y, x)) / 10, z / 0.2]
        assert voxel == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, -1.0, 0.0)])
def test_centres_of_cylindrical_voxels_lie_in_them(up: tuple[float, float, float]) -> None:
    size = (0.5, 10.0, 0.2)
    voxels = voxel_deduplicate(cylindrical(4 * cloud(), size, up), 1.0)
    centres = cylinder_centres(voxels.coordinates, size, up).astype(np.float32)
    again = np.floor(cylindrical(centres, size, up))
    np.testing.assert_array_equal(again, voxels.coordinates)
