"""transforms.json as nerfstudio, Polycam and Record3D write it, around generated frames."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rgbd_written import assert_same, depth_of, pose_of, save, write_nerfstudio

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.left_out import left_out_by
from p2pkit.datasets.registry import open_source
from p2pkit.errors import FrameError, SourceError
from p2pkit.geometry.lens_distortion import Distortion, undistort_depth, undistort_image


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    source = open_source("demo-scene", SourceOptions(limit=3))
    return list(map(source.load, source.keys()))


def rewrite(folder: Path, **fields: Any) -> None:
    path = folder / "transforms.json"
    value = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: item for name, item in value.items() if item is not None}))


def opened(folder: Path, **options: Any) -> list[Frame]:
    source = open_source("nerfstudio", SourceOptions(folder, **options))
    return list(map(source.load, source.keys()))


def test_frames_come_back_as_they_were(frames: list[Frame], tmp_path: Path) -> None:
    write_nerfstudio(tmp_path / "room", frames)
    found = opened(tmp_path / "room")
    assert [frame.key for frame in found] == [f"room_frame_{number:05d}" for number in range(3)]
    for frame, real in zip(found, frames, strict=True):
        assert_same(frame, real)


def test_up_is_estimated_whichever_axis_the_exporter_chose(
    frames: list[Frame], tmp_path: Path
) -> None:
    """ARKit's worlds have y up, those of nerfstudio's own commands z."""
    y_up = np.eye(4)
    y_up[1:3, 1:3] = [[0, 1], [-1, 0]]
    worlds = [frame.world_from_sensor for frame in frames]
    moved = [
        replace(frame, world_from_sensor=y_up @ world)
        for frame, world in zip(frames, worlds, strict=True)
        if world is not None
    ]
    write_nerfstudio(tmp_path / "room", moved)
    (fused,) = opened(tmp_path / "room", fuse=3)
    assert fused.world_from_sensor is not None
    assert np.abs(fused.world_from_sensor[:3, 2] - y_up[:3, 2]).max() < 0.05


def test_intrinsics_of_each_frame_and_a_smaller_depth(frames: list[Frame], tmp_path: Path) -> None:
    """As Polycam exports them: colour of 1024 x 768 with depth of 256 x 192."""
    value = write_nerfstudio(tmp_path, frames)
    for number, entry in enumerate(value["frames"]):
        entry |= {name: value[name] for name in ("fl_y", "cx", "cy", "w", "h")}
        entry["fl_x"] = value["fl_x"] + number
        save(tmp_path / entry["depth_file_path"], depth_of(frames[number])[::2, ::2])
    rewrite(tmp_path, frames=value["frames"], fl_x=None, w=None, h=None)
    for number, (frame, real) in enumerate(zip(opened(tmp_path), frames, strict=True)):
        assert frame.depth is not None
        color = frame.views[0].camera
        assert color.fx == pytest.approx(real.views[0].camera.fx + number)
        assert frame.depth.camera == color.resized(160, 120)
        assert frame.depth.camera.cx == pytest.approx(0.5 * (color.cx + 0.5) - 0.5)


def test_depth_of_another_aspect_ratio_is_refused(frames: list[Frame], tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, frames[:1])
    save(tmp_path / "depth" / "frame_00000.png", depth_of(frames[0])[:200])
    with pytest.raises(FrameError, match=r"depth 320 x 200.* for 320 x 240: depth has another asp"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("fields", "units"),
    [
        ({}, 1000.0),
        ({"depth_unit_scale_factor": 0.0002}, 5000.0),
        ({"depth_unit_scale_factor": 1.0}, 1.0),
    ],
)
def test_units_of_depth(
    fields: dict[str, float], units: float, frames: list[Frame], tmp_path: Path
) -> None:
    write_nerfstudio(tmp_path, frames[:1], **fields)
    depth = depth_of(frames[0]).astype(np.float64) * units / 1000
    save(tmp_path / "depth" / "frame_00000.png", depth.astype(np.uint16))
    found = opened(tmp_path)[0].depth
    assert found is not None
    assert found.units_per_metre == pytest.approx(units)
    given = opened(tmp_path, depth_units=units / 2)[0].depth
    assert given is not None
    assert given.units_per_metre == units / 2


def test_a_world_that_was_turned_and_scaled_is_metric_again(
    frames: list[Frame], tmp_path: Path
) -> None:
    """`applied_transform` and `applied_scale` of a file whose poses are ten times too far apart."""
    turn = 5.0 * np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]])
    fields = {"applied_transform": turn.tolist(), "applied_scale": 2.0}
    write_nerfstudio(tmp_path, frames, scale=10.0, **fields)
    for frame, real in zip(opened(tmp_path), frames, strict=True):
        np.testing.assert_allclose(pose_of(frame), pose_of(real), atol=1e-9)


@pytest.mark.parametrize(
    ("model", "lens", "expected"),
    [
        ("OPENCV", {"k1": 0.05, "k2": -0.02, "p1": 0.001}, ("radial-tangential", 5)),
        ("OPENCV_FISHEYE", {"k1": 0.01, "k2": -0.002}, ("fisheye", 4)),
    ],
)
def test_distorted_images(
    model: str,
    lens: dict[str, float],
    expected: tuple[str, int],
    frames: list[Frame],
    tmp_path: Path,
) -> None:
    write_nerfstudio(tmp_path, frames[:1], camera_model=model, **lens)
    source = open_source("nerfstudio", SourceOptions(tmp_path))
    used = source.fingerprint()["calibration"]["color"]["distortion"]
    assert (used["model"], len(used["coefficients"])) == expected
    distortion, real = Distortion(used["model"], tuple(used["coefficients"])), frames[0]
    frame = source.load(source.keys()[0])
    camera = real.views[0].camera
    image = undistort_image(real.views[0].image, camera, distortion).image
    np.testing.assert_array_equal(frame.views[0].image, image)
    depth = undistort_depth(depth_of(real), camera, distortion)
    np.testing.assert_array_equal(depth_of(frame), depth)


def test_frames_without_depth_are_left_out_and_named(frames: list[Frame], tmp_path: Path) -> None:
    value = write_nerfstudio(tmp_path / "room", frames)
    del value["frames"][1]["depth_file_path"]
    rewrite(tmp_path / "room", frames=value["frames"])
    source = open_source("nerfstudio", SourceOptions(tmp_path / "room"))
    assert len(source.keys()) == 2
    reason = "1 file has no depth_file_path: images/frame_00001.png"
    assert left_out_by(source) == (("room", reason),)
    (tmp_path / "room" / "depth" / "frame_00002.png").unlink()
    with pytest.raises(FrameError, match=r"frame_00002\.png cannot be read"):
        source.load(source.keys()[1])


BAD: list[tuple[dict[str, Any], str]] = [
    ({"frames": []}, "none of its 0 frames names a depth image in depth_file_path"),
    ({"fl_x": None}, "fl_x is None; expected a number for all frames or each"),
    ({"w": "wide"}, "w is 'wide'; expected a number"),
    ({"camera_model": "EQUIRECTANGULAR"}, "camera_model is EQUIRECTANGULAR; expected OPENCV"),
    ({"k4": 0.1}, "k4 is 0.1; OPENCV lenses are read up to k3"),
    ({"depth_unit_scale_factor": 0}, "depth_unit_scale_factor is 0; expected metres per unit"),
    ({"applied_scale": -1}, "applied_scale is -1; expected a positive number"),
    ({"applied_transform": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0]]}, "mirrors or stretches"),
    ({"applied_transform": [[1, 0], [0, 1]]}, r"applied_transform is \(2, 2\); expected 3 x 4"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_what_cannot_be_used_is_named(
    fields: dict[str, Any], message: str, frames: list[Frame], tmp_path: Path
) -> None:
    write_nerfstudio(tmp_path, frames[:1])
    rewrite(tmp_path, **fields)
    with pytest.raises(SourceError, match=message):
        opened(tmp_path)


def test_a_pose_that_is_not_rigid_is_named(frames: list[Frame], tmp_path: Path) -> None:
    value = write_nerfstudio(tmp_path, frames[:1])
    value["frames"][0]["transform_matrix"][0][0] = 9.0
    rewrite(tmp_path, frames=value["frames"])
    with pytest.raises(SourceError, match=r"pose of images/frame_00000\.png is not rigid: det R"):
        opened(tmp_path)
    value["frames"][0]["transform_matrix"] = [[1, 0], [0, 1]]
    rewrite(tmp_path, frames=value["frames"])
    with pytest.raises(SourceError, match=r"has shape \(2, 2\); expected a 4 x 4"):
        opened(tmp_path)


def test_a_pose_that_is_not_rigid_costs_its_frame_only(frames: list[Frame], tmp_path: Path) -> None:
    value = write_nerfstudio(tmp_path / "room", frames, scale=10.0, applied_scale=10.0)
    value["frames"][0]["transform_matrix"] = np.full((4, 4), np.nan).tolist()
    value["frames"][1]["transform_matrix"][0][0] = 9.0
    rewrite(tmp_path / "room", frames=value["frames"])
    source = open_source("nerfstudio", SourceOptions(tmp_path / "room"))
    assert source.keys() == ["room_frame_00002"]
    assert_same(source.load("room_frame_00002"), frames[2])
    reason = "2 files have no rigid pose: images/frame_00000.png, images/frame_00001.png"
    assert left_out_by(source) == (("room", reason),)


def test_images_of_one_name_in_the_folders_of_two_cameras(
    frames: list[Frame], tmp_path: Path
) -> None:
    folder = tmp_path / "rig"
    value = write_nerfstudio(folder, frames[:2])
    for number, entry in enumerate(value["frames"]):
        camera = folder / "images" / f"cam{number}"
        camera.mkdir()
        (folder / entry["file_path"]).rename(camera / "0000.png")
        entry["file_path"] = f"./images/cam{number}/0000.png"
    rewrite(folder, frames=value["frames"])
    found = opened(folder)
    assert [frame.key for frame in found] == ["rig_images_cam0_0000", "rig_images_cam1_0000"]
    for frame, real in zip(found, frames[:2], strict=True):
        assert_same(frame, real)


def test_an_image_of_another_size_than_w_and_h(frames: list[Frame], tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, frames[:1])
    image = Image.fromarray(frames[0].views[0].image).resize((640, 480))
    image.save(tmp_path / "images" / "frame_00000.png")
    with pytest.raises(FrameError, match="640 x 480 px, but the calibration says 320 x 240"):
        opened(tmp_path)
