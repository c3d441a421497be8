from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pkit.datasets.frame import Frame, FrameSource, SourceOptions
from p2pkit.datasets.fused import FusedFrames
from p2pkit.datasets.left_out import LeftOut, left_out_by
from p2pkit.datasets.registry import open_source
from p2pkit.errors import ConfigError, FrameError
from p2pkit.geometry.project import project
from p2pkit.geometry.transforms import transform_points
from p2pkit.layers.geometry import GeometryConfig, decode_geometry, encode_geometry


@pytest.fixture(scope="module")
def plain() -> FrameSource:
    return open_source("demo-scene", SourceOptions())


@pytest.fixture(scope="module")
def sample() -> Frame:
    """The first three frames of the first room."""
    source = open_source("demo-scene", SourceOptions(fuse=3, limit=12))
    return source.load(source.keys()[0])


def test_samples_are_runs_of_frames() -> None:
    source = open_source("demo-scene", SourceOptions(fuse=5, limit=19))
    assert source.keys() == ["room-0_frame-000000", "room-0_frame-000005", "room-1_frame-000000"]
    assert source.fingerprint()["fused"]["frames"] == 5
    with pytest.raises(FrameError, match="no such sample among the 3"):
        source.load("room-0_frame-000001")


def test_frames_that_make_no_full_sample_are_reported() -> None:
    source = open_source("demo-scene", SourceOptions(fuse=5, limit=19))
    assert left_out_by(source) == (
        LeftOut("room-0_frame", "2 of 12 frames make no full sample of 5"),
        LeftOut("room-1_frame", "2 of 7 frames make no full sample of 5"),
    )
    whole = open_source("demo-scene", SourceOptions(fuse=3, limit=12))
    assert not left_out_by(whole)


def test_one_cloud_with_three_views(sample: Frame, plain: FrameSource) -> None:
    frames = [plain.load(key) for key in plain.keys()[:3]]
    assert sample.points is not None
    assert sample.labels is not None
    assert sample.depth is None
    assert len(sample.views) == 3
    assert len(sample.points) == len(sample.labels)
    for view, frame in zip(sample.views, frames, strict=True):
        np.testing.assert_array_equal(view.image, frame.views[0].image)
        assert view.sees is not None
        assert 0.2 < view.sees.mean() < 1


def test_a_sample_is_as_fast_as_its_fastest_frame(plain: FrameSource) -> None:
    class Moving:
        """The rooms by a camera that speeds up."""

        name, label_names, ignore_label = plain.name, plain.label_names, plain.ignore_label

        def keys(self) -> Sequence[str]:
            return plain.keys()[:3]

        def load(self, key: str) -> Frame:
            return replace(plain.load(key), speed_m_s=0.1 * (1 + int(key[-1])))

        def fingerprint(self) -> dict[str, Any]:
            return {}

    fused = FusedFrames(Moving(), 3)
    assert fused.load(fused.keys()[0]).speed_m_s == pytest.approx(0.3)


def test_views_see_what_their_own_depth_confirms(sample: Frame, plain: FrameSource) -> None:
    assert sample.points is not None
    for number, view in enumerate(sample.views):
        depth = plain.load(plain.keys()[number]).depth
        assert depth is not None
        found = project(sample.points, depth.camera, view.camera_from_sensor)
        assert view.sees is not None
        u, v = np.rint(found.pixel_uv[view.sees]).astype(int).T
        metres = depth.values[v.clip(0, 239), u.clip(0, 319)] / depth.units_per_metre
        expected = found.depth_m[view.sees]
        assert (np.abs(metres - expected) <= np.maximum(0.03, 0.02 * expected) + 1e-5).all()


def test_depths_out_of_range_are_not_fused(sample: Frame, plain: FrameSource) -> None:
    near, far = 1.0, 2.0
    source = FusedFrames(
        open_source("demo-scene", SourceOptions(limit=12)), 3, depth_range_m=(near, far)
    )
    cut = source.load(source.keys()[0])
    assert cut.points is not None
    assert sample.points is not None
    assert 0 < len(cut.points) < len(sample.points)
    for view in cut.views:
        depth_m = transform_points(view.camera_from_sensor, cut.points)[:, 2]
        assert view.sees is not None
        assert depth_m[view.sees].min() > near - 0.03
        assert depth_m[view.sees].max() < far + 0.04
    assert source.fingerprint()["fused"]["depth_range_m"] == [near, far]
    assert "depth_range_m" not in FusedFrames(plain, 3).fingerprint()["fused"]
    with pytest.raises(FrameError, match=r"none of its frames .* in 50\.0–60\.0 m"):
        FusedFrames(plain, 3, depth_range_m=(50.0, 60.0)).load(plain.keys()[0])


