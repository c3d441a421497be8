"""What differs between published RGB-D sequences of one form, written around real frames."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matlab_written import write_segmentation, write_split
from PIL import Image
from rgbd_written import (
    assert_same,
    depth_of,
    pose_of,
    save,
    write_redwood,
    write_sunrgbd,
    write_tum,
)
from scannet_written import write_exported

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.left_out import left_out_by
from p2pkit.datasets.recognise import recognise
from p2pkit.datasets.registry import open_source
from p2pkit.datasets.rgbd.nyu.nyuv2 import BORDER
from p2pkit.errors import FrameError, SourceError
from p2pkit.geometry.backproject import back_project

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def office(data_root: Path) -> list[Frame]:
    source = open_source("posed-rgbd", SourceOptions(data_root / "slambook2_office"))
    return [source.load(key) for key in source.keys()[:2]]


def nyu_folder(data_root: Path, target: Path, lists: dict[str, str]) -> Path:
    """Four real frames under these lists."""
    source = data_root / "nyuv2_half"
    keys = (source / "train.txt").read_text().split()[:4]
    for name in ("classes40.txt", "intrinsics.txt"):
        shutil.copy(source / name, target / name)
    for key in keys:
        for name in (f"rgb/{key}.jpg", f"depth/{key}.png", f"label40/{key}.png"):
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copy(source / name, target / name)
    for name, text in lists.items():
        (target / name).write_text(text or "\r\n".join(keys) + "\r\n\r\n")
    return target


@pytest.mark.parametrize("lists", [{"test.txt": ""}, {"train.txt": "1440\n1441\n", "test.txt": ""}])
def test_nyuv2_frames_of_the_test_part(
    data_root: Path, tmp_path: Path, lists: dict[str, str]
) -> None:
    folder = nyu_folder(data_root, tmp_path, lists)
    assert recognise(folder).dataset == "nyuv2"
    source = open_source("nyuv2", SourceOptions(folder))
    real = open_source("nyuv2", SourceOptions(data_root / "nyuv2_half", limit=4))
    assert list(source.keys()) == list(real.keys())
    for key in list(source.keys()):
        np.testing.assert_array_equal(depth_of(source.load(key)), depth_of(real.load(key)))
        np.testing.assert_array_equal(source.load(key).labels, real.load(key).labels)
    assert source.fingerprint()["sequences"] == "runs of consecutive numbers in test.txt"


def test_nyuv2_lists_without_images_are_all_named(data_root: Path, tmp_path: Path) -> None:
    folder = nyu_folder(data_root, tmp_path, {"train.txt": "1440", "test.txt": "1441 1442"})
    with pytest.raises(SourceError, match=r"1 frames of train\.txt and none of the 2 .*test\.txt"):
        open_source("nyuv2", SourceOptions(folder))


def test_nyuv2_without_label_images(data_root: Path, tmp_path: Path) -> None:
    folder = nyu_folder(data_root, tmp_path, {"train.txt": ""})
    shutil.rmtree(folder / "label40")
    source = open_source("nyuv2", SourceOptions(folder))
    assert (source.label_names, source.ignore_label) == (None, None)
    assert source.load(source.keys()[0]).labels is None


def double(path: Path, resample: Image.Resampling) -> None:
    with Image.open(path) as image:
        twice = image.resize((640, 480), resample)
    twice.save(path)


def test_nyuv2_at_full_size(data_root: Path, tmp_path: Path) -> None:
    """Frames of twice the size, with the intrinsics of the Kinect as published."""
    folder = nyu_folder(data_root, tmp_path, {"train.txt": ""})
    for path in folder.glob("*/*.*g"):
        is_color = path.parent.name == "rgb"
        double(path, Image.Resampling.BILINEAR if is_color else Image.Resampling.NEAREST)
    with pytest.raises(SourceError, match=r"point \(162\.791, 126\.868\) is far .* 640 x 480 px"):
        open_source("nyuv2", SourceOptions(folder))
    k = (518.857901, 519.469611, 325.582449, 253.736166)
    (folder / "intrinsics.txt").write_text(f"{k[0]} 0 {k[2]}\n0 {k[1]} {k[3]}\n0 0 1\n")
    source = open_source("nyuv2", SourceOptions(folder))
    frame = source.load(source.keys()[0])
    assert frame.depth is not None
    found = back_project(frame.depth.values, frame.depth.camera, units_per_metre=1000.0)
    v, u = np.divmod(found.pixel.astype(np.int64), 640)
    assert (u.min(), u.max(), v.min(), v.max()) == (2 * BORDER, 639 - 2 * BORDER, 8, 471)
    with Image.open(folder / "depth" / f"{frame.key}.png") as image:
        z = np.asarray(image)[v, u] / 1000.0
    expected = np.stack([(u - k[2]) / k[0] * z, (v - k[3]) / k[1] * z, z], axis=1)
    np.testing.assert_allclose(found.points, expected, atol=1e-5)


def test_nyuv2_at_half_size_with_the_intrinsics_of_full_size(
    data_root: Path, tmp_path: Path
) -> None:
    folder = nyu_folder(data_root, tmp_path, {"train.txt": ""})
    (folder / "intrinsics.txt").write_text("518.86 0 325.58 0 519.47 253.74 0 0 1")
    with pytest.raises(SourceError, match=r"of 320 x 240 px: give the intrinsics"):
        open_source("nyuv2", SourceOptions(folder))


def test_scannet_frames_25k_names_with_leading_zeros(office: list[Frame], tmp_path: Path) -> None:
    """scene0000_00/pose/000100.txt, intrinsics_color.txt and intrinsics_depth.txt."""
    folder = tmp_path / "scene0000_00"
    write_exported(folder, office, (640, 480))
    for name in ("color", "depth", "pose"):
        for path in sorted((folder / name).iterdir()):
            path.rename(path.with_name(f"{int(path.stem) * 100:06d}{path.suffix}"))
    for name in ("color", "depth"):
        (folder / "intrinsic" / f"intrinsic_{name}.txt").rename(folder / f"intrinsics_{name}.txt")
    shutil.rmtree(folder / "intrinsic")
    (folder / "scene0000_00.txt").write_text("colorWidth = 640\ncolorHeight = 480\n")
    source = open_source("scannet", SourceOptions(tmp_path))
    assert list(source.keys()) == ["scene0000_00_000000", "scene0000_00_000100"]
    for key, real in zip(source.keys(), office, strict=True):
        np.testing.assert_allclose(pose_of(source.load(key)), pose_of(real), atol=1e-5)
    (folder / "pose" / "000100.txt").write_text("nan " * 16)
    assert source.load("scene0000_00_000100").world_from_sensor is None


def test_scannet_export_whose_colour_is_elsewhere(office: list[Frame], tmp_path: Path) -> None:
    folder = tmp_path / "scene0000_00"
    write_exported(folder, office, (640, 480))
    (folder / "scene0000_00.txt").write_text("colorWidth = 640\ncolorHeight = 480\n")
    moved = np.eye(4)
    moved[0, 3] = 0.03
    np.savetxt(folder / "intrinsic" / "extrinsic_color.txt", moved)
    source = open_source("scannet", SourceOptions(folder))
    with pytest.raises(FrameError, match=r"extrinsic_color\.txt is not the identity"):
        source.load(source.keys()[0])


def write_seven_scenes(folder: Path, frames: list[Frame]) -> Path:
    for number, frame in enumerate(frames):
        stem = folder / f"frame-{number:06d}"
        save(stem.with_suffix(".color.png"), frame.views[0].image)
        save(stem.with_suffix(".depth.png"), depth_of(frame))
        np.savetxt(stem.with_suffix(".pose.txt"), frame.world_from_sensor)
    return folder


@pytest.fixture(scope="module")
def kitchen(data_root: Path) -> list[Frame]:
    source = open_source("posed-rgbd", SourceOptions(data_root / "7scenes_redkitchen", limit=2))
    return [source.load(key) for key in list(source.keys())]


def test_poses_whose_rotation_has_drifted(kitchen: list[Frame], tmp_path: Path) -> None:
    """The real poses are off a rotation by 1e-4 at frame 0 and by 4e-4 at frame 996."""
    folder = write_seven_scenes(tmp_path / "seq-02", kitchen)
    drift = np.diag([1.0015, 1.0008, 0.9995, 1.0])
    np.savetxt(folder / "frame-000000.pose.txt", pose_of(kitchen[0]) @ drift)
    np.savetxt(folder / "frame-000001.pose.txt", pose_of(kitchen[1]) @ np.diag([1.02, 1, 1, 1]))
    source = open_source("7scenes", SourceOptions(folder))
    pose = pose_of(source.load("seq-02_frame-000000"))
    np.testing.assert_allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(pose, pose_of(kitchen[0]), atol=2e-3)
    np.testing.assert_array_equal(pose[:3, 3], pose_of(kitchen[0])[:3, 3])
    with pytest.raises(FrameError, match=r"is not rigid: det R = 1\.0198"):
        source.load("seq-02_frame-000001")


def test_parts_of_seven_scenes_that_are_missing_are_reported(
    kitchen: list[Frame], tmp_path: Path
) -> None:
    scene = tmp_path / "redkitchen"
    write_seven_scenes(scene / "seq-01", kitchen)
    (scene / "seq-01" / "frame-000001.color.png").unlink()
    (scene / "seq-02").mkdir()
    for number in (1, 3):
        (scene / f"seq-0{number}.zip").write_bytes(b"PK")
    alone = "1 file has no colour image: seq-01/frame-000001.depth.png"
    source = open_source("7scenes", SourceOptions(scene))
    assert source.keys() == ["seq-01_frame-000000"]
    assert left_out_by(source) == (
        ("seq-03", "seq-03.zip is not unpacked"),
        ("seq-01", alone),
        ("seq-02", "seq-02 contains no frame-*.color.png"),
    )
    above = open_source("7scenes", SourceOptions(tmp_path))
    assert above.keys() == ["redkitchen_seq-01_frame-000000"]
    assert left_out_by(above) == (
        ("seq-03", "redkitchen/seq-03.zip is not unpacked"),
        ("redkitchen_seq-01", alone),
        ("seq-02", "redkitchen/seq-02 contains no frame-*.color.png"),
    )


def test_a_folder_may_be_given_as_a_dot(
    kitchen: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_seven_scenes(tmp_path / "seq-03", kitchen)
    (folder / "more").mkdir()
    for here, given in ((folder, "."), (folder / "more", "..")):
        monkeypatch.chdir(here)
        source = open_source("7scenes", SourceOptions(Path(given)))
        assert source.keys()[0] == "seq-03_frame-000000"
        assert source.load(source.keys()[0]).sequence == "seq-03"


def test_redwood_images_are_in_the_order_of_their_numbers(
    office: list[Frame], tmp_path: Path
) -> None:
    """10.png is the eleventh image and not the third: the trajectory is in this order."""
    frames = []
    for number in range(11):
        pose = pose_of(office[0]).copy()
        pose[0, 3] += number
        frames.append(replace(office[0], world_from_sensor=pose))
    folder = tmp_path / "office"
    write_redwood(folder, frames)
    for path in sorted(folder.glob("*/*.png")):
        path.rename(path.with_name(f"{int(path.stem)}.png"))
    (folder / "color" / "._3.png").write_bytes(b"\0\5\x16\7")
    save(folder / "depth" / "10.png", depth_of(office[1]))
    source = open_source("redwood", SourceOptions(folder))
    assert len(source.keys()) == 11
    last = source.load("office_000010")
    np.testing.assert_array_equal(depth_of(last), depth_of(office[1]))
    np.testing.assert_allclose(pose_of(last), pose_of(frames[10]), atol=1e-8)
    np.testing.assert_allclose(pose_of(source.load("office_000002")), pose_of(frames[2]), atol=1e-8)


def test_tum_by_the_name_of_a_link(data_root: Path, tmp_path: Path) -> None:
    real = open_source("posed-rgbd", SourceOptions(data_root / "tum_fr3_cabinet", limit=2))
    frames = [real.load(key) for key in list(real.keys())]
    write_tum(tmp_path / "store" / "4f2a", frames)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rgbd_dataset_freiburg3_cabinet").symlink_to(tmp_path / "store" / "4f2a")
    source = open_source("tum", SourceOptions(tmp_path / "data"))
    for key, frame in zip(source.keys(), frames, strict=True):
        assert_same(source.load(key), frame)


def test_linked_folders_are_searched(office: list[Frame], tmp_path: Path) -> None:
    """SUN RGB-D's sensors often lie on several disks; a link upwards does not go round for ever."""
    write_sunrgbd(tmp_path / "disk" / "b3do" / "img_0001", office[0])
    root = tmp_path / "SUNRGBD"
    write_sunrgbd(root / "xtion" / "img_0002", office[1])
    (root / "kv1").symlink_to(tmp_path / "disk")
    (root / "xtion" / "up").symlink_to(root)
    (root / "xtion" / "img_0002" / "image" / "._0000103.jpg").write_bytes(b"\0\5\x16\7")
    (root / "xtion" / "img_0002" / "depth_bfx" / "._0000103.png").write_bytes(b"\0\5\x16\7")
    source = open_source("sunrgbd", SourceOptions(root))
    assert list(source.keys()) == ["kv1_b3do_img_0001", "xtion_img_0002"]
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "kv1").symlink_to(tmp_path / "disk")
    assert recognise(tmp_path / "links").dataset == "sunrgbd"
    for key, real in zip(source.keys(), office, strict=True):
        np.testing.assert_array_equal(depth_of(source.load(key)), depth_of(real))


