"""`kitti-raw`: KITTI's raw recordings, synchronised and rectified ("sync" drives).

The folder is a date such as `2011_09_26` or holds dates: each with `calib_velo_to_cam.txt`,
`calib_cam_to_cam.txt` and, for poses, `calib_imu_to_velo.txt`, and drives with
`velodyne_points/data/N.bin`, `image_02/data/N.png`, `image_03`, `oxts/data/N.txt` and the
`timestamps.txt` beside each `data`. Geiger et al., IJRR 2013, and the raw development kit's readme.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.files.text import read_text, rigid
from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.left_out import LeftOut, read_sequences
from p2pkit.datasets.lidar.kitti_calibration import (
    matrix_of,
    read_named_numbers,
    split_projection,
    transform_of,
)
from p2pkit.datasets.lidar.rig import RigFrame, Shot, load_rig, rig_fingerprint
from p2pkit.datasets.listing import (
    chosen_frames,
    existing_root,
    image_suffix,
    known_frame,
    safe_key,
    visible_files,
)
from p2pkit.datasets.plausible import median_interval_s
from p2pkit.errors import SourceError
from p2pkit.geometry.transforms import invert_rigid

CAMERAS = ("image_02", "image_03")
EARTH_RADIUS_M = 6378137.0


class KittiRaw:
    """Raw drives as a `FrameSource`.

    The cameras are triggered when the scanner looks forward, so no motion between sweep and image
    is corrected; `time_offset_s` and `speed_m_s` say how much.

    Raises:
        SourceError: no drive has a usable calibration, poses and time lists.
    """

    name = "kitti-raw"
    label_names: Sequence[str] | None = None
    ignore_label: int | None = None

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        is_date = (root / "calib_velo_to_cam.txt").is_file()
        place = "*/velodyne_points" if is_date else "*/*/velodyne_points"
        drives = sorted(path.parent for path in root.glob(place))
        if not drives:
            raise SourceError(
                f"{root}: kitti-raw needs the folder of a date with calib_velo_to_cam.txt and "
                "drives that contain velodyne_points; found no drive"
            )
        self.left_out: list[LeftOut] = []
        listed = read_sequences(drives, _listed, self.left_out, root)
        self._frames = chosen_frames(listed, options)

    def keys(self) -> Sequence[str]:
        """`2011_09_26_drive_0001_sync_0000000012`: drive and frame."""
        return list(self._frames)

    def load(self, key: str) -> Frame:
        """Read one sweep and its images.

        Raises:
            FrameError: a file is missing or damaged.
        """
        return load_rig(known_frame(self._frames, key), columns=4, full_scale=1.0).frame

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, and a digest of all calibrations and poses."""
        return rig_fingerprint(self.name, self._frames.values())


@dataclass(frozen=True)
class _Oxts:
    """The GPS and inertial unit's pose in a Mercator projection (m), and its speed (m/s)."""

    world_from_imu: Float64[np.ndarray, "4 4"]
    speed_m_s: float


def _listed(drive: Path) -> list[RigFrame]:
    suffixes = {camera: image_suffix(drive / camera / "data") for camera in CAMERAS}
    cameras = [camera for camera in CAMERAS if suffixes[camera]]
    if not cameras:
        raise SourceError(f"{drive} contains no .png or .jpg in image_02/data or image_03/data")
    sweeps = visible_files(drive / "velodyne_points" / "data", "*.bin")
    if not sweeps:
        raise SourceError(
            f"{drive} contains no velodyne_points/data/*.bin; the text sweeps of unsynchronised "
            "drives (..._extract) are not read: take ..._sync"
        )
    lidar_times = _times(drive / "velodyne_points" / "timestamps.txt")
    image_times = {camera: _times(drive / camera / "timestamps.txt") for camera in cameras}
    places = {camera: _placed(drive, camera) for camera in cameras}
    imu_from_lidar, motion = _poses(drive)
    interval = _interval_s(lidar_times)
    frames: list[RigFrame] = []
    for sweep in sweeps:
        if not sweep.stem.isdecimal():
            raise SourceError(f"{sweep} is not named after its frame number")
        number = int(sweep.stem)
        here = motion.get(sweep.stem)
        shots = tuple(
            Shot(
                name=camera,
                image=drive / camera / "data" / f"{sweep.stem}{suffixes[camera]}",
                intrinsics=places[camera].intrinsics,
                camera_from_sensor=places[camera].camera_from_lidar,
                size=places[camera].size,
                time_offset_s=_between(lidar_times, image_times[camera], number),
            )
            for camera in cameras
        )
        frames.append(
            RigFrame(
                key=safe_key(drive.name, sweep.stem),
                sequence=drive.name,
                lidar=sweep,
                shots=shots,
                world_from_lidar=None if here is None else here.world_from_imu @ imu_from_lidar,
                speed_m_s=0.0 if here is None else here.speed_m_s,
                interval_s=interval,
            )
        )
    return frames


class _Place(NamedTuple):
    """K of a rectified camera, its place, and the size of its rectified images if it is known."""

    intrinsics: Float64[np.ndarray, "3 3"]
    camera_from_lidar: Float64[np.ndarray, "4 4"]
    size: tuple[int, int] | None