def test_floor_is_level_and_below(sample: Frame) -> None:
    assert sample.points is not None
    assert sample.labels is not None
    floor = sample.points[sample.labels == 1]
    assert len(floor) > 100
    assert floor[:, 2].std() < 0.02
    assert floor[:, 2].mean() < -0.5


def test_pairs_in_every_view_show_one_colour(sample: Frame) -> None:
    """The rooms have no shading that depends on the view: a point looks alike in all of them."""
    cloud = decode_geometry(encode_geometry(sample, GeometryConfig()))
    assert set(cloud.pair_view) == {0, 1, 2}
    colors = np.full((3, len(cloud.points), 3), np.nan)
    for view in range(3):
        mine = cloud.pair_view == view
        u, v = np.rint(cloud.pair_uv[mine]).astype(int).T
        colors[view, cloud.pair_point[mine]] = sample.views[view].image[v, u]
    both = np.isfinite(colors[0, :, 0]) & np.isfinite(colors[1, :, 0])
    assert both.sum() > 1000
    difference = np.abs(colors[0, both] - colors[1, both]).mean(axis=1)
    assert np.median(difference) < 12
    shuffled = colors[1, both][np.random.default_rng(0).permutation(both.sum())]
    assert np.median(difference) < 0.5 * np.median(np.abs(colors[0, both] - shuffled).mean(axis=1))


def test_up_is_estimated_where_the_world_is_tilted(plain: FrameSource) -> None:
    tilt = np.eye(4)
    angle = np.deg2rad(25)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]

    class Tilted:
        name, label_names, ignore_label = "tilted", plain.label_names, plain.ignore_label

        def keys(self) -> list[str]:
            return list(plain.keys())

        def load(self, key: str) -> Frame:
            frame = plain.load(key)
            assert frame.world_from_sensor is not None
            return replace(frame, world_from_sensor=tilt @ frame.world_from_sensor)

        def fingerprint(self) -> dict[str, object]:
            return {}

    sample = FusedFrames(Tilted(), 3).load(plain.keys()[0])
    assert sample.world_from_sensor is not None
    up = sample.world_from_sensor[:3, 2]
    assert np.rad2deg(np.arccos(up @ tilt[:3, 2])) < 2.0


def test_what_cannot_be_fused(plain: FrameSource, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fuse is 1"):
        open_source("demo-scene", SourceOptions(fuse=1))
    with pytest.raises(ConfigError, match="it has 2 in all"):
        open_source("demo-scene", SourceOptions(fuse=3, limit=2))

    class Mixed:
        name, label_names, ignore_label = "x", None, None
        fingerprint = staticmethod(plain.fingerprint)

        def keys(self) -> list[str]:
            return ["0", "1"]

        def load(self, key: str) -> Frame:
            return plain.load(f"room-{key}_frame-000000")

    with pytest.raises(FrameError, match="sequences: room-0, room-1"):
        FusedFrames(Mixed(), 2).load("0")

    class NoPoses:
        name, label_names, ignore_label = "x", None, None
        keys, fingerprint = staticmethod(plain.keys), staticmethod(plain.fingerprint)

        def load(self, key: str) -> Frame:
            return replace(plain.load(key), world_from_sensor=None)

    with pytest.raises(FrameError, match="no pose, which fusing needs"):
        FusedFrames(NoPoses(), 2).load(plain.keys()[0])


@pytest.mark.realdata
def test_real_kitchen(data_root: Path) -> None:
    root = data_root / "7scenes_redkitchen"
    source = open_source("posed-rgbd", SourceOptions(root, every=5, fuse=4, flying_margin=0.02))
    sample = source.load(source.keys()[2])
    assert sample.points is not None
    assert sample.world_from_sensor is not None
    sees = np.array([view.sees for view in sample.views])
    # Neighbours overlap: most points are seen from more than one frame.
    assert np.mean(sees.sum(axis=0) > 1) > 0.5
    cloud = decode_geometry(encode_geometry(sample, GeometryConfig()))
    assert len(cloud.pair_point) > 1.5 * len(cloud.points)
    assert set(cloud.pair_view) == {0, 1, 2, 3}
    world = transform_points(sample.world_from_sensor, sample.points)
    assert np.isfinite(world).all()
