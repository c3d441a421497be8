"""Real RGB-D frames written in the published layouts of other recordings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from p2pkit.datasets.frame import Frame

LENS_FILE = "lens.json"


def depth_of(frame: Frame) -> np.ndarray:
    assert frame.depth is not None
    return frame.depth.values


def pose_of(frame: Frame) -> np.ndarray:
    assert frame.world_from_sensor is not None
    return frame.world_from_sensor


def save(path: Path, image: np.ndarray) -> None:
    """Write a PNG; the fast setting, since tests write many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, compress_level=1)


def assert_same(frame: Frame, real: Frame, *, pose_atol: float = 1e-5) -> None:
    """The same images, cameras and pose as in the recording that the files were written from."""
    np.testing.assert_array_equal(depth_of(frame), depth_of(real))
    assert frame.depth is not None
    assert real.depth is not None
    assert frame.depth.units_per_metre == real.depth.units_per_metre
    assert frame.depth.camera == real.depth.camera
    np.testing.assert_array_equal(frame.views[0].image, real.views[0].image)
    assert frame.views[0].camera == real.views[0].camera
    np.testing.assert_array_equal(
        frame.views[0].camera_from_sensor, real.views[0].camera_from_sensor
    )
    np.testing.assert_allclose(pose_of(frame), pose_of(real), atol=pose_atol)


def write_tum(folder: Path, frames: list[Frame], *, color_delay_s: float = 0.01) -> None:
    """rgb.txt, depth.txt and groundtruth.txt; frames 1/30 s apart, poses at 100 Hz in between."""
    lists = {
        "rgb": ["# color images"],
        "depth": ["# depth maps"],
        "groundtruth": ["# ground truth"],
    }
    for number, frame in enumerate(frames):
        time = 1341845948.0 + number / 30
        for name, moment in (("rgb", time + color_delay_s), ("depth", time)):
            lists[name].append(f"{moment:.6f} {name}/{moment:.6f}.png")
        save(folder / "rgb" / f"{time + color_delay_s:.6f}.png", frame.views[0].image)
        save(folder / "depth" / f"{time:.6f}.png", depth_of(frame))
        quaternion = Rotation.from_matrix(pose_of(frame)[:3, :3]).as_quat()
        row = " ".join(f"{part:.7f}" for part in (*pose_of(frame)[:3, 3], *quaternion))
        lists["groundtruth"].append(f"{time + 0.003:.4f} {row}")
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def write_redwood(folder: Path, frames: list[Frame]) -> None:
    """color/, depth/, intrinsic.json and trajectory.log; depth in millimetres."""
    camera = frames[0].views[0].camera
    numbers = camera.matrix().T.ravel().tolist()
    value = {"width": camera.width, "height": camera.height, "intrinsic_matrix": numbers}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "intrinsic.json").write_text(json.dumps(value))
    lines: list[str] = []
    for number, frame in enumerate(frames):
        save(folder / "color" / f"{number:06d}.png", frame.views[0].image)
        save(folder / "depth" / f"{number:06d}.png", depth_of(frame))
        lines.append(f"{number} {number} {number + 1}")
        lines += [" ".join(f"{part:.9f}" for part in row) for row in pose_of(frame)]
    (folder / "trajectory.log").write_text("\n".join(lines) + "\n")


def write_arkitscenes(folder: Path, frames: list[Frame]) -> None:
    """A video of frames 0.1 s apart; the trajectory holds camera_from_world as axis-angle."""
    rows: list[str] = []
    for number, frame in enumerate(frames):
        time = 4711.125 + 0.1 * number
        stem = f"{folder.name}_{time:.3f}"
        save(folder / "lowres_wide" / f"{stem}.png", frame.views[0].image)
        save(folder / "lowres_depth" / f"{stem}.png", depth_of(frame))
        camera = frame.views[0].camera
        words = (camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)
        path = folder / "lowres_wide_intrinsics" / f"{stem}.pincam"
        path.parent.mkdir(exist_ok=True)
        path.write_text(" ".join(map(str, words)))
        camera_from_world = np.linalg.inv(pose_of(frame))
        turn = Rotation.from_matrix(camera_from_world[:3, :3]).as_rotvec()
        row = (time + 0.0041, *turn, *camera_from_world[:3, 3])
        rows.append(" ".join(f"{part:.9f}" for part in row))
    (folder / "lowres_wide.traj").write_text("\n".join(rows) + "\n")


def write_sunrgbd(folder: Path, frame: Frame) -> None:
    """One frame's folder; depth in millimetres with its bits rotated left by three."""
    values = depth_of(frame)
    save(folder / "depth_bfx" / "0000103.png", (values << 3) | (values >> 13))
    image = folder / "image" / "0000103.jpg"
    image.parent.mkdir(parents=True)
    Image.fromarray(frame.views[0].image).save(image, quality=95)
    matrix = frame.views[0].camera.matrix()
    (folder / "intrinsics.txt").write_text(" ".join(f"{number:f}" for number in matrix.ravel()))


def write_nerfstudio(
    folder: Path, frames: list[Frame], *, scale: float = 1.0, **fields: object
) -> dict[str, Any]:
    """transforms.json, images/ and depth/ in millimetres; poses with OpenGL's camera axes.

    Gives what the file holds; `fields` replace or add to it.
    """
    camera = frames[0].views[0].camera
    value: dict[str, Any] = {
        "camera_model": "OPENCV",
        "fl_x": camera.fx,
        "fl_y": camera.fy,
        "cx": camera.cx + 0.5,
        "cy": camera.cy + 0.5,
        "w": camera.width,
        "h": camera.height,
        "frames": [],
    } | fields
    for number, frame in enumerate(frames):
        names = (f"images/frame_{number:05d}.png", f"depth/frame_{number:05d}.png")
        save(folder / names[0], frame.views[0].image)
        save(folder / names[1], depth_of(frame))
        pose = pose_of(frame) @ np.diag([1.0, -1.0, -1.0, 1.0])
        pose[:3, 3] *= scale
        entry = {"file_path": names[0], "depth_file_path": names[1]}
        value["frames"].append(entry | {"transform_matrix": pose.tolist()})
    (folder / "transforms.json").write_text(json.dumps(value))
    return value
