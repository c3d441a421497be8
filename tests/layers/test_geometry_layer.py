from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.datasets.frame import DepthImage, Frame, SourceOptions, View
from p2pkit.datasets.registry import open_source
from p2pkit.errors import ConfigError, FrameError, GeometryError
from p2pkit.geometry.backproject import back_project
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.confidence import LARGEST_REACH_PX, Margins
from p2pkit.geometry.project import project
from p2pkit.layers.geometry import GeometryConfig, decode_geometry, encode_geometry, geometry_fields

CAMERA = Camera(width=24, height=18, fx=20.0, fy=22.0, cx=11.3, cy=8.8)
WIDER = Camera(width=40, height=30, fx=25.0, fy=25.0, cx=19.5, cy=14.5)
KEEP_ALL = GeometryConfig(voxel_size=0.0, depth_min=0.0, depth_max=100.0)


def random_image(seed: int, camera: Camera) -> np.ndarray:
    shape = (camera.height, camera.width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def depth_frame(
    seed: int = 0,
    *,
    holes: float = 0.3,
    color: Camera = CAMERA,
    color_from_depth: np.ndarray | None = None,
) -> Frame:
    """Random depth in 0.5–4 m with holes, and random labels."""
    random = np.random.default_rng(seed)
    shape = (CAMERA.height, CAMERA.width)
    values = random.integers(500, 4000, shape, dtype=np.uint16)
    values[random.random(shape) < holes] = 0
    pose = np.eye(4) if color_from_depth is None else color_from_depth
    return Frame(
        key="frame-000007",
        views=(View(random_image(seed, color), color, pose),),
        depth=DepthImage(values, CAMERA, 1000.0),
        world_from_sensor=np.eye(4),
        labels=random.integers(0, 5, shape, dtype=np.uint8),
        sequence="office",
    )


def shifted(x: float, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    transform = np.eye(4)
    transform[:3, 3] = x, y, z
    return transform


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.3, 0.99]),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.sampled_from([(0.0, 100.0), (1.0, 2.5)]),
)
def test_points_pixels_colours_and_labels_round_trip(
    seed: int, holes: float, voxel_size: float, depth_range: tuple[float, float]
) -> None:
    frame = depth_frame(seed, holes=holes)
    assert frame.depth is not None
    assert frame.labels is not None
    config = GeometryConfig(
        voxel_size=voxel_size, depth_min=depth_range[0], depth_max=depth_range[1]
    )
    everything = back_project(
        frame.depth.values, CAMERA, units_per_metre=1000.0, depth_range_m=depth_range
    )
    if len(everything.points) == 0:
        with pytest.raises(FrameError):
            encode_geometry(frame, config)
        return
    sample = encode_geometry(frame, config)
    cloud = decode_geometry(sample)
    rows = np.searchsorted(everything.pixel, sample.arrays["pixel"])
    assert cloud.points.tobytes() == everything.points[rows].tobytes()
    v, u = np.divmod(sample.arrays["pixel"].astype(np.int64), CAMERA.width)
    np.testing.assert_allclose(cloud.pair_uv, np.stack([u, v], axis=1), atol=1e-4)
    drawn = np.random.default_rng(seed).permutation(len(cloud.points))[:9]
    assert cloud.pixels[drawn].tobytes() == cloud.pair_uv[drawn].tobytes()
    assert np.array_equal(cloud.colors, frame.views[0].image[v, u])
    if voxel_size == 0:
        assert np.array_equal(cloud.labels, frame.labels[v, u])
    assert np.array_equal(cloud.pair_point, np.arange(len(cloud.points)))
    assert not cloud.pair_view.any()
    voxels = np.floor(cloud.points.astype(np.float64) / voxel_size) if voxel_size else cloud.points
    assert len(np.unique(voxels, axis=0)) == len(cloud.points)
    if voxel_size:
        occupied = np.unique(np.floor(everything.points.astype(np.float64) / voxel_size), axis=0)
        assert len(cloud.points) == len(occupied)


def test_voxel_size_zero_keeps_every_measured_pixel() -> None:
    frame = depth_frame()
    assert frame.depth is not None
    sample = encode_geometry(frame, KEEP_ALL)
    assert np.array_equal(sample.arrays["pixel"], np.flatnonzero(frame.depth.values))


def test_meta_names_sequence_size_and_pose() -> None:
    sample = encode_geometry(depth_frame(), KEEP_ALL)
    cloud = decode_geometry(sample)
    assert (cloud.key, cloud.sequence) == ("frame-000007", "office")
    assert cloud.image_sizes == ((CAMERA.width, CAMERA.height),)
    assert sample.meta["world_from_sensor"] == np.eye(4).tolist()