def test_sunrgbd_folders_with_long_names(office: list[Frame], tmp_path: Path) -> None:
    """Published paths are longer than the 80 characters that a key may have in tar stores."""
    scan = "SUNRGBD/xtion/sun3ddata/mit_lab_16/lab_16_nov_2_2012_scan{}_erika/0000001-000000020431"
    for number in (1, 2):
        write_sunrgbd(tmp_path / scan.format(number), office[number - 1])
    source = open_source("sunrgbd", SourceOptions(tmp_path))
    assert list(map(len, source.keys())) == [80, 80]
    first, second = (source.load(key) for key in list(source.keys()))
    assert first.key.startswith("SUNRGBD_xtion_sun3ddata_")
    assert first.key.endswith("_nov_2_2012_scan1_erika_0000001-000000020431")
    assert second.sequence == scan.format(2).rpartition("/")[0].replace("/", "_")
    np.testing.assert_array_equal(depth_of(second), depth_of(office[1]))
    below = open_source("sunrgbd", SourceOptions(tmp_path / "SUNRGBD"))
    assert below.keys()[0] == scan.format(1).partition("/")[2].replace("/", "_")


def test_sunrgbd_labels_and_the_official_split(office: list[Frame], tmp_path: Path) -> None:
    """37 classes by the objects' names; frames of the split's test part have other sequences."""
    root = tmp_path / "SUNRGBD"
    names = ("kv2/kinect2data/000001_a", "kv2/kinect2data/000002_b", "kv1/b3dodata/img_0003")
    for name in names:
        write_sunrgbd(root / name, office[0])
    numbers = np.zeros(depth_of(office[0]).shape, int)
    numbers[10], numbers[11], numbers[12], numbers[13] = 1, 2, 3, 4
    write_segmentation(root / names[1], numbers, ("wall", "Night_stand", "fridge", "guitar"))
    source = open_source("sunrgbd", SourceOptions(root))
    assert source.load("kv2_kinect2data_000002_b").sequence == "kv2_kinect2data"
    write_split(tmp_path, [names[0]], [f"{names[1]}/", names[2]])
    source = open_source("sunrgbd", SourceOptions(root))
    assert source.label_names is not None
    assert (len(source.label_names), source.ignore_label) == (38, 0)
    frames = [source.load(key) for key in sorted(source.keys())]
    assert [frame.sequence for frame in frames] == [
        *("test-kv1_b3dodata", "kv2_kinect2data", "test-kv2_kinect2data")
    ]
    assert frames[2].labels is not None
    assert frames[2].labels[9:14, 5].tolist() == [0, 1, 32, 24, 0]
    assert frames[0].labels is not None
    assert not frames[0].labels.any()
    below = open_source("sunrgbd", SourceOptions(tmp_path, limit=1))
    assert below.load(below.keys()[0]).sequence == "test-SUNRGBD_kv1_b3dodata"
    write_segmentation(root / names[1], numbers, ("wall", "floor"))
    with pytest.raises(FrameError, match="labels 0 to 4 of 2 names"):
        source.load("kv2_kinect2data_000002_b")
    (root / names[1] / "seg.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(FrameError, match="cannot be read as a MATLAB file"):
        source.load("kv2_kinect2data_000002_b")
    (tmp_path / "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat").write_bytes(b"")
    with pytest.raises(SourceError, match="cannot be read as a MATLAB file"):
        open_source("sunrgbd", SourceOptions(root))


def test_redwood_scans_whose_images_tell_their_times(office: list[Frame], tmp_path: Path) -> None:
    """Object scans: colour and depth run on their own clocks, and each has lost other frames."""
    folder = tmp_path / "00021"
    write_redwood(folder, office)
    (folder / "trajectory.log").unlink()
    (folder / "intrinsic.json").rename(folder / "camera_primesense.json")
    for name in ("color", "depth"):
        for path in (folder / name).iterdir():
            path.unlink()
    first, second = office
    # Colour of 0, 33 and 133 ms, depth of 40, 70 and 140 ms: in sorted order all would be wrong.
    for number, time, frame in ((1, 0, second), (2, 33_000, first), (3, 133_000, second)):
        save(folder / "color" / f"{number:07d}-{time:012d}.png", frame.views[0].image)
    for number, time, frame in ((1, 40_000, first), (2, 70_000, first), (3, 140_000, second)):
        save(folder / "depth" / f"{number:07d}-{time:012d}.png", depth_of(frame))
    assert recognise(tmp_path).dataset == "redwood"
    source = open_source("redwood", SourceOptions(tmp_path))
    assert list(source.keys()) == ["00021_000000", "00021_000002"]
    for key, real, offset in zip(source.keys(), office, (-0.007, -0.007), strict=True):
        frame = source.load(key)
        np.testing.assert_array_equal(depth_of(frame), depth_of(real))
        np.testing.assert_array_equal(frame.views[0].image, real.views[0].image)
        assert frame.views[0].time_offset_s == pytest.approx(offset)


def test_tum_rows_without_a_pose(data_root: Path, tmp_path: Path) -> None:
    """A lost tracker writes NaN or a quaternion of zeros; the frames there have no pose."""
    real = open_source("posed-rgbd", SourceOptions(data_root / "tum_fr3_cabinet", limit=4))
    folder = tmp_path / "rgbd_dataset_freiburg3_cabinet"
    write_tum(folder, [real.load(key) for key in list(real.keys())])
    remark, *rows = (folder / "groundtruth.txt").read_text().splitlines()
    rows[1] = f"{rows[1].split()[0]} nan nan nan nan nan nan nan"
    rows[2] = f"{rows[2].split()[0]} 0 0 0 0 0 0 0"
    (folder / "groundtruth.txt").write_text("\r\n".join([remark, *rows, ""]))
    source = open_source("tum", SourceOptions(tmp_path))
    assert [key[-1] for key in list(source.keys())] == ["0", "3"]
    for key in list(source.keys()):
        np.testing.assert_allclose(
            pose_of(source.load(key)), pose_of(real.load(real.keys()[int(key[-1])])), atol=1e-5
        )


def test_a_tum_row_that_is_no_rotation_costs_its_frame_only(
    data_root: Path, tmp_path: Path
) -> None:
    real = open_source("posed-rgbd", SourceOptions(data_root / "tum_fr3_cabinet", limit=2))
    folder = tmp_path / "rgbd_dataset_freiburg3_cabinet"
    write_tum(folder, [real.load(key) for key in list(real.keys())])
    remark, first, second = (folder / "groundtruth.txt").read_text().splitlines()
    bad = " ".join([*first.split()[:4], "0", "0", "0", "0.9"])
    (folder / "groundtruth.txt").write_text("\n".join([remark, bad, second]))
    source = open_source("tum", SourceOptions(folder))
    assert [key[-1] for key in list(source.keys())] == ["1"]
    rows, images = left_out_by(source)
    assert rows.reason.startswith("groundtruth.txt: 1 row is not a pose; the first: 1341845948")
    assert rows.reason.endswith("has length 0.9, not 1")
    assert images.reason.startswith("1 file has no colour image and pose within 0.02 s: depth/")


def test_scannet_scene_whose_first_image_is_damaged(office: list[Frame], tmp_path: Path) -> None:
    folder = tmp_path / "scene0000_00"
    write_exported(folder, office, (640, 480))
    (folder / "scene0000_00.txt").write_text("colorWidth = 640\ncolorHeight = 480\n")
    whole = open_source("scannet", SourceOptions(folder)).fingerprint()["calibration"]
    (folder / "color" / "0.jpg").write_bytes(b"\xff\xd8\xff")
    source = open_source("scannet", SourceOptions(folder))
    assert source.fingerprint()["calibration"] == whole
    with pytest.raises(FrameError, match=r"0\.jpg cannot be decoded"):
        source.load("scene0000_00_000000")
    assert source.load("scene0000_00_000001").world_from_sensor is not None
    (folder / "color" / "1.jpg").write_bytes(b"")
    with pytest.raises(SourceError, match=r"0\.jpg cannot be used"):
        open_source("scannet", SourceOptions(folder)).fingerprint()


def test_intrinsics_of_images_of_another_size(office: list[Frame], tmp_path: Path) -> None:
    """Exports that shrink images and intrinsics; SUN RGB-D images that somebody made smaller."""
    folder = tmp_path / "scans" / "scene0000_00"
    write_exported(folder, office, (324, 242))
    # The intrinsics are those of 640 x 480, and nothing says so: 1296 x 968 is what they are for.
    source = open_source("scannet", SourceOptions(folder))
    with pytest.raises(FrameError, match=r"point \(325\.5, 253\.5\) .* of 1296 x 968 px"):
        source.load(source.keys()[0])
    half = tmp_path / "sun" / "img_0001"
    write_sunrgbd(half, office[0])
    for path in (half / "depth_bfx" / "0000103.png", half / "image" / "0000103.jpg"):
        with Image.open(path) as image:
            smaller = image.resize((320, 240), Image.Resampling.NEAREST)
        smaller.save(path)
    shrunk = open_source("sunrgbd", SourceOptions(half))
    with pytest.raises(FrameError, match=r"point \(325\.5, 253\.5\) .* of 320 x 240 px"):
        shrunk.load(shrunk.keys()[0])


def test_redwood_depth_of_another_size_than_colour(office: list[Frame], tmp_path: Path) -> None:
    """Registered depth of half the size, with the intrinsics of either."""
    write_redwood(tmp_path, office)
    for path in sorted((tmp_path / "depth").glob("*.png")):
        with Image.open(path) as image:
            half = image.resize((320, 240), Image.Resampling.NEAREST)
        half.save(path)
    camera = office[0].views[0].camera
    for given in (camera, camera.resized(320, 240)):
        value = {"width": given.width, "height": given.height}
        value["intrinsic_matrix"] = given.matrix().T.ravel().tolist()
        (tmp_path / "intrinsic.json").write_text(json.dumps(value))
        source = open_source("redwood", SourceOptions(tmp_path))
        frame = source.load(source.keys()[0])
        assert frame.depth is not None
        assert frame.depth.values.shape == (240, 320)
        for found, expected in (
            (frame.depth.camera, camera.resized(320, 240)),
            (frame.views[0].camera, camera),
        ):
            assert found.to_json() == pytest.approx(expected.to_json())


def test_redwood_depth_that_is_not_registered(office: list[Frame], tmp_path: Path) -> None:
    """An Azure Kinect's depth of 640 x 576 beside colour of 640 x 480."""
    write_redwood(tmp_path, office[:1])
    save(tmp_path / "depth" / "000000.png", np.full((576, 640), 900, np.uint16))
    with pytest.raises(SourceError, match=r"depth 640 x 576, .* Depth must be registered .*align"):
        open_source("redwood", SourceOptions(tmp_path))
    write_redwood(tmp_path, office[:1])
    save(tmp_path / "color" / "000000.png", np.zeros((720, 1280, 3), np.uint8))
    with pytest.raises(
        SourceError, match=r"1280 x 720 px .*: colour has another aspect ratio\. Gi"
    ):
        open_source("redwood", SourceOptions(tmp_path))
