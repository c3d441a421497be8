"""Depth and colour of ROS bags, written by `rosbags` around generated frames."""

import re
import shutil
import sqlite3
import struct
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bags_written import (
    BASE_FROM_CAMERA,
    OPTICAL,
    START_NS,
    STEP_NS,
    Form,
    Messages,
    Sent,
    png,
    rgbd_messages,
    write_bag,
)
from command_line import p2pkit
from rgbd_written import assert_same, depth_of, pose_of

from p2pkit import open_store
from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.left_out import left_out_by
from p2pkit.datasets.recognise import recognise
from p2pkit.datasets.registry import open_source
from p2pkit.errors import FrameError, MissingDependencyError, SourceError

DEPTH, COLOR = "/camera/aligned_depth_to_color/image_raw", "/camera/color/image_raw"


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    source = open_source("demo-scene", SourceOptions(limit=3))
    return list(map(source.load, source.keys()))


def opened(folder: Path, **options: Any) -> list[Frame]:
    source = open_source("ros-rgbd", SourceOptions(folder, **options))
    return list(map(source.load, source.keys()))


def without(sent: list[Sent], *topics: str) -> list[Sent]:
    return [one for one in sent if one[0] not in topics]


@pytest.mark.parametrize("form", ["mcap", "db3", "bag"])
def test_frames_come_back_as_they_were(form: Form, frames: list[Frame], tmp_path: Path) -> None:
    write_bag(tmp_path / "walk" / "kitchen", form, rgbd_messages(form, frames))
    found = recognise(tmp_path / "walk")
    assert found.dataset == "ros-rgbd"
    for frame, real in zip(opened(tmp_path / "walk"), frames, strict=True):
        assert_same(frame, real)
        assert frame.views[0].time_offset_s == pytest.approx(0.005)
        assert frame.key.startswith("kitchen_00000")


def test_an_mcap_file_alone(frames: list[Frame], tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "folder", "mcap", rgbd_messages("mcap", frames[:1]))
    next(bag.glob("*.mcap")).rename(tmp_path / "kitchen.mcap")
    (tmp_path / "folder" / "metadata.yaml").unlink()
    assert recognise(tmp_path / "kitchen.mcap").dataset == "ros-rgbd"
    assert_same(opened(tmp_path)[0], frames[0])


def test_a_database_without_metadata(frames: list[Frame], tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "folder", "db3", rgbd_messages("db3", frames[:1]))
    next(bag.glob("*.db3")).rename(tmp_path / "kitchen.db3")
    shutil.rmtree(bag)
    for place in (tmp_path, tmp_path / "kitchen.db3"):
        found = recognise(place)
        assert (found.dataset, found.root) == ("ros-rgbd", place)
        assert_same(opened(place)[0], frames[0])


@pytest.mark.parametrize("form", ["mcap", "bag"])
def test_a_named_bag_is_read_without_the_others_of_its_folder(
    frames: list[Frame], tmp_path: Path, form: Form
) -> None:
    for name, frame in (("attic", frames[0]), ("cellar", frames[1])):
        bag = write_bag(tmp_path / name, form, rgbd_messages(form, [frame]))
        if bag.is_dir():
            next(bag.glob("*.mcap")).rename(tmp_path / f"{name}.mcap")
            shutil.rmtree(bag)
    found = recognise(tmp_path / f"cellar.{form}")
    (frame,) = opened(found.root)
    assert_same(frame, frames[1])
    assert frame.sequence == "cellar"
    assert {one.sequence for one in opened(tmp_path)} == {"attic", "cellar"}


def float_depth(make: Messages, time: int, frame: Frame) -> list[Sent]:
    metres = (depth_of(frame) / np.float32(1000)).astype(np.float32)
    metres[0, :5] = (np.nan, np.inf, -1, 0, 99)
    return [(DEPTH, time, make.image(time, OPTICAL, metres, "32FC1"))]


def png_depth(make: Messages, time: int, frame: Frame) -> list[Sent]:
    data = struct.pack("<iff", 0, 0, 0) + png(depth_of(frame))
    message = make.compressed(time, OPTICAL, data, "16UC1; compressedDepth")
    return [(f"{DEPTH}/compressedDepth", time, message)]