def test_unregistered_colour_is_looked_up_where_each_point_projects() -> None:
    transform = shifted(-0.04, 0.02, 0.01)
    frame = depth_frame(color=WIDER, color_from_depth=transform)
    cloud = decode_geometry(encode_geometry(frame, KEEP_ALL))
    points = cloud.points.astype(np.float64) + transform[:3, 3]
    u = points[:, 0] / points[:, 2] * WIDER.fx + WIDER.cx
    v = points[:, 1] / points[:, 2] * WIDER.fy + WIDER.cy
    np.testing.assert_allclose(cloud.pair_uv, np.stack([u, v], axis=1), atol=1e-4)
    image = frame.views[0].image
    assert np.array_equal(cloud.colors, image[np.rint(v).astype(int), np.rint(u).astype(int)])


def test_points_that_the_colour_camera_does_not_see_are_left_out() -> None:
    half = Camera(width=12, height=18, fx=20.0, fy=22.0, cx=11.3, cy=8.8)
    frame = depth_frame(holes=0.0, color=half)
    sample = encode_geometry(frame, GeometryConfig(voxel_size=0.0, occlusion_margin=100.0))
    assert set(sample.arrays["pixel"] % CAMERA.width) == set(range(12))


def test_every_array_matches_the_fields_table() -> None:
    for frame in (depth_frame(), points_frame()[0]):
        sample = encode_geometry(frame, KEEP_ALL)
        fields = {field.name: field for field in geometry_fields(frame)}
        assert set(fields) == set(sample.arrays)
        for name, array in sample.arrays.items():
            fields[name].check(array, sample.key)


def points_frame() -> tuple[Frame, np.ndarray]:
    """A wall at 3 m and a plate at 1.5 m, seen from the sensor and from 0.6 m to its right.

    Returns the frame and which points belong to the plate.
    """
    grid_x, grid_y = np.meshgrid(np.linspace(-1.5, 1.5, 61), np.linspace(-1, 1, 41))
    wall = np.stack([grid_x.ravel(), grid_y.ravel(), np.full(grid_x.size, 3.0)], axis=1)
    plate_x, plate_y = np.meshgrid(np.linspace(-0.3, 0.3, 31), np.linspace(-0.3, 0.3, 31))
    plate = np.stack([plate_x.ravel(), plate_y.ravel(), np.full(plate_x.size, 1.5)], axis=1)
    points = np.concatenate([wall, plate]).astype(np.float32)
    camera = Camera(width=64, height=48, fx=40.0, fy=40.0, cx=31.5, cy=23.5)
    views = tuple(View(random_image(seed, camera), camera, shifted(-0.6 * seed)) for seed in (0, 1))
    is_plate = np.arange(len(points)) >= len(wall)
    labels = is_plate.astype(np.uint8)
    return Frame(key="sweep-1", views=views, points=points, labels=labels), is_plate


@pytest.mark.parametrize("view", [0, 1])
def test_a_view_is_paired_with_the_points_that_nothing_hides_from_it(view: int) -> None:
    frame, is_plate = points_frame()
    cloud = decode_geometry(encode_geometry(frame, KEEP_ALL))
    assert frame.points is not None
    assert np.array_equal(cloud.points, frame.points)
    mine = cloud.pair_view == view
    paired = np.zeros(len(cloud.points), dtype=bool)
    paired[cloud.pair_point[mine]] = True
    camera = frame.views[view].camera
    seen = project(cloud.points, camera, frame.views[view].camera_from_sensor)
    np.testing.assert_array_equal(cloud.pair_uv[mine], seen.pixel_uv[paired])
    # Where the ray to each wall point crosses the plate's plane, in the sensor's frame.
    origin = np.array([0.6 * view, 0.0, 0.0])
    crossing = origin + (cloud.points - origin) * 0.5
    outside = np.abs(crossing[:, :2]).max(axis=1) - 0.3
    border = 3 * 1.5 / camera.fx
    hidden = ~is_plate & (outside < -border) & seen.visible
    free = seen.visible & (is_plate | (outside > border))
    assert hidden.sum() > 50
    assert free.sum() > 500
    assert not paired[hidden].any()
    assert paired[free].all()


def test_a_point_takes_the_colour_of_the_first_view_that_sees_it() -> None:
    frame, _ = points_frame()
    cloud = decode_geometry(encode_geometry(frame, KEEP_ALL))
    for point in range(0, len(cloud.points), 7):
        pairs = np.flatnonzero(cloud.pair_point == point)
        if len(pairs) == 0:
            assert not cloud.colors[point].any()
            continue
        u, v = np.rint(cloud.pair_uv[pairs[0]]).astype(int)
        image = frame.views[cloud.pair_view[pairs[0]]].image
        assert np.array_equal(cloud.colors[point], image[v, u])


