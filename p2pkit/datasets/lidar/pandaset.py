"""`pandaset`: PandaSet sequences as npz and JSON, two LiDARs and six cameras.

PandaSet's own files are pickles of pandas frames, which p2pkit never opens;
`tools/pandaset_to_npz.py` converts them once. A sequence folder holds `calib.json`,
`semseg_classes.json`, `lidar/NN.npz`, `camera/NAME/NN.jpg` and for boxes `cuboids/NN.json`;
docs/datasets/lidar.md describes the fields.
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.boxes import Annotation, files_fingerprint, upright_boxes
from p2pkit.datasets.files.text import (
    json_field,
    numbers,
    numeric_array,
    read_json,
    read_json_list,
)
from p2pkit.datasets.frame import Boxes, Frame, SourceOptions
from p2pkit.datasets.left_out import LeftOut, read_sequences
from p2pkit.datasets.lidar.rig import Shot, finite_rows, load_view, unit_intensity
from p2pkit.datasets.listing import (
    chosen_frames,
    existing_root,
    image_suffix,
    known_frame,
    listed_json,
    safe_key,
    visible_files,
)
from p2pkit.datasets.plausible import median_interval_s
from p2pkit.datasets.world import moved, near_origin, origins_json
from p2pkit.errors import FrameError, GeometryError, SourceError
from p2pkit.files import sha256_json
from p2pkit.geometry.transforms import check_rigid, invert_rigid, transform_points

CONVERSION = (
    "PandaSet's pickles must be converted once: python tools/pandaset_to_npz.py PANDASET OUT"
)
BOX_NAMES = (
    "Car",
    "Pickup Truck",
    "Medium-sized Truck",
    "Semi-truck",
    "Towed Object",
    "Motorcycle",
    "Other Vehicle - Construction Vehicle",
    "Other Vehicle - Uncommon",
    "Other Vehicle - Pedicab",
    "Emergency Vehicle",
    "Bus",
    "Personal Mobility Device",
    "Motorized Scooter",
    "Bicycle",
    "Train",
    "Trolley",
    "Tram / Subway",
    "Pedestrian",
    "Pedestrian with Object",
    "Animals - Bird",
    "Animals - Other",
    "Pylons",
    "Road Barriers",
    "Signs",
    "Cones",
    "Construction Signs",
    "Temporary Construction Barriers",
    "Rolling Containers",
)
CUBOID_COLUMNS = (
    "yaw",
    *(f"{group}.{axis}" for group in ("position", "dimensions") for axis in "xyz"),
)
FRONT_LIDAR = 1
"""Moving objects that both LiDARs see have two cuboids; that of the forward one is not taken."""
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_FIELDS = {
    "xyz": ("float32", "float64"),
    "intensity": ("uint8",),
    "t": ("float32",),
    "label": ("uint8",),
}


@dataclass(frozen=True)
class PandaFrame:
    """Where one sweep lies: its sequence folder, its number as text, and the sequence's cameras."""

    key: str
    sequence: str
    folder: Path
    number: str
    cameras: tuple[str, ...]

    @property
    def lidar(self) -> Path:
        """The sweep."""
        return self.folder / "lidar" / f"{self.number}.npz"

    @property
    def cuboids(self) -> Path:
        """The boxes."""
        return self.folder / "cuboids" / f"{self.number}.json"

    def image(self, camera: str) -> Path:
        """The image of one camera."""
        return self.folder / "camera" / camera / f"{self.number}.jpg"

    def paths(self) -> tuple[Path, ...]:
        """The sweep and the images."""
        return (self.lidar, *(self.image(camera) for camera in self.cameras))


