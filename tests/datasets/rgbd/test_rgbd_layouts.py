"""Readers of published RGB-D layouts, on real frames written in those layouts.

Where each layout is documented stands at the top of its reader in p2pkit/datasets.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from rgbd_written import (
    assert_same,
    depth_of,
    save,
    write_arkitscenes,
    write_redwood,
    write_sunrgbd,
    write_tum,
)

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.left_out import left_out_by
from p2pkit.datasets.registry import open_source
from p2pkit.errors import FrameError, SourceError

pytestmark = pytest.mark.realdata
Change = Callable[[str], str]


def real_frames(folder: Path, numbers: list[int]) -> list[Frame]:
    source = open_source("posed-rgbd", SourceOptions(folder))
    return [source.load(source.keys()[number]) for number in numbers]


@pytest.fixture(scope="module")
def cabinet(data_root: Path) -> list[Frame]:
    """Frames of freiburg3: 5000 per metre, colour registered."""
    return real_frames(data_root / "tum_fr3_cabinet", [0, 1, 2])


@pytest.fixture(scope="module")
def office(data_root: Path) -> list[Frame]:
    """Frames in millimetres, colour registered."""
    return real_frames(data_root / "slambook2_office", [0, 1])


def test_tum_gives_the_real_frames(cabinet: list[Frame], tmp_path: Path) -> None:
    folder = tmp_path / "rgbd_dataset_freiburg3_cabinet"
    write_tum(folder, cabinet)
    source = open_source("tum", SourceOptions(folder))
    assert source.keys() == open_source("tum", SourceOptions(tmp_path)).keys()
    assert source.keys()[2] == "rgbd_dataset_freiburg3_cabinet_000002"
    for key, real in zip(source.keys(), cabinet, strict=True):
        frame = source.load(key)
        assert_same(frame, real)
        assert frame.sequence == folder.name
        assert frame.views[0].time_offset_s == pytest.approx(0.01, abs=1e-5)
        assert frame.views[0].valid is None
        assert frame.speed_m_s > 0


def test_tum_lists_may_name_deeper_folders(cabinet: list[Frame], tmp_path: Path) -> None:
    folder = tmp_path / "freiburg3"
    write_tum(folder, cabinet)
    (folder / "raw").mkdir()
    (folder / "depth").rename(folder / "raw" / "depth")
    text = (folder / "depth.txt").read_text()
    (folder / "depth.txt").write_text(text.replace(" depth/", " raw/depth/"))
    assert_same(open_source("tum", SourceOptions(folder)).load("freiburg3_000000"), cabinet[0])


def test_tum_pairs_nothing_that_is_too_far_apart(cabinet: list[Frame], tmp_path: Path) -> None:
    folder = tmp_path / "freiburg3"
    write_tum(folder, cabinet)
    lines = (folder / "rgb.txt").read_text().splitlines()
    (folder / "rgb.txt").write_text("\n".join(lines[:2] + lines[3:]))
    assert open_source("tum", SourceOptions(folder)).keys() == [
        "freiburg3_000000",
        "freiburg3_000002",
    ]
    (folder / "groundtruth.txt").write_text("1.0 0 0 0 0 0 0 1\n")
    with pytest.raises(SourceError, match=r"none of the 3 depth images .* within 0\.02 s"):
        open_source("tum", SourceOptions(folder))
    (folder / "groundtruth.txt").unlink()
    source = open_source("tum", SourceOptions(folder))
    assert source.load("freiburg3_000000").world_from_sensor is None


def test_tum_undistorts_both_images(cabinet: list[Frame], tmp_path: Path) -> None:
    """Bend a real frame as freiburg1's lens does; reading it gives the straight one back."""
    real = cabinet[0]
    k = np.array([[517.3, 0, 318.6], [0, 516.5, 255.3], [0, 0, 1]])
    lens = np.array([0.2624, -0.9531, -0.0054, 0.0026, 1.1633])
    u, v = np.meshgrid(np.arange(640.0), np.arange(480.0))
    pixels = np.stack([u, v], axis=-1).reshape(-1, 1, 2)
    straight = cv2.undistortPoints(pixels, k, lens, P=k).reshape(480, 640, 2).astype(np.float32)
    image = cv2.remap(real.views[0].image, straight, None, cv2.INTER_LINEAR)
    depth = cv2.remap(depth_of(real), straight, None, cv2.INTER_NEAREST)
    assert real.depth is not None
    view = replace(real.views[0], image=image)
    bent = replace(real, views=(view,), depth=replace(real.depth, values=depth))
    folder = tmp_path / "freiburg1_desk"
    write_tum(folder, [bent])
    source = open_source("tum", SourceOptions(folder))
    frame = source.load(source.keys()[0])
    valid = frame.views[0].valid
    assert valid is not None
    assert 0.9 < valid.mean() < 1
    inside = np.zeros_like(valid)
    inside[40:-40, 40:-40] = True
    error = np.abs(frame.views[0].image.astype(int) - real.views[0].image)[inside & valid]
    wrong = np.abs(image.astype(int) - real.views[0].image)[inside & valid]
    assert error.mean() < 0.5 * wrong.mean()
    same = depth_of(frame)[inside] == depth_of(real)[inside]
    assert same.mean() > 0.6
    assert source.fingerprint()["calibration"]["freiburg1_desk"]["color"]["distortion"]


