"""The score of a calibration: naive reference, chance level, and where its peak is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.alignment import edge_kernels
from p2pkit.alignment.edge_points import edge_points
from p2pkit.alignment.edges import (
    Look,
    Placed,
    Score,
    edge_strength,
    make_looks,
    place,
    reduced_camera,
    score,
)
from p2pkit.alignment.significance import above, above_zero
from p2pkit.datasets.frame import DepthImage, Frame, View
from p2pkit.geometry.camera import Camera

CAMERA = Camera(width=160, height=120, fx=140.0, fy=140.0, cx=79.5, cy=59.5)


def boxes_frame(seed: int = 0, *, shift_px: int = 0) -> Frame:
    """Boxes of random brightness in front of a wall; the image may be displaced to the right."""
    random = np.random.default_rng(seed)
    depth = np.full((120, 160), 4000, np.uint16)
    image = np.full((120, 160), 60.0)
    for left, top in random.integers(10, (130, 90), (12, 2)):
        depth[top : top + 20, left : left + 24] = random.integers(1200, 3000)
        image[top : top + 20, left : left + 24] = random.integers(90, 250)
    image = np.roll(image, shift_px, axis=1) + random.normal(0, 3, image.shape)
    color = np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    return Frame(
        key=f"frame-{seed}",
        views=(View(color, CAMERA, np.eye(4)),),
        depth=DepthImage(depth, CAMERA, 1000.0),
    )


def naive_steps(row: np.ndarray, fraction: float, factor: float, gap: int) -> set[tuple[int, int]]:
    """(near column, far column) of the steps in one row."""
    found: set[tuple[int, int]] = set()
    filled = np.flatnonzero(row)
    for order in (filled, filled[::-1]):
        for i in range(1, len(order)):
            near, far = row[order[i - 1]], row[order[i]]
            if abs(int(order[i]) - int(order[i - 1])) > gap:
                continue
            trend = 0.0
            if i > 1 and abs(int(order[i - 1]) - int(order[i - 2])) <= gap:
                trend = abs(near - row[order[i - 2]])
            if far - near > max(fraction * near, factor * trend):
                found.add((int(order[i - 1]), int(order[i])))
    return found


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_steps_equal_the_naive_reference(seed: int, gap: int) -> None:
    random = np.random.default_rng(seed)
    depth = random.choice([0.0, 1.0, 1.05, 1.5, 3.0], (3, 12)).astype(np.float32)
    far = np.full((2, *depth.shape), -1, np.int64)
    edge_kernels.mark_steps(depth, (0.08, 3.0), gap, far)
    for row in range(3):
        found = {(int(c), int(far[layer, row, c])) for layer, c in np.argwhere(far[:, row] >= 0)}
        assert found == naive_steps(depth[row].astype(np.float64), 0.08, 3.0, gap)


def test_a_slanted_wall_has_no_edges() -> None:
    u = np.tile(np.arange(160), (120, 1))
    depth = np.round(1000 / (0.8 - 0.004 * u)).astype(np.uint16)
    frame = Frame(key="a", views=(), depth=DepthImage(depth, CAMERA, 1000.0))
    assert len(edge_points(frame, np.random.default_rng(0)).points) == 0


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32))
def test_contrast_equals_the_naive_reference(seed: int) -> None:
    random = np.random.default_rng(seed)
    strength = random.random((9, 11)).astype(np.float32)
    uv = random.uniform(-3, 13, (40, 2))
    usable = random.random(40) < 0.8
    contrast = np.empty(40)
    edge_kernels.local_contrast(strength, uv, usable, (2.0, 0.0), contrast)
    for (u, v), use, found in zip(uv, usable, contrast, strict=True):
        inside = 1.5 <= u < 8.5 and -0.5 <= v < 8.5
        if not (use and inside):
            assert np.isnan(found)
            continue
        column, row = int(np.floor(u + 0.5)), int(np.floor(v + 0.5))
        sides = (strength[row, column - 2], strength[row, column + 2])
        assert found == pytest.approx(strength[row, column] - np.mean(sides), abs=1e-6)


def spinning_points(random: np.random.Generator) -> np.ndarray:
    """32 lines of six pillars at 8 m before a wall at 14 m (float32)."""
    azimuth, elevation = np.meshgrid(np.arange(-180, 180, 0.4), np.linspace(-20, 5, 32))
    azimuth, elevation = np.deg2rad(azimuth.ravel()), np.deg2rad(elevation.ravel())
    distance = np.where(np.sin(6 * azimuth) > 0, 8.0, 14.0) + random.normal(0, 0.01, azimuth.shape)
    ray = [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)]
    return (np.stack([*ray, np.sin(elevation)], axis=1) * distance[:, None]).astype(np.float32)


def test_spinning_lidar_edges_do_not_depend_on_the_names_of_its_axes() -> None:
    random = np.random.default_rng(0)
    points = spinning_points(random)
    plain = edge_points(Frame(key="a", views=(), points=points), random)
    turned = edge_points(Frame(key="a", views=(), points=points[:, [2, 0, 1]]), random)
    rows = (plain.direction == 0).sum()
    assert 12 * 32 * 0.8 < rows < 12 * 32 * 1.3
    assert np.linalg.norm(plain.points, axis=1).max() < 9
    assert (turned.direction == 0).sum() == pytest.approx(rows, rel=0.1)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_beams_without_return_at_the_sensor_change_no_edge(scale: float) -> None:
    """70 % of the beams; also where wrong units put every point near the sensor."""
    points = np.float32(scale) * spinning_points(np.random.default_rng(0))
    beams = np.zeros((len(points) * 10 // 3, 3), np.float32)
    beams[np.sort(np.random.default_rng(1).permutation(len(beams))[: len(points)])] = points
    plain, found = (
        edge_points(Frame(key="a", views=(), points=cloud), np.random.default_rng(0))
        for cloud in (points, beams)
    )
    assert len(plain.points) > 300
    for one, other in zip(plain, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_strength_is_a_rank_that_contrast_and_brightness_do_not_change() -> None:
    image = boxes_frame().views[0].image
    darker = (image // 2 + 20).astype(np.uint8)
    plain, changed = edge_strength(image), edge_strength(darker)
    assert plain.min() >= 0
    assert plain.max() <= 1
    assert np.corrcoef(plain.ravel(), changed.ravel())[0, 1] > 0.8


def test_large_images_are_reduced_with_their_camera() -> None:
    camera = Camera(width=1920, height=1080, fx=1900.0, fy=1900.0, cx=960.0, cy=540.0)
    strength = edge_strength(np.zeros((1080, 1920, 3), np.uint8))
    small = reduced_camera(camera)
    assert strength.shape == (2, small.height, small.width) == (2, 360, 640)


def displaced(looks: list[Look], px: float) -> Score:
    shift = np.array([px, 0.0])
    return score(looks, lambda look: Placed(place(look).pixel_uv + shift, place(look).in_front))


def test_the_peak_is_where_the_image_was_displaced_to_and_chance_is_zero() -> None:
    for shift in (0, 5, -7):
        frames = [boxes_frame(seed, shift_px=shift) for seed in range(3)]
        looks = [look for row, frame in enumerate(frames) for look in make_looks(row, frame)]
        steps = list(range(-10, 11))
        best = steps[int(np.argmax([displaced(looks, px).mean for px in steps]))]
        assert abs(best - shift) <= 1
    unrelated = [
        make_looks(row, boxes_frame(row))[0]._replace(
            strength=make_looks(row, boxes_frame(100 + row))[0].strength
        )
        for row in range(8)
    ]
    assert abs(score(unrelated, place).mean) < 0.05
    assert above_zero(score(unrelated, place)).p > 1e-3


def test_evidence_is_students_t_over_clusters() -> None:
    from scipy import stats

    random = np.random.default_rng(3)
    values = random.normal(0.3, 1, 40)
    found = Score(values * 50, np.full(40, 50.0))
    t, p = stats.ttest_1samp(values, 0, alternative="greater")
    evidence = above_zero(found)
    assert evidence.t == pytest.approx(t)
    assert evidence.p == pytest.approx(p)
    other = Score(values * 50 - random.normal(10, 5, 40), np.full(40, 50.0))
    _, p = stats.ttest_rel(values, other.total / 50, alternative="greater")
    assert above(found, other).p == pytest.approx(p)


def test_too_little_data_is_no_evidence() -> None:
    assert above_zero(Score(np.array([90.0, 90, 90]), np.full(3, 100.0))).p == 1
    assert above_zero(Score(np.full(10, 9.0), np.full(10, 9.0))).p == 1