def quantised_depth(make: Messages, time: int, frame: Frame) -> list[Sent]:
    """As image_transport_plugins with depth_quantization 100 and depth_max 10."""
    a, b = 100.0 * 101.0, 1.0 - 101.0 + 100.0 / 10.0
    metres = depth_of(frame) / 1000.0
    with np.errstate(divide="ignore"):
        stored = np.where(metres > 0, np.round(a / metres + b), 0)
    data = struct.pack("<iff", 0, a, b) + png(stored.astype(np.uint16))
    message = make.compressed(time, OPTICAL, data, "32FC1; compressedDepth png")
    return [(f"{DEPTH}/compressedDepth", time, message)]


@pytest.mark.parametrize("write", [float_depth, png_depth, quantised_depth])
def test_other_encodings_of_depth(write: Any, frames: list[Frame], tmp_path: Path) -> None:
    sent = without(rgbd_messages("mcap", frames[:1]), DEPTH)
    write_bag(tmp_path / "b", "mcap", sent + write(Messages("mcap"), START_NS, frames[0]))
    found, real = depth_of(opened(tmp_path)[0]).astype(int), depth_of(frames[0]).astype(int)
    if write is float_depth:
        assert found[0, :5].tolist() == [0, 0, 0, 0, 0]
        found, real = found[1:], real[1:]
    np.testing.assert_array_equal(found > 0, real > 0)
    assert np.abs(found - real).max() <= (2 if write is quantised_depth else 0)


@pytest.mark.parametrize(
    ("encoding", "channels"),
    [("bgr8", (2, 1, 0)), ("rgba8", (0, 1, 2, 2)), ("bgra8", (2, 1, 0, 0))],
)
def test_encodings_of_colour(
    encoding: str, channels: tuple[int, ...], frames: list[Frame], tmp_path: Path
) -> None:
    image = frames[0].views[0].image
    message = Messages("db3").image(START_NS, OPTICAL, image[:, :, channels], encoding)
    sent = without(rgbd_messages("db3", frames[:1]), COLOR)
    write_bag(tmp_path / "b", "db3", [*sent, (COLOR, START_NS, message)])
    np.testing.assert_array_equal(opened(tmp_path)[0].views[0].image, image)


def test_compressed_colour_beside_raw_colour_is_one_camera(
    frames: list[Frame], tmp_path: Path
) -> None:
    def compressed(make: Messages, time: int, frame: Frame) -> list[Sent]:
        text = "rgb8; png compressed bgr8"
        message = make.compressed(time, OPTICAL, png(frame.views[0].image), text)
        return [(f"{COLOR}/compressed", time, message)]

    sent = rgbd_messages("mcap", frames[:2], change=compressed)
    write_bag(tmp_path / "both" / "b", "mcap", sent)
    write_bag(tmp_path / "one" / "b", "mcap", without(sent, COLOR))
    for folder, topic in (("both", COLOR), ("one", f"{COLOR}/compressed")):
        source = open_source("ros-rgbd", SourceOptions(tmp_path / folder))
        assert source.fingerprint()["topics"] == {"b": [DEPTH, topic]}
        assert_same(source.load(source.keys()[1]), frames[1])


def test_units_given_in_place_of_the_standard_ones(frames: list[Frame], tmp_path: Path) -> None:
    write_bag(tmp_path / "b", "mcap", rgbd_messages("mcap", frames[:1]))
    depth = opened(tmp_path, depth_units=4000.0)[0].depth
    assert depth is not None
    assert depth.units_per_metre == 4000
    np.testing.assert_array_equal(depth.values, depth_of(frames[0]))


@pytest.mark.parametrize("units", [1.0, 100.0, 1000.0])
def test_units_given_for_depth_in_floating_point(
    frames: list[Frame], tmp_path: Path, units: float
) -> None:
    """Numbers that are metres, centimetres or millimetres: the depth is the same in all cases."""
    metres = depth_of(frames[0]).astype(np.float32) / 1000

    def floating(make: Messages, time: int, frame: Frame) -> list[Sent]:
        return [(DEPTH, time, make.image(time, OPTICAL, units * metres, "32FC1"))]

    sent = rgbd_messages("mcap", frames[:1], change=floating)
    kept = [one for one in sent if getattr(one[2], "encoding", "") != "16UC1"]
    write_bag(tmp_path / "b", "mcap", kept)
    depth = opened(tmp_path, depth_units=units)[0].depth
    assert depth is not None
    np.testing.assert_allclose(depth.values / depth.units_per_metre, metres, atol=1e-3)


