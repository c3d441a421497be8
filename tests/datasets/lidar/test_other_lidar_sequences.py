"""What differs between published LiDAR sequences of one form, written around real frames."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes_written import write_tables
from PIL import Image

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.errors import FrameError, SourceError

pytestmark = pytest.mark.realdata


@pytest.fixture
def panda(data_root: Path, tmp_path: Path) -> Path:
    """Two sequences of one real sweep and its front image."""
    source = data_root / "pandaset" / "002"
    for sequence in ("002", "005"):
        target = tmp_path / sequence
        for name in ("calib.json", "semseg_classes.json", "lidar/00.npz"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)
        (target / "camera" / "front_camera").mkdir(parents=True)
        shutil.copy(source / "camera/front_camera/00.jpg", target / "camera/front_camera/00.jpg")
    return tmp_path


def test_pandaset_sequences_without_semantic_labels_beside_others(panda: Path) -> None:
    """About a quarter of the published sequences has no annotations/semseg."""
    (panda / "005" / "semseg_classes.json").unlink()
    path = panda / "005" / "lidar" / "00.npz"
    with np.load(path) as archive:
        fields = dict(archive)
    np.savez(path, **(fields | {"label": np.zeros_like(fields["label"])}))
    (panda / "005" / "lidar" / "._00.npz").write_bytes(b"\0\5\x16\7")
    # A camera whose images were not unpacked.
    (panda / "005" / "camera" / "back_camera").mkdir()
    source = open_source("pandaset", SourceOptions(panda))
    assert source.keys() == ["002_00", "005_00"]
    assert source.label_names is not None
    assert source.label_names[7] == "Road"
    labelled, unlabelled = (source.load(key).labels for key in list(source.keys()))
    assert len(source.load("005_00").views) == 1
    assert labelled is not None
    assert unlabelled is not None
    assert (labelled == 7).sum() > 10_000
    assert not unlabelled.any()


def with_scenes(root: Path, names: list[str]) -> None:
    """The tables' one scene again under other names, each with a sweep and images of its own."""
    folder = root / "v1.0-mini"
    tables = {
        name: json.loads((folder / f"{name}.json").read_text())
        for name in ("scene", "sample", "sample_data")
    }
    more: dict[str, list[dict[str, Any]]] = {name: [] for name in tables}
    for name in names:
        more["scene"].append({"token": name, "name": name})
        more["sample"].append(tables["sample"][0] | {"token": f"a-{name}", "scene_token": name})
        for record in tables["sample_data"]:
            # A sweep between key frames, as most records of the published tables are.
            between = {"token": f"b-{name}-{record['token']}", "is_key_frame": False}
            data = record | {
                "token": f"{name}-{record['token']}",
                "sample_token": f"a-{name}",
                "filename": record["filename"].replace("samples/", f"samples/{name}-"),
            }
            more["sample_data"] += [data, data | between | {"filename": "sweeps/x"}]
    for name, records in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(records + more[name]))


def test_nuscenes_of_one_archive_of_ten(data_root: Path, tmp_path: Path) -> None:
    """v1.0-trainval's tables name all 850 scenes, whichever of its ten archives are unpacked."""
    root = write_tables(data_root / "nuscenes_sample", tmp_path / "nuscenes")
    with_scenes(root, ["scene-0001", "scene-1100"])
    source = open_source("nuscenes", SourceOptions(root))
    assert list(source.keys()) == ["scene-0061_0000"]
    assert open_source("nuscenes", SourceOptions(root, limit=1)).keys() == source.keys()
    for channel in list((root / "samples").iterdir()):
        shutil.copytree(channel, root / "samples" / f"scene-1100-{channel.name}")
    both = open_source("nuscenes", SourceOptions(root))
    assert list(both.keys()) == ["scene-0061_0000", "scene-1100_0000"]
    first, second = (both.load(key) for key in list(both.keys()))
    assert (first.sequence, second.sequence) == ("scene-0061", "scene-1100")
    np.testing.assert_array_equal(first.points, second.points)
    shutil.rmtree(root / "samples" / "CAM_BACK")
    front = open_source("nuscenes", SourceOptions(root)).load("scene-0061_0000")
    assert len(front.views) == len(first.views) - 1
    for channel in (root / "samples").glob("*CAM*"):
        shutil.rmtree(channel)
    with pytest.raises(SourceError, match=r"a folder for each camera, such as samples/CAM_FRONT"):
        open_source("nuscenes", SourceOptions(root))
    shutil.rmtree(root / "samples")
    with pytest.raises(SourceError, match=r"none of the 3 sweeps .*unpack samples/"):
        open_source("nuscenes", SourceOptions(root))