def test_tum_of_another_camera_needs_its_lens(cabinet: list[Frame], tmp_path: Path) -> None:
    folder = tmp_path / "own_camera"
    write_tum(folder, cabinet[:1])
    with pytest.raises(SourceError, match=r"the lens is not known.*--camera"):
        open_source("tum", SourceOptions(folder))
    lens = cabinet[0].views[0].camera.to_json()
    (tmp_path / "lens.json").write_text(json.dumps(lens))
    source = open_source("tum", SourceOptions(folder, camera_file=tmp_path / "lens.json"))
    assert_same(source.load(source.keys()[0]), cabinet[0])
    (tmp_path / "lens.json").write_text(json.dumps(lens | {"distortion": {"model": "f"}}))
    with pytest.raises(SourceError, match="model and coefficients in distortion"):
        open_source("tum", SourceOptions(folder, camera_file=tmp_path / "lens.json"))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("rgb.txt", "noon rgb/1.png", "expected a time first"),
        ("depth.txt", "1.0", "a time and a value"),
        ("groundtruth.txt", "1.0 0 0 0 0 0 1", "is not a pose"),
        ("groundtruth.txt", "1.0 0 0 0 0 0 0 2", "has length 2"),
    ],
)
def test_wrong_tum_lists(
    cabinet: list[Frame], tmp_path: Path, name: str, text: str, reason: str
) -> None:
    folder = tmp_path / "freiburg3"
    write_tum(folder, cabinet[:1])
    (folder / name).write_text(text)
    with pytest.raises(SourceError, match=reason):
        open_source("tum", SourceOptions(folder))


def test_seven_scenes_in_its_original_layout(data_root: Path, tmp_path: Path) -> None:
    frames = real_frames(data_root / "7scenes_redkitchen", [0, 1])
    folder = tmp_path / "redkitchen" / "seq-01"
    for number, frame in enumerate(frames):
        stem = folder / f"frame-{number:06d}"
        save(stem.with_suffix(".color.png"), frame.views[0].image)
        # The original marks missing depth by 65535.
        depth = np.where(depth_of(frame) == 0, 65535, depth_of(frame)).astype(np.uint16)
        save(stem.with_suffix(".depth.png"), depth)
        np.savetxt(stem.with_suffix(".pose.txt"), frame.world_from_sensor)
    source = open_source("7scenes", SourceOptions(tmp_path / "redkitchen"))
    assert source.keys() == ["seq-01_frame-000000", "seq-01_frame-000001"]
    for key, real in zip(source.keys(), frames, strict=True):
        assert_same(source.load(key), real)
    assert open_source("7scenes", SourceOptions(folder)).keys()[0] == "seq-01_frame-000000"
    everything = open_source("7scenes", SourceOptions(tmp_path))
    assert everything.load("redkitchen_seq-01_frame-000001").sequence == "redkitchen_seq-01"
    (folder / "frame-000000.pose.txt").unlink()
    with pytest.raises(FrameError, match=r"pose\.txt does not exist"):
        source.load("seq-01_frame-000000")
    with pytest.raises(SourceError, match="needs seq-NN"):
        open_source("7scenes", SourceOptions(data_root / "7scenes_redkitchen"))


