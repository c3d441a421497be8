import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from written_recording import (
    CAMERA,
    HEIGHT,
    WIDTH,
    slanted_wall_depth,
    write_calibration,
    write_frame,
)

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.left_out import left_out_by
from p2pkit.datasets.registry import open_source
from p2pkit.errors import ConfigError, FrameError, SourceError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.lens_distortion import Distortion, undistort_depth, undistort_image

MakeRecording = Callable[..., Path]


def open_folder(folder: Path, limit: int | None = None):
    return open_source("posed-rgbd", SourceOptions(folder, limit=limit))


def load_first(folder: Path) -> Frame:
    source = open_folder(folder)
    return source.load(source.keys()[0])


def test_frame_is_what_was_written(make_recording: MakeRecording):
    folder = make_recording(count=3)
    source = open_folder(folder)
    assert source.keys() == [f"frame-{number:06d}" for number in range(3)]
    assert source.label_names is None
    frame = source.load("frame-000002")
    assert frame.depth is not None
    assert frame.world_from_sensor is not None
    stored = np.asarray(Image.open(folder / "frame-000002.color.png"))
    np.testing.assert_array_equal(frame.views[0].image, stored)
    metres = frame.depth.values / frame.depth.units_per_metre
    np.testing.assert_allclose(metres, slanted_wall_depth(0.12), atol=5.1e-4)
    assert frame.world_from_sensor[2, 3] == pytest.approx(0.12)
    assert (frame.sequence, frame.labels) == ("walk", None)
    assert frame.views[0].camera.to_json() == CAMERA


def test_recording_order_is_by_number_and_limit_takes_the_first(make_recording: MakeRecording):
    folder = make_recording(count=3)
    for role in ("color.png", "depth.png"):
        (folder / f"frame-000002.{role}").rename(folder / f"frame-10.{role}")
    assert open_folder(folder).keys() == ["frame-000000", "frame-000001", "frame-10"]
    assert open_folder(folder, limit=2).keys() == ["frame-000000", "frame-000001"]


def test_jpeg_color_is_read(make_recording: MakeRecording):
    folder = make_recording(count=1)
    color = folder / "frame-000000.color.png"
    Image.open(color).save(folder / "frame-000000.color.jpg")
    with pytest.raises(SourceError, match="both the color of one frame"):
        open_folder(folder)
    color.unlink()
    assert load_first(folder).views[0].image.shape == (HEIGHT, WIDTH, 3)


def test_invalid_depth_values_become_zero(make_recording: MakeRecording):
    folder = make_recording(count=1)
    path = folder / "frame-000000.depth.png"
    values = np.array(Image.open(path))
    values[:2] = 65535
    Image.fromarray(values).save(path)
    write_calibration(folder, invalid_depth=[0, 65535])
    depth = load_first(folder).depth
    assert depth is not None
    assert (depth.values[:2] == 0).all()
    np.testing.assert_array_equal(depth.values[2:], values[2:])


def test_npy_depth_is_rounded_to_units(make_recording: MakeRecording):
    folder = make_recording(count=1)
    (folder / "frame-000000.depth.png").unlink()
    metres = slanted_wall_depth(0.0).astype(np.float32)
    metres[0, :3] = np.nan, np.inf, 70.0
    np.save(folder / "frame-000000.depth.npy", metres)
    depth = load_first(folder).depth
    assert depth is not None
    assert depth.values[0, :3].tolist() == [0, 0, 0]
    error = np.abs(depth.values[1:] / depth.units_per_metre - metres[1:])
    assert error.max() <= 0.5001 / depth.units_per_metre


def test_pose_is_optional_and_ignored_when_there_is_none(make_recording: MakeRecording):
    folder = make_recording(count=2)
    (folder / "frame-000000.pose.txt").unlink()
    source = open_folder(folder)
    assert source.load("frame-000000").world_from_sensor is None
    assert source.load("frame-000001").world_from_sensor is not None
    write_calibration(folder, pose="none")
    assert open_folder(folder).load("frame-000001").world_from_sensor is None


def damage_truncate(suffix: str) -> Callable[[Path], None]:
    def damage(stem: Path) -> None:
        path = stem.with_name(stem.name + suffix)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def damage_write(suffix: str, content: str) -> Callable[[Path], None]:
    return lambda stem: Path(f"{stem}{suffix}").write_text(content) and None


def damage_image(suffix: str, image: np.ndarray) -> Callable[[Path], None]:
    return lambda stem: Image.fromarray(image).save(f"{stem}{suffix}")


def damage_npy(values: np.ndarray) -> Callable[[Path], None]:
    def damage(stem: Path) -> None:
        Path(f"{stem}.depth.png").unlink()
        np.save(f"{stem}.depth.npy", values)

    return damage