def _placed(drive: Path, camera: str) -> _Place:
    path = drive.parent / "calib_cam_to_cam.txt"
    values = read_named_numbers(path, "kitti-raw")
    name = f"P_rect_{camera[-2:]}"
    intrinsics, camera_from_rectified = split_projection(
        matrix_of(values, name, (3, 4), path), name, path
    )
    rectified_from_camera0 = transform_of(values, "R_rect_00", path)
    camera0_from_lidar = _rotation_and_translation(drive.parent / "calib_velo_to_cam.txt")
    size_name, size = f"S_rect_{camera[-2:]}", None
    if size_name in values:
        width, height = matrix_of(values, size_name, (1, 2), path)[0]
        size = (round(float(width)), round(float(height)))
    camera_from_lidar = camera_from_rectified @ rectified_from_camera0 @ camera0_from_lidar
    return _Place(intrinsics, camera_from_lidar, size)


def _rotation_and_translation(path: Path) -> Float64[np.ndarray, "4 4"]:
    values = read_named_numbers(path, "kitti-raw")
    transform = np.eye(4)
    transform[:3, :3] = matrix_of(values, "R", (3, 3), path)
    transform[:3, 3] = matrix_of(values, "T", (3, 1), path)[:, 0]
    return rigid(transform, str(path))


def _poses(drive: Path) -> tuple[Float64[np.ndarray, "4 4"], dict[str, _Oxts]]:
    """imu_from_lidar, and the pose of each frame that has one; the first is the world's origin."""
    files = visible_files(drive / "oxts" / "data", "*.txt")
    calibration = drive.parent / "calib_imu_to_velo.txt"
    if not files or not calibration.is_file():
        return np.eye(4), {}
    rows = [_oxts_row(path) for path in files]
    scale = float(np.cos(np.deg2rad(rows[0][0])))
    poses = [_mercator_pose(row, scale) for row in rows]
    origin = poses[0][:3, 3].copy()
    for pose in poses:
        pose[:3, 3] -= origin
    speeds = [float(np.linalg.norm(row[8:11])) for row in rows]
    motion = {
        path.stem: _Oxts(pose, speed)
        for path, pose, speed in zip(files, poses, speeds, strict=True)
    }
    return invert_rigid(_rotation_and_translation(calibration)), motion


def _oxts_row(path: Path) -> Float64[np.ndarray, " values"]:
    """Latitude and longitude (degrees), altitude (m), roll, pitch, yaw (rad), velocities (m/s)."""
    words = read_text(path, "kitti-raw").split()
    try:
        row = np.array([float(word) for word in words])
    except ValueError as error:
        raise SourceError(f"{path}: {error}; expected numbers") from error
    if len(row) < 11 or not np.isfinite(row[:11]).all() or not abs(row[0]) < 89:
        raise SourceError(
            f"expected 11 or more numbers from latitude to upward speed, found {words[:11]} in "
            f"{path}"
        )
    return row


def _mercator_pose(row: Float64[np.ndarray, " values"], scale: float) -> Float64[np.ndarray, "4 4"]:
    latitude, longitude, altitude, roll, pitch, yaw = row[:6]
    pose = np.eye(4)
    pose[0, 3] = scale * EARTH_RADIUS_M * np.deg2rad(longitude)
    pose[1, 3] = scale * EARTH_RADIUS_M * np.log(np.tan(np.deg2rad(90 + latitude) / 2))
    pose[2, 3] = altitude
    (sin_x, cos_x), (sin_y, cos_y), (sin_z, cos_z) = (
        (np.sin(angle), np.cos(angle)) for angle in (roll, pitch, yaw)
    )
    about_x = np.array([[1, 0, 0], [0, cos_x, -sin_x], [0, sin_x, cos_x]])
    about_y = np.array([[cos_y, 0, sin_y], [0, 1, 0], [-sin_y, 0, cos_y]])
    about_z = np.array([[cos_z, -sin_z, 0], [sin_z, cos_z, 0], [0, 0, 1]])
    pose[:3, :3] = about_z @ about_y @ about_x
    return pose


def _times(path: Path) -> list[datetime | None] | None:
    """Lines such as `2011-09-26 13:02:25.951199337`, one per frame, to the microsecond.

    Some lists of the LiDAR have an empty line where a sweep is missing: None there, so that line
    and frame number stay together.
    """
    if not path.is_file():
        return None
    lines = [line.strip() for line in read_text(path, "kitti-raw").rstrip().split("\n")]
    try:
        return [datetime.fromisoformat(line[:26]) if line else None for line in lines]
    except ValueError as error:
        raise SourceError(f"{path}: {error}; expected dates with times") from error


def _interval_s(times: list[datetime | None] | None) -> float | None:
    known = [time for time in times or () if time is not None]
    return median_interval_s([(time - known[0]).total_seconds() for time in known])


def _between(
    earlier: list[datetime | None] | None, later: list[datetime | None] | None, number: int
) -> float | None:
    if earlier is None or later is None or number >= min(len(earlier), len(later)):
        return None
    first, second = earlier[number], later[number]
    return None if first is None or second is None else (second - first).total_seconds()
