"""A small recording in the posed-rgbd form, written by the tests that damage it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
CAMERA = {"width": WIDTH, "height": HEIGHT, "fx": 60.0, "fy": 60.0, "cx": 31.5, "cy": 23.5}
CALIBRATION: dict[str, Any] = {
    "format": "posed-rgbd",
    "depth_units_per_metre": 1000,
    "depth": CAMERA,
    "color": CAMERA,
    "color_from_depth": np.eye(4).tolist(),
    "pose": "world_from_depth",
    "invalid_depth": [0],
}


def slanted_wall_depth(forward_m: float) -> np.ndarray:
    """Depth (m) of the wall z = 3 + 0.5 x + 0.3 y from `forward_m` along the optical axis."""
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    x, y = (u - CAMERA["cx"]) / CAMERA["fx"], (v - CAMERA["cy"]) / CAMERA["fy"]
    return (3.0 - forward_m) / (1.0 - 0.5 * x - 0.3 * y)


def write_frame(folder: Path, number: int, units_per_metre: float = 1000.0) -> None:
    """Frame `number` of a camera that drives 6 cm per frame towards a slanted wall."""
    stem = folder / f"frame-{number:06d}"
    color = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(color).save(f"{stem}.color.png")
    depth = np.round(slanted_wall_depth(0.06 * number) * units_per_metre).astype(np.uint16)
    Image.fromarray(depth).save(f"{stem}.depth.png")
    pose = np.eye(4)
    pose[2, 3] = 0.06 * number
    np.savetxt(f"{stem}.pose.txt", pose)


def write_calibration(folder: Path, **changes: Any) -> None:
    """A right camera.json with some fields changed; a field given as None is left out."""
    value = {name: item for name, item in (CALIBRATION | changes).items() if item is not None}
    (folder / "camera.json").write_text(json.dumps(value))
