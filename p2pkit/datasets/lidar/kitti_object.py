"""`kitti-object`: the KITTI 3D object benchmark, single frames of many drives.

The folder is `training/` or `testing/` or holds them: `velodyne/N.bin` (float32 x y z reflectance),
`image_2/N.png`, `image_3/N.png` if it exists, `calib/N.txt` (P2, R0_rect, Tr_velo_to_cam), and
for boxes `label_2/N.txt`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.boxes import Annotation, files_fingerprint, upright_boxes
from p2pkit.datasets.files.text import numbers, read_text
from p2pkit.datasets.frame import Boxes, Frame, SourceOptions
from p2pkit.datasets.lidar.kitti_calibration import (
    matrix_of,
    read_named_numbers,
    split_projection,
    transform_of,
)
from p2pkit.datasets.lidar.rig import RigFrame, Shot, load_rig
from p2pkit.datasets.listing import (
    chosen_frames,
    existing_root,
    image_suffix,
    known_frame,
    listed_json,
    safe_key,
    visible_files,
)
from p2pkit.errors import FrameError, SourceError
from p2pkit.files import sha256_json
from p2pkit.geometry.transforms import invert_rigid

CAMERAS = ("image_2", "image_3")
SPLITS = ("training", "testing")
BOX_NAMES = (
    "Car",
    "Van",
    "Truck",
    "Pedestrian",
    "Person_sitting",
    "Cyclist",
    "Tram",
    "Misc",
)
NOT_A_BOX = "DontCare"
"""The type of regions of the image where objects were not labelled."""


@dataclass(frozen=True)
class ObjectFrame:
    """Where one frame lies: the split's folder, its number as text, cameras and suffixes."""

    key: str
    sequence: str
    folder: Path
    number: str
    cameras: tuple[tuple[str, str], ...]

    @property
    def lidar(self) -> Path:
        """The sweep."""
        return self.folder / "velodyne" / f"{self.number}.bin"

    @property
    def calibration(self) -> Path:
        """The text with P2 and the others."""
        return self.folder / "calib" / f"{self.number}.txt"

    @property
    def labels(self) -> Path:
        """The text with the boxes."""
        return self.folder / "label_2" / f"{self.number}.txt"

    def images(self) -> dict[str, Path]:
        """The image of each camera."""
        return {
            camera: self.folder / camera / f"{self.number}{suffix}"
            for camera, suffix in self.cameras
        }

    def paths(self) -> tuple[Path, ...]:
        """Every file that the frame is read from."""
        return (self.lidar, self.calibration, *self.images().values())


