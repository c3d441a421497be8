import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.errors import GeometryError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.lens_distortion import (
    Distortion,
    distortion_from_json,
    source_pixels,
    undistort_depth,
    undistort_image,
)

CAMERA = Camera(width=96, height=72, fx=70.0, fy=72.0, cx=46.3, cy=36.9)
# freiburg1's lens, as published with the TUM RGB-D benchmark.
TUM = Distortion("radial-tangential", (0.2624, -0.9531, -0.0054, 0.0026, 1.1633))
BARREL = Distortion("radial-tangential", (-0.28, 0.07, 0.001, -0.002))
RATIONAL = Distortion("radial-tangential", (0.1, 0.02, 0.001, 0.002, 0.01, 0.12, 0.03, 0.005))
FISHEYE = Distortion("fisheye", (-0.02, 0.01, -0.004, 0.001))
LENSES = [TUM, BARREL, RATIONAL, FISHEYE]


def opencv_map(distortion: Distortion) -> np.ndarray:
    k = CAMERA.matrix()
    size = (CAMERA.width, CAMERA.height)
    numbers = np.array(distortion.coefficients)
    if distortion.model == "fisheye":
        maps = cv2.fisheye.initUndistortRectifyMap(k, numbers, np.eye(3), k, size, cv2.CV_32FC1)
    else:
        maps = cv2.initUndistortRectifyMap(k, numbers, np.eye(3), k, size, cv2.CV_32FC1)
    return np.stack(maps, axis=-1)


def photograph(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (CAMERA.height, CAMERA.width, 3), dtype=np.uint8)


@pytest.mark.parametrize("lens", LENSES)
def test_source_pixels_are_opencvs(lens: Distortion) -> None:
    np.testing.assert_allclose(source_pixels(CAMERA, lens), opencv_map(lens), atol=1e-3)


@pytest.mark.parametrize("lens", LENSES)
def test_image_is_the_naive_bilinear_one(lens: Distortion) -> None:
    image, source = photograph(), source_pixels(CAMERA, lens).astype(np.float64)
    found = undistort_image(image, CAMERA, lens)
    for v in range(0, CAMERA.height, 5):
        for u in range(0, CAMERA.width, 5):
            x, y = source[v, u]
            inside = 0 <= x <= CAMERA.width - 1 and 0 <= y <= CAMERA.height - 1
            assert found.valid[v, u] == inside
            if not inside:
                assert not found.image[v, u].any()
                continue
            left, top = int(x), int(y)
            patch = image[top : top + 2, left : left + 2].astype(np.float64)
            weights = np.outer([1 - (y - top), y - top], [1 - (x - left), x - left])
            weights = weights[: patch.shape[0], : patch.shape[1]]
            expected = (patch * weights[..., None]).sum(axis=(0, 1))
            np.testing.assert_allclose(found.image[v, u], expected, atol=0.51)


@pytest.mark.parametrize("lens", LENSES)
def test_depth_is_never_a_mix_of_two(lens: Distortion) -> None:
    depth = np.where(np.arange(CAMERA.width) < 40, 1000, 3000).astype(np.uint16)
    depth = np.tile(depth, (CAMERA.height, 1))
    found = undistort_depth(depth, CAMERA, lens)
    assert set(np.unique(found)) <= {0, 1000, 3000}
    assert (found > 0).mean() > 0.7
    source = np.rint(source_pixels(CAMERA, lens)).astype(int)
    v, u = 20, 30
    assert found[v, u] == depth[source[v, u, 1], source[v, u, 0]]


@pytest.mark.parametrize("lens", LENSES)
def test_a_distorted_line_becomes_straight(lens: Distortion) -> None:
    """Draw the plane x = 0.3 z as the lens shows it; undistorted it is one column."""
    column = CAMERA.cx + 0.3 * CAMERA.fx
    image = np.zeros((CAMERA.height, CAMERA.width, 3), dtype=np.uint8)
    y = np.linspace(-0.7, 0.7, 4000)
    points = np.stack([np.full_like(y, 0.3), y, np.ones_like(y)], axis=1)
    numbers = np.array(lens.coefficients)
    zero = np.zeros(3)
    if lens.model == "fisheye":
        drawn = cv2.fisheye.projectPoints(points[:, None], zero, zero, CAMERA.matrix(), numbers)[0]
    else:
        drawn = cv2.projectPoints(points, zero, zero, CAMERA.matrix(), numbers)[0]
    u, v = np.rint(drawn.reshape(-1, 2)).astype(int).T
    inside = (u >= 0) & (u < CAMERA.width) & (v >= 0) & (v < CAMERA.height)
    image[v[inside], u[inside]] = 255
    found = undistort_image(image, CAMERA, lens).image[..., 0].astype(float)
    rows = found.sum(axis=1) > 100
    centre = (found[rows] * np.arange(CAMERA.width)).sum(axis=1) / found[rows].sum(axis=1)
    assert rows.sum() > 40
    assert np.abs(centre - column).max() < 0.8


@settings(deadline=None, max_examples=60)
@given(
    coefficients=st.lists(st.floats(-0.05, 0.05, allow_subnormal=False), min_size=4, max_size=4),
    fisheye=st.booleans(),
)
def test_weak_lenses_are_opencvs_too(coefficients: list[float], fisheye: bool) -> None:
    lens = Distortion("fisheye" if fisheye else "radial-tangential", tuple(coefficients))
    np.testing.assert_allclose(source_pixels(CAMERA, lens), opencv_map(lens), atol=1e-3)


def test_no_distortion_changes_nothing() -> None:
    image = photograph(1)
    found = undistort_image(image, CAMERA, Distortion("radial-tangential", (0.0, 0.0, 0.0, 0.0)))
    np.testing.assert_array_equal(found.image, image)
    assert found.valid.all()


def test_folding_coefficients_are_refused() -> None:
    with pytest.raises(GeometryError, match="folds the image over"):
        source_pixels(CAMERA, Distortion("radial-tangential", (-2.5, 0.0, 0.0, 0.0)))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"model": "brown", "coefficients": [0, 0, 0, 0]}, "must be one of radial-tangential"),
        ({"model": "fisheye", "coefficients": [0, 0, 0]}, "4 finite numbers"),
        ({"model": "radial-tangential", "coefficients": [0] * 6}, "4 or 5 or 8 finite"),
        ({"model": "fisheye", "coefficients": [0, 0, 0, float("nan")]}, "finite numbers"),
        ({"model": "fisheye", "coefficients": "none"}, "expected a model and numbers"),
        ({"model": "fisheye"}, "model and coefficients"),
        (3, "model and coefficients"),
    ],
)
def test_wrong_json(value: object, reason: str) -> None:
    with pytest.raises(GeometryError, match=f"left: .*{reason}"):
        distortion_from_json(value, "left")


def test_json_round_trip() -> None:
    for lens in LENSES:
        assert distortion_from_json(lens.to_json(), "x") == lens
