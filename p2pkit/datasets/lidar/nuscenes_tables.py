"""nuScenes' JSON tables, read without its development kit, one record at a time.

Caesar et al., "nuScenes: A multimodal dataset for autonomous driving", CVPR 2020; the tables are
described in docs/schema_nuscenes.md of the nuscenes-devkit repository. Some have millions of
records of which a few are wanted, so records are decoded one by one and only those are kept.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.boxes import Annotation
from p2pkit.datasets.files.text import json_field, numbers, numeric_array, read_text
from p2pkit.datasets.lidar.rig import RigFrame, Shot
from p2pkit.datasets.listing import safe_key
from p2pkit.errors import GeometryError, SourceError
from p2pkit.geometry.transforms import invert_rigid, transform_from_quaternion

DETECTED = {
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
"""Class of the detection task by category: python-sdk/nuscenes/eval/detection/README.md."""
NOT_DETECTED = frozenset(
    {
        "animal",
        "human.pedestrian.personal_mobility",
        "human.pedestrian.stroller",
        "human.pedestrian.wheelchair",
        "movable_object.debris",
        "movable_object.pushable_pullable",
        "static_object.bicycle_rack",
        "vehicle.emergency.ambulance",
        "vehicle.emergency.police",
    }
)
"""The other annotated categories, which the detection task does not count."""
Record = dict[str, Any]
_BETWEEN = re.compile(r"[\s,]*")
LIDAR = "LIDAR_TOP"
CAMERAS = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_RIGHT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_FRONT_LEFT",
)


def table_records(path: Path) -> Iterator[Record]:
    """The records of a table, decoded one after the other.

    Raises:
        SourceError: the file is missing, or is not a list of objects.
    """
    text = read_text(path, "nuscenes")
    decoder = json.JSONDecoder()
    opening = _BETWEEN.match(text)
    place = opening.end() if opening else 0
    if text[place : place + 1] != "[":
        raise SourceError(f"{path}: expected a list of records, found {text[:20]!r}")
    place += 1
    while True:
        gap = _BETWEEN.match(text, place)
        place = gap.end() if gap else place
        if text[place : place + 1] == "]":
            return
        try:
            record, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path} is not JSON at character {place}: {error}") from error
        if not isinstance(record, dict):
            raise SourceError(f"{path}: expected a record that is an object, found {record!r}")
        yield record


class Tables:
    """The tables of one version folder, such as `v1.0-mini`.

    Raises:
        SourceError: a table is missing or not of the published form.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_root = folder.parent
        self._folders: dict[Path, bool] = {}
        channels = {record["token"]: str(record["channel"]) for record in self._read("sensor")}
        self._calibrated = {
            record["token"]: record
            for record in self._read("calibrated_sensor")
            if channels.get(record["sensor_token"]) in (LIDAR, *CAMERAS)
        }
        self._channel = {
            token: channels[record["sensor_token"]] for token, record in self._calibrated.items()
        }
        self._shots = self._key_frame_data()
        data = [record for channels in self._shots.values() for record in channels.values()]
        wanted = {record["ego_pose_token"] for record in data}
        self._ego = {
            record["token"]: record
            for record in self._read("ego_pose")
            if record["token"] in wanted
        }
        self._labels = self._label_files()
        listed = (folder / "sample_annotation.json").is_file()
        self._annotations = self._boxes_of_samples() if listed else {}
        self.has_boxes = bool(self._annotations)  # the table of a test split is empty

    def frames(self) -> list[RigFrame]:
        """All samples that have a sweep, scene after scene, in time's order."""
        samples = list(self._read("sample"))
        name = {scene["token"]: str(scene["name"]) for scene in self._read("scene")}
        samples.sort(key=lambda sample: (name[sample["scene_token"]], sample["timestamp"]))
        frames: list[RigFrame] = []
        number_in: dict[str, int] = {}
        for sample in samples:
            scene = name[sample["scene_token"]]
            number = number_in[scene] = number_in.get(scene, -1) + 1
            if LIDAR in self._shots.get(sample["token"], {}):
                key = safe_key(scene, f"{number:04d}")
                frame = self._frame(key, scene, self._shots[sample["token"]])
                found = tuple(self._annotations.get(sample["token"], ()))
                frames.append(replace(frame, annotations=found if self.has_boxes else None))
        return frames

    def categories(self) -> dict[int, str]:
        """Name of each index of the lidarseg labels; empty where the tables have none."""
        if not self._labels:
            return {}
        path = self.folder / "category.json"
        return {
            int(json_field(record, "index", path)): str(record["name"])
            for record in self._read("category")
        }

    def _frame(self, key: str, scene: str, data: dict[str, Record]) -> RigFrame:
        """The chain sensor → ego(t_lidar) → world → ego(t_camera) → camera, for each camera."""
        sweep = data[LIDAR]
        world_from_lidar = self._world_from_sensor(sweep)
        shots: list[Shot] = []
        for channel in CAMERAS:
            if channel not in data or not self._has_folder(str(data[channel]["filename"])):
                continue
            image = data[channel]
            calibrated = self._calibrated[image["calibrated_sensor_token"]]
            path = self.folder / "calibrated_sensor.json"
            shots.append(
                Shot(
                    name=channel,
                    image=self.data_root / str(image["filename"]),
                    intrinsics=numeric_array(calibrated["camera_intrinsic"], channel, path),
                    camera_from_sensor=invert_rigid(self._world_from_sensor(image))
                    @ world_from_lidar,
                    time_offset_s=(image["timestamp"] - sweep["timestamp"]) / 1e6,
                    size=_size(image),
                )
            )
        return RigFrame(
            key=key,
            sequence=scene,
            lidar=self.data_root / str(sweep["filename"]),
            shots=tuple(shots),
            world_from_lidar=world_from_lidar,
            labels=self._labels.get(sweep["token"]),
            speed_m_s=self._speed(list(data.values())),
        )

    def _boxes_of_samples(self) -> dict[str, list[Annotation]]:
        """Boxes by sample, in the world; the class is that of the detection task."""
        names = {record["token"]: str(record["name"]) for record in self._read("category")}
        category = {
            record["token"]: names[record["category_token"]] for record in self._read("instance")
        }
        found: dict[str, list[Annotation]] = {}
        path = self.folder / "sample_annotation.json"
        for record in self._read("sample_annotation"):
            name = category[record["instance_token"]]
            if name in NOT_DETECTED:
                continue
            center = numbers(record["translation"], 3, "translation", path)
            width, length, height = numbers(record["size"], 3, "size", path)
            w, x, y, z = numbers(record["rotation"], 4, "rotation", path)
            # The first column of the rotation matrix: the length lies along x.
            along = (w * w + x * x - y * y - z * z, 2 * (x * y + w * z), 2 * (x * z - w * y))
            box = Annotation(DETECTED.get(name, name), center, along, (length, width, height))
            found.setdefault(record["sample_token"], []).append(box)
        return found

    def _has_folder(self, filename: str) -> bool:
        """Whether a camera's images were unpacked at all, such as samples/CAM_BACK."""
        folder = (self.data_root / filename).parent
        if folder not in self._folders:
            self._folders[folder] = folder.is_dir()
        return self._folders[folder]

    def _speed(self, data: list[Record]) -> float:
        """Of the car (m/s), between the first and the last of a key frame's sensors."""
        data = sorted(data, key=lambda record: record["timestamp"])
        seconds = (data[-1]["timestamp"] - data[0]["timestamp"]) / 1e6
        first, last = (self._ego[data[end]["ego_pose_token"]]["translation"] for end in (0, -1))
        return float(np.linalg.norm(np.subtract(last, first)) / seconds) if seconds > 0 else 0.0

    def _world_from_sensor(self, data: Record) -> Float64[np.ndarray, "4 4"]:
        token = data["ego_pose_token"]
        if token not in self._ego:
            raise SourceError(f"{self.folder / 'ego_pose.json'} has no record {token!r}")
        calibrated = self._calibrated[data["calibrated_sensor_token"]]
        world_from_ego = self._placed(self._ego[token], f"ego_pose {token}")
        ego_from_sensor = self._placed(calibrated, f"calibrated_sensor {calibrated['token']}")
        return world_from_ego @ ego_from_sensor

    def _placed(self, record: Record, name: str) -> Float64[np.ndarray, "4 4"]:
        try:
            return transform_from_quaternion(record["rotation"], record["translation"], name)
        except GeometryError as error:
            raise SourceError(f"{self.folder}: {error}") from error

    def _key_frame_data(self) -> dict[str, dict[str, Record]]:
        """Sample token -> channel -> sample_data of the key frames."""
        found: dict[str, dict[str, Record]] = {}
        for record in self._read("sample_data"):
            channel = self._channel.get(record["calibrated_sensor_token"])
            if record["is_key_frame"] and channel is not None:
                found.setdefault(record["sample_token"], {})[channel] = record
        return found

    def _label_files(self) -> dict[str, Path]:
        if not (self.folder / "lidarseg.json").is_file():
            return {}
        return {
            record["sample_data_token"]: self.data_root / str(record["filename"])
            for record in self._read("lidarseg")
        }

    def _read(self, name: str) -> Iterator[Record]:
        """The records of a table that have all the fields that are used here."""
        path = self.folder / f"{name}.json"
        for record in table_records(path):
            for field in _USED_FIELDS[name]:
                json_field(record, field, path)
            yield record


def _size(image: Record) -> tuple[int, int] | None:
    """Width and height of an image as sample_data has them (px), if it has."""
    width, height = image.get("width"), image.get("height")
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        return None
    return width, height


_PLACE = ("token", "translation", "rotation")
_USED_FIELDS: dict[str, tuple[str, ...]] = {
    "sensor": ("token", "channel"),
    "calibrated_sensor": (*_PLACE, "sensor_token", "camera_intrinsic"),
    "ego_pose": _PLACE,
    "scene": ("token", "name"),
    "sample": ("token", "timestamp", "scene_token"),
    "sample_data": (
        "token",
        "sample_token",
        "ego_pose_token",
        "calibrated_sensor_token",
        "filename",
        "timestamp",
        "is_key_frame",
    ),
    "lidarseg": ("filename", "sample_data_token"),
    "category": ("token", "name"),
    "instance": ("token", "category_token"),
    "sample_annotation": ("sample_token", "instance_token", "translation", "size", "rotation"),
}