class KittiObject:
    """The KITTI object benchmark as a `FrameSource`.

    Raises:
        SourceError: no `velodyne` folder has sweeps.
    """

    name = "kitti-object"
    label_names: Sequence[str] | None = None
    ignore_label: int | None = None

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        self._frames = chosen_frames(_listed(root), options)
        labelled = any(frame.labels.is_file() for frame in self._frames.values())
        self.box_names: Sequence[str] | None = BOX_NAMES if labelled else None

    def keys(self) -> Sequence[str]:
        """`training_000012`; `000012` where the given folder is the split's."""
        return list(self._frames)

    def load(self, key: str) -> Frame:
        """Read one frame.

        Raises:
            FrameError: a file is missing, damaged or holds a calibration that is not usable.
        """
        frame = known_frame(self._frames, key)
        try:
            shots = _shots(frame)
            boxes = _boxes(frame)
        except SourceError as error:
            raise FrameError(key, str(error)) from error
        listed = RigFrame(key, frame.sequence, frame.lidar, tuple(shots), world_from_lidar=None)
        return replace(load_rig(listed, columns=4, full_scale=1.0).frame, boxes=boxes)

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, and a digest of all calibrations."""
        frames = self._frames.values()
        return listed_json(self.name, frames) | {
            "calibration": sha256_json([_text_or_none(frame.calibration) for frame in frames]),
        }

    def box_fingerprint(self) -> dict[str, Any]:
        """Digest of the label files."""
        return files_fingerprint((frame.key, frame.labels) for frame in self._frames.values())


def _text_or_none(path: Path) -> str | None:
    return path.read_text(errors="replace") if path.is_file() else None


def _listed(root: Path) -> list[ObjectFrame]:
    folders = [root / split for split in SPLITS if (root / split / "velodyne").is_dir()]
    if (root / "velodyne").is_dir():
        folders = [root]
    drives = _drives(root)
    frames: list[ObjectFrame] = []
    for folder in folders:
        cameras = tuple(
            (camera, suffix) for camera in CAMERAS if (suffix := image_suffix(folder / camera))
        )
        for path in visible_files(folder / "velodyne", "*.bin"):
            key = safe_key(path.stem) if folder == root else safe_key(folder.name, path.stem)
            sequence = drives.get(path.stem, "") if folder.name == "training" else ""
            frames.append(ObjectFrame(key, sequence, folder, path.stem, cameras))
    if not frames or not all(frame.cameras for frame in frames):
        raise SourceError(
            f"{root}: kitti-object needs velodyne/*.bin, image_2/ and calib/ in this folder or in "
            f"training/ and testing/; found {len(frames)} sweeps, and no "
            f"{'image folder with .png or .jpg' if frames else 'velodyne folder with a sweep'}"
        )
    return frames


def _drives(root: Path) -> Mapping[str, str]:
    """The raw drive of each training frame, by the development kit's two mapping texts."""
    places = (root, root / "mapping", root.parent / "mapping")
    for folder in places:
        order_file, drive_file = folder / "train_rand.txt", folder / "train_mapping.txt"
        if not (order_file.is_file() and drive_file.is_file()):
            continue
        rows = [line.split() for line in read_text(drive_file, "kitti-object").splitlines()]
        try:
            words = read_text(order_file, "kitti-object").replace(",", " ").split()
            order = [int(word) for word in words]
            return {f"{number:06d}": rows[row - 1][1] for number, row in enumerate(order)}
        except (ValueError, IndexError) as error:
            raise SourceError(
                f"{order_file} and {drive_file.name} do not match: {error}"
            ) from error
    return {}


def _rectified_from_lidar(values: dict[str, list[float]], path: Path) -> Float64[np.ndarray, "4 4"]:
    reference_from_lidar = transform_of(values, "Tr_velo_to_cam", path)
    return transform_of(values, "R0_rect", path) @ reference_from_lidar


def _boxes(frame: ObjectFrame) -> Boxes | None:
    """Of the label file, where there is one: columns as in the development kit's readme.

    The place of an object is the middle of its underside in the rectified reference camera's
    frame, and its length lies along the camera's x where its turn about y is 0.
    """
    path = frame.labels
    if not path.is_file():
        return None
    values = read_named_numbers(frame.calibration, "kitti-object")
    found: list[Annotation] = []
    for line in read_text(path, "kitti-object").splitlines():
        name, *words = line.split() or [NOT_A_BOX]
        if name == NOT_A_BOX:
            continue
        row = numbers(words[:14], 14, name, path)
        height, width, length, x, y, z, turn = row[7:]
        along = (np.cos(turn), 0.0, -np.sin(turn))
        found.append(Annotation(name, (x, y - height / 2, z), along, (length, width, height)))
    return upright_boxes(
        found,
        BOX_NAMES,
        sensor_from_annotation=invert_rigid(_rectified_from_lidar(values, frame.calibration)),
        up=(0.0, -1.0, 0.0),
    )


def _shots(frame: ObjectFrame) -> list[Shot]:
    path = frame.calibration
    values = read_named_numbers(path, "kitti-object")
    rectified_from_lidar = _rectified_from_lidar(values, path)
    shots: list[Shot] = []
    for camera, image in frame.images().items():
        name = f"P{camera[-1]}"
        projection = matrix_of(values, name, (3, 4), path)
        intrinsics, camera_from_rectified = split_projection(projection, name, path)
        camera_from_lidar = camera_from_rectified @ rectified_from_lidar
        shots.append(Shot(camera, image, intrinsics, camera_from_lidar))
    return shots
