"""`arkitscenes`: ARKitScenes' low-resolution RGB-D videos, raw or of its 3D object detection part.

Baruch et al., "ARKitScenes", NeurIPS 2021; DATA.md of the data set's repository. A video's folder
holds `lowres_wide/ID_TIME.png`, `lowres_depth/ID_TIME.png` (millimetres), `lowres_wide_intrinsics/
ID_TIME.pincam` (width height fx fy cx cy), `lowres_wide.traj` (time, axis-angle, translation of
camera_from_world) and optionally `confidence/ID_TIME.png` (0, 1 or 2).
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.files.images import read_labels
from p2pkit.datasets.files.text import TEXT_ENCODING, read_text, short_name
from p2pkit.datasets.left_out import LeftOut, read_sequences
from p2pkit.datasets.listing import check_distinct, folders_with, safe_key, visible_files
from p2pkit.datasets.pairing import nearest_index, without_moment
from p2pkit.datasets.rgbd.calibration import RgbdCalibration, registered
from p2pkit.datasets.rgbd.reading import (
    RgbdFiles,
    SeparateImages,
    rgbd_fingerprint,
    speed_between,
)
from p2pkit.errors import FrameError, GeometryError, SourceError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.transforms import invert_rigid, transform_from_axis_angle

MAX_GAP_S = 0.02
"""Colour, depth, intrinsics and pose of one frame are at most this far apart."""
LEAST_CONFIDENCE = 1
"""Depth with a lower confidence is treated as no measurement."""
UNITS_PER_METRE = 1000.0


class ArkitScenes(SeparateImages):
    """ARKitScenes videos as a `FrameSource`: one video's folder, or any folder above.

    Keys are `VIDEO_000123456`: the video, and the time in milliseconds.

    Raises:
        SourceError: no video has a usable trajectory and images.
    """

    name = "arkitscenes"

    def _list(self, root: Path) -> list[RgbdFiles]:
        folders = folders_with(root, "lowres_depth")
        if not folders:
            raise SourceError(f"{root}: neither it nor a folder below contains lowres_depth/")
        check_distinct({folder: folder.name for folder in folders})
        self._pincams: dict[Path, Timed] = {}

        def read(folder: Path) -> list[RgbdFiles]:
            self._pincams[folder] = _timed(folder, "lowres_wide_intrinsics")
            return _listed(folder, self.left_out)

        return read_sequences(folders, read, self.left_out, root)

    def _decoded(self, depth: np.ndarray, files: RgbdFiles) -> np.ndarray:
        return _confident(depth, files)

    def _calibration(self, files: RgbdFiles) -> RgbdCalibration:
        path = self._pincam_of(files)
        if path is None:
            reason = f"no .pincam is within {MAX_GAP_S} s of {short_name(files.depth)}"
            raise FrameError(files.key, reason)
        return registered(_pincam(path, files.key), UNITS_PER_METRE, pose="world_from_depth")

    def _pincam_of(self, files: RgbdFiles) -> Path | None:
        return _beside(self._pincams[files.depth.parents[1]], _time(files.depth))

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest and poses; the intrinsics lie in files of the recording."""
        found = rgbd_fingerprint(self.name, self._frames.values(), {})
        intrinsics = [
            path.read_text(errors="replace")
            for files in self._frames.values()
            if (path := self._pincam_of(files))
        ]
        return found | {
            **self._units_json(),
            "calibration": intrinsics[:1] if len(set(intrinsics)) == 1 else intrinsics,
            "max_gap_s": MAX_GAP_S,
            "least_confidence": LEAST_CONFIDENCE,
        }


Timed = tuple[list[float], list[Path]]


def _listed(folder: Path, left_out: list[LeftOut]) -> list[RgbdFiles]:
    color = _timed(folder, "lowres_wide")
    pose_times, poses = _trajectory(folder / "lowres_wide.traj")
    depth_times, depth_paths = _timed(folder, "lowres_depth")
    frames: list[RgbdFiles] = []
    alone: list[Path] = []
    for time, path in zip(depth_times, depth_paths, strict=True):
        near_color = nearest_index(color[0], time, MAX_GAP_S)
        near_pose = nearest_index(pose_times, time, MAX_GAP_S)
        if near_color is None or near_pose is None:
            alone.append(path)
            continue
        frames.append(
            RgbdFiles(
                key=safe_key(folder.name, f"{round(time * 1000):09d}"),
                sequence=folder.name,
                color=color[1][near_color],
                depth=path,
                world_from_depth=poses[near_pose],
                time_offset_s=color[0][near_color] - time,
                speed_m_s=speed_between(poses, pose_times, near_pose),
            )
        )
    if not frames:
        raise SourceError(
            f"{folder}: none of the {len(depth_paths)} depth images has a colour image and a pose "
            f"within {MAX_GAP_S} s"
        )
    if alone:
        left_out.append(LeftOut(folder.name, without_moment(alone, MAX_GAP_S)))
    return frames


def _timed(folder: Path, name: str) -> Timed:
    """Files called `ID_TIME.suffix` with their times (s), sorted."""
    found = sorted((_time(path), path) for path in visible_files(folder / name, "*_*.p*"))
    return [time for time, _ in found], [path for _, path in found]


def _time(path: Path) -> float:
    try:
        return float(path.stem.rpartition("_")[2])
    except ValueError as error:
        raise SourceError(f"{path} is not named ID_TIME: {error}") from error


def _beside(timed: Timed, time: float) -> Path | None:
    place = nearest_index(timed[0], time, MAX_GAP_S)
    return None if place is None else timed[1][place]


def _pincam(path: Path, key: str) -> Camera:
    try:
        width, height, fx, fy, cx, cy = (
            float(word) for word in path.read_text(TEXT_ENCODING).split()
        )
        return Camera(int(width), int(height), fx=fx, fy=fy, cx=cx, cy=cy)
    except (OSError, ValueError, GeometryError) as error:
        raise FrameError(
            key, f"{short_name(path)} is not 'width height fx fy cx cy': {error}"
        ) from error


def _trajectory(path: Path) -> tuple[list[float], list[Float64[np.ndarray, "4 4"]]]:
    """Times and world_from_camera; the file holds camera_from_world."""
    rows: list[list[float]] = []
    for number, line in enumerate(read_text(path, "arkitscenes").splitlines(), start=1):
        try:
            row = [float(word) for word in line.split()]
        except ValueError as error:
            raise SourceError(f"{path}: line {number}: {error}") from error
        if len(row) != 7:
            raise SourceError(f"{path}: line {number} has {len(row)} numbers; expected 7")
        rows.append(row)
    rows.sort()
    try:
        poses = [
            invert_rigid(transform_from_axis_angle(row[1:4], row[4:7], f"{path}: {row[0]}"))
            for row in rows
        ]
    except GeometryError as error:
        raise SourceError(str(error)) from error
    return [row[0] for row in rows], poses


def _confident(depth: np.ndarray, files: RgbdFiles) -> np.ndarray:
    """Depth without the pixels of the lowest confidence, where the video has confidences."""
    path = files.depth.parents[1] / "confidence" / files.depth.name
    if not path.parent.is_dir():
        return depth
    size = (depth.shape[1], depth.shape[0])
    confidence = read_labels(path, files.key, size, classes=3)
    return np.where(confidence >= LEAST_CONFIDENCE, depth, 0).astype(np.uint16)