GREY16 = np.ones((HEIGHT, WIDTH), dtype=np.uint16)
SKEWED = "1 0 0 0 0 2 0 0 0 0 1 0 0 0 0 1"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut color": (damage_truncate(".color.png"), r"color\.png cannot be decoded"),
    "cut depth": (damage_truncate(".depth.png"), r"depth\.png cannot be decoded"),
    "empty color": (damage_write(".color.png", ""), r"color\.png cannot be decoded"),
    "text as depth": (damage_write(".depth.png", "depth"), r"depth\.png cannot be decoded"),
    "no color": (lambda stem: Path(f"{stem}.color.png").unlink(), "has no colour image"),
    "no depth": (lambda stem: Path(f"{stem}.depth.png").unlink(), "has no depth"),
    "zero depth": (damage_image(".depth.png", GREY16 * 0), "no valid depth: all 3072 pixels"),
    "8-bit depth": (
        damage_image(".depth.png", GREY16.astype(np.uint8)),
        "mode 'L'; expected 16-bit grey",
    ),
    "depth size": (damage_image(".depth.png", GREY16[:24]), "64 x 24 px, but .* 64 x 48"),
    "grey color": (
        damage_image(".color.png", GREY16.astype(np.uint8)),
        "mode 'L'; expected 8-bit RGB",
    ),
    "color size": (
        damage_image(".color.png", np.zeros((HEIGHT, 32, 3), np.uint8)),
        "32 x 48 px, but .* 64 x 48",
    ),
    "NaN pose": (damage_write(".pose.txt", "nan " * 16), r"pose\.txt contains NaN"),
    "skewed pose": (damage_write(".pose.txt", SKEWED), r"pose\.txt is not rigid: det R = 2"),
    "word in pose": (damage_write(".pose.txt", "1 0 0 zero"), r"pose\.txt cannot be read .*'zero'"),
    "short pose": (damage_write(".pose.txt", "1 0 0 1"), "16 numbers of a 4 x 4 pose, found 4"),
    "NaN npy": (damage_npy(np.full((HEIGHT, WIDTH), np.nan, np.float32)), "no valid depth"),
    "negative npy": (damage_npy(np.full((HEIGHT, WIDTH), -1, np.float32)), "negative depth, -1 m"),
    "float64 npy": (
        damage_npy(np.ones((HEIGHT, WIDTH))),
        r"float32 \(48, 64\).* found float64 \(48, 64\)",
    ),
    "npy in millimetres": (
        damage_npy(np.full((HEIGHT, WIDTH), 1900, np.float32)),
        r"depth\.npy has a median depth of 1900 m; .*divide by 1000",
    ),
    "32-bit depth": (
        lambda stem: Image.fromarray(np.full((HEIGHT, WIDTH), 70000, np.int32)).save(
            f"{stem}.depth.png", format="TIFF"
        ),
        "expected 16-bit depth, found values from 70000 to 70000",
    ),
    "object npy": (damage_npy(np.array([{}], dtype=object)), r"depth\.npy cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_bad_frame_says_why_and_leaves_the_others(make_recording: MakeRecording, name: str):
    damage, reason = DAMAGE[name]
    folder = make_recording(count=2)
    damage(folder / "frame-000000")
    source = open_folder(folder)
    assert source.keys() == ["frame-000000", "frame-000001"]
    with pytest.raises(FrameError, match=reason) as caught:
        source.load("frame-000000")
    assert caught.value.key == "frame-000000"
    assert source.load("frame-000001").key == "frame-000001"


def test_unknown_key_is_a_frame_error(make_recording: MakeRecording):
    with pytest.raises(FrameError, match="no such frame among the 1"):
        open_folder(make_recording(count=1)).load("frame-9")


def test_sequences_in_sub_folders(make_recording: MakeRecording, tmp_path: Path):
    make_recording("all/kitchen 1", count=2)
    make_recording("all/office.b", count=1)
    (tmp_path / "all" / "office.b" / "camera.json").rename(tmp_path / "all" / "camera.json")
    (tmp_path / "all" / "notes").mkdir()
    source = open_folder(tmp_path / "all")
    assert source.keys() == [
        "kitchen-1_frame-000000",
        "kitchen-1_frame-000001",
        "office-b_frame-000000",
    ]
    assert source.load("office-b_frame-000000").sequence == "office.b"


def test_frames_one_folder_too_deep_are_reported(make_recording: MakeRecording, tmp_path: Path):
    make_recording("all/kitchen", count=1)
    make_recording("all/office/office", count=1)
    (tmp_path / "all" / "notes" / "more").mkdir(parents=True)
    source = open_folder(tmp_path / "all")
    assert source.keys() == ["kitchen_frame-000000"]
    reason = "its frames lie one folder too deep: office/office"
    assert left_out_by(source) == (("office", reason),)


def test_two_frames_with_one_key_are_refused(make_recording: MakeRecording, tmp_path: Path):
    make_recording("all/a.b", count=1)
    make_recording("all/a b", count=1)
    with pytest.raises(SourceError, match="both have the key a-b_frame-000000"):
        open_folder(tmp_path / "all")


def test_folder_without_frames_or_with_both_forms(make_recording: MakeRecording, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="contains no frame-"):
        open_folder(tmp_path / "empty")
    make_recording("all/a", count=1)
    write_frame(tmp_path / "all", 0)
    with pytest.raises(SourceError, match="contains frames itself and in a/"):
        open_folder(tmp_path / "all")


def test_camera_file_from_elsewhere(make_recording: MakeRecording, tmp_path: Path):
    folder = make_recording(count=1)
    elsewhere = tmp_path / "calibration.json"
    (folder / "camera.json").rename(elsewhere)
    with pytest.raises(SourceError, match="Fill in this template"):
        open_folder(folder)
    source = open_source("posed-rgbd", SourceOptions(folder, camera_file=elsewhere))
    assert source.load("frame-000000").key == "frame-000000"


def write_labels(folder: Path, highest: int) -> None:
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[0, 0] = highest
    Image.fromarray(labels).save(folder / "frame-000000.label.png")


def test_labels(make_recording: MakeRecording):
    folder = make_recording(count=2)
    write_labels(folder, 2)
    with pytest.raises(SourceError, match=r"labels\.json does not exist.*\"names\""):
        open_folder(folder)
    (folder / "labels.json").write_text(json.dumps({"names": ["void", "a", "b"], "ignore": 0}))
    source = open_folder(folder)
    assert source.label_names is not None
    assert (list(source.label_names), source.ignore_label) == (["void", "a", "b"], 0)
    labels = source.load("frame-000000").labels
    assert labels is not None
    assert labels[0, 0] == 2
    # The value of `ignore`: a frame without a label image is void where others have one.
    unlabelled = source.load("frame-000001").labels
    assert unlabelled is not None
    assert unlabelled.shape == (HEIGHT, WIDTH)
    assert not unlabelled.any()
    write_labels(folder, 3)
    with pytest.raises(FrameError, match="contains label 3, but only 0 to 2 have names"):
        open_folder(folder).load("frame-000000")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not JSON"),
        ('{"names": ["a"]}', "exactly the fields names and ignore"),
        ('{"names": [1], "ignore": 0}', "expected a list of 1 to 256 strings in names"),
        ('{"names": ["a"], "ignore": 1}', "ignore is 1; expected a value from 0 to 0"),
    ],
)
def test_wrong_labels_json(make_recording: MakeRecording, text: str, message: str):
    folder = make_recording(count=1)
    write_labels(folder, 0)
    (folder / "labels.json").write_text(text)
    with pytest.raises(SourceError, match=message):
        open_folder(folder)


