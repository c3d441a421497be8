"""What LiDAR recordings with several cameras share: point files, and one image with its place."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Integer, UInt8

from p2pkit.datasets.boxes import Annotation
from p2pkit.datasets.files.images import read_color
from p2pkit.datasets.files.text import short_name
from p2pkit.datasets.frame import Frame, SourceOptions, View
from p2pkit.datasets.listing import chosen_frames, known_frame, listed_json
from p2pkit.datasets.world import near_world, refuse_coarse
from p2pkit.errors import FrameError, GeometryError
from p2pkit.files import sha256_json
from p2pkit.geometry.camera import camera_from_matrix, check_size_fits
from p2pkit.geometry.transforms import check_rigid

NO_CLASS = 255


@dataclass(frozen=True)
class Shot:
    """One image of a rig, not yet read.

    Args:
        name: of the camera.
        image: its file.
        intrinsics: K of the rectified image (px).
        camera_from_sensor: from the LiDAR at the sweep's time to the camera at the image's (m).
        time_offset_s: image's time minus sweep's (s), or None.
        size: width and height that the intrinsics are for (px), where the recording gives it.
    """

    name: str
    image: Path
    intrinsics: Float64[np.ndarray, "3 3"]
    camera_from_sensor: Float64[np.ndarray, "4 4"]
    time_offset_s: float | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class RigFrame:
    """One sweep and its images, not yet read; `speed_m_s` and `interval_s` as in `Frame`.

    `annotations` are boxes in the world; None where nobody annotated the frame.
    """

    key: str
    sequence: str
    lidar: Path
    shots: tuple[Shot, ...]
    world_from_lidar: Float64[np.ndarray, "4 4"] | None
    labels: Path | None = None
    speed_m_s: float = 0.0
    interval_s: float | None = None
    annotations: tuple[Annotation, ...] | None = None

    def paths(self) -> tuple[Path | None, ...]:
        """Sweep, labels and images."""
        return (self.lidar, self.labels, *(shot.image for shot in self.shots))

    def calibration(self) -> list[Any]:
        """Pose, intrinsics and transforms as JSON, for fingerprints."""
        pose = self.world_from_lidar
        return [
            None if pose is None else pose.tolist(),
            *([shot.intrinsics.tolist(), shot.camera_from_sensor.tolist()] for shot in self.shots),
        ]


class Sweep(NamedTuple):
    """A frame without labels, and which points of the file it holds."""

    frame: Frame
    finite: Bool[np.ndarray, " records"]


class LabelledRigs:
    """What readers of labelled sweeps share as a `FrameSource`; class 0 is void.

    A reader gives each frame's classes in `_labels`.

    Args:
        listed: all frames, with poses in the recording's world.
        options: which of them to read.
        classes: names by value; None without labels.
    """

    name: str
    columns: int
    """float32 numbers per point."""
    full_scale: float
    """The largest intensity that the sensor writes."""

    def __init__(
        self, listed: Sequence[RigFrame], options: SourceOptions, classes: Sequence[str] | None
    ) -> None:
        near, self._origins = near_world(listed, "world_from_lidar")
        self._frames = chosen_frames(near, options)
        self.label_names = classes
        self.ignore_label: int | None = None if classes is None else 0

    def _labels(
        self, listed: RigFrame, finite: Bool[np.ndarray, " records"]
    ) -> UInt8[np.ndarray, " points"]:
        raise NotImplementedError

    def keys(self) -> Sequence[str]:
        """All keys, in recording order."""
        return list(self._frames)

    def load(self, key: str) -> Frame:
        """Read one sweep, its images and its labels.

        Raises:
            FrameError: a file is missing or damaged, or the calibration is not usable.
        """
        listed = known_frame(self._frames, key)
        frame, finite = load_rig(listed, columns=self.columns, full_scale=self.full_scale)
        labels = None if self.label_names is None else self._labels(listed, finite)
        return replace(frame, labels=labels)

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, a digest of all calibrations and poses, and the class names."""
        labels = None if self.label_names is None else list(self.label_names)
        found = rig_fingerprint(self.name, self._frames.values())
        return found | {"labels": labels} | self._origins


def load_rig(listed: RigFrame, *, columns: int, full_scale: float) -> Sweep:
    """Read a sweep and its images; column 3 of the sweep is the intensity.

    Args:
        listed: which files.
        columns: float32 numbers per point.
        full_scale: largest intensity that the sensor writes.

    Raises:
        FrameError: a file is missing or damaged, or the calibration is not usable.
    """
    key = listed.key
    records = read_records(listed.lidar, key, columns)
    finite = finite_rows(records[:, :3], key)
    frame = Frame(
        key=key,
        views=tuple(load_view(shot, key) for shot in listed.shots),
        points=np.ascontiguousarray(records[finite, :3]),
        world_from_sensor=listed.world_from_lidar,
        sequence=listed.sequence,
        speed_m_s=listed.speed_m_s,
        interval_s=listed.interval_s,
        intensity=unit_intensity(records[finite, 3], key, full_scale),
    )
    return Sweep(frame, finite)


