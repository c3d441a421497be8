"""Clouds of points with cameras of ROS bags, written by `rosbags`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bags_written import START_NS, STEP_NS, Form, Messages, Sent, png, write_bag

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.left_out import left_out_by
from p2pkit.datasets.recognise import recognise
from p2pkit.datasets.registry import open_source
from p2pkit.errors import ConfigError, FrameError, SourceError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.transforms import invert_rigid

CAMERA = Camera(64, 48, fx=60.0, fy=60.0, cx=31.5, cy=23.5)
LIDAR, POINTS = "velodyne", "/velodyne_points"
SPEED_M_S = 10.0
BASE_FROM_LIDAR = np.eye(4)
BASE_FROM_LIDAR[:3, 3] = (1.0, 0.0, 1.8)
BASE_FROM_FRONT = np.array(
    [[0.0, 0.0, 1.0, 1.5], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 1.6], [0.0, 0.0, 0.0, 1.0]]
)
DELAY_NS = 20_000_000


def world_from_base(time_ns: int) -> np.ndarray:
    pose = np.eye(4)
    pose[:2, 3] = (500.0 + SPEED_M_S * (time_ns - START_NS) / 1e9, -20.0)
    return pose


def cloud() -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(3).uniform(-20, 20, (200, 3)).astype(np.float32)
    strength = np.arange(200).astype(np.float32)
    return {"x": numbers[:, 0], "y": numbers[:, 1], "z": numbers[:, 2], "intensity": strength}


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)


def drive(
    form: Form,
    count: int = 3,
    *,
    cameras: tuple[str, ...] = ("front",),
    columns: Callable[[], dict[str, np.ndarray]] = cloud,
    compressed: bool = False,
) -> list[Sent]:
    """A car that drives straight on at 10 m/s; each image is 20 ms later than its sweep."""
    make = Messages(form)
    sent: list[Sent] = [
        ("/tf_static", START_NS, make.transform(START_NS, "base", LIDAR, BASE_FROM_LIDAR)),
        *(
            ("/tf_static", START_NS, make.transform(START_NS, "base", name, BASE_FROM_FRONT))
            for name in cameras
        ),
    ]
    for number in range(-1, count + 1):
        time = START_NS + number * STEP_NS
        pose = world_from_base(time)
        sent.append(("/tf", max(time, START_NS), make.transform(time, "map", "base", pose)))
        if not 0 <= number < count:
            continue
        sent.append((POINTS, time, make.cloud(time, LIDAR, columns(), padding=4)))
        for name in cameras:
            image, taken = picture(number), time + DELAY_NS
            info = make.info(taken, name, CAMERA)
            sent.append((f"/{name}/camera_info", taken, info))
            if compressed:
                message = make.compressed(taken, name, png(image), "bgr8; png compressed bgr8")
                sent.append((f"/{name}/image_raw/compressed", taken, message))
            else:
                pixels = make.image(taken, name, image[:, :, ::-1], "bgr8")
                sent.append((f"/{name}/image_raw", taken, pixels))
    return sorted(sent, key=lambda one: one[1])


def opened(folder: Path, **options: Any) -> list[Frame]:
    source = open_source("ros-sweeps", SourceOptions(folder, **options))
    return list(map(source.load, source.keys()))


@pytest.mark.parametrize("form", ["mcap", "db3", "bag"])
@pytest.mark.parametrize("compressed", [False, True])
def test_sweeps_with_their_images(form: Form, compressed: bool, tmp_path: Path) -> None:
    write_bag(tmp_path / "town", form, drive(form, compressed=compressed))
    found = recognise(tmp_path)
    assert found.dataset == "ros-sweeps"
    frames = opened(tmp_path)
    assert [frame.key for frame in frames] == ["town_000000", "town_000001", "town_000002"]
    columns = cloud()
    xyz = np.stack([columns[name] for name in "xyz"], axis=1)
    for number, frame in enumerate(frames):
        assert frame.points is not None
        assert frame.intensity is not None
        np.testing.assert_array_equal(frame.points, xyz)
        np.testing.assert_allclose(frame.intensity, columns["intensity"] / 255)
        view = frame.views[0]
        np.testing.assert_array_equal(view.image, picture(number))
        assert view.camera == CAMERA
        assert view.time_offset_s == pytest.approx(0.02)
        assert frame.speed_m_s == pytest.approx(SPEED_M_S)
        assert frame.interval_s == pytest.approx(0.1)


def test_the_camera_is_placed_at_its_own_time(tmp_path: Path) -> None:
    """LiDAR to car to world to car, 0.2 m farther on, to camera."""
    write_bag(tmp_path / "town", "mcap", drive("mcap"))
    for number, frame in enumerate(opened(tmp_path)):
        time = START_NS + number * STEP_NS
        world_from_lidar = world_from_base(time) @ BASE_FROM_LIDAR
        world_from_camera = world_from_base(time + DELAY_NS) @ BASE_FROM_FRONT
        expected = invert_rigid(world_from_camera) @ world_from_lidar
        np.testing.assert_allclose(frame.views[0].camera_from_sensor, expected, atol=1e-9)
        assert expected[2, 3] == pytest.approx(1.0 - 1.5 - 0.2)
        assert frame.world_from_sensor is not None
        np.testing.assert_allclose(frame.world_from_sensor, world_from_lidar, atol=1e-9)


def test_without_a_world_the_fixed_transforms_place_the_camera(tmp_path: Path) -> None:
    sent = [one for one in drive("mcap") if one[0] != "/tf"]
    write_bag(tmp_path / "town", "mcap", sent)
    frame = opened(tmp_path)[0]
    assert frame.world_from_sensor is None
    assert frame.speed_m_s == 0
    expected = invert_rigid(BASE_FROM_FRONT) @ BASE_FROM_LIDAR
    np.testing.assert_allclose(frame.views[0].camera_from_sensor, expected, atol=1e-9)


def test_frames_that_tf_does_not_connect(tmp_path: Path) -> None:
    sent = [one for one in drive("mcap") if not one[0].startswith("/tf")]
    write_bag(tmp_path / "town", "mcap", sent)
    with pytest.raises(SourceError, match=r"the points' frame velodyne with front of /front/image"):
        opened(tmp_path)


def test_several_cameras_are_views_and_some_can_be_chosen(tmp_path: Path) -> None:
    write_bag(tmp_path / "town", "mcap", drive("mcap", cameras=("front", "rear")))
    assert [len(frame.views) for frame in opened(tmp_path)] == [2, 2, 2]
    assert [len(frame.views) for frame in opened(tmp_path, streams=("/rear/image_raw",))] == [1] * 3


def test_several_clouds_are_listed_with_the_option(tmp_path: Path) -> None:
    sent = drive("mcap")
    sent += [("/ouster/points", *one[1:]) for one in sent if one[0] == POINTS]
    write_bag(tmp_path / "town", "mcap", sent)
    message = r"2 topics of points \(PointCloud2\): /ouster/points, /velodyne_points; choose one"
    with pytest.raises(SourceError, match=message):
        opened(tmp_path)
    assert len(opened(tmp_path, streams=(POINTS,))) == 3


@pytest.mark.parametrize(
    ("strength", "scale"),
    [(np.float32(0.5), 1.0), (np.uint8(200), 255.0), (np.uint16(4000), 65535.0)],
)
def test_intensities_are_scaled_by_what_the_sensor_writes(
    strength: np.generic, scale: float, tmp_path: Path
) -> None:
    def columns() -> dict[str, np.ndarray]:
        return cloud() | {"intensity": np.full(200, strength)}

    write_bag(tmp_path / "town", "mcap", drive("mcap", columns=columns))
    intensity = opened(tmp_path)[0].intensity
    assert intensity is not None
    np.testing.assert_allclose(intensity, float(strength) / scale, rtol=1e-6)


def test_a_dark_first_sweep_does_not_decide_the_scale(tmp_path: Path) -> None:
    strengths = iter((0.0, 100.0, 200.0))

    def columns() -> dict[str, np.ndarray]:
        return cloud() | {"intensity": np.full(200, next(strengths), np.float32)}

    write_bag(tmp_path / "town", "mcap", drive("mcap", columns=columns))
    found = [frame.intensity for frame in opened(tmp_path)]
    assert [float(one.max()) for one in found if one is not None] == pytest.approx(
        [0, 100 / 255, 200 / 255]
    )


def test_all_bags_of_a_folder_have_one_scale(tmp_path: Path) -> None:
    for name, strength in (("morning", 250), ("noon", 300)):
        columns = cloud() | {"intensity": np.full(200, strength, np.float32)}
        write_bag(tmp_path / name, "mcap", drive("mcap", count=1, columns=lambda c=columns: c))
    source = open_source("ros-sweeps", SourceOptions(tmp_path))
    found = [source.load(key).intensity for key in ("morning_000000", "noon_000000")]
    expected = [250 / 65535, 300 / 65535]
    assert [float(one.max()) for one in found if one is not None] == pytest.approx(expected)
    scales = {"morning": [POINTS, 65535.0], "noon": [POINTS, 65535.0]}
    assert source.fingerprint()["points"] == scales


def test_points_that_are_nan_or_double_or_without_intensity(tmp_path: Path) -> None:
    def columns() -> dict[str, np.ndarray]:
        values = {name: cloud()[name].astype(np.float64) for name in "xyz"}
        values["x"][:10] = np.nan
        return values

    write_bag(tmp_path / "town", "mcap", drive("mcap", columns=columns))
    frame = opened(tmp_path)[0]
    assert frame.points is not None
    assert frame.points.shape == (190, 3)
    assert frame.intensity is None


def test_sweeps_without_an_image_of_each_camera_are_left_out(tmp_path: Path) -> None:
    sent = drive("mcap")
    images = [one for one in sent if one[0] == "/front/image_raw"]
    write_bag(tmp_path / "one" / "town", "mcap", [one for one in sent if one is not images[1]])
    source = open_source("ros-sweeps", SourceOptions(tmp_path / "one"))
    assert list(source.keys()) == ["town_000000", "town_000002"]
    reason = "1 of 3 sweeps have no image of each camera within 0.05 s"
    assert left_out_by(source)[0].reason == reason


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (POINTS, r"town has no topics of points \(PointCloud2\)"),
        ("/front/camera_info", "none of 1 topics of colour images has a CameraInfo"),
    ],
)
def test_bags_that_lack_something(missing: str, message: str, tmp_path: Path) -> None:
    sent = [one for one in drive("mcap") if one[0] != missing]
    write_bag(tmp_path / "town", "mcap", sent)
    with pytest.raises(SourceError, match=message):
        opened(tmp_path)


@pytest.mark.parametrize("encoding", ["yuv422_yuy2", "bayer_rggb8"])
def test_colour_in_another_encoding_is_named(encoding: str, tmp_path: Path) -> None:
    sent = drive("mcap", count=1)
    for topic, _, message in sent:
        if topic == "/front/image_raw":
            message.encoding = encoding
    write_bag(tmp_path / "town", "mcap", sent)
    message = (
        rf"its images are /front/image_raw \({encoding}\)\. Record or convert colour as rgb8, "
    )
    with pytest.raises(SourceError, match=message):
        opened(tmp_path, streams=("/front/image_raw",))


def test_a_bag_of_sweeps_read_for_depth_says_which_dataset_reads_it(tmp_path: Path) -> None:
    write_bag(tmp_path / "town", "mcap", drive("mcap"))
    with pytest.raises(SourceError, match=r"it has clouds of points \(/velo.*--dataset ros-sweeps"):
        open_source("ros-rgbd", SourceOptions(tmp_path))


def test_a_damaged_first_bag_does_not_decide_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "bad.mcap").write_bytes(b"no bag")
    write_bag(tmp_path / "town" / "town", "bag", drive("bag", count=1))
    found = recognise(tmp_path)
    assert found.dataset == "ros-sweeps"
    assert [frame.key for frame in opened(found.root)] == ["town_000000"]


def test_clouds_that_cannot_be_used(tmp_path: Path) -> None:
    sent = drive("mcap", count=1)
    message = next(one[2] for one in sent if one[0] == POINTS)
    message.data = message.data[:100]
    write_bag(tmp_path / "short" / "town", "mcap", sent)
    with pytest.raises(FrameError, match="a cloud of 200 x 1 points has 100 bytes; too few"):
        opened(tmp_path / "short", limit=1)
    flat = drive("mcap", count=1, columns=lambda: {"x": cloud()["x"], "y": cloud()["y"]})
    write_bag(tmp_path / "flat" / "town", "mcap", flat)
    with pytest.raises(FrameError, match="have the fields x, y; expected x, y, z"):
        opened(tmp_path / "flat")


def test_a_circle_of_frames_is_named(tmp_path: Path) -> None:
    make = Messages("mcap")
    circle = make.transform(START_NS, "velodyne", "base", np.eye(4))
    sent = [*(one for one in drive("mcap") if one[0] != "/tf"), ("/tf_static", START_NS, circle)]
    write_bag(tmp_path / "town", "mcap", sent)
    with pytest.raises(SourceError, match="tf goes in a circle at velodyne"):
        opened(tmp_path)


def test_other_datasets_take_no_streams(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"streams apply to lerobot, ros-rgbd, ros-sweeps only"):
        open_source("tum", SourceOptions(tmp_path, streams=("rgb",)))