def test_depth_of_another_frame_is_placed_by_tf(frames: list[Frame], tmp_path: Path) -> None:
    """RealSense without alignment: the depth camera is 15 mm to the left of the colour camera."""
    depth_camera = frames[0].views[0].camera.resized(160, 120)
    color_from_depth = np.eye(4)
    color_from_depth[0, 3] = -0.015

    def unaligned(make: Messages, time: int, frame: Frame) -> list[Sent]:
        small, optical = depth_of(frame)[::2, ::2], "camera_depth_optical_frame"
        return [
            ("/tf_static", time, make.transform(time, OPTICAL, optical, color_from_depth)),
            ("/camera/depth/camera_info", time, make.info(time, optical, depth_camera)),
            ("/camera/depth/image_rect_raw", time, make.image(time, optical, small, "16UC1")),
        ]

    sent = rgbd_messages("mcap", frames, change=unaligned)
    write_bag(tmp_path / "both" / "b", "mcap", sent)
    source = open_source("ros-rgbd", SourceOptions(tmp_path / "both"))
    assert source.fingerprint()["topics"]["b"][0] == DEPTH  # in the colour camera's frame
    write_bag(tmp_path / "one" / "b", "mcap", without(sent, DEPTH))
    for frame, real in zip(opened(tmp_path / "one"), frames, strict=True):
        assert frame.depth is not None
        assert frame.depth.camera == depth_camera
        found = frame.views[0].camera_from_sensor
        np.testing.assert_allclose(found, color_from_depth, atol=1e-9)
        np.testing.assert_allclose(pose_of(frame), pose_of(real) @ color_from_depth, atol=1e-9)
    write_bag(tmp_path / "no_tf" / "b", "mcap", without(sent, DEPTH, "/tf_static"))
    with pytest.raises(SourceError, match=r"which tf does not connect; record /tf_static"):
        opened(tmp_path / "no_tf")


def test_several_cameras_are_listed_with_the_option(frames: list[Frame], tmp_path: Path) -> None:
    def second(make: Messages, time: int, frame: Frame) -> list[Sent]:
        camera, image = frame.views[0].camera, frame.views[0].image
        return [
            ("/rear/camera_info", time, make.info(time, "rear", camera)),
            ("/rear/image_raw", time, make.image(time, "rear", image, "rgb8")),
        ]

    write_bag(tmp_path / "b", "mcap", rgbd_messages("mcap", frames[:1], change=second))
    message = rf"b has 2 topics of colour images: {COLOR}, /rear/image_raw; .* --streams {COLOR}"
    with pytest.raises(SourceError, match=message):
        opened(tmp_path)
    assert_same(opened(tmp_path, streams=(COLOR,))[0], frames[0])
    with pytest.raises(SourceError, match=r"b has no stream /front; choose from /camera/aligned"):
        opened(tmp_path, streams=("/front",))


def test_rectified_images_have_no_distortion(frames: list[Frame], tmp_path: Path) -> None:
    make, camera = Messages("mcap"), frames[0].views[0].camera
    lens = (0.05, -0.02, 0.001, 0.0, 0.0)
    sent = without(rgbd_messages("mcap", frames[:1]), "/camera/color/camera_info")
    distorted = make.info(START_NS, OPTICAL, camera, lens=lens)
    sent.append(("/camera/color/camera_info", START_NS, distorted))
    write_bag(tmp_path / "raw" / "b", "mcap", sent)
    source = open_source("ros-rgbd", SourceOptions(tmp_path / "raw"))
    color = source.fingerprint()["calibration"]["b"]["color"]
    assert color["distortion"]["coefficients"] == list(lens)
    assert source.load(source.keys()[0]).views[0].valid is not None
    named = [("/camera/color/image_rect", *one[1:]) if one[0] == COLOR else one for one in sent]
    write_bag(tmp_path / "rectified" / "b", "mcap", named)
    assert_same(opened(tmp_path / "rectified")[0], frames[0])
    stereo = make.info(START_NS, OPTICAL, camera, shift=-50.0)
    second = without(named, "/camera/color/camera_info")
    second.append(("/camera/color/camera_info", START_NS, stereo))
    write_bag(tmp_path / "right" / "b", "mcap", second)
    with pytest.raises(SourceError, match=r"\[-50\.0, 0\.0, 0\.0\], of the second camera"):
        opened(tmp_path / "right")


