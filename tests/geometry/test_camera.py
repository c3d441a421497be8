import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.errors import GeometryError
from p2pkit.geometry.camera import Camera, camera_from_json
from p2pkit.geometry.maps.grid import FeatureGrid, grid_from_json
from p2pkit.geometry.transforms import check_rigid, invert_rigid, transform_points

CAMERA = Camera(width=640, height=480, fx=585.0, fy=580.0, cx=320.0, cy=240.0)
VALUE = CAMERA.to_json()


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000))
def test_resizing_there_and_back_changes_nothing(width, height):
    back = CAMERA.resized(width, height).resized(640, 480)
    assert np.allclose(list(back.to_json().values()), list(VALUE.values()), rtol=1e-12, atol=1e-9)


def test_resizing_keeps_the_image_corner_where_it_is():
    half = CAMERA.resized(320, 240)
    for camera in (CAMERA, half):
        assert (-0.5 - camera.cx) / camera.fx == pytest.approx((-0.5 - 320) / 585)


def test_json_round_trip():
    assert camera_from_json(json.loads(json.dumps(VALUE)), "here") == CAMERA


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "found NoneType"),
        ({name: VALUE[name] for name in ("width", "height")}, "exactly the fields"),
        (VALUE | {"k1": 0.1}, "'k1'"),
        (VALUE | {"fx": "585"}, "fx is '585'"),
        (VALUE | {"fy": True}, "fy is True"),
        (VALUE | {"width": 640.5}, "whole number"),
        (VALUE | {"fx": -1.0}, "positive"),
        (VALUE | {"cx": float("nan")}, "finite"),
        (VALUE | {"height": 0}, "at least 1"),
    ],
)
def test_bad_cameras_are_named(value, message):
    with pytest.raises(GeometryError, match=message):
        camera_from_json(value, "camera.json")


def test_grid_puts_cells_at_stride_and_offset_of_the_resized_input():
    grid = FeatureGrid(
        stride=(14.0, 14.0), offset=(6.5, 6.5), cells=(40, 30), input_size=(560, 420)
    )
    assert grid_from_json(json.loads(json.dumps(grid.to_json()))) == grid
    scale = 560 / 640
    pixel = (14 * 3 + 6.5 + 0.5) / scale - 0.5
    cell = grid.cell_from_pixel(np.array([[pixel, -0.5]]), (640, 480))
    assert cell[0] == pytest.approx([3.0, (-0.5 - 6.5) / 14])


def test_the_centres_of_cells_are_at_their_own_cells():
    grid = FeatureGrid(stride=(14.0, 16.0), offset=(6.5, 7.0), cells=(5, 3), input_size=(70, 48))
    cells = grid.cell_from_pixel(grid.cell_centres((91, 77)), (91, 77))
    expected = np.array([[column, row] for row in range(3) for column in range(5)])
    assert cells == pytest.approx(expected, abs=1e-12)


def test_slidr_alignment_stretches_corner_to_corner():
    grid = FeatureGrid(
        stride=(32.0, 32.0), offset=(0.0, 0.0), cells=(20, 15), input_size=(640, 480)
    )
    corners = np.array([[0.0, 0.0], [639.0, 479.0]])
    found = grid.cell_from_pixel(corners, (640, 480), "slidr")
    assert found == pytest.approx(np.array([[0.0, 0.0], [19.0, 14.0]]))


def rigid(angle, translation):
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = translation
    return matrix


def test_inverse_takes_points_back():
    a_from_b = rigid(0.7, (1.0, -2.0, 3.0))
    points = np.random.default_rng(0).normal(size=(50, 3))
    back = transform_points(invert_rigid(a_from_b), transform_points(a_from_b, points))
    assert back == pytest.approx(points, abs=1e-12)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "shape"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.diag([1.0, 1.0, -1.0, 1.0]), "det R = -1"),
        (np.diag([1.1, 1.1, 1.1, 1.0]), "not rigid"),
        (rigid(0.1, (1.0, 2.0, 3.0)).T, "last row"),
    ],
)
def test_transforms_that_are_not_rigid_are_refused(matrix, message):
    with pytest.raises(GeometryError, match=message):
        check_rigid(matrix, "world_from_camera")