def test_deduplication_keeps_points_and_labels_together() -> None:
    frame, is_plate = points_frame()
    cloud = decode_geometry(encode_geometry(frame, GeometryConfig(voxel_size=0.2)))
    assert len(cloud.points) < len(is_plate) / 2
    assert np.array_equal(cloud.labels, cloud.points[:, 2] < 2)


def test_a_contested_voxel_has_the_label_of_most_of_its_points() -> None:
    """The first point decides position and colour only; labels change no other byte."""
    points = np.array([[0.01, 0, 2], [0.02, 0, 2], [0.03, 0, 2], [0.5, 0, 2]], np.float32)
    frame = replace(points_frame()[0], points=points, labels=np.array([1, 2, 2, 3], np.uint8))
    sample = encode_geometry(frame, GeometryConfig(voxel_size=0.1))
    assert sample.arrays["label"].tolist() == [2, 3]
    other = encode_geometry(
        replace(frame, labels=np.array([1, 1, 1, 3], np.uint8)), GeometryConfig(voxel_size=0.1)
    )
    for name, array in sample.arrays.items():
        assert (array.tobytes() == other.arrays[name].tobytes()) == (name != "label")


def test_labels_of_depth_frames_are_voted_for_too() -> None:
    frame = depth_frame(holes=0.0)
    assert frame.depth is not None
    near = replace(frame.depth, values=np.full_like(frame.depth.values, 1000))
    labels = np.full(near.values.shape, 4, np.uint8)
    labels[::7, ::7] = 1
    voted = encode_geometry(
        replace(frame, depth=near, labels=labels), GeometryConfig(voxel_size=0.5)
    )
    assert set(voted.arrays["label"]) == {4}


@pytest.mark.parametrize("limit", [0.0, 2.0])
def test_pairs_nearer_than_the_limit_are_left_out_but_keep_their_colour(limit: float) -> None:
    frame, is_plate = points_frame()
    plain = decode_geometry(encode_geometry(frame, KEEP_ALL))
    cloud = decode_geometry(encode_geometry(frame, replace(KEEP_ALL, near_limit=limit)))
    assert np.array_equal(cloud.colors, plain.colors)
    assert is_plate[plain.pair_point].any()
    assert is_plate[cloud.pair_point].any() == (limit == 0)
    kept = ~is_plate[plain.pair_point] | (limit == 0)
    assert np.array_equal(cloud.pair_point, plain.pair_point[kept])
    with pytest.raises(FrameError, match=r"any view at 9\.0 m or more"):
        encode_geometry(frame, replace(KEEP_ALL, near_limit=9.0))


def test_a_near_limit_of_none_leaves_the_fingerprint_alone() -> None:
    assert "near_limit" not in GeometryConfig().fingerprint()
    assert GeometryConfig(near_limit=1.0).fingerprint()["near_limit"] == 1.0


def test_pixels_without_an_image_get_no_pair() -> None:
    valid = np.ones((CAMERA.height, CAMERA.width), dtype=bool)
    valid[:, :7] = False
    frame = depth_frame(holes=0.0)
    view = replace(frame.views[0], valid=valid)
    sample = encode_geometry(replace(frame, views=(view,)), KEEP_ALL)
    assert sorted(set(sample.arrays["pixel"] % CAMERA.width)) == list(range(7, CAMERA.width))

    frame, _ = points_frame()
    valid = np.zeros((48, 64), dtype=bool)
    valid[:, 32:] = True
    views = (replace(frame.views[0], valid=valid), frame.views[1])
    whole = decode_geometry(encode_geometry(frame, KEEP_ALL))
    cloud = decode_geometry(encode_geometry(replace(frame, views=views), KEEP_ALL))
    right = whole.pair_uv[whole.pair_view == 0, 0] >= 31.5
    assert (cloud.pair_view == 0).sum() == right.sum() > 100
    assert (cloud.pair_view == 1).sum() == (whole.pair_view == 1).sum()


def test_a_source_may_know_that_a_view_does_not_see_a_point() -> None:
    frame, is_plate = points_frame()
    assert frame.points is not None
    views = (replace(frame.views[0], sees=is_plate), frame.views[1])
    cloud = decode_geometry(encode_geometry(replace(frame, views=views), KEEP_ALL))
    assert is_plate[cloud.pair_point[cloud.pair_view == 0]].all()
    assert not is_plate[cloud.pair_point[cloud.pair_view == 1]].all()
    thinned = GeometryConfig(voxel_size=0.2)
    cloud = decode_geometry(encode_geometry(replace(frame, views=views), thinned))
    assert (cloud.points[cloud.pair_point[cloud.pair_view == 0], 2] == 1.5).all()