class PandaSet:
    """PandaSet sequences in the npz form as a `FrameSource`.

    Points of both LiDARs are taken from world coordinates, where PandaSet has them with the ego
    motion within the sweep removed, to the LiDAR's frame at the sweep's time stamp.

    Raises:
        SourceError: no sequence has a usable `calib.json`.
    """

    name = "pandaset"
    ignore_label: int | None

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        folders = [root] if (root / "calib.json").is_file() else _sequence_folders(root)
        self.left_out: list[LeftOut] = []
        self._calibrations: dict[str, dict[str, Any]] = {}
        self._origins: dict[str, Float64[np.ndarray, "3"]] = {}

        def read(folder: Path) -> list[PandaFrame]:
            calibration = read_json(folder / "calib.json", self.name)
            listed = _listed(folder, calibration)
            self._calibrations[folder.name] = calibration
            self._origins[folder.name] = _origin(listed, calibration)
            return listed

        self._frames = chosen_frames(read_sequences(folders, read, self.left_out, root), options)
        self.label_names: Sequence[str] | None = _class_names(folders)
        self.ignore_label = None if self.label_names is None else 0
        annotated = any(frame.cuboids.is_file() for frame in self._frames.values())
        self.box_names: Sequence[str] | None = BOX_NAMES if annotated else None

    def keys(self) -> Sequence[str]:
        """`002_00`: sequence and sweep."""
        return list(self._frames)

    def load(self, key: str) -> Frame:
        """Read one sweep and its six images.

        Raises:
            FrameError: a file is missing or damaged, or its pose is not in the calibration.
        """
        frame = known_frame(self._frames, key)
        calibration = self._calibrations[frame.folder.name]
        try:
            world_from_lidar, shots = _placed(frame, calibration)
            speed_m_s = _speed(frame, calibration)
            boxes = _boxes(frame, world_from_lidar)
        except (SourceError, GeometryError) as error:
            raise FrameError(key, str(error)) from error
        sweep = _read_sweep(frame.lidar, key)
        finite = finite_rows(sweep["xyz"], key)
        if not finite.all():
            sweep = {name: values[finite] for name, values in sweep.items()}
        lidar_from_world = invert_rigid(world_from_lidar)
        return Frame(
            key=key,
            views=tuple(load_view(shot, key) for shot in shots),
            points=transform_points(lidar_from_world, sweep["xyz"]).astype(np.float32),
            world_from_sensor=moved(world_from_lidar, self._origins[frame.folder.name]),
            labels=None if self.label_names is None else self._labels(sweep["label"], key),
            sequence=frame.sequence,
            speed_m_s=speed_m_s,
            interval_s=_interval_s(calibration.get("lidar_timestamp")),
            intensity=unit_intensity(sweep["intensity"], key, 255.0),
            point_time_s=sweep["t"],
            boxes=boxes,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, the calibrations' digest, and the class names."""
        frames = self._frames.values()
        return listed_json(self.name, frames) | {
            "calibration": {name: sha256_json(value) for name, value in self._calibrations.items()},
            "labels": None if self.label_names is None else list(self.label_names),
            **origins_json(self._origins),
        }

    def box_fingerprint(self) -> dict[str, Any]:
        """Digest of the files of cuboids."""
        return files_fingerprint((frame.key, frame.cuboids) for frame in self._frames.values())

    def _labels(self, labels: np.ndarray, key: str) -> np.ndarray:
        assert self.label_names is not None
        if labels.max() >= len(self.label_names):
            raise FrameError(
                key, f"label {labels.max()} has no name; expected 0 to {len(self.label_names) - 1}"
            )
        return labels


def _sequence_folders(root: Path) -> list[Path]:
    folders = sorted(path for path in root.iterdir() if (path / "calib.json").is_file())
    if not folders:
        raise SourceError(
            f"{root}: neither it nor a folder in it contains calib.json. {CONVERSION}"
        )
    return folders


def _listed(folder: Path, calibration: dict[str, Any]) -> list[PandaFrame]:
    path = folder / "calib.json"
    cameras = json_field(calibration, "cameras", path)
    if not isinstance(cameras, dict) or not cameras:
        raise SourceError(f"{path}: cameras must be an object with at least one camera")
    names = tuple(str(name) for name in cameras if image_suffix(folder / "camera" / str(name)))
    if not names:
        raise SourceError(
            f"{folder / 'camera'} contains no camera folder with images for those in {path}: "
            f"{', '.join(map(str, cameras))}"
        )
    for name in names:
        numeric_array(json_field(cameras[name], "K", path), f"cameras.{name}.K", path)
    sweeps = visible_files(folder / "lidar", "*.npz")
    if not sweeps:
        raise SourceError(f"{folder / 'lidar'} contains no .npz sweep")
    return [
        PandaFrame(safe_key(folder.name, sweep.stem), folder.name, folder, sweep.stem, names)
        for sweep in sweeps
    ]


def _origin(listed: list[PandaFrame], calibration: dict[str, Any]) -> Float64[np.ndarray, "3"]:
    """Of the sequence's first frame with a usable pose; others fail when they are loaded."""
    for frame in listed:
        try:
            return near_origin([_placed(frame, calibration)[0]])
        except (SourceError, GeometryError):
            continue
    return np.zeros(3)


def _placed(
    frame: PandaFrame, calibration: dict[str, Any]
) -> tuple[Float64[np.ndarray, "4 4"], list[Shot]]:
    """The LiDAR's pose, and the images with their transforms from it."""
    path, number = frame.folder / "calib.json", frame.number

    def pose(value: Any, name: str) -> Float64[np.ndarray, "4 4"]:
        matrix = numeric_array(json_field(value, number, path), f"{name}.{number}", path)
        return check_rigid(matrix, f"{name}.{number}")

    world_from_lidar = pose(json_field(calibration, "lidar_pose", path), "lidar_pose")
    sweep_time = _time(calibration.get("lidar_timestamp"), number)
    shots: list[Shot] = []
    for name in frame.cameras:
        entry = calibration["cameras"][name]
        where = f"cameras.{name}.T_world_camera"
        world_from_camera = pose(json_field(entry, "T_world_camera", path), where)
        image_time = _time(entry.get("timestamp"), number)
        shots.append(
            Shot(
                name=name,
                image=frame.image(name),
                intrinsics=numeric_array(entry["K"], f"cameras.{name}.K", path),
                camera_from_sensor=invert_rigid(world_from_camera) @ world_from_lidar,
                time_offset_s=_difference(image_time, sweep_time),
            )
        )
    return world_from_lidar, shots


def _boxes(frame: PandaFrame, world_from_lidar: Float64[np.ndarray, "4 4"]) -> Boxes | None:
    """Of the sweep's cuboids, where there are any: in the world, width along x at a yaw of 0."""
    path = frame.cuboids
    if not path.is_file():
        return None
    found: list[Annotation] = []
    for row in read_json_list(path, "pandaset"):
        if row.get("cuboids.sensor_id") == FRONT_LIDAR:
            continue
        name = str(json_field(row, "label", path))
        values = [json_field(row, column, path) for column in CUBOID_COLUMNS]
        # What is not a number in a table of pandas becomes null.
        values = [np.nan if value is None else value for value in values]
        yaw, *place = numbers(values, len(CUBOID_COLUMNS), name, path)
        along = (np.cos(yaw), np.sin(yaw), 0.0)
        found.append(Annotation(name, place[:3], along, place[3:]))
    return upright_boxes(
        found,
        BOX_NAMES,
        sensor_from_annotation=invert_rigid(world_from_lidar),
        up=(0.0, 0.0, 1.0),
    )


def _speed(frame: PandaFrame, calibration: dict[str, Any]) -> float:
    """Of the LiDAR (m/s), from the sweep nearest in time; 0 where there is no other."""
    stamps, poses = calibration.get("lidar_timestamp"), calibration["lidar_pose"]
    now = _time(stamps, frame.number)
    if now is None or not isinstance(stamps, dict):
        return 0.0
    times = {other: _time(stamps, other) for other in stamps if other in poses}
    others = [(abs(time - now), other) for other, time in times.items() if time is not None]
    others = [(gap, other) for gap, other in others if gap > 0]
    if not others:
        return 0.0
    gap, other = min(others)
    path = frame.folder / "calib.json"
    here, there = (
        check_rigid(numeric_array(poses[name], f"lidar_pose.{name}", path), f"lidar_pose.{name}")
        for name in (frame.number, other)
    )
    return float(np.linalg.norm((here - there)[:3, 3]) / gap)


def _interval_s(stamps: Any) -> float | None:
    if not isinstance(stamps, dict):
        return None
    times = (_time(stamps, number) for number in stamps)
    return median_interval_s(sorted(time for time in times if time is not None))


def _time(stamps: Any, number: str) -> float | None:
    value = stamps.get(number) if isinstance(stamps, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _difference(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or earlier is None else later - earlier


def _read_sweep(path: Path, key: str) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            sweep = {name: np.asarray(archive[name]) for name in _FIELDS}
    except FileNotFoundError as error:
        raise FrameError(key, f"{path.name} does not exist") from error
    except _UNREADABLE as error:
        raise FrameError(key, f"{path.name} cannot be read: {error}") from error
    for name, dtypes in _FIELDS.items():
        shape = (len(sweep["xyz"]), 3) if name == "xyz" else (len(sweep["xyz"]),)
        if sweep[name].dtype not in dtypes or sweep[name].shape != shape:
            raise FrameError(
                key,
                f"{path.name}: {name} is {sweep[name].dtype} {sweep[name].shape}; "
                f"expected {' or '.join(dtypes)} {shape}",
            )
    return sweep


def _class_names(folders: list[Path]) -> tuple[str, ...] | None:
    """Names by value, 0 being points without a label; None without any `semseg_classes.json`.

    Not all published sequences were labelled: those without are points without a label.
    """
    files = [folder / "semseg_classes.json" for folder in folders]
    present = [path for path in files if path.is_file()]
    if not present:
        return None
    names, *others = (read_json(path, "pandaset") for path in present)
    if any(other != names for other in others):
        raise SourceError(f"{', '.join(map(str, present))} differ; one source has one list")
    values = [str(value) for value in range(1, len(names) + 1)]
    if set(names) != set(values) or not all(isinstance(name, str) for name in names.values()):
        raise SourceError(f"{present[0]}: expected names for the values 1, 2, …, found {names}")
    return ("unlabelled", *(names[value] for value in values))
