"""Joint bilateral upsampling against its formula, cell by cell, and against what it must keep."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.errors import ConfigError, GeometryError
from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.geometry.maps.joint_bilateral import (
    JointBilateral,
    parse_upsampling,
    sample_joint_bilateral,
)

# Cells of a teacher that sees the image at half its size, with an offset that is no half stride.
GRID = FeatureGrid(stride=(8.0, 6.0), offset=(2.0, -1.5), cells=(7, 6), input_size=(56, 36))
SIZE = (112, 72)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


def somewhere(count: int = 60, seed: int = 1) -> np.ndarray:
    """Pixels of the image, those of its outermost half pixel included."""
    return np.random.default_rng(seed).uniform(-0.5, np.array(SIZE) - 0.5, (count, 2))


def color_at(image: np.ndarray, u: float, v: float) -> np.ndarray:
    """Bilinear in 0 … 1; the nearest edge's outside."""
    u, v = np.clip(u, 0, image.shape[1] - 1), np.clip(v, 0, image.shape[0] - 1)
    value = np.zeros(3)
    for row in {int(v), min(int(v) + 1, image.shape[0] - 1)}:
        for column in {int(u), min(int(u) + 1, image.shape[1] - 1)}:
            weight = max(0.0, 1 - abs(u - column)) * max(0.0, 1 - abs(v - row))
            value += weight * image[row, column] / 255
    return value


def by_the_formula(
    feature_map: np.ndarray, image: np.ndarray, pixel: np.ndarray, weights: JointBilateral
) -> np.ndarray:
    scale = np.array(GRID.input_size) / SIZE
    there = (scale * (pixel + 0.5) - 0.5 - GRID.offset) / GRID.stride
    there = np.clip(there, 0, np.array(GRID.cells) - 1)
    nearest = np.floor(there + 0.5)
    value, total = np.zeros(feature_map.shape[-1]), 0.0
    for row in range(GRID.cells[1]):
        for column in range(GRID.cells[0]):
            cell = np.array([column, row])
            if np.abs(cell - nearest).max() > weights.radius:
                continue
            centre = (cell * GRID.stride + GRID.offset + 0.5) / scale - 0.5
            apart = np.linalg.norm(color_at(image, *pixel) - color_at(image, *centre))
            weight = np.exp(-np.sum((there - cell) ** 2) / (2 * weights.spatial_sigma**2))
            weight *= np.exp(-(apart**2) / (2 * weights.range_sigma**2))
            value += weight * feature_map[row, column].astype(np.float64)
            total += weight
    return value / total


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from([np.float16, np.float32]),
    st.floats(0.2, 2.0),
    st.floats(0.1, 3.0),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
def test_equals_the_formula(dtype, range_sigma, spatial_sigma, radius, seed):
    feature_map = np.random.default_rng(seed).normal(size=(6, 7, 5)).astype(dtype)
    image, pixels = picture(seed), somewhere(12, seed)
    weights = JointBilateral(range_sigma, spatial_sigma, radius)
    found = sample_joint_bilateral(feature_map, GRID, image, pixels, weights)
    wanted = [by_the_formula(feature_map, image, pixel, weights) for pixel in pixels]
    np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("sigma", [1e-4, 0.1, np.inf])
def test_a_constant_map_stays_constant(sigma: float) -> None:
    """Also where every colour differs so much that all weights would be 0 as they are."""
    feature_map = np.full((6, 7, 3), [1.5, -2.0, 0.0], np.float32)
    found = sample_joint_bilateral(feature_map, GRID, picture(), somewhere(), JointBilateral(sigma))
    np.testing.assert_allclose(found, feature_map[0, :1].repeat(60, axis=0), atol=1e-6)


def test_without_the_range_the_image_has_no_say() -> None:
    feature_map = np.random.default_rng(0).normal(size=(6, 7, 4)).astype(np.float32)
    blind = JointBilateral(np.inf, spatial_sigma=0.7)
    first, second = (
        sample_joint_bilateral(feature_map, GRID, picture(seed), somewhere(), blind)
        for seed in (0, 1)
    )
    assert np.array_equal(first, second)
    grey = np.full_like(picture(), 128)
    spatial = sample_joint_bilateral(
        feature_map, GRID, grey, somewhere(), JointBilateral(0.1, spatial_sigma=0.7)
    )
    np.testing.assert_allclose(first, spatial, atol=1e-6)


def test_nothing_is_mixed_across_an_edge_of_the_image() -> None:
    """Black left, white right; the cells' features are those of their side."""
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    image[:, 50:] = 255
    left = GRID.cell_centres(SIZE).reshape(6, 7, 2)[..., 0] < 49.5
    feature_map = np.where(left, -1.0, 1.0)[..., None].astype(np.float32)
    pixels = somewhere(400)
    pixels = pixels[(np.rint(pixels[:, 0]) < 49) | (pixels[:, 0] >= 50)]
    found = sample_joint_bilateral(feature_map, GRID, image, pixels, JointBilateral())
    wanted = np.where(pixels[:, 0] < 49.5, -1.0, 1.0)
    np.testing.assert_allclose(found[:, 0], wanted, atol=1e-6)
    smooth = sample_joint_bilateral(feature_map, GRID, image, pixels, JointBilateral(np.inf))
    assert np.abs(smooth[:, 0]).min() < 0.5


def test_a_linear_map_may_come_before_or_after() -> None:
    random = np.random.default_rng(0)
    feature_map = random.normal(size=(6, 7, 8)).astype(np.float32)
    matrix = random.normal(size=(8, 3)).astype(np.float32)
    after = sample_joint_bilateral(feature_map, GRID, picture(), somewhere(), JointBilateral())
    before = sample_joint_bilateral(
        feature_map @ matrix, GRID, picture(), somewhere(), JointBilateral()
    )
    np.testing.assert_allclose(after @ matrix, before, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "sigma"), [("joint-bilateral", 0.1), ("joint-bilateral:0.25", 0.25)]
)
def test_names_are_read(text: str, sigma: float) -> None:
    found = parse_upsampling(text)
    assert found == JointBilateral(sigma)
    assert found.name == f"joint-bilateral:{sigma}"
    assert parse_upsampling(found.name) == found
    assert parse_upsampling("bilinear") is None


@pytest.mark.parametrize(
    "text",
    ["", "nearest", "bilinear:2", "joint-bilateral:", "joint-bilateral:0", "joint-bilateral:nan"],
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"bilinear, joint-bilateral or joint-bilateral:RANGE"):
        parse_upsampling(text)


def test_what_makes_no_sense_is_told() -> None:
    with pytest.raises(ConfigError, match="spatial_sigma is 0"):
        JointBilateral(spatial_sigma=0.0)
    with pytest.raises(ConfigError, match="radius is 0"):
        JointBilateral(radius=0)
    pixels = somewhere(3)
    pixels[1, 0] = np.nan
    with pytest.raises(GeometryError, match="pixel coordinate 1"):
        sample_joint_bilateral(
            np.zeros((6, 7, 1), np.float32), GRID, picture(), pixels, JointBilateral()
        )
    with pytest.raises(GeometryError, match=r"it must be float16 or float32 \[6, 7, any\]"):
        sample_joint_bilateral(
            np.zeros((7, 6, 1), np.float32), GRID, picture(), somewhere(), JointBilateral()
        )