def test_intensity_stays_with_its_point() -> None:
    frame, _ = points_frame()
    assert frame.points is not None
    strength = (frame.points[:, 0] + 1.5) / 3
    frame = replace(frame, intensity=strength.astype(np.float32))
    sample = encode_geometry(frame, GeometryConfig(voxel_size=0.2))
    fields = {field.name: field for field in geometry_fields(frame)}
    fields["intensity"].check(sample.arrays["intensity"], sample.key)
    cloud = decode_geometry(sample)
    np.testing.assert_allclose(cloud.intensity, (cloud.points[:, 0] + 1.5) / 3, atol=1e-6)
    assert decode_geometry(encode_geometry(points_frame()[0], KEEP_ALL)).intensity is None


@pytest.mark.parametrize(
    ("frame", "config", "reason"),
    [
        (depth_frame(holes=1.1), KEEP_ALL, "no point has depth in 0.0–100.0 m"),
        (depth_frame(), GeometryConfig(depth_min=5.0), "no point has depth in 5.0–10.0 m"),
        (
            depth_frame(color_from_depth=shifted(100.0)),
            KEEP_ALL,
            r"a pixel in the colour image \(check color_from_depth\)",
        ),
        (Frame(key="none", views=()), KEEP_ALL, "expected a depth image or points, found neither"),
        (
            Frame(key="empty", views=(), points=np.zeros((0, 3), np.float32)),
            KEEP_ALL,
            "no point has a position",
        ),
        (
            Frame(
                key="behind",
                views=points_frame()[0].views,
                points=np.array([[0, 0, -1]], np.float32),
            ),
            KEEP_ALL,
            "a pixel in any view",
        ),
        (
            Frame(key="two", views=points_frame()[0].views, depth=depth_frame().depth),
            KEEP_ALL,
            "expected one view in a depth frame, found 2",
        ),
    ],
)
def test_a_frame_without_pairs_is_an_error(
    frame: Frame, config: GeometryConfig, reason: str
) -> None:
    with pytest.raises(FrameError, match=reason) as caught:
        encode_geometry(frame, config)
    assert caught.value.key == frame.key


@pytest.mark.realdata
def test_redkitchen_colour_shift_is_the_calibrations(data_root: Path) -> None:
    root = data_root / "7scenes_redkitchen"
    source = open_source("posed-rgbd", SourceOptions(root=root, limit=1))
    sample = encode_geometry(source.load(source.keys()[0]), GeometryConfig())
    cloud = decode_geometry(sample)
    v, u = np.divmod(sample.arrays["pixel"].astype(np.float64), 640)
    z = cloud.points[:, 2].astype(np.float64)
    expected_u = 525 * ((u - 320) / 585 - 0.025 / z) + 320
    expected_v = 525 * (v - 240) / 585 + 240
    np.testing.assert_allclose(cloud.pair_uv, np.stack([expected_u, expected_v], axis=1), atol=1e-3)
    assert np.median(np.abs(cloud.pair_uv[:, 0] - u)) > 5
    assert len(cloud.points) > 5000


def test_each_pair_has_a_confidence_that_falls_with_time_between_points_and_image() -> None:
    frame = depth_frame(color=WIDER, color_from_depth=shifted(-0.04))
    still = decode_geometry(encode_geometry(frame, KEEP_ALL))
    late = replace(frame, views=(replace(frame.views[0], time_offset_s=-0.05),), speed_m_s=8.0)
    moving = decode_geometry(encode_geometry(late, KEEP_ALL))
    assert still.pair_confidence is not None
    assert moving.pair_confidence is not None
    assert len(still.pair_confidence) == len(still.pair_point)
    moved_px = WIDER.fx * 0.4 / still.points[:, 2].astype(np.float64)
    expected = still.pair_confidence / (1 + moved_px / KEEP_ALL.confidence_motion_px)
    np.testing.assert_allclose(moving.pair_confidence, expected, atol=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("edge_px", 0.0), ("edge_px", np.nextafter(LARGEST_REACH_PX, 100)), ("motion_px", 0.0)],
)
def test_settings_refuse_what_the_confidence_of_pairs_refuses(name: str, value: float) -> None:
    with pytest.raises(GeometryError):
        Margins(**{name: value})
    with pytest.raises(ConfigError, match=f"confidence_{name} is "):
        GeometryConfig(**{f"confidence_{name}": value})
    assert Margins(edge_px=LARGEST_REACH_PX).edge_px == LARGEST_REACH_PX
    assert GeometryConfig(confidence_edge_px=LARGEST_REACH_PX)


def test_stores_without_confidence_stay_readable() -> None:
    sample = encode_geometry(depth_frame(), KEEP_ALL)
    arrays = {name: array for name, array in sample.arrays.items() if name != "pair_confidence"}
    cloud = decode_geometry(replace(sample, arrays=arrays))
    assert cloud.pair_confidence is None