def object_frame(data_root: Path, target: Path) -> Path:
    for name in ("velodyne/000001.bin", "image_2/000001.png", "calib/000001.txt"):
        (target / name).parent.mkdir(parents=True)
        shutil.copy(data_root / "kitti_object" / "training" / name, target / name)
        (target / name).with_name(f"._{Path(name).name}").write_bytes(b"\0\5\x16\7")
    return target


def test_what_macos_leaves_is_no_sweep(data_root: Path, tmp_path: Path) -> None:
    source = open_source("kitti-object", SourceOptions(object_frame(data_root, tmp_path / "kitti")))
    assert list(source.keys()) == ["000001"]
    folder = object_frame(data_root, tmp_path / "odometry" / "sequences" / "05")
    values = (folder / "calib" / "000001.txt").read_text()
    (folder / "calib.txt").write_text(values.replace("Tr_velo_to_cam", "Tr").replace("\n", " \r\n"))
    # A list that ends with empty lines has no more poses for that.
    (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0 \r\n" * 2 + "\r\n\n")
    (folder / "times.txt").write_text("0.0\r\n0.1\r\n\r\n")
    drives = open_source("kitti-odometry", SourceOptions(tmp_path / "odometry"))
    assert list(drives.keys()) == ["05_000001"]
    assert drives.load("05_000001").world_from_sensor is not None


def test_images_that_were_shrunk_without_their_calibration(data_root: Path, tmp_path: Path) -> None:
    folder = object_frame(data_root, tmp_path / "kitti")
    path = folder / "image_2" / "000001.png"
    with Image.open(path) as image:
        smaller = image.resize((621, 188))
    smaller.save(path)
    with pytest.raises(FrameError, match=r"intrinsics of image_2: .*\(609\.559, .* 621 x 188 px"):
        open_source("kitti-object", SourceOptions(folder)).load("000001")


def test_kitti_images_kept_as_jpeg(data_root: Path, tmp_path: Path) -> None:
    """As many keep the raw drives, to save room; and a folder of a camera without images."""
    folder = object_frame(data_root, tmp_path / "kitti")
    (folder / "image_3").mkdir()
    path = folder / "image_2" / "000001.png"
    with Image.open(path) as image:
        pixels = np.asarray(image)
        image.save(path.with_suffix(".jpg"), quality=92)
    path.unlink()
    frame = open_source("kitti-object", SourceOptions(folder)).load("000001")
    assert len(frame.views) == 1
    assert np.abs(frame.views[0].image.astype(int) - pixels).mean() < 4
    path.with_suffix(".jpg").unlink()
    with pytest.raises(SourceError, match=r"no image folder with \.png or \.jpg"):
        open_source("kitti-object", SourceOptions(folder))


def test_images_of_another_size_than_nuscenes_tables_say(data_root: Path, tmp_path: Path) -> None:
    root = write_tables(data_root / "nuscenes_sample", tmp_path / "nuscenes")
    path = root / "v1.0-mini" / "sample_data.json"
    records = json.loads(path.read_text())
    for record in records:
        is_image = record["filename"].endswith(".jpg")
        record |= {"width": 1600, "height": 900} if is_image else {"width": 0, "height": 0}
    path.write_text(json.dumps(records))
    frame = open_source("nuscenes", SourceOptions(root)).load("scene-0061_0000")
    assert {view.camera.width for view in frame.views} == {1600}
    for image in (root / "samples" / "CAM_FRONT").iterdir():
        with Image.open(image) as opened:
            smaller = opened.resize((1280, 720))
        smaller.save(image)
    with pytest.raises(FrameError, match="is 1280 x 720 px, but the calibration says 1600 x 900"):
        open_source("nuscenes", SourceOptions(root)).load("scene-0061_0000")