def test_fingerprint_follows_content_and_not_the_path(
    make_recording: MakeRecording, tmp_path: Path
):
    folder = make_recording(count=2)
    first = open_folder(folder).fingerprint()
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    assert open_folder(moved).fingerprint() == first
    assert json.loads(json.dumps(first)) == first
    assert open_folder(moved, limit=1).fingerprint() != first
    write_calibration(moved, color_from_depth=[[1, 0, 0, 0.01], *np.eye(4)[1:].tolist()])
    changed = open_folder(moved).fingerprint()
    assert changed["frame_list"] == first["frame_list"]
    assert changed["calibration"] != first["calibration"]
    (moved / "frame-000001.pose.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1")
    assert open_folder(moved).fingerprint()["frame_list"] != first["frame_list"]


FISHEYE = {"model": "fisheye", "coefficients": [0.9, 0.05, 0.0, 0.0]}


def test_lenses_are_undone_before_anything_sees_the_images(make_recording: MakeRecording):
    folder = make_recording(count=1)
    lens = CAMERA | {"distortion": FISHEYE}
    write_calibration(folder, depth=lens, color=lens)
    (folder / "labels.json").write_text(json.dumps({"names": ["void", "a"], "ignore": 0}))
    labels = np.ones((HEIGHT, WIDTH), dtype=np.uint8)
    Image.fromarray(labels).save(folder / "frame-000000.label.png")
    frame = load_first(folder)
    camera = Camera(**CAMERA)
    straight = Distortion("fisheye", (0.9, 0.05, 0.0, 0.0))
    stored = np.asarray(Image.open(folder / "frame-000000.color.png"))
    expected = undistort_image(stored, camera, straight)
    np.testing.assert_array_equal(frame.views[0].image, expected.image)
    np.testing.assert_array_equal(frame.views[0].valid, expected.valid)
    assert not expected.valid.all()
    assert frame.depth is not None
    depth = np.asarray(Image.open(folder / "frame-000000.depth.png"))
    np.testing.assert_array_equal(frame.depth.values, undistort_depth(depth, camera, straight))
    np.testing.assert_array_equal(frame.labels == 1, frame.depth.values > 0)
    calibration = open_folder(folder).fingerprint()["calibration"][0]
    assert calibration["color"]["distortion"] == FISHEYE


def test_every_takes_each_nth_of_a_sequence(make_recording: MakeRecording, tmp_path: Path):
    for name in ("a", "b"):
        make_recording(f"both/{name}", count=5)
    source = open_source("posed-rgbd", SourceOptions(tmp_path / "both", every=2))
    numbers = [(key[0], int(key[-1])) for key in list(source.keys())]
    assert numbers == [("a", 0), ("a", 2), ("a", 4), ("b", 0), ("b", 2), ("b", 4)]
    with pytest.raises(ConfigError, match="every is 0"):
        open_source("posed-rgbd", SourceOptions(tmp_path / "both", every=0))
