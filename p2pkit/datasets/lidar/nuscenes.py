"""`nuscenes`: key frames with LIDAR_TOP and six cameras, from the JSON tables as published.

A folder with one sweep and a `calib.json` (the transforms already multiplied) is read as well; see
docs/datasets/lidar.md.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from p2pkit.datasets.boxes import upright_boxes
from p2pkit.datasets.files.text import json_field, numeric_array, read_json, rigid
from p2pkit.datasets.frame import Boxes, Frame, SourceOptions
from p2pkit.datasets.lidar.nuscenes_tables import DETECTED, Tables
from p2pkit.datasets.lidar.rig import (
    NO_CLASS,
    LabelledRigs,
    RigFrame,
    Shot,
    known_classes,
    read_point_labels,
)
from p2pkit.datasets.listing import existing_root, known_frame, safe_key
from p2pkit.errors import FrameError, SourceError
from p2pkit.files import sha256_json
from p2pkit.geometry.transforms import invert_rigid

CLASSES = (
    "void",
    "barrier",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "trailer",
    "truck",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
)
"""The 16 classes of the lidar segmentation task, and 0 for all others."""

# The task's table of merged categories, python-sdk/nuscenes/eval/lidarseg/README.md of the devkit:
# objects as in detection, and what surrounds them.
_CLASS_OF_CATEGORY = {
    **DETECTED,
    "flat.driveable_surface": "driveable_surface",
    "flat.other": "other_flat",
    "flat.sidewalk": "sidewalk",
    "flat.terrain": "terrain",
    "static.manmade": "manmade",
    "static.vegetation": "vegetation",
}


BOX_NAMES = tuple(dict.fromkeys(DETECTED.values()))
"""The 10 classes of the detection task."""


class NuScenes(LabelledRigs):
    """nuScenes key frames as a `FrameSource`; the points are in the frame of LIDAR_TOP.

    Keys are `scene-0061_0003`: scene and number of the key frame.

    Raises:
        SourceError: the version folder is missing or not the only one, or its tables are not
            usable.
    """

    name, columns, full_scale = "nuscenes", 5, 255.0

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        categories: dict[int, str] = {}
        if (root / "calib.json").is_file():
            listed = [_sample_frame(root)]
        else:
            named, categories = _read_tables(_version_folder(root))
            listed = _unpacked(named, root)
        has_boxes = any(frame.annotations is not None for frame in listed)
        self.box_names: Sequence[str] | None = BOX_NAMES if has_boxes else None
        self._class_of_index = _class_of_index(categories)
        super().__init__(listed, options, CLASSES if categories else None)

    def load(self, key: str) -> Frame:
        """Read one sweep, its images, its labels and its boxes.

        Raises:
            FrameError: a file is missing or damaged, or the calibration is not usable.
        """
        return replace(super().load(key), boxes=self._boxes(known_frame(self._frames, key)))

    def box_fingerprint(self) -> dict[str, Any]:
        """Digest of the boxes as they are in the world."""
        rows = [
            [[box.name, *box.center, *box.along, *box.size] for box in frame.annotations or ()]
            for frame in self._frames.values()
        ]
        return {"annotations": sha256_json([[[*map(str, row)] for row in part] for part in rows])}

    def _boxes(self, frame: RigFrame) -> Boxes | None:
        if frame.annotations is None or frame.world_from_lidar is None:
            return None
        origins = self._origins.get("world_origin_m", {})
        near_from_world = np.eye(4)
        near_from_world[:3, 3] = -np.array(origins.get(frame.sequence, (0.0, 0.0, 0.0)))
        return upright_boxes(
            frame.annotations,
            BOX_NAMES,
            sensor_from_annotation=invert_rigid(frame.world_from_lidar) @ near_from_world,
            up=(0.0, 0.0, 1.0),
        )

    def _labels(
        self, listed: RigFrame, finite: Bool[np.ndarray, " records"]
    ) -> UInt8[np.ndarray, " points"]:
        if listed.labels is None:
            raise FrameError(listed.key, "lidarseg.json names no labels for it")
        values = read_point_labels(listed.labels, listed.key, "u1", len(finite))[finite]
        return known_classes(values, self._class_of_index, listed.key, "indices in category.json")


def _version_folder(root: Path) -> Path:
    if (root / "sample_data.json").is_file():
        return root
    folders = sorted(path for path in root.glob("v1.0-*") if path.is_dir())
    if len(folders) != 1:
        found = ", ".join(path.name for path in folders) or "none"
        raise SourceError(
            f"{root}: expected one folder of tables such as v1.0-mini, found {found}; give the "
            "folder that contains it and samples/, or the folder of tables itself"
        )
    return folders[0]


def _read_tables(folder: Path) -> tuple[list[RigFrame], dict[int, str]]:
    try:
        tables = Tables(folder)
        return tables.frames(), tables.categories()
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{folder}: the tables do not match: {error!r}") from error


def _unpacked(listed: list[RigFrame], root: Path) -> list[RigFrame]:
    """Frames of scenes with at least one sweep on disk; the tables name those of every archive."""
    if not listed:
        raise SourceError(f"{root}: the tables name no sample with a LIDAR_TOP sweep")
    present = {frame.sequence for frame in listed if frame.lidar.is_file()}
    if not present:
        raise SourceError(
            f"{root}: none of the {len(listed)} sweeps that the tables name exists, such as "
            f"{listed[0].lidar}; unpack samples/ beside the folder of tables"
        )
    if not any(frame.shots for frame in listed):
        raise SourceError(
            f"{root}: expected a folder for each camera, such as samples/CAM_FRONT, found none"
        )
    return [frame for frame in listed if frame.sequence in present]


def _class_of_index(categories: dict[int, str]) -> np.ndarray:
    """Class of each lidarseg index; 255 where an index has no category."""
    classes = np.full(256, NO_CLASS, dtype=np.uint8)
    for index, name in categories.items():
        if not 0 <= index < NO_CLASS:
            raise SourceError(f"category.json gives {name!r} the index {index}; expected 0 to 254")
        classes[index] = CLASSES.index(_CLASS_OF_CATEGORY.get(name, "void"))
    return classes


def _sample_frame(root: Path) -> RigFrame:
    """The one frame of a folder with `calib.json`."""
    path = root / "calib.json"
    value = read_json(path, "nuscenes")
    lidar = str(json_field(value, "lidar_file", path))
    shots: list[Shot] = []
    cameras = json_field(value, "cameras", path)
    for name in cameras:
        entry = cameras[name]
        transform = numeric_array(json_field(entry, "T_cam_lidar", path), "T_cam_lidar", path)
        image = str(json_field(entry, "file", path))
        shots.append(
            Shot(
                name=name,
                image=root / image,
                intrinsics=numeric_array(json_field(entry, "K", path), f"{name}.K", path),
                camera_from_sensor=rigid(transform, f"{path}: {name}.T_cam_lidar"),
                time_offset_s=_time_offset(image, lidar),
            )
        )
    chain = [
        rigid(numeric_array(json_field(value, name, path), name, path), f"{path}: {name}")
        for name in ("ego2global", "lidar2ego")
    ]
    sequence = lidar.partition("__")[0]
    key = safe_key(lidar.partition(".")[0])
    return RigFrame(key, sequence, root / lidar, tuple(shots), chain[0] @ chain[1])


def _time_offset(image: str, lidar: str) -> float | None:
    """From the microseconds at the end of nuScenes' file names."""
    stamps = [name.partition(".")[0].rpartition("__")[2] for name in (image, lidar)]
    if not all(stamp.isdecimal() for stamp in stamps):
        return None
    return (int(stamps[0]) - int(stamps[1])) / 1e6
