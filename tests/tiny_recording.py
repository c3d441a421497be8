"""A posed-rgbd recording of a room's corner, 64 x 48 px, ray-cast in numpy; and settings for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from p2pkit.layers.features import FeatureConfig
from p2pkit.layers.geometry import GeometryConfig
from p2pkit.pipelines.extract.run import ExtractConfig
from p2pkit.pipelines.train.settings import OptimizerConfig, TrainConfig
from p2pkit.stream.batches import StreamConfig
from p2pkit.stream.samples import SampleConfig
from p2pkit.teachers import TeacherOptions

WIDTH, HEIGHT, FOCAL = 64, 48, 60.0
CAMERA = {"width": WIDTH, "height": HEIGHT, "fx": FOCAL, "fy": FOCAL, "cx": 31.5, "cy": 23.5}
NAMES = ("void", "wall", "floor", "box")
TEACHER = TeacherOptions(name="resnet10t", layer=2, weights="random")


def write_recording(
    root: Path, frames: int = 6, *, sequences: int = 1, labels: bool = True
) -> Path:
    """Frames of a camera that moves to the right; with several sequences, one folder for each."""
    root.mkdir(parents=True)
    identity = np.eye(4).tolist()
    calibration: dict[str, Any] = {
        "format": "posed-rgbd",
        "depth_units_per_metre": 1000,
        "depth": CAMERA,
        "color": CAMERA,
        "color_from_depth": identity,
        "pose": "world_from_depth",
        "invalid_depth": [0],
    }
    (root / "camera.json").write_text(json.dumps(calibration))
    if labels:
        (root / "labels.json").write_text(json.dumps({"names": NAMES, "ignore": 0}))
    for sequence in range(sequences):
        folder = root if sequences == 1 else root / f"scene-{sequence}"
        folder.mkdir(exist_ok=True)
        for number in range(frames // sequences):
            _write_frame(folder / f"frame-{number:06d}", 0.013 * number + 0.5 * sequence, labels)
    return root


def recording_config(root: Path, out: Path, **changes: Any) -> ExtractConfig:
    """Cheap settings: a small network with random weights, four frames per shard."""
    settings: dict[str, Any] = {
        "dataset": "posed-rgbd",
        "root": root,
        "out": out,
        "geometry": GeometryConfig(voxel_size=0.02),
        "features": FeatureConfig(teacher=TEACHER),
        "shard_size": 4,
    }
    return ExtractConfig(**{**settings, **changes})


def _write_frame(stem: Path, moved_m: float, labels: bool) -> None:
    depth_m, label, color = _ray_cast(moved_m)
    Image.fromarray(color).save(f"{stem}.color.png")
    Image.fromarray(np.round(depth_m * 1000).astype(np.uint16)).save(f"{stem}.depth.png")
    pose = np.eye(4)
    pose[0, 3] = moved_m
    np.savetxt(f"{stem}.pose.txt", pose)
    if labels:
        Image.fromarray(label).save(f"{stem}.label.png")


def _ray_cast(moved_m: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth (m), label and colour of a wall at 2 m, a floor 0.5 m below and a box in front."""
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    ray_x, ray_y = (u - CAMERA["cx"]) / FOCAL, (v - CAMERA["cy"]) / FOCAL
    with np.errstate(divide="ignore"):
        floor = np.where(ray_y > 0, 0.5 / ray_y, np.inf)
    box_z = 1.4
    on_box = (np.abs(ray_x * box_z + moved_m - 0.1) < 0.25) & (ray_y * box_z > 0)
    surfaces = np.stack([np.full(u.shape, 2.0), floor, np.where(on_box, box_z, np.inf)])
    label = (np.argmin(surfaces, axis=0) + 1).astype(np.uint8)
    depth_m = surfaces.min(axis=0)
    x, y, z = ray_x * depth_m + moved_m, ray_y * depth_m, depth_m
    waves = [np.sin(9 * x + 2 * label), np.sin(11 * y + label), np.sin(13 * z + x)]
    color = (127.5 * (1 + np.stack(waves, axis=2))).astype(np.uint8)
    label[:2] = 0
    return depth_m, label, color


def tiny_train_config(store: Path | str, **changes: Any) -> TrainConfig:
    """The slimmest student on coarse voxels, six steps, a checkpoint after every third."""
    settings: dict[str, Any] = {
        "store": str(store),
        "student": "Res16UNet14A",
        "embedding_channels": 16,
        "steps": 6,
        "checkpoint_every": 3,
        "keep_checkpoints": 1,
        "optimizer": OptimizerConfig(learning_rate=0.05, clip_norm=5.0),
        "stream": StreamConfig(
            batch_size=2,
            sample=SampleConfig(inputs=("color",), voxel_size=0.15, pairs_per_frame=64),
        ),
    }
    return TrainConfig(**{**settings, **changes})
