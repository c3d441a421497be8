"""nuScenes' JSON tables written around the real key frame of the shared data.

The form is that of docs/schema_nuscenes.md in the nuscenes-devkit repository. The car's pose at
each image's time is made up; sensor calibrations are chosen so that the whole chain gives the real
transform from LiDAR to camera.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

CATEGORIES = ("noise", "vehicle.car", "flat.driveable_surface", "human.pedestrian.adult")


def quaternion(rotation: np.ndarray) -> list[float]:
    """w, x, y, z of a rotation matrix, by its eigenvector of eigenvalue 1 (the trace is not -1)."""
    w = np.sqrt(max(0.0, 1 + np.trace(rotation))) / 2
    if w > 0.1:
        skew = (rotation - rotation.T) / (4 * w)
        return [w, skew[2, 1], skew[0, 2], skew[1, 0]]
    values, vectors = np.linalg.eigh((rotation + rotation.T) / 2)
    axis = vectors[:, np.argmax(values)]
    skew = (rotation - rotation.T) / 2
    sine = np.dot(axis, [skew[2, 1], skew[0, 2], skew[1, 0]])
    half = np.arctan2(sine, (np.trace(rotation) - 1) / 2) / 2
    return [np.cos(half), *(axis * np.sin(half))]


def placed(token: str, transform: np.ndarray, **more: Any) -> dict[str, Any]:
    """A record with a rotation and a translation."""
    wxyz = [float(part) for part in quaternion(transform[:3, :3])]
    return {"token": token, "rotation": wxyz, "translation": transform[:3, 3].tolist(), **more}


def motion(seconds: float) -> np.ndarray:
    """The car drives 10 m/s and turns 0.2 rad/s."""
    move = np.eye(4)
    angle = 0.2 * seconds
    move[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    move[0, 3] = 10.0 * seconds
    return move


def write_tables(sample: Path, root: Path, *, labels: np.ndarray | None = None) -> Path:
    """`root` with samples/ and v1.0-mini/, from the folder of the shared sample."""
    calib = json.loads((sample / "calib.json").read_text())
    world_from_ego, ego_from_lidar = (np.array(calib[k]) for k in ("ego2global", "lidar2ego"))
    lidar_file = calib["lidar_file"]
    sweep_time = int(lidar_file.split("__")[-1].split(".")[0])
    tables: dict[str, list[dict[str, Any]]] = {
        "scene": [{"token": "s0", "name": "scene-0061", "log_token": "l"}],
        "sample": [{"token": "a0", "timestamp": sweep_time, "scene_token": "s0", "next": ""}],
        "sensor": [],
        "calibrated_sensor": [],
        "ego_pose": [],
        "sample_data": [],
    }

    def add(channel: str, file: str, sensor_time: int, ego: np.ndarray, calibration: Any) -> None:
        target = root / "samples" / channel / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample / file, target)
        modality = "lidar" if channel.startswith("LIDAR") else "camera"
        tables["sensor"].append({"token": f"n-{channel}", "channel": channel, "modality": modality})
        tables["calibrated_sensor"].append(calibration | {"sensor_token": f"n-{channel}"})
        tables["ego_pose"].append(placed(f"e-{channel}", ego, timestamp=sensor_time))
        tables["sample_data"].append(
            {
                "token": f"d-{channel}",
                "sample_token": "a0",
                "ego_pose_token": f"e-{channel}",
                "calibrated_sensor_token": calibration["token"],
                "filename": f"samples/{channel}/{file}",
                "fileformat": "jpg",
                "timestamp": sensor_time,
                "is_key_frame": True,
            }
        )

    add(
        "LIDAR_TOP",
        lidar_file,
        sweep_time,
        world_from_ego,
        placed("c-LIDAR_TOP", ego_from_lidar, camera_intrinsic=[]),
    )
    for channel, camera in calib["cameras"].items():
        time = int(camera["file"].split("__")[-1].split(".")[0])
        ego = world_from_ego @ motion((time - sweep_time) / 1e6)
        world_from_camera = world_from_ego @ ego_from_lidar @ np.linalg.inv(camera["T_cam_lidar"])
        ego_from_camera = np.linalg.inv(ego) @ world_from_camera
        calibration = placed(f"c-{channel}", ego_from_camera, camera_intrinsic=camera["K"])
        add(channel, camera["file"], time, ego, calibration)
    if labels is not None:
        (root / "lidarseg" / "v1.0-mini").mkdir(parents=True)
        labels.astype("u1").tofile(root / "lidarseg" / "v1.0-mini" / "d_lidarseg.bin")
        record = {"token": "d-LIDAR_TOP", "sample_data_token": "d-LIDAR_TOP"}
        tables["lidarseg"] = [record | {"filename": "lidarseg/v1.0-mini/d_lidarseg.bin"}]
        tables["category"] = [
            {"token": name, "name": name, "index": index} for index, name in enumerate(CATEGORIES)
        ]
    (root / "v1.0-mini").mkdir(parents=True)
    for name, records in tables.items():
        # The published tables are written with indent=0.
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(records, indent=0))
    return root