def test_redwood_gives_the_real_frames(office: list[Frame], tmp_path: Path) -> None:
    write_redwood(tmp_path / "office", office)
    source = open_source("redwood", SourceOptions(tmp_path))
    assert source.keys() == ["office_000000", "office_000001"]
    for key, real in zip(source.keys(), office, strict=True):
        assert_same(source.load(key), real)
    # Times of day: the milliseconds, here 1 and 0, are no numbers of poses.
    for folder in ("color", "depth"):
        for number, clock in enumerate(("2024-01-05_12-00-05.001", "2024-01-05_12-00-06.000")):
            path = tmp_path / "office" / folder / f"{number:06d}.png"
            path.rename(path.with_name(f"{clock}.png"))
    timed = open_source("redwood", SourceOptions(tmp_path))
    assert timed.keys() == source.keys()
    for key, real in zip(timed.keys(), office, strict=True):
        assert_same(timed.load(key), real)
    (tmp_path / "office" / "trajectory.log").unlink()
    source = open_source("redwood", SourceOptions(tmp_path / "office"))
    assert source.load("office_000000").world_from_sensor is None


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("trajectory.log", lambda text: text + "2 2 3\n", "expected five for each pose"),
        ("trajectory.log", lambda text: "\n".join(text.splitlines()[:5]), "1 poses for 2"),
        ("trajectory.log", lambda text: text.replace("0.", "1."), "pose of depth/000000.png has"),
        ("trajectory.log", lambda text: text.replace(" ", " 0 ", 3), "at line 1 is not 4 x 4"),
        ("intrinsic.json", lambda text: "[]", "JSON object"),
        ("intrinsic.json", lambda text: text.replace("640", '"wide"'), "whole numbers"),
        ("intrinsic.json", lambda text: text.replace("[518", "[-518"), "focal lengths positive"),
        ("intrinsic.json", lambda text: text.replace("[518.0, 0.0", "[518.0"), "8 numbers"),
    ],
)
def test_wrong_redwood_texts(
    office: list[Frame], tmp_path: Path, name: str, change: Change, reason: str
) -> None:
    write_redwood(tmp_path / "office", office)
    path = tmp_path / "office" / name
    path.write_text(change(path.read_text()))
    with pytest.raises(SourceError, match=reason):
        open_source("redwood", SourceOptions(tmp_path))


def test_redwood_pairs_only_equal_numbers(office: list[Frame], tmp_path: Path) -> None:
    write_redwood(tmp_path / "office", office)
    (tmp_path / "office" / "color" / "000001.png").unlink()
    source = open_source("redwood", SourceOptions(tmp_path))
    assert source.keys() == ["office_000000"]
    (part,) = left_out_by(source)
    assert part.name == "office"
    assert part.reason.endswith(": depth/000001.png")
    (tmp_path / "office" / "intrinsic.json").unlink()
    with pytest.raises(SourceError, match="write it in Open3D's format"):
        open_source("redwood", SourceOptions(tmp_path))


def renumbered(folder: Path, first: int) -> None:
    """Images numbered from `first` instead of 0."""
    for path in sorted(folder.glob("*/*.png"), reverse=True):
        path.rename(path.with_name(f"{int(path.stem) + first:06d}.png"))


def test_redwood_images_from_1_and_poses_from_0(office: list[Frame], tmp_path: Path) -> None:
    """As many poses as images are in order; else pose 1 may be of image 1 or 2: never guessed."""
    frames = [*office, office[0]]
    write_redwood(tmp_path / "office", frames)
    renumbered(tmp_path / "office", 1)
    source = open_source("redwood", SourceOptions(tmp_path))
    for key, real in zip(source.keys(), frames, strict=True):
        assert_same(source.load(key), real)
    for name in ("color", "depth"):
        (tmp_path / "office" / name / "000003.png").unlink()
    ambiguous = "numbers its 3 poses from 0, but the 2 depth images are numbered from 1, so pose 1"
    with pytest.raises(SourceError, match=ambiguous):
        open_source("redwood", SourceOptions(tmp_path))
    trajectory = tmp_path / "office" / "trajectory.log"
    poses = trajectory.read_text().splitlines(keepends=True)
    for kept, expected in ((poses[:10], frames[:2]), (poses[5:], frames[1:])):
        trajectory.write_text("".join(kept))
        source = open_source("redwood", SourceOptions(tmp_path))
        for key, real in zip(source.keys(), expected, strict=True):
            np.testing.assert_allclose(
                source.load(key).world_from_sensor, real.world_from_sensor, atol=1e-8
            )


def test_redwood_numbers_of_a_part_of_the_trajectory(office: list[Frame], tmp_path: Path) -> None:
    """The numbers decide where both count from 0, if only in colour, or neither does."""
    write_redwood(tmp_path / "office", [office[1], *office])
    (tmp_path / "office" / "depth" / "000000.png").unlink()
    source = open_source("redwood", SourceOptions(tmp_path))
    for key, real in zip(source.keys(), office, strict=True):
        assert_same(source.load(key), real)
    (tmp_path / "office" / "color" / "000000.png").unlink()
    renumbered(tmp_path / "office", 100)
    trajectory = tmp_path / "office" / "trajectory.log"
    lines = trajectory.read_text().splitlines()
    for number in range(3):
        lines[5 * number] = f"{100 + number} {100 + number} {101 + number}"
    trajectory.write_text("\n".join(lines))
    source = open_source("redwood", SourceOptions(tmp_path))
    for key, real in zip(source.keys(), office, strict=True):
        assert_same(source.load(key), real)


