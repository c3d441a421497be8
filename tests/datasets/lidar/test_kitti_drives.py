"""Raw and odometry drives written around real frames of the object benchmark.

The layouts are those of the raw and odometry development kits' readme files, and of
config/semantic-kitti.yaml in the semantic-kitti-api repository.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.left_out import left_out_by
from p2pkit.datasets.lidar.kitti_odometry import CLASSES
from p2pkit.datasets.registry import open_source
from p2pkit.errors import FrameError, SourceError

pytestmark = pytest.mark.realdata
OXTS = "49.0 8.43 112.8 0.02 0.01 {yaw} -6.5 -7.2 {speed} 0.0 0.0 " + "0 " * 19


def calibration(root: Path) -> dict[str, str]:
    lines = (root / "training" / "calib" / "000001.txt").read_text().splitlines()
    return {line.split(":")[0]: line.split(":")[1].strip() for line in lines if line}


@pytest.fixture
def odometry(data_root: Path, tmp_path: Path) -> Path:
    """Three frames: real sweep, image and calibration, made-up motion and labels."""
    source, folder = data_root / "kitti_object", tmp_path / "sequences" / "04"
    for name in ("velodyne", "image_2", "labels"):
        (folder / name).mkdir(parents=True)
    values = calibration(source)
    # Odometry has its Tr in the rectified frame of camera 0.
    rectify, velodyne = np.eye(4), np.eye(4)
    rectify[:3, :3] = np.array(values["R0_rect"].split(), float).reshape(3, 3)
    velodyne[:3] = np.array(values["Tr_velo_to_cam"].split(), float).reshape(3, 4)
    row = " ".join(f"{number:.12e}" for number in (rectify @ velodyne)[:3].ravel())
    (folder / "calib.txt").write_text(f"P2: {values['P2']}\nP3: {values['P3']}\nTr: {row}\n")
    pose = "1 0 0 0 0 1 0 0 0 0 1 {}"
    (tmp_path / "poses").mkdir()
    (tmp_path / "poses" / "04.txt").write_text("\n".join(pose.format(1.2 * i) for i in range(3)))
    (folder / "times.txt").write_text("0.0\n0.1\n0.2\n")
    for number in range(3):
        shutil.copy(source / "training/velodyne/000001.bin", folder / f"velodyne/{number:06d}.bin")
        shutil.copy(source / "training/image_2/000001.png", folder / f"image_2/{number:06d}.png")
        points = (folder / f"velodyne/{number:06d}.bin").stat().st_size // 16
        values = np.array([10, 252, 99, 81], dtype=np.uint32)[np.arange(points) % 4]
        (values | (7 << 16)).tofile(folder / f"labels/{number:06d}.label")
    return tmp_path


def test_odometry_is_the_same_geometry_as_the_object_frame(odometry: Path, data_root: Path) -> None:
    source = open_source("kitti-odometry", SourceOptions(odometry))
    assert list(source.keys()) == ["04_000000", "04_000001", "04_000002"]
    frame = source.load("04_000001")
    same = open_source("kitti-object", SourceOptions(data_root / "kitti_object"))
    other = same.load("training_000001")
    np.testing.assert_array_equal(frame.points, other.points)
    np.testing.assert_allclose(
        frame.views[0].camera_from_sensor, other.views[0].camera_from_sensor, atol=1e-9
    )
    assert frame.views[0].camera == other.views[0].camera
    assert frame.sequence == "04"
    assert frame.speed_m_s == pytest.approx(12.0)
    first, second = (source.load(key).world_from_sensor for key in source.keys()[:2])
    assert first is not None
    assert second is not None
    np.testing.assert_allclose((second - first)[:3, 3], [0, 0, 1.2], atol=1e-9)


def test_semantic_kitti_labels(odometry: Path) -> None:
    source = open_source("kitti-odometry", SourceOptions(odometry))
    assert source.label_names == CLASSES
    assert source.ignore_label == 0
    labels = source.load("04_000000").labels
    assert labels is not None
    assert [CLASSES[label] for label in labels[:4]] == ["car", "car", "unlabelled", "traffic-sign"]
    path = odometry / "sequences/04/labels/000000.label"
    np.full(path.stat().st_size // 4, 3, np.uint32).tofile(path)
    with pytest.raises(FrameError, match=r"labels \[3\] are not in SemanticKITTI"):
        source.load("04_000000")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(FrameError, match="4 bytes each"):
        source.load("04_000000")


def test_sequences_without_labels_are_unlabelled(odometry: Path) -> None:
    shutil.copytree(odometry / "sequences/04", odometry / "sequences/11")
    shutil.rmtree(odometry / "sequences/11/labels")
    source = open_source("kitti-odometry", SourceOptions(odometry, every=3))
    assert list(source.keys()) == ["04_000000", "11_000000"]
    frame = source.load("11_000000")
    assert frame.labels is not None
    assert not frame.labels.any()
    assert frame.world_from_sensor is None


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("sequences/04/calib.txt", "P2: 1 2 3", "Tr is missing"),
        ("poses/04.txt", "1 0 0 0 0 1 0 0 0 0 1 0\n1 2 3", "3 x 4 finite numbers"),
        ("poses/04.txt", "1 0 0 0 0 1 0 0 0 0 1 0", "has no pose: the list has 1"),
        ("poses/04.txt", "2 0 0 0 0 1 0 0 0 0 1 0\n" * 3, "line 1 is not rigid"),
        ("poses/04.txt", "a b", "lines of numbers"),
        ("sequences/04/times.txt", "soon", "lines of numbers"),
    ],
)
def test_wrong_odometry_texts(odometry: Path, name: str, text: str, reason: str) -> None:
    (odometry / name).write_text(text)
    with pytest.raises(SourceError, match=reason):
        open_source("kitti-odometry", SourceOptions(odometry))


@pytest.fixture
def raw(data_root: Path, tmp_path: Path) -> Path:
    """A drive of two frames; the second is 0.1 s and about 1 m later."""
    source, date = data_root / "kitti_object", tmp_path / "2011_09_26"
    drive = date / "2011_09_26_drive_0005_sync"
    values = calibration(source)
    tr = np.array(values["Tr_velo_to_cam"].split(), float).reshape(3, 4)
    imu = np.array(values["Tr_imu_to_velo"].split(), float).reshape(3, 4)
    date.mkdir()
    for name, matrix in (("calib_velo_to_cam", tr), ("calib_imu_to_velo", imu)):
        rotation = " ".join(map(str, matrix[:, :3].ravel()))
        translation = " ".join(map(str, matrix[:, 3]))
        text = f"calib_time: 15-Mar-2012 11:37:16\nR: {rotation}\nT: {translation}\n"
        (date / f"{name}.txt").write_text(text + "delta_f: 0 0\n")
    (date / "calib_cam_to_cam.txt").write_text(
        "calib_time: 09-Jan-2012 13:57:47\ncorner_dist: 9.950000e-02\n"
        f"R_rect_00: {values['R0_rect']}\nP_rect_02: {values['P2']}\nP_rect_03: {values['P3']}\n"
    )
    stamps = {"velodyne_points": (25.96, 26.06), "image_02": (25.95, 26.05)}
    for name, seconds in stamps.items():
        (drive / name / "data").mkdir(parents=True)
        lines = [f"2011-09-26 13:02:{second:.9f}" for second in seconds]
        (drive / name / "timestamps.txt").write_text("\n".join(lines) + "\n")
    (drive / "oxts" / "data").mkdir(parents=True)
    for number in range(2):
        stem = f"{number:010d}"
        shutil.copy(
            source / "training/velodyne/000001.bin", drive / f"velodyne_points/data/{stem}.bin"
        )
        shutil.copy(source / "training/image_2/000001.png", drive / f"image_02/data/{stem}.png")
        latitude = 49.0 + number * 1.0 / 6378137.0 * 180 / np.pi
        text = OXTS.format(yaw=0.3, speed=10.0).replace("49.0", f"{latitude:.14f}")
        (drive / "oxts" / "data" / f"{stem}.txt").write_text(text)
    return tmp_path


def test_raw_drive_is_the_same_geometry_as_the_object_frame(raw: Path, data_root: Path) -> None:
    source = open_source("kitti-raw", SourceOptions(raw))
    assert source.keys() == open_source("kitti-raw", SourceOptions(raw / "2011_09_26")).keys()
    assert source.keys()[0] == "2011_09_26_drive_0005_sync_0000000000"
    first, second = source.keys()
    frames = [source.load(first), source.load(second)]
    same = open_source("kitti-object", SourceOptions(data_root / "kitti_object"))
    other = same.load("training_000001")
    np.testing.assert_allclose(
        frames[0].views[0].camera_from_sensor, other.views[0].camera_from_sensor, atol=1e-9
    )
    assert frames[0].views[0].time_offset_s == pytest.approx(-0.01)
    assert frames[0].speed_m_s == pytest.approx(10.0)
    assert frames[0].sequence == "2011_09_26_drive_0005_sync"
    first, second = (frame.world_from_sensor for frame in frames)
    assert first is not None
    assert second is not None
    # One metre to the north is one metre along the projection's y.
    np.testing.assert_allclose((second - first)[:3, 3], [0, 1.0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("calib_velo_to_cam.txt", "R: 1 0 0", "R is .*expected 3 x 3"),
        ("calib_cam_to_cam.txt", "", "P_rect_02 is missing"),
        ("2011_09_26_drive_0005_sync/oxts/data/0000000000.txt", "1 2", "11 or more numbers"),
        ("2011_09_26_drive_0005_sync/oxts/data/0000000000.txt", "north", "expected numbers"),
        ("2011_09_26_drive_0005_sync/image_02/timestamps.txt", "noon", "dates with times"),
    ],
)
def test_wrong_raw_texts(raw: Path, name: str, text: str, reason: str) -> None:
    (raw / "2011_09_26" / name).write_text(text)
    with pytest.raises(SourceError, match=reason):
        open_source("kitti-raw", SourceOptions(raw))


def test_an_empty_line_in_the_times_stands_for_a_missing_sweep(raw: Path) -> None:
    drive = raw / "2011_09_26" / "2011_09_26_drive_0005_sync"
    times = drive / "velodyne_points" / "timestamps.txt"
    times.write_text("\n" + times.read_text().splitlines()[1] + "\n")
    source = open_source("kitti-raw", SourceOptions(raw))
    offsets = [source.load(key).views[0].time_offset_s for key in list(source.keys())]
    assert offsets == [None, pytest.approx(-0.01)]


def test_unsynchronised_drives_are_not_read(raw: Path) -> None:
    drive = raw / "2011_09_26" / "2011_09_26_drive_0005_sync"
    for sweep in (drive / "velodyne_points" / "data").glob("*.bin"):
        sweep.with_suffix(".txt").write_text("0.1 0.2 0.3 0.4\n")
        sweep.unlink()
    with pytest.raises(SourceError, match=r"text sweeps of unsynchronised drives"):
        open_source("kitti-raw", SourceOptions(raw))


def test_drives_that_cannot_be_read_are_reported(raw: Path) -> None:
    """Of a date without calibration, and one whose sweeps are text."""
    drive, other = "2011_09_26_drive_0005_sync", "2011_09_28_drive_0001_sync"
    shutil.copytree(raw / "2011_09_26" / drive, raw / "2011_09_28" / other)
    text = raw / "2011_09_26" / "2011_09_26_drive_0006_extract"
    shutil.copytree(raw / "2011_09_26" / drive, text)
    for sweep in (text / "velodyne_points" / "data").iterdir():
        sweep.unlink()
    source = open_source("kitti-raw", SourceOptions(raw))
    assert [key.rpartition("_")[0] for key in list(source.keys())] == [drive, drive]
    sweeps, calibration = left_out_by(source)
    assert sweeps.name == text.name
    assert "contains no velodyne_points/data/*.bin" in sweeps.reason
    missing = "2011_09_28/calib_cam_to_cam.txt does not exist; kitti-raw needs it"
    assert calibration == (other, missing)


def test_unrectified_images_are_told_by_their_size(raw: Path) -> None:
    """The cameras' own images are 1392 x 512, and P_rect is not for them."""
    path = raw / "2011_09_26" / "calib_cam_to_cam.txt"
    path.write_text(path.read_text() + "S_rect_02: 1.242000e+03 3.750000e+02\n")
    source = open_source("kitti-raw", SourceOptions(raw))
    image = raw / "2011_09_26/2011_09_26_drive_0005_sync/image_02/data/0000000000.png"
    assert source.load(source.keys()[0]).views[0].camera.width == 1242
    Image.fromarray(np.zeros((512, 1392, 3), np.uint8)).save(image)
    with pytest.raises(FrameError, match="is 1392 x 512 px, but the calibration says 1242 x 375"):
        source.load(source.keys()[0])


def test_missing_parts_of_a_drive(raw: Path) -> None:
    drive = raw / "2011_09_26" / "2011_09_26_drive_0005_sync"
    (drive / "image_02" / "timestamps.txt").unlink()
    shutil.rmtree(drive / "oxts")
    source = open_source("kitti-raw", SourceOptions(raw))
    frame = source.load(source.keys()[0])
    assert frame.world_from_sensor is None
    assert frame.views[0].time_offset_s is None
    (drive / "image_02" / "data" / "0000000000.png").unlink()
    with pytest.raises(FrameError, match=r"image_02/data/0000000000\.png does not exist"):
        source.load(source.keys()[0])
    shutil.rmtree(drive)
    with pytest.raises(SourceError, match="contain velodyne_points; found no drive"):
        open_source("kitti-raw", SourceOptions(raw))
