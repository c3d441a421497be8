"""The npz and JSON form of `tools/pandaset_to_npz.py`; docs/datasets/lidar.md lists the fields."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lidar_checks import depth_edge_score

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.errors import FrameError, SourceError
from p2pkit.geometry.project import project
from p2pkit.geometry.transforms import transform_points

pytestmark = pytest.mark.realdata
KEY = "002_00"


@pytest.fixture
def folder(data_root: Path, tmp_path: Path) -> Path:
    """The first sweep of the real sequence, to be damaged."""
    source, target = data_root / "pandaset" / "002", tmp_path / "002"
    for name in ("calib.json", "semseg_classes.json", "lidar/00.npz"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)
    for camera in (source / "camera").iterdir():
        (target / "camera" / camera.name).mkdir(parents=True)
        shutil.copy(camera / "00.jpg", target / "camera" / camera.name / "00.jpg")
    return tmp_path


def test_real_sweep(data_root: Path) -> None:
    source = open_source("pandaset", SourceOptions(data_root / "pandaset"))
    assert source.label_names is not None
    assert (source.label_names[7], source.label_names[13], source.ignore_label) == (
        "Road",
        "Car",
        0,
    )
    assert source.keys()[0] == KEY
    frame = source.load(KEY)
    assert len(frame.views) == 6
    assert frame.points is not None
    assert frame.labels is not None
    assert frame.point_time_s is not None
    assert len(frame.points) == len(frame.labels) == len(frame.point_time_s) > 150_000
    assert frame.sequence == "002"
    offsets = [view.time_offset_s for view in frame.views]
    assert all(offset is not None and -0.11 < offset < 0 for offset in offsets)
    # The LiDAR stands about 1.6 m above the road: its points lie below the sensor.
    road = frame.points[frame.labels == 7]
    near = np.linalg.norm(road[:, :2], axis=1) < 15
    assert np.abs(np.median(road[near, 2])) < 2.5


def test_cameras_without_a_folder_are_left_out(folder: Path) -> None:
    whole = open_source("pandaset", SourceOptions(folder)).load(KEY)
    shutil.rmtree(folder / "002" / "camera" / "back_camera")
    frame = open_source("pandaset", SourceOptions(folder)).load(KEY)
    assert len(frame.views) == len(whole.views) - 1
    shutil.rmtree(folder / "002" / "camera")
    with pytest.raises(SourceError, match="contains no camera folder"):
        open_source("pandaset", SourceOptions(folder))


def test_points_return_to_the_worlds_coordinates(data_root: Path) -> None:
    frame = open_source("pandaset", SourceOptions(data_root / "pandaset")).load(KEY)
    with np.load(data_root / "pandaset" / "002" / "lidar" / "00.npz") as archive:
        world = archive["xyz"]
    assert frame.points is not None
    assert frame.world_from_sensor is not None
    back = transform_points(frame.world_from_sensor, frame.points)
    np.testing.assert_allclose(back, world, atol=1e-4)


def test_labels_land_on_the_image_of_their_class(data_root: Path) -> None:
    """Road is grey, vegetation greener than it, and road is low in the image of a level camera."""
    frame = open_source("pandaset", SourceOptions(data_root / "pandaset")).load(KEY)
    assert frame.points is not None
    assert frame.labels is not None
    view = frame.views[0]
    found = project(frame.points, view.camera, view.camera_from_sensor)
    v = found.pixel_uv[:, 1]
    road, building = ((frame.labels == value) & found.visible for value in (7, 41))
    assert np.median(v[road]) > np.median(v[building]) + 50


def test_depth_edges_lie_on_image_edges(data_root: Path) -> None:
    source = open_source("pandaset", SourceOptions(data_root / "pandaset"))
    frames = [source.load(key) for key in (source.keys()[0], source.keys()[-1])]
    views = [view.camera for view in frames[0].views]
    at_zero, shifted = [], []
    for frame in frames:
        for view in range(len(views)):
            at_zero.append(depth_edge_score(frame, view))
            shifted.append([depth_edge_score(frame, view, shift) for shift in (-60, 60)])
    assert np.mean(at_zero) > np.mean(shifted, axis=0).max()


def test_the_cars_speed(data_root: Path) -> None:
    """The car stands before sweep 36 and has driven 18.8 m between 40 and 79, at 10 Hz."""
    source = open_source("pandaset", SourceOptions(data_root / "pandaset"))
    speeds = [source.load(key).speed_m_s for key in (source.keys()[0], source.keys()[-1])]
    assert speeds[0] < 0.2
    assert 3 < speeds[1] < 15


def test_every_and_limit(data_root: Path) -> None:
    root = data_root / "pandaset" / "002"
    everything = open_source("pandaset", SourceOptions(root)).keys()
    some = open_source("pandaset", SourceOptions(root, every=3, limit=2)).keys()
    assert some == everything[:6:3]


def edit(folder: Path, change) -> None:
    path = folder / "002" / "calib.json"
    value: dict[str, Any] = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def stretch(value: dict[str, Any]) -> None:
    value["lidar_pose"]["00"][0][0] *= 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda value: value["lidar_pose"].pop("00"), r"00 is missing"),
        (stretch, "lidar_pose.00 is not rigid"),
        (lambda value: value.pop("lidar_pose"), "lidar_pose is missing"),
        (
            lambda value: value["cameras"]["back_camera"]["T_world_camera"].update({"00": "x"}),
            "expected numbers",
        ),
        (
            lambda value: value["cameras"]["back_camera"].update(
                {"K": [[1, 2, 0], [0, 1, 0], [0, 0, 1]]}
            ),
            "without skew",
        ),
    ],
)
def test_wrong_calibration_of_a_frame(folder: Path, change, reason: str) -> None:
    edit(folder, change)
    with pytest.raises(FrameError, match=reason):
        open_source("pandaset", SourceOptions(folder)).load(KEY)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda value: value.pop("cameras"), "cameras is missing"),
        (lambda value: value.update(cameras={}), "at least one camera"),
        (lambda value: value["cameras"]["back_camera"].pop("K"), "K is missing"),
    ],
)
def test_wrong_calibration_of_a_sequence(folder: Path, change, reason: str) -> None:
    edit(folder, change)
    with pytest.raises(SourceError, match=reason):
        open_source("pandaset", SourceOptions(folder))


def test_damaged_sweeps(folder: Path) -> None:
    source = open_source("pandaset", SourceOptions(folder))
    path = folder / "002" / "lidar" / "00.npz"
    whole = path.read_bytes()
    with np.load(path) as archive:
        fields = dict(archive)
    for changed, reason in (
        (fields | {"xyz": fields["xyz"].astype(np.float16)}, "xyz is float16"),
        (fields | {"label": fields["label"][:-1]}, "label is uint8"),
        (fields | {"label": fields["label"] + np.uint8(100)}, "has no name"),
        ({name: field for name, field in fields.items() if name != "t"}, "cannot be read"),
        (fields | {"t": np.array([{}] * len(fields["t"]))}, "allow_pickle"),
    ):
        np.savez(path, allow_pickle=True, **changed)
        with pytest.raises(FrameError, match=reason):
            source.load(KEY)
    for cut in (0, 10, 5000):
        path.write_bytes(whole[:cut])
        with pytest.raises(FrameError, match="cannot be read"):
            source.load(KEY)
    path.write_bytes(whole)
    (folder / "002" / "camera" / "back_camera" / "00.jpg").unlink()
    with pytest.raises(FrameError, match=r"00\.jpg does not exist"):
        source.load(KEY)


def test_pickles_are_pointed_to_the_converter(tmp_path: Path) -> None:
    (tmp_path / "001" / "lidar").mkdir(parents=True)
    (tmp_path / "001" / "lidar" / "00.pkl.gz").write_bytes(b"")
    with pytest.raises(SourceError, match=r"tools/pandaset_to_npz\.py"):
        open_source("pandaset", SourceOptions(tmp_path))


def test_without_class_names_there_are_no_labels(folder: Path) -> None:
    (folder / "002" / "semseg_classes.json").unlink()
    source = open_source("pandaset", SourceOptions(folder))
    assert source.label_names is None
    assert source.load(KEY).labels is None


@pytest.mark.parametrize("names", [{"1": {"name": "Road"}}, {"2": "Road"}, {"1": 3}])
def test_class_names_that_are_no_names(folder: Path, names: dict[str, Any]) -> None:
    (folder / "002" / "semseg_classes.json").write_text(json.dumps(names))
    with pytest.raises(SourceError, match=r"semseg_classes\.json: expected names for the values 1"):
        open_source("pandaset", SourceOptions(folder))