RATIONAL = (0.1, -0.02, 0.0, 0.0, 0.01, 0.2, 0.0, 0.0)


@pytest.mark.parametrize(
    ("model", "lens", "reason"),
    [
        ("plumb_bob", (0.1, np.nan, 0.0, 0.0, 0.0), r"has the coefficients \(0\.1, nan, "),
        ("plumb_bob", (0.1, 0.2, 0.3), "expected 4 or 5 or 8 finite numbers"),
        (
            "rational_polynomial",
            (*RATIONAL, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0),
            "rational_polynomial has the coefficients .*expected zeros after the first 8, or rect",
        ),
    ],
)
def test_a_bag_with_an_unusable_lens_is_left_out(
    model: str, lens: tuple[float, ...], reason: str, frames: list[Frame], tmp_path: Path
) -> None:
    info, camera = "/camera/color/camera_info", frames[0].views[0].camera
    sent = rgbd_messages("mcap", frames[:1])
    write_bag(tmp_path / "good", "mcap", sent)
    wrong = Messages("mcap").info(START_NS, OPTICAL, camera, model=model, lens=lens)
    write_bag(tmp_path / "wrong", "mcap", [*without(sent, info), (info, START_NS, wrong)])
    source = open_source("ros-rgbd", SourceOptions(tmp_path))
    assert list(source.keys()) == ["good_000000"]
    (bag,) = left_out_by(source)
    assert bag.reason.startswith(f"wrong: {info}: ")
    assert re.search(reason, bag.reason)


def test_coefficients_of_zero_beyond_the_known_ones_are_fine(
    frames: list[Frame], tmp_path: Path
) -> None:
    info, camera = "/camera/color/camera_info", frames[0].views[0].camera
    lens = (*RATIONAL, *(0.0,) * 6)
    made = Messages("mcap").info(START_NS, OPTICAL, camera, model="rational_polynomial", lens=lens)
    sent = without(rgbd_messages("mcap", frames[:1]), info)
    write_bag(tmp_path / "b", "mcap", [*sent, (info, START_NS, made)])
    color = open_source("ros-rgbd", SourceOptions(tmp_path)).fingerprint()["calibration"]["b"]
    assert color["color"]["distortion"]["coefficients"] == list(RATIONAL)


def test_poses_between_transforms_and_where_there_are_none(
    frames: list[Frame], tmp_path: Path
) -> None:
    """tf at other times than the images: half way between, and 0.4 s before the last image."""
    make = Messages("mcap")
    sent = without(rgbd_messages("mcap", [frames[0]] * 6), "/tf")
    for step, shift in ((-1, 0.0), (1, 0.08)):
        pose = np.eye(4)
        pose[0, 3] = shift
        time = START_NS + step * STEP_NS
        sent.append(("/tf", time, make.transform(time, "odom", "base_link", pose)))
    write_bag(tmp_path / "b", "mcap", sorted(sent, key=lambda one: one[1]))
    found = opened(tmp_path)
    between = BASE_FROM_CAMERA.copy()
    between[0, 3] += 0.04
    np.testing.assert_allclose(pose_of(found[0]), between, atol=1e-9)
    assert found[2].world_from_sensor is not None  # held for 0.1 s
    assert found[5].world_from_sensor is None


@pytest.mark.parametrize("form", ["mcap", "bag"])
def test_a_transform_that_is_only_repeated_is_no_pose(
    form: Form, frames: list[Frame], tmp_path: Path
) -> None:
    """Drivers without odometry repeat those of their own frames on /tf."""
    make = Messages(form)
    sent = without(rgbd_messages(form, frames), "/tf", "/tf_static")
    for number in range(len(frames)):
        time = START_NS + number * STEP_NS
        own = make.transform(time, "base_link", OPTICAL, BASE_FROM_CAMERA)
        sent.append(("/tf", time, own))
    write_bag(tmp_path / "b", form, sorted(sent, key=lambda one: one[1]))
    assert [frame.world_from_sensor for frame in opened(tmp_path)] == [None] * len(frames)


