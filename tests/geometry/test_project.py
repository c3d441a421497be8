import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.errors import GeometryError
from p2pkit.geometry.backproject import back_project
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.project import (
    Projection,
    nearest_colors,
    nearest_pixels,
    project,
    project_visible,
    visible_after_occlusion,
)

CAMERA = Camera(width=64, height=48, fx=100.0, fy=100.0, cx=31.5, cy=23.5)


def rotation_about_y(angle):
    matrix = np.eye(4)
    matrix[0, 0], matrix[0, 2] = np.cos(angle), np.sin(angle)
    matrix[2, 0], matrix[2, 2] = -np.sin(angle), np.cos(angle)
    return matrix


def naive_projection(points, camera, camera_from_points):
    moved = points.astype(np.float64) @ camera_from_points[:3, :3].T + camera_from_points[:3, 3]
    uv = np.zeros((len(points), 2), np.float32)
    front = moved[:, 2] > 0
    normalised = moved[front, :2] / moved[front, 2:]
    uv[front] = normalised * (camera.fx, camera.fy) + (camera.cx, camera.cy)
    inside = (uv >= -0.5).all(1) & (uv < (camera.width - 0.5, camera.height - 0.5)).all(1)
    return uv, moved[:, 2].astype(np.float32), front & inside


@settings(deadline=None, max_examples=40)
@given(st.floats(-3.2, 3.2), st.integers(0, 2**32))
def test_equals_the_naive_reference(angle, seed):
    random = np.random.default_rng(seed)
    points = random.uniform(-3, 3, (2000, 3)).astype(np.float32)
    camera_from_points = rotation_about_y(angle)
    camera_from_points[:3, 3] = random.uniform(-1, 1, 3)
    found = project(points, CAMERA, camera_from_points)
    uv, depth_m, visible = naive_projection(points, CAMERA, camera_from_points)
    near = np.abs(uv).max(axis=1) < 1e4
    np.testing.assert_allclose(found.pixel_uv[near], uv[near], rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(found.depth_m, depth_m, rtol=1e-6, atol=1e-7)
    edge = np.abs(uv + 0.5 - np.round(uv + 0.5)).min(axis=1) < 1e-3
    assert np.array_equal(found.visible[~edge], visible[~edge])


def test_image_edges_are_half_open():
    u = np.array([-0.501, -0.5, 63.499, 63.5], np.float32)
    rays = np.stack([(u - 31.5) / 100, np.zeros(4), np.ones(4)], axis=1).astype(np.float32)
    found = project(8 * rays, CAMERA)
    inside = (found.pixel_uv >= -0.5).all(1) & (found.pixel_uv < (63.5, 47.5)).all(1)
    assert np.array_equal(found.visible, inside)
    assert found.visible[[0, 2]].tolist() == [False, True]
    nearest = np.floor(found.pixel_uv[found.visible].astype(float) + 0.5)
    assert nearest.min() >= 0
    assert nearest[:, 0].max() <= 63


@pytest.mark.parametrize(
    "point",
    [(0, 0, 0), (0, 0, -1), (1, 1, -1e-30), (5, 0, 1e-38), (np.nan, 0, 1), (np.inf, 0, 1)],
)
def test_unusable_points_stay_as_invisible_rows_without_nan(point):
    points = np.array([(0, 0, 1), point, (0, 0, 2)], np.float32)
    found = project(points, CAMERA)
    assert found.visible.tolist() == [True, False, True]
    assert np.array_equal(found.pixel_uv[1], [0, 0])


def test_not_rigid_transform_is_refused():
    with pytest.raises(GeometryError, match="camera_from_points is not rigid"):
        project(np.zeros((1, 3), np.float32), CAMERA, np.diag([2.0, 2.0, 2.0, 1.0]))


def plane(depth_m, columns):
    """A point on each pixel of some columns, at one depth, and the column of each."""
    depth = np.zeros((48, 64), np.uint16)
    depth[:, columns] = int(1000 * depth_m)
    found = back_project(depth, CAMERA, units_per_metre=1000.0)
    return found.points, found.pixel.astype(np.int64) % 64


@pytest.mark.parametrize(
    ("splat", "downscale", "hidden"),
    [(0, 1, range(20, 40)), (1, 1, range(19, 41)), (3, 1, range(17, 43)), (0, 4, range(20, 40)),
     (1, 4, range(16, 44)), (0, 8, range(16, 40)), (100, 1, range(64))],
)  # fmt: skip
def test_wall_behind_a_board_is_hidden_where_the_board_covers_it(splat, downscale, hidden):
    board, _ = plane(1.0, slice(20, 40))
    wall, column = plane(2.0, slice(0, 64))
    projection = project(np.concatenate([board, wall]), CAMERA)
    kept = visible_after_occlusion(projection, CAMERA, splat_px=splat, downscale=downscale)
    assert kept[: len(board)].all()
    assert np.array_equal(~kept[len(board) :], np.isin(column, hidden))


def test_shifted_camera_does_not_see_the_strip_behind_the_board():
    board, _ = plane(1.0, slice(20, 40))
    left, column_left = plane(2.0, slice(0, 20))
    right, column_right = plane(2.0, slice(40, 64))
    column = np.concatenate([np.full(len(board), -1), column_left, column_right])
    shifted = np.eye(4)
    shifted[0, 3] = 0.04  # px: 4 on the board, 2 on the wall, so columns 40 and 41 go behind
    projection = project(np.concatenate([board, left, right]), CAMERA, shifted)
    kept = visible_after_occlusion(projection, CAMERA, splat_px=0)
    inside = column < 62
    assert np.array_equal(projection.visible, inside)
    assert np.array_equal(kept, inside & ~np.isin(column, [40, 41]))


def naive_occlusion(projection, camera, splat, downscale, margins):
    rows, columns = -(-camera.height // downscale), -(-camera.width // downscale)
    cells = np.floor((projection.pixel_uv.astype(float) + 0.5) / downscale).astype(int)
    nearest = np.full((rows, columns), np.inf)
    for point in np.flatnonzero(projection.visible):
        column, row = cells[point]
        window = nearest[
            max(0, row - splat) : row + splat + 1, max(0, column - splat) : column + splat + 1
        ]
        np.minimum(window, projection.depth_m[point], out=window)
    depth = projection.depth_m.astype(float)
    limit = np.maximum(margins[0], margins[1] * depth)
    kept = projection.visible.copy()
    seen = np.flatnonzero(kept)
    kept[seen] = depth[seen] - nearest[cells[seen, 1], cells[seen, 0]] <= limit[seen]
    return kept


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 5),
    st.integers(1, 7),
    st.sampled_from([(0.0, 0.0), (0.05, 0.0), (0.0, 0.1), (1.0, 0.02)]),
    st.integers(0, 2**32),
)
def test_occlusion_equals_splatting_each_point(splat, downscale, margins, seed):
    random = np.random.default_rng(seed)
    points = random.uniform((-2, -2, -1), (2, 2, 6), (600, 3)).astype(np.float32)
    projection = project(points, CAMERA)
    options = {"margin_m": margins[0], "margin_relative": margins[1]}
    kept = visible_after_occlusion(
        projection, CAMERA, splat_px=splat, downscale=downscale, **options
    )
    assert np.array_equal(kept, naive_occlusion(projection, CAMERA, splat, downscale, margins))