def test_a_redwood_pose_that_is_not_rigid_costs_its_frame_only(
    office: list[Frame], tmp_path: Path
) -> None:
    write_redwood(tmp_path / "office", office)
    trajectory = tmp_path / "office" / "trajectory.log"
    lines = trajectory.read_text().splitlines()
    trajectory.write_text("\n".join([lines[0], *["nan nan nan nan"] * 4, *lines[5:]]))
    source = open_source("redwood", SourceOptions(tmp_path))
    assert source.keys() == ["office_000001"]
    assert_same(source.load("office_000001"), office[1])
    reason = "1 file has no rigid pose: depth/000000.png"
    assert left_out_by(source) == (("office", reason),)


def test_redwood_intrinsics_are_what_open3d_writes(tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d")
    intrinsic = open3d.camera.PinholeCameraIntrinsic(640, 480, 525.0, 524.0, 319.5, 239.5)
    path = tmp_path / "room" / "intrinsic.json"
    path.parent.mkdir()
    open3d.io.write_pinhole_camera_intrinsic(str(path), intrinsic)
    save(tmp_path / "room" / "color" / "0.png", np.zeros((480, 640, 3), np.uint8))
    save(tmp_path / "room" / "depth" / "0.png", np.full((480, 640), 900, np.uint16))
    camera = open_source("redwood", SourceOptions(tmp_path)).load("room_000000").views[0].camera
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (525.0, 524.0, 319.5, 239.5)


def test_arkitscenes_gives_the_real_frames(office: list[Frame], tmp_path: Path) -> None:
    folder = tmp_path / "Training" / "41069021"
    write_arkitscenes(folder, office)
    source = open_source("arkitscenes", SourceOptions(tmp_path))
    assert source.keys() == ["41069021_004711125", "41069021_004711225"]
    for key, real in zip(source.keys(), office, strict=True):
        assert_same(source.load(key), real)
    confidence = np.full(depth_of(office[0]).shape, 2, np.uint8)
    confidence[:100] = 0
    save(folder / "confidence" / "41069021_4711.125.png", confidence)
    depth = depth_of(open_source("arkitscenes", SourceOptions(folder)).load(source.keys()[0]))
    assert not depth[:100].any()
    np.testing.assert_array_equal(depth[100:], depth_of(office[0])[100:])
    # Its name alone is that of a depth image, too.
    missing = r"confidence/41069021_4711\.225\.png does not exist"
    with pytest.raises(FrameError, match=missing):
        source.load(source.keys()[1])


def test_arkitscenes_of_one_name_in_two_folders_are_refused(
    office: list[Frame], tmp_path: Path
) -> None:
    for room in ("kitchen", "bath"):
        write_arkitscenes(tmp_path / room / "frames", office[:1])
    with pytest.raises(SourceError, match=r"bath/frames and .*kitchen/frames would both be the"):
        open_source("arkitscenes", SourceOptions(tmp_path))


def test_damaged_arkitscenes(office: list[Frame], tmp_path: Path) -> None:
    folder = tmp_path / "41069021"
    write_arkitscenes(folder, office[:1])
    source = open_source("arkitscenes", SourceOptions(folder))
    before = source.fingerprint()
    pincam = next((folder / "lowres_wide_intrinsics").iterdir())
    pincam.write_text("640 480 518")
    assert source.fingerprint() != before
    with pytest.raises(FrameError, match="width height fx fy cx cy"):
        source.load(source.keys()[0])
    trajectory = folder / "lowres_wide.traj"
    for text, reason in (
        ("1 2 3", "line 1 has 3 numbers"),
        ("a 0 0 0 0 0 0", "line 1"),
        ("9.0 0 0 0 0 0 0", "within 0.02 s"),
    ):
        trajectory.write_text(text)
        with pytest.raises(SourceError, match=reason):
            open_source("arkitscenes", SourceOptions(folder))


def test_sunrgbd_gives_the_real_frame(office: list[Frame], tmp_path: Path) -> None:
    folder = tmp_path / "xtion" / "sun3ddata" / "office" / "0000103_2014"
    write_sunrgbd(folder, office[0])
    source = open_source("sunrgbd", SourceOptions(tmp_path))
    assert source.keys() == ["xtion_sun3ddata_office_0000103_2014"]
    frame = source.load(source.keys()[0])
    np.testing.assert_array_equal(depth_of(frame), depth_of(office[0]))
    assert frame.views[0].camera == office[0].views[0].camera
    assert frame.sequence == "xtion_sun3ddata_office"
    assert frame.world_from_sensor is None
    (folder / "intrinsics.txt").write_text("1 2 3")
    with pytest.raises(FrameError, match=r"intrinsics\.txt or the depth's size"):
        source.load(source.keys()[0])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "depth_bfx" / "0000103.png")
    with pytest.raises(FrameError):
        source.load(source.keys()[0])
    (folder / "intrinsics.txt").unlink()
    with pytest.raises(SourceError, match="0 contain intrinsics"):
        open_source("sunrgbd", SourceOptions(tmp_path))