def test_bags_of_one_name_are_refused(frames: list[Frame], tmp_path: Path) -> None:
    for day in ("monday", "tuesday"):
        write_bag(tmp_path / day / "walk", "bag", rgbd_messages("bag", frames[:1]))
    with pytest.raises(
        SourceError, match=r"monday/walk\.bag and .*would both be the sequence walk"
    ):
        opened(tmp_path)


def test_dots_are_part_of_a_folders_name(frames: list[Frame], tmp_path: Path) -> None:
    for number in (1, 2):
        write_bag(tmp_path / f"walk.{number}", "mcap", rgbd_messages("mcap", frames[:1]))
    assert [frame.sequence for frame in opened(tmp_path)] == ["walk.1", "walk.2"]


def test_depth_without_colour_at_its_time_is_left_out(frames: list[Frame], tmp_path: Path) -> None:
    sent = rgbd_messages("mcap", frames)
    late = [one for one in sent if one[0] == COLOR][1]
    write_bag(tmp_path / "one" / "b", "mcap", [one for one in sent if one is not late])
    source = open_source("ros-rgbd", SourceOptions(tmp_path / "one"))
    assert list(source.keys()) == ["b_000000", "b_000002"]
    assert left_out_by(source)[0].reason == "1 of 3 depth images have no colour within 0.02 s"
    far = rgbd_messages("mcap", frames[:1], color_delay_ns=5_000_000_000)
    write_bag(tmp_path / "none" / "b", "mcap", far)
    with pytest.raises(SourceError, match=r"none of 1 depth images .* is 5\.000 s from the first"):
        opened(tmp_path / "none")


def test_headers_without_time_count_by_the_recorders(frames: list[Frame], tmp_path: Path) -> None:
    make = Messages("mcap")
    sent = without(rgbd_messages("mcap", frames[:2]), DEPTH, COLOR)
    for number, frame in enumerate(frames[:2]):
        logged = START_NS + number * STEP_NS
        sent.append((DEPTH, logged, make.image(0, OPTICAL, depth_of(frame), "16UC1")))
        sent.append((COLOR, logged + 1, make.image(0, OPTICAL, frame.views[0].image, "rgb8")))
    write_bag(tmp_path / "b", "mcap", sorted(sent, key=lambda one: one[1]))
    for frame, real in zip(opened(tmp_path), frames[:2], strict=True):
        np.testing.assert_array_equal(depth_of(frame), depth_of(real))


def damaged_image(make: Messages, frame: Frame) -> Any:
    message = make.image(START_NS, OPTICAL, depth_of(frame), "16UC1")
    message.data = message.data[:1000]
    return message


@pytest.mark.parametrize(
    ("topic", "message", "reason"),
    [
        (DEPTH, damaged_image, "an image has 1000 bytes in rows of 640; too few"),
        (
            DEPTH,
            lambda make, frame: make.image(START_NS, OPTICAL, depth_of(frame)[:99], "16UC1"),
            "an image is 320 x 99 px, but its CameraInfo is for 320 x 240",
        ),
        (
            DEPTH,
            lambda make, frame: make.image(START_NS, OPTICAL, depth_of(frame) * 0, "16UC1"),
            "the depth image has no valid depth",
        ),
    ],
)
def test_bad_frames_are_named(
    topic: str, message: Any, reason: str, frames: list[Frame], tmp_path: Path
) -> None:
    sent = without(rgbd_messages("mcap", frames[:1]), topic)
    sent.append((topic, START_NS, message(Messages("mcap"), frames[0])))
    write_bag(tmp_path / "b", "mcap", sent)
    with pytest.raises(FrameError, match=reason):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (DEPTH, r"b has no depth images \(16UC1 or 32FC1\)$"),
        (COLOR, rf"b has no topics of colour images; its images are {DEPTH} \(16UC1\)\. Record or"),
        ("/camera/color/camera_info", r"has no CameraInfo; expected /camera/color/camera_info"),
    ],
)
def test_bags_that_lack_something(
    missing: str, message: str, frames: list[Frame], tmp_path: Path
) -> None:
    write_bag(tmp_path / "b", "mcap", without(rgbd_messages("mcap", frames[:1]), missing))
    with pytest.raises(SourceError, match=message):
        opened(tmp_path)


