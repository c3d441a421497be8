"""`kitti-odometry`: the KITTI odometry benchmark, with SemanticKITTI's labels where they exist.

The folder holds `sequences/NN/` with `calib.txt` (P2, P3, Tr), `velodyne/`, `image_2/` and
`image_3/` or one of them, `times.txt` and SemanticKITTI's `labels/`; poses are `poses/NN.txt` or,
SemanticKITTI's own, `sequences/NN/poses.txt`: the pose of camera 0 of each frame, 3 x 4 row by row.
Behley et al., "SemanticKITTI", ICCV 2019; classes as in config/semantic-kitti.yaml of
semantic-kitti-api.
"""

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from p2pkit.datasets.files.text import read_text, rigid
from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.left_out import LeftOut, read_sequences
from p2pkit.datasets.lidar.kitti_calibration import (
    matrix_of,
    read_named_numbers,
    split_projection,
    transform_of,
)
from p2pkit.datasets.lidar.rig import (
    NO_CLASS,
    LabelledRigs,
    RigFrame,
    Shot,
    known_classes,
    read_point_labels,
)
from p2pkit.datasets.listing import (
    existing_root,
    image_suffix,
    safe_key,
    visible_files,
)
from p2pkit.errors import SourceError

CLASSES = (
    "unlabelled",
    "car",
    "bicycle",
    "motorcycle",
    "truck",
    "other-vehicle",
    "person",
    "bicyclist",
    "motorcyclist",
    "road",
    "parking",
    "sidewalk",
    "other-ground",
    "building",
    "fence",
    "vegetation",
    "trunk",
    "terrain",
    "pole",
    "traffic-sign",
)
_MERGED = {
    0: (0, 1, 52, 99),
    1: (10, 252),
    2: (11,),
    3: (15,),
    4: (18, 258),
    5: (13, 16, 20, 256, 257, 259),
    6: (30, 254),
    7: (31, 253),
    8: (32, 255),
    9: (40, 60),
    10: (44,),
    11: (48,),
    12: (49,),
    13: (50,),
    14: (51,),
    15: (70,),
    16: (71,),
    17: (72,),
    18: (80,),
    19: (81,),
}
"""SemanticKITTI's label values of each class of its single-scan benchmark."""
SUBMITTED = (10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81)
"""The label value that stands for each class but void in predictions: `learning_map_inv`."""


class KittiOdometry(LabelledRigs):
    """Odometry sequences as a `FrameSource`; the world is camera 0's frame at the first sweep.

    Keys are `00_000012`: sequence and frame. Frames of sequences without a `labels` folder are
    unlabelled throughout, if others have one.

    Raises:
        SourceError: no sequence has a usable calibration, poses and time list.
    """

    name, columns, full_scale = "kitti-odometry", 4, 1.0

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        folders = sorted(path.parent for path in root.glob("sequences/*/velodyne"))
        if not folders:
            raise SourceError(f"{root} contains no sequences/NN/velodyne; kitti-odometry needs one")
        self.left_out: list[LeftOut] = []
        listed = read_sequences(folders, partial(_listed, root=root), self.left_out, root)
        has_labels = any((folder / "labels").is_dir() for folder in folders)
        super().__init__(listed, options, CLASSES if has_labels else None)

    def _labels(
        self, listed: RigFrame, finite: Bool[np.ndarray, " records"]
    ) -> UInt8[np.ndarray, " points"]:
        if listed.labels is None:
            return np.zeros(int(finite.sum()), dtype=np.uint8)
        # The upper 16 bits number the object.
        values = read_point_labels(listed.labels, listed.key, "<u4", len(finite))[finite] & 0xFFFF
        return known_classes(values, _class_of_value(), listed.key, "in SemanticKITTI")


def _class_of_value() -> UInt8[np.ndarray, " values"]:
    classes = np.full(2**16, NO_CLASS, dtype=np.uint8)
    for number, values in _MERGED.items():
        classes[list(values)] = number
    return classes


def _listed(folder: Path, root: Path) -> list[RigFrame]:
    values = read_named_numbers(folder / "calib.txt", "kitti-odometry")
    camera0_from_lidar = transform_of(values, "Tr", folder / "calib.txt")
    cameras = {name: image_suffix(folder / name) for name in ("image_2", "image_3")}
    if not any(cameras.values()):
        raise SourceError(
            f"{folder} contains no .png or .jpg in image_2 or image_3; expected colour images"
        )
    poses = _poses(folder, root)
    places = None if poses is None else poses[:, :3, 3]
    times = _times(folder / "times.txt")
    frames: list[RigFrame] = []
    for sweep in visible_files(folder / "velodyne", "*.bin"):
        if not sweep.stem.isdecimal():
            raise SourceError(f"{sweep} is not named after its frame number")
        number = int(sweep.stem)
        if poses is not None and number >= len(poses):
            raise SourceError(f"{sweep} has no pose: the list has {len(poses)}, one per frame")
        labels = folder / "labels" / f"{sweep.stem}.label"
        shots = tuple(
            _shot(folder / camera / f"{sweep.stem}{suffix}", values, folder, camera0_from_lidar)
            for camera, suffix in cameras.items()
            if suffix
        )
        frames.append(
            RigFrame(
                key=safe_key(folder.name, sweep.stem),
                sequence=folder.name,
                lidar=sweep,
                shots=shots,
                world_from_lidar=None if poses is None else poses[number] @ camera0_from_lidar,
                labels=labels if labels.parent.is_dir() else None,
                speed_m_s=_speed(places, times, number),
            )
        )
    return frames


def _shot(
    image: Path,
    values: dict[str, list[float]],
    folder: Path,
    camera0_from_lidar: Float64[np.ndarray, "4 4"],
) -> Shot:
    name, path = f"P{image.parent.name[-1]}", folder / "calib.txt"
    intrinsics, camera_from_camera0 = split_projection(
        matrix_of(values, name, (3, 4), path), name, path
    )
    return Shot(image.parent.name, image, intrinsics, camera_from_camera0 @ camera0_from_lidar)


def _poses(folder: Path, root: Path) -> Float64[np.ndarray, "frames 4 4"] | None:
    """world_from_camera0 of each frame; SemanticKITTI's own poses come first."""
    places = (folder / "poses.txt", root / "poses" / f"{folder.name}.txt")
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        return None
    lines = read_text(path, "kitti-odometry").rstrip().splitlines()
    poses = np.tile(np.eye(4), (len(lines), 1, 1))
    for row, line in enumerate(lines):
        matrix = matrix_of({"pose": _numbers(line, path)}, "pose", (3, 4), path)
        poses[row, :3] = matrix
        rigid(poses[row], f"{path}: line {row + 1}")
    return poses


def _times(path: Path) -> list[float] | None:
    if not path.is_file():
        return None
    lines = read_text(path, "kitti-odometry").rstrip().splitlines()
    return [_numbers(line, path)[0] for line in lines]


def _numbers(line: str, path: Path) -> list[float]:
    try:
        return [float(word) for word in line.split()] or [float("nan")]
    except ValueError as error:
        raise SourceError(f"{path}: {error}; expected lines of numbers") from error


def _speed(
    places: Float64[np.ndarray, "frames 3"] | None, times: list[float] | None, number: int
) -> float:
    """Between the frames before and after (m/s); 0 without poses or times."""
    if places is None or times is None or len(places) != len(times) or len(times) < 2:
        return 0.0
    first, last = max(0, number - 1), min(len(times) - 1, number + 1)
    seconds = times[last] - times[first]
    return float(np.linalg.norm(places[last] - places[first]) / seconds) if seconds > 0 else 0.0
