"""The layout is that of the object development kit's readme and of Geiger et al., IJRR 2013."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lidar_checks import depth_edge_score

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.lidar.kitti_calibration import (
    read_named_numbers,
    split_projection,
    transform_of,
)
from p2pkit.datasets.lidar.rig import finite_rows, read_records, unit_intensity
from p2pkit.datasets.registry import open_source
from p2pkit.errors import FrameError, SourceError
from p2pkit.geometry.project import project


@pytest.fixture
def folder(data_root: Path, tmp_path: Path) -> Path:
    """One real training frame, to be damaged."""
    for name in ("velodyne/000001.bin", "image_2/000001.png", "calib/000001.txt"):
        (tmp_path / "training" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data_root / "kitti_object" / "training" / name, tmp_path / "training" / name)
    return tmp_path


@pytest.mark.realdata
def test_real_frames(data_root: Path) -> None:
    source = open_source("kitti-object", SourceOptions(data_root / "kitti_object"))
    assert list(source.keys()) == [f"training_{number:06d}" for number in range(6)]
    for key in source.keys()[:2]:
        frame = source.load(key)
        assert frame.points is not None
        assert frame.intensity is not None
        assert len(frame.points) == len(frame.intensity) > 100_000
        assert frame.intensity.max() == pytest.approx(0.99, abs=0.02)
        assert frame.labels is None
        assert frame.views[0].image.shape[2] == 3


@pytest.mark.realdata
def test_points_fall_where_the_published_formula_puts_them(data_root: Path) -> None:
    """x = P2 R0_rect Tr_velo_to_cam X, the formula of the development kit's readme."""
    root = data_root / "kitti_object"
    frame = open_source("kitti-object", SourceOptions(root)).load("training_000001")
    lines = (root / "training" / "calib" / "000001.txt").read_text().splitlines()
    numbers = {line.split(":")[0]: np.array(line.split()[1:], float) for line in lines if line}
    rectify, velodyne = np.eye(4), np.eye(4)
    rectify[:3, :3] = numbers["R0_rect"].reshape(3, 3)
    velodyne[:3] = numbers["Tr_velo_to_cam"].reshape(3, 4)
    matrix = numbers["P2"].reshape(3, 4) @ rectify @ velodyne
    assert frame.points is not None
    homogeneous = np.c_[frame.points.astype(float), np.ones(len(frame.points))] @ matrix.T
    view = frame.views[0]
    found = project(frame.points, view.camera, view.camera_from_sensor)
    expected = homogeneous[found.visible]
    expected = expected[:, :2] / expected[:, 2:]
    assert found.visible.sum() > 15_000
    np.testing.assert_allclose(found.pixel_uv[found.visible], expected, atol=2e-3)


@pytest.mark.realdata
def test_depth_edges_lie_on_image_edges(data_root: Path) -> None:
    source = open_source("kitti-object", SourceOptions(data_root / "kitti_object"))
    frames = [source.load(f"training_{number:06d}") for number in range(6)]
    at_zero = np.mean([depth_edge_score(frame) for frame in frames])
    shifted = [
        np.mean([depth_edge_score(frame, shift_px=shift) for frame in frames])
        for shift in (-60, -30, 30, 60)
    ]
    assert at_zero > max(shifted)


@pytest.mark.realdata
def test_drives_of_the_mapping_are_the_sequences(folder: Path) -> None:
    assert open_source("kitti-object", SourceOptions(folder)).load("training_000001").sequence == ""
    mapping = folder / "mapping"
    mapping.mkdir()
    (mapping / "train_rand.txt").write_text("2,1")
    row = "2011_09_26 2011_09_26_drive_{:04d}_sync 0000000109\n"
    (mapping / "train_mapping.txt").write_text(row.format(5) + row.format(9))
    frame = open_source("kitti-object", SourceOptions(folder)).load("training_000001")
    assert frame.sequence == "2011_09_26_drive_0005_sync"
    (mapping / "train_rand.txt").write_text("2,7")
    with pytest.raises(SourceError, match="do not match"):
        open_source("kitti-object", SourceOptions(folder))


@pytest.mark.realdata
def test_the_folder_of_a_split_gives_plain_keys(folder: Path) -> None:
    source = open_source("kitti-object", SourceOptions(folder / "training"))
    assert list(source.keys()) == ["000001"]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("velodyne/000001.bin", lambda data: data[:-3], "rows of 4 float32"),
        ("velodyne/000001.bin", lambda data: b"", "has 0 bytes"),
        ("velodyne/000001.bin", lambda data: b"\xff" * 32, "none of the 2 points"),
        ("velodyne/000001.bin", lambda data: np.ones(8, "<f4").tobytes() * 2, None),
        ("velodyne/000001.bin", lambda data: np.full(8, 7, "<f4").tobytes(), "intensity is 7"),
        ("image_2/000001.png", lambda data: data[:5000], "decoded"),
        ("calib/000001.txt", lambda data: b"", "Tr_velo_to_cam is missing"),
        ("calib/000001.txt", lambda data: data.replace(b"P2:", b"PX:"), "P2 is missing"),
        ("calib/000001.txt", lambda data: data.replace(b"7.215", b"nan7"), "P2 is missing"),
        (
            "calib/000001.txt",
            lambda data: data.replace(b"R0_rect: 9.99", b"R0_rect: 1.99"),
            "rigid",
        ),
    ],
)
def test_damaged_files(folder: Path, file: str, change, reason: str | None) -> None:
    source = open_source("kitti-object", SourceOptions(folder))
    path = folder / "training" / file
    path.write_bytes(change(path.read_bytes()))
    if reason is None:
        source.load("training_000001")
        return
    with pytest.raises(FrameError, match=reason) as caught:
        source.load("training_000001")
    assert caught.value.key == "training_000001"


@pytest.mark.realdata
def test_missing_files_and_folders(folder: Path) -> None:
    source = open_source("kitti-object", SourceOptions(folder))
    before = source.fingerprint()
    (folder / "training" / "calib" / "000001.txt").unlink()
    with pytest.raises(FrameError, match="does not exist"):
        source.load("training_000001")
    assert source.fingerprint() != before
    shutil.rmtree(folder / "training" / "image_2")
    with pytest.raises(SourceError, match="no image folder"):
        open_source("kitti-object", SourceOptions(folder))
    shutil.rmtree(folder / "training")
    with pytest.raises(SourceError, match="found 0 sweeps"):
        open_source("kitti-object", SourceOptions(folder))


LINES = st.text(alphabet="PTrR0_rect: .-+e1459nainf\n", max_size=200)


@settings(deadline=None, max_examples=150)
@given(text=LINES)
def test_any_calibration_text_is_read_or_a_source_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "calib.txt"
    path.write_text(text)
    with contextlib.suppress(SourceError):
        values = read_named_numbers(path, "a test")
        for name in list(values):
            transform = transform_of(values, name, path)
            assert np.isfinite(transform).all()
            split_projection(transform[:3], name, path)


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=100), columns=st.sampled_from([4, 5]))
def test_any_point_file_is_read_or_a_frame_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, columns: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "points.bin"
    path.write_bytes(data)
    with contextlib.suppress(FrameError):
        records = read_records(path, "key", columns)
        assert records.nbytes == len(data) > 0
        finite = finite_rows(records[:, :3], "key")
        strength = unit_intensity(records[finite, 3], "key", 255.0)
        assert ((strength >= 0) & (strength <= 1)).all()