def test_a_recording_of_the_realsense_viewer_says_how_to_convert_it(
    frames: list[Frame], tmp_path: Path
) -> None:
    sent = rgbd_messages("bag", frames[:1])
    topic = "/device_0/sensor_0/Depth_0/image/data"
    write_bag(
        tmp_path / "b", "bag", [(topic, *one[1:]) if one[0] == DEPTH else one for one in sent]
    )
    with pytest.raises(
        SourceError, match=r"b\.bag was recorded by the RealSense Viewer.* RSBagReader"
    ):
        opened(tmp_path)


def test_a_damaged_bag_leaves_the_others(frames: list[Frame], tmp_path: Path) -> None:
    write_bag(tmp_path / "good", "mcap", rgbd_messages("mcap", frames[:1]))
    (tmp_path / "bad.mcap").write_bytes(b"no bag")
    source = open_source("ros-rgbd", SourceOptions(tmp_path))
    assert list(source.keys()) == ["good_000000"]
    assert left_out_by(source)[0].reason.startswith("bad.mcap cannot be read as a ROS bag: ")
    with pytest.raises(SourceError, match=r"contains no ROS bag: expected \.mcap, \.db3, \.bag"):
        open_source("ros-rgbd", SourceOptions(Path(__file__).parent))


def overwrite_the_middle(bag: Path) -> None:
    data = bytearray(bag.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8192] = b"\xff" * 8192
    bag.write_bytes(data)


def shorten_the_last_message(bag: Path) -> None:
    with closing(sqlite3.connect(bag)) as database:
        database.execute(
            "UPDATE messages SET data = x'0001' WHERE id = (SELECT MAX(id) FROM messages)"
        )
        database.commit()


@pytest.mark.parametrize(
    ("form", "damage", "found"),
    [
        ("db3", overwrite_the_middle, r"the messages of /\S+ cannot be read: "),
        ("bag", overwrite_the_middle, r"the messages of /\S+ cannot be read: "),
        ("db3", shorten_the_last_message, "a message of 2 bytes is too short for a header"),
    ],
)
def test_a_bag_with_damaged_messages_leaves_the_others(
    form: Form, damage: Callable[[Path], None], found: str, frames: list[Frame], tmp_path: Path
) -> None:
    """All open as they should: only reading on finds the damage."""
    sent = [one for one in rgbd_messages(form, frames) if one[0] != "/tf"]
    write_bag(tmp_path / "good", form, sent)
    bad = write_bag(tmp_path / "bad", form, sent, lz4=True)
    damage(bad if bad.is_file() else next(bad.glob("*.db3")))
    source = open_source("ros-rgbd", SourceOptions(tmp_path))
    assert list(source.keys()) == [f"good_{number:06d}" for number in range(len(frames))]
    (bag,) = left_out_by(source)
    assert re.match(f"{bad.name}: {found}", bag.reason)
    with pytest.raises(SourceError, match=f"{bad.name}: {found}"):
        opened(bad)


def test_without_rosbags_the_command_that_installs_it(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.mcap").touch()
    monkeypatch.setitem(sys.modules, "rosbags.highlevel", None)
    assert recognise(tmp_path).dataset == "ros-rgbd"
    with pytest.raises(MissingDependencyError, match=r"pip install 'p2pkit\[bags\]'"):
        opened(tmp_path)


@pytest.mark.slow
def test_the_commands_take_a_bag_and_its_streams(frames: list[Frame], tmp_path: Path) -> None:
    def second(make: Messages, time: int, frame: Frame) -> list[Sent]:
        camera, image = frame.views[0].camera, frame.views[0].image
        return [
            ("/rear/camera_info", time, make.info(time, "rear", camera)),
            ("/rear/image_raw", time, make.image(time, "rear", image, "rgb8")),
        ]

    walk = write_bag(tmp_path / "walk", "mcap", rgbd_messages("mcap", frames[:2], change=second))
    assert 'dataset = "ros-rgbd"' in p2pkit("init", walk).stdout
    assert f"--streams {COLOR}" in str(p2pkit("check", walk, code=1).exception)
    chosen = ("--streams", COLOR)
    report = tmp_path / "check"
    output = p2pkit("check", walk, "--frames", 1, "--out", report, *chosen, code=0).output
    assert "valid fields in 1 frame" in output
    store = tmp_path / "walk.store"
    p2pkit("extract", walk, "--out", store, "--teacher", "none", *chosen)
    assert len(open_store(store)) == 2
