"""A SemanticKITTI recording of generated sweeps with one small camera ahead; and its extraction."""

from pathlib import Path

import numpy as np
from PIL import Image
from tiny_recording import recording_config

from p2pkit.layers.geometry import GeometryConfig
from p2pkit.pipelines.extract.run import ExtractConfig

WIDTH, HEIGHT, FOCAL = 96, 64, 60.0
GROUND_M = -1.7
ROAD, BUILDING = 40, 50


def write_sweeps(root: Path, *, sequences: int = 3, frames: int = 2) -> Path:
    """Ground and a ring of walls around the sensor; most points are beside or behind the camera."""
    (root / "poses").mkdir(parents=True)
    for sequence in range(sequences):
        folder = root / "sequences" / f"{sequence:02d}"
        for name in ("velodyne", "image_2", "labels"):
            (folder / name).mkdir(parents=True)
        camera = f"{FOCAL} 0 {WIDTH / 2} 0 0 {FOCAL} {HEIGHT / 2} 0 0 0 1 0"
        turned = "0 -1 0 0 0 0 -1 0 1 0 0 0"
        (folder / "calib.txt").write_text(f"P2: {camera}\nP3: {camera}\nTr: {turned}\n")
        rows = [f"1 0 0 0 0 1 0 0 0 0 1 {0.5 * number}" for number in range(frames)]
        (root / "poses" / f"{sequence:02d}.txt").write_text("\n".join(rows))
        (folder / "times.txt").write_text("\n".join(str(0.1 * n) for n in range(frames)))
        for number in range(frames):
            _write_frame(folder, number, np.random.default_rng([sequence, number]))
    return root


def _write_frame(folder: Path, number: int, random: np.random.Generator) -> None:
    points, label = _scene(random)
    # The ground returns less than walls do.
    intensity = np.where(label == ROAD, 0.2, 0.7) + random.uniform(-0.1, 0.1, len(points))
    records = np.column_stack([points, intensity]).astype(np.float32)
    records.tofile(folder / "velodyne" / f"{number:06d}.bin")
    label.astype(np.uint32).tofile(folder / "labels" / f"{number:06d}.label")
    image = random.integers(60, 200, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[HEIGHT // 2 :, :, 0] = 255
    Image.fromarray(image).save(folder / "image_2" / f"{number:06d}.png")


def _scene(random: np.random.Generator, count: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    """Points (m), and the class of each as SemanticKITTI numbers it."""
    angle = random.uniform(-np.pi, np.pi, 2 * count)
    radius = np.concatenate([random.uniform(3, 12, count), np.full(count, 12.5)])
    height = np.concatenate([np.full(count, GROUND_M), random.uniform(GROUND_M, 2, count)])
    points = np.column_stack([radius * np.cos(angle), radius * np.sin(angle), height])
    return points, np.repeat([ROAD, BUILDING], count)


def sweeps_config(root: Path, out: Path) -> ExtractConfig:
    """As `recording_config`, with the voxels of sweeps."""
    geometry = GeometryConfig(voxel_size=0.05, near_limit=1.0)
    return recording_config(root, out, dataset="kitti-odometry", geometry=geometry)
