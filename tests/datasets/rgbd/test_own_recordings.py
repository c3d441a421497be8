"""docs/datasets/own.md: its scripts turn recordings of no known format into ones that are read."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import open3d
import pytest
from PIL import Image
from tiny_recording import CAMERA, HEIGHT, WIDTH, write_recording

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.recognise import recognise
from p2pkit.datasets.registry import open_source

PAGE = Path(__file__).parents[3] / "docs" / "datasets" / "own.md"
CAMERA_FROM_LIDAR = np.array([[0, -1, 0, 0.1], [0, 0, -1, -0.2], [1, 0, 0, 0], [0, 0, 0, 1.0]])
O3D: Any = open3d
ORIGIN = (4.5e5, 5.4e6, 300.0)  # as of UTM, where float32 has steps of half a metre


def run_script(heading: str) -> None:
    section = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    (script,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(script, {})  # our own documentation


def test_depth_images_with_poses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frames = write_recording(tmp_path / "known", frames=3, labels=False)
    phone = tmp_path / "phone"
    for name in ("images", "depth"):
        (phone / name).mkdir(parents=True)
    poses: list[np.ndarray] = []
    for number in range(3):
        frame = frames / f"frame-{number:06}"
        with Image.open(next(frames.glob(f"{frame.name}.color.*"))) as image:
            image.convert("RGB").save(phone / "images" / f"{number}.jpg", quality=95)
        (phone / "depth" / f"{number}.png").write_bytes(
            frame.with_suffix(".depth.png").read_bytes()
        )
        poses.append(np.loadtxt(frame.with_suffix(".pose.txt")).ravel())
    np.savetxt(phone / "poses.txt", poses)
    k = [[CAMERA["fx"], 0, CAMERA["cx"]], [0, CAMERA["fy"], CAMERA["cy"]], [0, 0, 1]]
    np.savetxt(phone / "intrinsics.txt", k)

    run_script("Depth images with poses")
    assert recognise(tmp_path / "phone-rgbd").dataset == "posed-rgbd"
    known = open_source("posed-rgbd", SourceOptions(frames))
    made = open_source("posed-rgbd", SourceOptions(tmp_path / "phone-rgbd"))
    assert made.keys() == known.keys()
    for key in made.keys():  # noqa: SIM118 - a source is no mapping
        one, other = made.load(key), known.load(key)
        assert one.depth is not None
        assert other.depth is not None
        assert one.depth.camera == other.depth.camera
        assert one.world_from_sensor is not None
        assert other.world_from_sensor is not None
        np.testing.assert_array_equal(one.depth.values, other.depth.values)
        np.testing.assert_allclose(one.world_from_sensor, other.world_from_sensor, atol=1e-12)


def write_car(car: Path, suffix: str) -> tuple[np.ndarray, np.ndarray]:
    """Two sweeps with a camera that looks forward; gives the points of both and their poses."""
    random = np.random.default_rng(0)
    points = random.uniform((4, -3, -1), (12, 3, 2), (2, 500, 3)).astype(np.float32)
    poses = np.stack([np.eye(4), np.eye(4)])
    poses[:, :3, 3] = ORIGIN
    poses[1, :2, :2], poses[1, 0, 3] = [[0.6, -0.8], [0.8, 0.6]], ORIGIN[0] + 1.5
    for name in ("lidar", "front"):
        (car / name).mkdir(parents=True)
    for number, sweep in enumerate(points):
        strength = np.full((len(sweep), 1), 51.0, np.float32)
        path = car / "lidar" / f"{number}{suffix}"
        if suffix == ".bin":
            np.hstack([sweep, strength]).tofile(path)
        else:
            cloud = O3D.t.geometry.PointCloud({"positions": O3D.core.Tensor(sweep)})
            cloud.point["intensity"] = O3D.core.Tensor(strength)
            O3D.t.io.write_point_cloud(str(path), cloud)
        image = random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(image).save(car / "front" / f"{number}.jpg")
    k = [[CAMERA["fx"], 0, CAMERA["cx"]], [0, CAMERA["fy"], CAMERA["cy"]], [0, 0, 1]]
    front: dict[str, Any] = {"K": k, "camera_from_lidar": CAMERA_FROM_LIDAR.tolist()}
    rig = {"cameras": {"front": front}, "world_from_lidar": poses.tolist()}
    (car / "rig.json").write_text(json.dumps(rig))
    return points, poses


@pytest.mark.parametrize("suffix", [".pcd", ".bin"])
def test_lidar_sweeps_with_cameras(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    points, poses = write_car(tmp_path / "car", suffix)
    run_script("LiDAR sweeps with cameras")
    assert recognise(tmp_path / "car-sweeps").dataset == "pandaset"
    source = open_source("pandaset", SourceOptions(tmp_path / "car-sweeps"))
    assert len(source.keys()) == 2
    for key, sweep, pose in zip(source.keys(), points, poses, strict=True):
        frame = source.load(key)
        (view,) = frame.views
        assert frame.points is not None
        assert frame.intensity is not None
        assert frame.world_from_sensor is not None
        np.testing.assert_allclose(frame.points, sweep, atol=1e-5)
        np.testing.assert_allclose(frame.intensity, 0.2)
        np.testing.assert_allclose(view.camera_from_sensor, CAMERA_FROM_LIDAR, atol=1e-9)
        np.testing.assert_allclose(frame.world_from_sensor[:3, :3], pose[:3, :3], atol=1e-12)
    moved = source.load(source.keys()[1]).world_from_sensor
    assert moved is not None
    np.testing.assert_allclose(moved[:3, 3], (1.5, 0, 0), atol=1e-9)
