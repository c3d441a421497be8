from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.errors import ConfigError, FrameError, GeometryError
from p2pkit.geometry.backproject import back_project
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.flying_pixels import STEEPEST, drop_flying_pixels
from p2pkit.geometry.project import project
from p2pkit.geometry.transforms import invert_rigid

CAMERA = Camera(width=13, height=11, fx=400.0, fy=300.0, cx=6.0, cy=5.0)


def naive(depth: np.ndarray, camera: Camera, margin: float) -> np.ndarray:
    padded = np.pad(depth.astype(int), 1)
    cleared = depth.copy()
    for v, u in np.ndindex(depth.shape):
        here = padded[v + 1, u + 1]
        axes = (
            ((padded[v + 1, u], padded[v + 1, u + 2]), camera.fx),
            ((padded[v, u + 1], padded[v + 2, u + 1]), camera.fy),
        )
        for neighbours, focal in axes:
            limit = max(margin, STEEPEST / focal) * here
            measured = [other for other in neighbours if other > 0]
            if measured and all(abs(other - here) > limit for other in measured):
                cleared[v, u] = 0
    return cleared


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 10**6), margin=st.floats(0.005, 0.2))
def test_kernel_is_the_naive_one(seed: int, margin: float) -> None:
    random = np.random.default_rng(seed)
    depth = (1000 * random.choice([0, 1, 1, 1.03, 1.5], (11, 13))).astype(np.uint16)
    found = drop_flying_pixels(depth, CAMERA, margin=margin)
    np.testing.assert_array_equal(found, naive(depth, CAMERA, margin))


def test_an_edge_stays_and_the_pixel_between_its_sides_goes() -> None:
    depth = np.full((11, 13), 1000, np.uint16)
    depth[:, 7:] = 3000
    np.testing.assert_array_equal(drop_flying_pixels(depth, CAMERA, margin=0.02), depth)
    depth[:, 6] = 2000
    found = drop_flying_pixels(depth, CAMERA, margin=0.02)
    assert not found[:, 6].any()
    assert (np.delete(found, 6, axis=1) > 0).all()


@pytest.mark.parametrize("angle", [0.0, 45.0, 70.0, 78.0])
def test_slanted_surfaces_stay(angle: float) -> None:
    camera = Camera(width=64, height=48, fx=60.0, fy=60.0, cx=31.5, cy=23.5)
    x = (np.arange(64) - camera.cx) / camera.fx * np.ones((48, 1))
    slope = np.tan(np.deg2rad(angle))
    metres = np.where(1 - slope * x > 0.15, 2.0 / np.maximum(1 - slope * x, 0.15), 0)
    depth = np.round(metres * 1000).astype(np.uint16)
    # Away from the middle the same surface is seen at a steeper angle.
    believed = np.abs(slope) / np.maximum(1 - slope * x, 1e-9) < 0.9 * STEEPEST
    believed &= (1 - slope * x > 0.2) & (depth > 0)
    found = drop_flying_pixels(depth, camera, margin=0.02)
    assert believed.any()
    np.testing.assert_array_equal(found[believed], depth[believed])


def test_sparse_depth_stays() -> None:
    depth = np.zeros((11, 13), np.uint16)
    depth[::2, ::2] = np.arange(42).reshape(6, 7) * 500 + 1
    np.testing.assert_array_equal(drop_flying_pixels(depth, CAMERA, margin=0.02), depth)


def test_wrong_arguments() -> None:
    depth = np.ones((11, 13), np.uint16)
    with pytest.raises(GeometryError, match="margin of flying pixels is 0"):
        drop_flying_pixels(depth, CAMERA, margin=0.0)
    with pytest.raises(GeometryError, match="depth is uint16"):
        drop_flying_pixels(depth[1:], CAMERA, margin=0.02)
    with pytest.raises(ConfigError, match="flying_margin is 2"):
        open_source("demo-scene", SourceOptions(limit=1, flying_margin=2.0))


def test_a_source_without_them() -> None:
    plain = open_source("demo-scene", SourceOptions(limit=1))
    clean = open_source("demo-scene", SourceOptions(limit=1, flying_margin=0.02))
    assert clean.keys() == plain.keys()
    assert clean.label_names == plain.label_names
    key = plain.keys()[0]
    before, after = plain.load(key).depth, clean.load(key).depth
    assert before is not None
    assert after is not None
    expected = drop_flying_pixels(before.values, before.camera, margin=0.02)
    np.testing.assert_array_equal(after.values, expected)
    assert clean.fingerprint() == plain.fingerprint() | {"flying_margin": 0.02}
    with pytest.raises(FrameError, match="no such frame"):
        clean.load("frame-9")


@pytest.mark.realdata
def test_points_are_left_alone(data_root: Path) -> None:
    root = data_root / "kitti_object"
    frame = open_source("kitti-object", SourceOptions(root, limit=1, flying_margin=0.02))
    assert frame.load(frame.keys()[0]).points is not None


def agreeing(first: Frame, second: Frame, dropped: np.ndarray) -> tuple[int, int, float]:
    """Dropped points seen by the second frame, how many of them it confirms, and its share else."""
    assert first.depth is not None
    assert second.depth is not None
    assert first.world_from_sensor is not None
    assert second.world_from_sensor is not None
    found = back_project(
        first.depth.values, first.depth.camera, units_per_metre=first.depth.units_per_metre
    )
    second_from_first = invert_rigid(second.world_from_sensor) @ first.world_from_sensor
    seen = project(found.points, second.depth.camera, second_from_first)
    rows = np.flatnonzero(seen.visible)
    u, v = np.rint(seen.pixel_uv[rows]).astype(int).clip(0).T
    u, v = u.clip(max=639), v.clip(max=479)
    metres = second.depth.values[v, u] / second.depth.units_per_metre
    agrees = np.abs(metres - seen.depth_m[rows]) < 0.02 * metres
    is_dropped = dropped.reshape(-1)[found.pixel[rows]]
    measured = metres > 0
    return (
        int((measured & is_dropped).sum()),
        int((agrees & is_dropped).sum()),
        float(agrees[measured & ~is_dropped].mean()),
    )


@pytest.mark.realdata
def test_what_is_dropped_is_what_other_frames_deny(data_root: Path) -> None:
    source = open_source("posed-rgbd", SourceOptions(data_root / "7scenes_redkitchen"))
    keys = source.keys()
    counts = np.zeros(2)
    for start in range(0, 200, 40):
        first, second = source.load(keys[start]), source.load(keys[start + 1])
        assert first.depth is not None
        values = first.depth.values
        cleaned = drop_flying_pixels(values, first.depth.camera, margin=0.02)
        dropped = (values > 0) & (cleaned == 0)
        assert 0 < dropped.sum() < 0.01 * (values > 0).sum()
        seen, confirmed, others = agreeing(first, second, dropped)
        counts += seen, confirmed
        assert others > 0.95
    assert counts[0] > 100
    assert counts[1] / counts[0] < 0.6
