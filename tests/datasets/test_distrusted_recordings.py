"""Recordings whose names, times, units or coordinates cannot be believed as they stand."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rgbd_written import depth_of, write_arkitscenes, write_redwood, write_tum
from written_recording import CAMERA, write_calibration, write_frame

from p2pkit.datasets.frame import Frame, SourceOptions, View
from p2pkit.datasets.left_out import left_out_by
from p2pkit.datasets.plausible import implausible_times, median_interval_s, motion_m
from p2pkit.datasets.registry import open_source
from p2pkit.datasets.world import moved, near_origin, origins_json, refuse_coarse
from p2pkit.errors import ConfigError, FrameError, SourceError
from p2pkit.geometry.camera import Camera


@pytest.fixture(scope="module")
def rooms() -> list[Frame]:
    source = open_source("demo-scene", SourceOptions(limit=8))
    return [source.load(key) for key in source.keys()]  # noqa: SIM118 - a source is no mapping


def test_redwood_never_pairs_another_frames_colour(rooms: list[Frame], tmp_path: Path) -> None:
    write_redwood(tmp_path / "loft", rooms)
    (tmp_path / "loft" / "color" / "000002.png").unlink()
    (tmp_path / "loft" / "depth" / "000006.png").unlink()
    source = open_source("redwood", SourceOptions(tmp_path / "loft"))
    found = [source.load(key) for key in source.keys()]  # noqa: SIM118
    expected = [frame for number, frame in enumerate(rooms) if number not in (2, 6)]
    assert len(found) == len(expected)
    for frame, real in zip(found, expected, strict=True):
        np.testing.assert_array_equal(frame.views[0].image, real.views[0].image)
        np.testing.assert_array_equal(depth_of(frame), depth_of(real))
        assert frame.world_from_sensor is not None
        np.testing.assert_allclose(frame.world_from_sensor, real.world_from_sensor, atol=1e-6)
    (part,) = left_out_by(source)
    assert "depth/000002.png" in part.reason
    assert "color/000006.png" in part.reason


def test_one_bad_sequence_leaves_the_others(rooms: list[Frame], tmp_path: Path) -> None:
    write_arkitscenes(tmp_path / "41069021", rooms[:2])
    write_arkitscenes(tmp_path / "48018149", rooms[:2])
    (tmp_path / "48018149" / "lowres_wide.traj").write_text("<?xml version='1.0'?>\n")
    source = open_source("arkitscenes", SourceOptions(tmp_path))
    assert {key.partition("_")[0] for key in source.keys()} == {"41069021"}  # noqa: SIM118
    (part,) = left_out_by(source)
    assert part.name == "48018149"
    assert part.reason.startswith("48018149/lowres_wide.traj: line 1")
    (tmp_path / "41069021" / "lowres_wide.traj").write_text("1 2\n")
    with pytest.raises(SourceError, match=r"none of 2 sequences can be read; .*41069021"):
        open_source("arkitscenes", SourceOptions(tmp_path))


def test_a_bad_folder_of_posed_rgbd_leaves_the_others(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        write_calibration(tmp_path / name)
        for number in range(3):
            write_frame(tmp_path / name, number)
    (tmp_path / "bad" / "camera.json").write_text("{")
    (tmp_path / "good" / "frame-000001.pose.txt").unlink()
    source = open_source("posed-rgbd", SourceOptions(tmp_path))
    assert len(source.keys()) == 3
    reasons = {part.name: part.reason for part in left_out_by(source)}
    assert "is not JSON" in reasons["bad"]
    assert "no pose file, which others have: good/frame-000001" in reasons["good"]


def test_millimetre_depth_in_the_form_of_tum_stops_with_the_option_that_mends_it(
    make_recording: Callable[..., Path], tmp_path: Path
) -> None:
    walk = open_source("posed-rgbd", SourceOptions(make_recording(count=10)))
    lens, folder = tmp_path / "lens.json", tmp_path / "room"
    lens.write_text(json.dumps(CAMERA))
    write_tum(folder, [walk.load(key) for key in walk.keys()])  # noqa: SIM118
    with pytest.raises(SourceError, match=r"--depth-units 1000 \(depths become 5 times"):
        open_source("tum", SourceOptions(folder, camera_file=lens))
    source = open_source("tum", SourceOptions(folder, camera_file=lens, depth_units=1000.0))
    depth = source.load(source.keys()[0]).depth
    assert depth is not None
    assert depth.units_per_metre == 1000
    assert source.fingerprint()["calibration"]["room"]["depth_units_per_metre"] == 1000


def test_depth_scale_of_open3d_is_read(rooms: list[Frame], tmp_path: Path) -> None:
    write_redwood(tmp_path / "loft", rooms[:1])
    path = tmp_path / "loft" / "intrinsic.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"depth_scale": 4000.0}))
    for options, units in ((SourceOptions(tmp_path), 4000), (None, 1000)):
        options = options or SourceOptions(tmp_path, depth_units=1000.0)
        source = open_source("redwood", options)
        depth = source.load(source.keys()[0]).depth
        assert depth is not None
        assert depth.units_per_metre == units
    path.write_text(json.dumps(value | {"depth_scale": 0}))
    with pytest.raises(SourceError, match="depth_scale is 0"):
        open_source("redwood", SourceOptions(tmp_path))


@pytest.mark.parametrize(("name", "units"), [("pandaset", 1000.0), ("tum", 0.0), ("tum", -1.0)])
def test_depth_units_that_mean_nothing_are_refused(name: str, units: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"depth.units"):
        open_source(name, SourceOptions(tmp_path, depth_units=units))


def frame_at(offset_s: float | None, speed_m_s: float, interval_s: float | None = None) -> Frame:
    image = np.zeros((2, 2, 3), np.uint8)
    view = View(image, Camera(2, 2, fx=1.0, fy=1.0, cx=0.5, cy=0.5), np.eye(4), offset_s)
    points = np.ones((1, 3), np.float32)
    return Frame("a", (view,), points=points, speed_m_s=speed_m_s, interval_s=interval_s)


@pytest.mark.parametrize(
    ("offset_s", "speed_m_s", "interval_s", "expected"),
    [
        (0.05, 2.0, None, 0.1),
        (-0.9, 2.0, None, 1.8),
        (3600.0, 2.0, None, 0.0),
        (1e13, 2.0, None, 0.0),
        (float("nan"), 2.0, None, 0.0),
        (0.4, 2.0, 1 / 30, 0.0),
        (0.1, 2.0, 1 / 30, 0.2),
        (0.1, 1e6, None, 0.0),
        (0.1, float("nan"), None, 0.0),
        (None, 2.0, None, 0.0),
    ],
)
def test_implausible_times_and_speeds_are_not_known(
    offset_s: float | None, speed_m_s: float, interval_s: float | None, expected: float
) -> None:
    frame = frame_at(offset_s, speed_m_s, interval_s)
    assert motion_m(frame, frame.views[0]) == pytest.approx(expected)
    assert bool(list(implausible_times(frame))) == (expected == 0 and offset_s is not None)


def test_the_interval_ignores_a_wild_stamp() -> None:
    assert median_interval_s([0.0, 0.1, 1e13, 0.3, None, 0.4]) == pytest.approx(0.1, rel=1e-6)
    assert median_interval_s([1.0]) is None


def test_far_worlds_get_a_near_origin() -> None:
    pose = np.eye(4)
    pose[:3, 3] = 691_000.25, 5_334_760.5, 519.0
    origin = near_origin([None, pose])
    assert origin.tolist() == [691_000.0, 5_334_760.0, 519.0]
    nearer = moved(pose, origin)
    assert nearer is not None
    assert nearer[:3, 3].tolist() == [0.25, 0.5, 0.0]
    assert origins_json({"drive": origin}) == {"world_origin_m": {"drive": origin.tolist()}}
    near = np.eye(4)
    assert not near_origin([near]).any()
    assert moved(near, np.zeros(3)) is near
    assert origins_json({"room": np.zeros(3)}) == {}


def test_float32_that_is_too_coarse_is_refused() -> None:
    refuse_coarse(np.full((2, 3), 100_000, np.float32), "a")
    refuse_coarse(np.full((2, 3), 5_334_760, np.float64), "a")
    with pytest.raises(FrameError, match=r"float32 near 5,334,760 m has steps of 0.5 m; subtract"):
        refuse_coarse(np.array([[0, 5_334_760, np.nan]], np.float32), "a")


def test_poses_of_posed_rgbd_far_out_are_kept_near(tmp_path: Path) -> None:
    write_calibration(tmp_path)
    for number in range(3):
        write_frame(tmp_path, number)
        path = tmp_path / f"frame-{number:06d}.pose.txt"
        pose = np.loadtxt(path)
        pose[1, 3] += 5_334_760
        np.savetxt(path, pose)
    source = open_source("posed-rgbd", SourceOptions(tmp_path))
    pose = source.load(source.keys()[2]).world_from_sensor
    assert pose is not None
    np.testing.assert_allclose(pose[:3, 3], [0, 0, 0.12], atol=1e-6)
    assert source.fingerprint()["world_origin_m"] == {tmp_path.name: [0.0, 5_334_760.0, 0.0]}


@pytest.mark.parametrize("pose", ["world_from_depth", "color_from_world"])
def test_poses_with_the_axes_of_opengl(pose: str, tmp_path: Path) -> None:
    write_calibration(tmp_path, pose=pose, pose_axes="opengl")
    write_frame(tmp_path, 0)
    turn = np.diag([1.0, -1.0, -1.0, 1.0])
    world_from_camera = np.eye(4)
    world_from_camera[:3] = [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3]]
    inverse = np.linalg.inv(world_from_camera)
    stored = world_from_camera @ turn if pose == "world_from_depth" else turn @ inverse
    np.savetxt(tmp_path / "frame-000000.pose.txt", stored)
    source = open_source("posed-rgbd", SourceOptions(tmp_path))
    found = source.load(source.keys()[0]).world_from_sensor
    np.testing.assert_allclose(found, world_from_camera, atol=1e-9)
    assert source.fingerprint()["calibration"][0]["pose_axes"] == "opengl"
    write_calibration(tmp_path, pose_axes="blender")
    with pytest.raises(SourceError, match="pose_axes is 'blender'; it must be one of opencv"):
        open_source("posed-rgbd", SourceOptions(tmp_path))


def write_drive(folder: Path, far_m: float, dtype: type[np.floating]) -> None:
    """One PandaSet sweep of 81 points, 1/16 m apart along y, with one camera."""
    y = (np.arange(81) / 16 - 2.5) + far_m
    xyz = np.stack([np.full(81, 8.0), y, np.zeros(81)], axis=1).astype(dtype)
    zeros = np.zeros(81, np.uint8)
    (folder / "lidar").mkdir(parents=True)
    times = zeros.astype(np.float32)
    np.savez(folder / "lidar" / "00.npz", xyz=xyz, intensity=zeros, label=zeros, t=times)
    (folder / "camera" / "front").mkdir(parents=True)
    image = Image.fromarray(np.full((48, 64, 3), 90, np.uint8))
    image.save(folder / "camera" / "front" / "00.jpg")
    lidar = np.eye(4)
    lidar[1, 3] = far_m
    camera = lidar.copy()
    camera[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    value = {
        "cameras": {
            "front": {
                "K": [[30, 0, 31.5], [0, 30, 23.5], [0, 0, 1]],
                "T_world_camera": {"00": camera.tolist()},
            }
        },
        "lidar_pose": {"00": lidar.tolist()},
    }
    (folder / "calib.json").write_text(json.dumps(value))


def test_far_sweeps_in_float64_lose_nothing(tmp_path: Path) -> None:
    write_drive(tmp_path / "near", 0.0, np.float32)
    write_drive(tmp_path / "far", 5_334_760.0, np.float64)
    near, far = (
        open_source("pandaset", SourceOptions(tmp_path / name)) for name in ("near", "far")
    )
    expected, frame = near.load("near_00"), far.load("far_00")
    np.testing.assert_array_equal(frame.points, expected.points)
    np.testing.assert_array_equal(frame.world_from_sensor, expected.world_from_sensor)
    np.testing.assert_array_equal(
        frame.views[0].camera_from_sensor, expected.views[0].camera_from_sensor
    )
    assert far.fingerprint()["world_origin_m"] == {"far": [0.0, 5_334_760.0, 0.0]}
    assert "world_origin_m" not in near.fingerprint()


def test_far_sweeps_in_float32_are_refused(tmp_path: Path) -> None:
    write_drive(tmp_path / "far", 5_334_760.0, np.float32)
    source = open_source("pandaset", SourceOptions(tmp_path / "far"))
    with pytest.raises(FrameError, match=r"steps of 0\.5 m"):
        source.load("far_00")


def test_many_megapixels_over_small_depth_are_shrunk(tmp_path: Path) -> None:
    large = {"width": 2560, "height": 1920, "fx": 2400.0, "fy": 2400.0, "cx": 1279.5, "cy": 959.5}
    write_calibration(tmp_path, color=large, pose="none")
    write_frame(tmp_path, 0)
    (tmp_path / "frame-000000.color.png").unlink()
    pixels = np.full((1920, 2560, 3), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "frame-000000.color.jpg")
    source = open_source("posed-rgbd", SourceOptions(tmp_path))
    view = source.load(source.keys()[0]).views[0]
    assert view.image.shape == (960, 1280, 3)
    assert (view.camera.fx, view.camera.cx) == (1200.0, 639.5)
    assert source.fingerprint()["calibration"][0]["used_color_px"] == [1280, 960]