@pytest.mark.parametrize(
    "options",
    [{"splat_px": -1}, {"downscale": 0}, {"margin_m": -0.1}, {"margin_relative": float("nan")}],
)
def test_bad_occlusion_options_are_named(options):
    projection = project(np.ones((1, 3), np.float32), CAMERA)
    with pytest.raises(GeometryError, match=next(iter(options))):
        visible_after_occlusion(projection, CAMERA, **options)


@pytest.mark.parametrize("u", [64.0, np.nan, -3.0, 1e30])
def test_projection_of_another_camera_is_refused(u):
    foreign = Projection(
        np.array([[u, 0.0]], np.float32), np.ones(1, np.float32), np.ones(1, np.bool_)
    )
    with pytest.raises(GeometryError, match="64 x 48"):
        visible_after_occlusion(foreign, CAMERA)


@pytest.mark.parametrize("count", [0, 1, 300])
def test_the_visible_rows_of_a_projection_come_alone(count):
    random = np.random.default_rng(count)
    points = random.uniform((-2, -2, -1), (2, 2, 4), (count, 3)).astype(np.float32)
    points[2:4] = np.nan
    pose = rotation_about_y(0.2)
    every = project(points, CAMERA, pose)
    rows, projection = project_visible(points, CAMERA, pose)
    assert np.array_equal(rows, np.flatnonzero(every.visible))
    for array, whole in zip(projection, every, strict=True):
        assert array.dtype == whole.dtype
        assert np.array_equal(array, whole[rows])


def test_nearest_colors_are_those_of_the_nearest_pixels():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (48, 64, 3)).astype(np.uint8)
    pixel_uv = random.uniform(-3, 67, (200, 2)).astype(np.float32)
    pixel_uv[:4] = [[-0.5, 0.5], [1.5, 2.5], [63.4, 47.4], [63.5, 47.5]]
    u, v = nearest_pixels(pixel_uv, 64, 48)
    assert np.array_equal(nearest_colors(image, pixel_uv), image[v, u])
    assert np.array_equal(nearest_colors(image[:, ::-1], pixel_uv), image[v, 63 - u])