def rig_fingerprint(name: str, frames: Collection[RigFrame]) -> dict[str, Any]:
    """Frame list digest, and a digest of all calibrations and poses."""
    calibration = sha256_json([frame.calibration() for frame in frames])
    return listed_json(name, frames) | {"calibration": calibration}


def load_view(shot: Shot, key: str) -> View:
    """Read the image of a shot.

    Raises:
        FrameError: the image cannot be read, or the calibration is not usable.
    """
    image = read_color(shot.image, key, shot.size)
    size = (image.shape[1], image.shape[0])
    try:
        where = f"the intrinsics of {shot.name}"
        camera = check_size_fits(camera_from_matrix(shot.intrinsics, size, where), where)
        pose = check_rigid(shot.camera_from_sensor, f"{shot.name}: camera_from_sensor")
    except GeometryError as error:
        raise FrameError(key, str(error)) from error
    return View(image, camera, pose, time_offset_s=shot.time_offset_s)


def read_records(path: Path, key: str, columns: int) -> Float32[np.ndarray, "points columns"]:
    """Read a headerless file of little-endian float32 rows, x y z first.

    Rows whose position is NaN or infinite stay; `finite_rows` says which to leave out.

    Raises:
        FrameError: the file is missing, empty, or no whole number of rows long.
    """
    data = _read_bytes(path, key)
    if not data or len(data) % (4 * columns):
        raise FrameError(
            key,
            f"{short_name(path)} has {len(data)} bytes; expected rows of {columns} float32 "
            f"({4 * columns} bytes)",
        )
    return np.frombuffer(data, dtype="<f4").reshape(-1, columns)


def read_point_labels(
    path: Path, key: str, dtype: str, points: int
) -> Integer[np.ndarray, " points"]:
    """Read one integer per point.

    Raises:
        FrameError: the file is missing or does not have one value per point.
    """
    data, size = _read_bytes(path, key), np.dtype(dtype).itemsize
    if len(data) != size * points:
        raise FrameError(
            key,
            f"{short_name(path)} has {len(data)} bytes; expected {size * points} for {points} "
            f"points with {size} bytes each",
        )
    return np.frombuffer(data, dtype=dtype)


def known_classes(
    values: Integer[np.ndarray, " points"],
    class_of: UInt8[np.ndarray, " values"],
    key: str,
    where: str,
) -> UInt8[np.ndarray, " points"]:
    """The class of each stored label.

    Args:
        values: the labels.
        class_of: class of each possible value, `NO_CLASS` where it has none.
        key: of the frame.
        where: what such a value is not, for the message.

    Raises:
        FrameError: a label has no class.
    """
    classes = class_of[values]
    if (unknown := classes == NO_CLASS).any():
        raise FrameError(key, f"labels {np.unique(values[unknown])[:8].tolist()} are not {where}")
    return classes


def finite_rows(points: Float[np.ndarray, "points 3"], key: str) -> Bool[np.ndarray, " points"]:
    """Which points have a finite position.

    Raises:
        FrameError: none has, or they are so far out that float32 is too coarse.
    """
    refuse_coarse(points, key)
    each = np.isfinite(points)
    if len(points) and each.all():
        return np.ones(len(points), dtype=bool)
    finite = np.asarray(each.all(axis=1))
    if not finite.any():
        raise FrameError(key, f"none of the {len(points)} points has a finite position")
    return finite


def unit_intensity(
    values: np.ndarray, key: str, full_scale: float
) -> Float32[np.ndarray, " points"]:
    """Intensities divided by their full scale, within 0 to 1.

    Raises:
        FrameError: one is negative, NaN or above the full scale.
    """
    scaled = (values / np.float32(full_scale)).astype(np.float32)
    if not ((scaled >= 0) & (scaled <= 1)).all():
        low, high = float(np.min(values)), float(np.max(values))
        raise FrameError(
            key,
            f"intensity is {low:g} to {high:g}; expected 0 to {full_scale:g}, the range of this "
            "format: rescale the files",
        )
    return scaled


def _read_bytes(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FrameError(key, f"{short_name(path)} does not exist") from error
    except OSError as error:
        raise FrameError(key, f"{short_name(path)} cannot be read: {error}") from error
