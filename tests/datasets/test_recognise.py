"""The format of a recording is recognised by its files, and by no others."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from rgbd_written import (
    write_arkitscenes,
    write_nerfstudio,
    write_redwood,
    write_sunrgbd,
    write_tum,
)

from p2pkit.cli.main import commands
from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.recognise import recognise
from p2pkit.datasets.registry import DATASETS, open_source
from p2pkit.errors import SourceError

TREES: list[tuple[str, str, list[str]]] = [
    ("7scenes", "office", ["seq-01/frame-000000.color.png", "seq-01/frame-000000.pose.txt"]),
    ("7scenes", "all", ["office/seq-01/frame-0.color.png", "office/seq-01/frame-0.pose.txt"]),
    ("7scenes", "seq-01", ["frame-000000.color.png", "frame-000000.pose.txt"]),
    ("arkitscenes", "raw", ["Training/4/lowres_depth/4_1.png", "Training/4/lowres_wide.traj"]),
    ("kitti-object", "training", ["velodyne/000000.bin", "calib/000000.txt"]),
    ("kitti-object", "kitti", ["testing/velodyne/000000.bin", "testing/calib/000000.txt"]),
    ("kitti-odometry", "odometry", ["sequences/00/velodyne/0.bin", "sequences/00/calib.txt"]),
    ("kitti-raw", "2011_09_26", ["calib_velo_to_cam.txt", "drive_0001_sync/velodyne_points/t"]),
    ("kitti-raw", "raw", ["2011_09_26/calib_velo_to_cam.txt", "2011_09_26/d/velodyne_points/t"]),
    ("lerobot", "pick", ["meta/info.json", "data/chunk-000/file-000.parquet"]),
    ("nerfstudio", "poly", ["transforms.json", "images/frame_00001.jpg", "depth/frame_00001.png"]),
    ("nerfstudio", "polys", ["kitchen/transforms.json"]),
    ("nuscenes", "full", ["v1.0-mini/sample_data.json", "v1.0-mini/calibrated_sensor.json"]),
    ("nuscenes", "v1.0-mini", ["sample_data.json", "calibrated_sensor.json"]),
    ("nuscenes", "one", ["calib.json", "n015__LIDAR_TOP__15.pcd.bin", "n015__CAM_BACK__15.jpg"]),
    ("nyuv2", "nyu", ["classes40.txt", "train.txt", "intrinsics.txt", "rgb/1.jpg", "depth/1.png"]),
    ("pandaset", "002", ["calib.json", "lidar/00.npz", "camera/front_camera/00.jpg"]),
    ("pandaset", "all", ["002/calib.json", "002/lidar/00.npz"]),
    ("posed-rgbd", "walk", ["camera.json", "frame-000000.depth.npy", "frame-000000.color.jpg"]),
    ("posed-rgbd", "walks", ["camera.json", "kitchen/frame-000000.depth.png"]),
    ("posed-rgbd", "walks", ["kitchen/camera.json", "kitchen/frame-000000.depth.png"]),
    ("redwood", "loft", ["color/0.jpg", "depth/0.png", "camera_intrinsic.json"]),
    ("redwood", "capitals", ["color/0.JPG", "depth/0.PNG", "intrinsic.json"]),
    ("redwood", "lofts", ["a/color/0.jpg", "a/depth/0.png", "a/camera.json"]),
    ("ros-rgbd", "walk", ["metadata.yaml", "walk_0.db3"]),
    ("ros-rgbd", "walks", ["one/metadata.yaml", "one/one_0.db3"]),
    ("ros-rgbd", "file", ["walk.mcap"]),
    ("ros-rgbd", "bare", ["walk.db3"]),
    ("ros-rgbd", "ros1", ["walk.bag"]),
    (
        "s3dis",
        "aligned",
        ["Area_5/o_1/o_1.txt", "Area_5/o_1/Annotations/wall_1.txt"],
    ),
    ("s3dis", "Area_5", ["office_1/Annotations/wall_1.txt"]),
    ("s3dis", "office_1", ["Annotations/wall_1.txt"]),
    ("scannet", "scene0000_00", ["scene0000_00.sens"]),
    ("scannet", "scans", ["scene0000_00/scene0000_00.sens"]),
    ("scannet", "exported", ["s/color/0.jpg", "s/depth/0.png", "s/pose/0.txt"]),
    (
        "sunrgbd",
        "SUNRGBD",
        [f"kv1/b3do/i/{name}" for name in ("intrinsics.txt", "image/a.jpg")]
        + ["kv1/b3do/i/depth/a.png"],
    ),
    ("tum", "desk", ["rgb.txt", "depth.txt", "groundtruth.txt", "depth/1.png", "rgb/1.png"]),
    ("tum", "freiburg", ["desk/rgb.txt", "desk/depth.txt"]),
]


def grow(folder: Path, files: list[str]) -> Path:
    """A folder of empty files."""
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_each_dataset_can_be_recognised_but_those_that_share_files() -> None:
    recognisable = {row.name for row in DATASETS.values() if row.layouts}
    sharing = {row.name for row in DATASETS.values() if row.same_files_as}
    generated = {row.name for row in DATASETS.values() if row.kind == "generated"}
    assert recognisable | sharing | generated == set(DATASETS)
    assert not recognisable & (sharing | generated)
    assert {row.same_files_as for row in DATASETS.values()} - {""} <= recognisable
    assert {dataset for dataset, _, _ in TREES} == recognisable


@pytest.mark.parametrize(("dataset", "name", "files"), TREES)
def test_the_published_layouts(dataset: str, name: str, files: list[str], tmp_path: Path) -> None:
    found = recognise(grow(tmp_path / name, files))
    assert (found.dataset, found.root) == (dataset, tmp_path / name)


@pytest.mark.parametrize(
    ("dataset", "files"),
    [
        ("scannet", ["scene0000_00.sens"]),
        ("posed-rgbd", ["camera.json", "frame-0.depth.png", "frame-0.color.jpg"]),
        ("nerfstudio", ["transforms.json"]),
        ("tum", ["rgb.txt", "depth.txt", "groundtruth.txt"]),
    ],
)
def test_a_file_of_a_recording_stands_for_its_folder(
    dataset: str, files: list[str], tmp_path: Path
) -> None:
    folder = grow(tmp_path / "scene0000_00", files)
    for name in files:
        found = recognise(folder / name)
        assert (found.dataset, found.root) == (dataset, folder)


def test_one_bag_of_several_stands_for_itself(tmp_path: Path) -> None:
    for bag in ("a.bag", "b.db3"):
        found = recognise(grow(tmp_path, ["a.bag", "b.db3", "rgb.txt", "depth.txt"]) / bag)
        assert (found.dataset, found.root) == ("ros-rgbd", tmp_path / bag)


@pytest.mark.parametrize(
    ("name", "where"),
    [("notes.txt", ""), ("photo.jpg", ""), ("notes.txt", "loft/"), ("camera.json", "loft/")],
)
def test_a_file_beside_a_recording_does_not_stand_for_it(
    name: str, where: str, tmp_path: Path
) -> None:
    files = ["color/0.jpg", "depth/0.png", "camera_intrinsic.json"]
    folder = grow(tmp_path / "here", [name, *(where + file for file in files)])
    with pytest.raises(
        SourceError, match=r"not a file .* redwood by .*, name the folder"
    ) as caught:
        recognise(folder / name)
    assert str(caught.value).endswith(f": {folder}")


@pytest.mark.parametrize("name", ["kitchen.zip", "kitchen.tar.gz", "KITCHEN.7Z"])
def test_an_archive_has_to_be_unpacked(name: str, tmp_path: Path) -> None:
    folder = grow(tmp_path, [name, "transforms.json"])
    with pytest.raises(SourceError, match=f"{name} is an archive; unpack it and name the folder"):
        recognise(folder / name)


@pytest.mark.parametrize(
    ("dataset", "name", "write"),
    [
        ("nerfstudio", "room", write_nerfstudio),
        ("tum", "freiburg3_room", write_tum),
        ("redwood", "room", write_redwood),
        ("arkitscenes", "47333462", write_arkitscenes),
        ("sunrgbd", "b3do/img_0001", lambda folder, frames: write_sunrgbd(folder, frames[0])),
    ],
)
def test_what_is_recognised_is_read(
    dataset: str, name: str, write: Callable[[Path, list[Frame]], object], tmp_path: Path
) -> None:
    source = open_source("demo-scene", SourceOptions(limit=2))
    write(tmp_path / "all" / name, list(map(source.load, source.keys())))
    found = recognise(tmp_path / "all")
    assert found.dataset == dataset
    assert open_source(found.dataset, SourceOptions(found.root)).keys()


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("7scenes_redkitchen", "posed-rgbd"),
        ("kitti_object", "kitti-object"),
        ("nuscenes_sample", "nuscenes"),
        ("nyuv2_half", "nyuv2"),
        ("pandaset", "pandaset"),
        ("pandaset/002", "pandaset"),
        ("slambook2_office", "posed-rgbd"),
        ("tum_fr3_cabinet", "posed-rgbd"),
    ],
)
def test_real_recordings(data_root: Path, name: str, dataset: str) -> None:
    found = recognise(data_root / name)
    assert (found.dataset, found.root) == (dataset, data_root / name)
    assert open_source(found.dataset, SourceOptions(found.root, limit=1)).keys()


def test_an_unknown_folder_lists_the_formats(tmp_path: Path) -> None:
    grow(tmp_path / "holiday", ["IMG_0001.jpg", "maps/0001.png"])
    with pytest.raises(SourceError) as caught:
        recognise(tmp_path / "holiday")
    message = str(caught.value)
    assert "name its format with --dataset" in message
    assert "\n  tum: rgb.txt + depth.txt in the folder or *" in message
    assert message.count("\n  ") == sum(1 for row in DATASETS.values() if row.layouts)
    assert "docs/datasets/own.md has a script" in message.splitlines()[-1]


@pytest.mark.parametrize(
    ("files", "dataset", "missing", "hint"),
    [
        (["frame-0.color.jpg", "frame-0.depth.png"], "posed-rgbd", "camera.json", '"color_from_'),
        (["a/frame-0.color.jpg", "a/frame-0.depth.npy"], "posed-rgbd", "camera.json", '"pose":'),
        (
            ["camera.json", "frame-0.color.jpg"],
            "posed-rgbd",
            "frame-*.depth.*",
            "begin with",
        ),
        (["camera.json", "0.color.png"], "posed-rgbd", "frame-*.depth.*", "begin with"),
        (["camera.json", "a/0.color.png"], "posed-rgbd", "frame-*.depth.*", "begin with"),
        (["b/camera.json", "b/0.color.jpg"], "posed-rgbd", "frame-*.depth.*", "begin with"),
        (["rgb.txt", "rgb/1.png"], "tum", "depth.txt", ""),
        (["color/0.jpg", "depth/0.png"], "redwood", "*intrinsic.json", '"intrinsic_matrix"'),
        (["rgb/0.PNG", "depth/0.PNG"], "redwood", "*intrinsic.json", '"intrinsic_matrix"'),
        (["walk.bag.active"], "ros-rgbd", "*.bag", "rosbag reindex"),
        (
            ["keyframes/images/1.jpg", "keyframes/depth/1.png"],
            "nerfstudio",
            "transforms.json",
            "ns-",
        ),
        (["lidar/00.pkl.gz", "lidar/poses.json"], "pandaset", "calib.json", "pandaset_to_npz.py"),
        (["velodyne/0.bin", "image_2/0.png"], "kitti-object", "calib/*.txt", ""),
        (["drive/velodyne_points/data/0.bin"], "kitti-raw", "calib_velo_to_cam.txt", ""),
        (["sequences/00/velodyne/0.bin"], "kitti-odometry", "calib.txt", ""),
        (["4/lowres_depth/4_1.png"], "arkitscenes", "lowres_wide.traj", ""),
        (["samples/LIDAR_TOP/a.pcd.bin"], "nuscenes", "sample_data.json", ""),
    ],
)
def test_a_near_miss_names_what_is_missing(
    files: list[str], dataset: str, missing: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError) as caught:
        recognise(grow(tmp_path / "here", files))
    message = str(caught.value)
    assert f"like {dataset}, but " in message
    assert missing in message.partition(" missing in ")[0]
    assert "Formats (**" not in message
    assert ("--camera FILE" in message) == (dataset == "posed-rgbd" and missing == "camera.json")
    assert hint in message


@pytest.mark.parametrize(
    ("files", "inside", "dataset"),
    [
        (["color/0.jpg", "depth/0.png", "camera_intrinsic.json"], "color", "redwood"),
        (["rgb.txt", "depth.txt", "rgb/1.png"], "rgb", "tum"),
        (["sequences/00/velodyne/0.bin", "sequences/00/calib.txt"], "sequences", "kitti-odometry"),
        (["calib.json", "lidar/00.npz", "camera/front/00.jpg"], "camera/front", "pandaset"),
    ],
)
def test_a_folder_inside_a_recording_names_the_recording(
    files: list[str], inside: str, dataset: str, tmp_path: Path
) -> None:
    root = grow(tmp_path / "here", files)
    with pytest.raises(SourceError, match=f"inside a {dataset} recording") as caught:
        recognise(root / inside)
    assert str(caught.value).endswith(f": {root}")


def test_a_recording_beside_a_folder_does_not_hold_it(tmp_path: Path) -> None:
    grow(tmp_path / "all", ["walk/camera.json", "walk/frame-0.depth.png", "other/notes.txt"])
    with pytest.raises(SourceError, match="not a recording in a known format"):
        recognise(tmp_path / "all" / "other")


@pytest.mark.parametrize("command", ["extract", "check", "plan", "init"])
def test_an_empty_path_is_a_usage_error(command: str) -> None:
    result = CliRunner().invoke(commands, [command, ""])
    assert result.exit_code == 2
    assert "the path is empty" in result.output


def test_two_possible_formats_are_refused(tmp_path: Path) -> None:
    grow(tmp_path / "both", ["rgb.txt", "depth.txt", "camera.json", "frame-0.depth.png"])
    with pytest.raises(SourceError, match=r"in 2 formats: posed-rgbd by .*; tum by .*--dataset"):
        recognise(tmp_path / "both")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        recognise(tmp_path / "gone")
