"""`tum`: sequences in the format of the TUM RGB-D benchmark.

Sturm et al., "A Benchmark for the Evaluation of RGB-D SLAM Systems", IROS 2012; the benchmark's
page "File Formats". `rgb.txt` and `depth.txt` list `time file`, `groundtruth.txt` lists `time tx ty
tz qx qy qz qw`, the colour camera's pose. Depth is registered to colour, 5000 to the metre.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.files.text import read_json, read_text
from p2pkit.datasets.left_out import LeftOut
from p2pkit.datasets.listing import safe_key
from p2pkit.datasets.pairing import nearest_index, without_moment
from p2pkit.datasets.rgbd.calibration import RgbdCalibration, lens_from_json, registered
from p2pkit.datasets.rgbd.reading import RgbdFiles, SequencesOfImages, speed_between
from p2pkit.errors import GeometryError, SourceError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.lens_distortion import Distortion
from p2pkit.geometry.transforms import transform_from_quaternion

MAX_GAP_S = 0.02
"""Colour, depth and pose of a frame are at most this far apart, as in the benchmark's tool."""
UNITS_PER_METRE = 5000.0

# The page's table of RGB cameras; its depth images need no further scale.
_LENSES: dict[str, tuple[tuple[float, float, float, float], tuple[float, ...] | None]] = {
    "freiburg1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "freiburg2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "freiburg3": ((535.4, 539.2, 320.1, 247.6), None),
}

_POSE = "tx ty tz qx qy qz qw"
Listing = list[tuple[float, list[str]]]


class TumRgbd(SequencesOfImages):
    """TUM sequences as a `FrameSource`; a frame is a depth image with the nearest colour image.

    Keys are `SEQUENCE_000012`: the number counts the sequence's depth images.

    Raises:
        SourceError: no sequence has usable lists, images close in time, and a known lens.
    """

    name = "tum"

    def _folders(self, root: Path) -> list[Path]:
        return [root] if (root / "rgb.txt").is_file() else _sub_folders(root)

    def _read(self, folder: Path) -> tuple[list[RgbdFiles], RgbdCalibration]:
        calibration = _calibration(folder, self._options.camera_file)
        return _listed(folder, self.left_out), calibration

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, poses, lenses, and the largest gap in time."""
        return super().fingerprint() | {"max_gap_s": MAX_GAP_S}


def _sub_folders(root: Path) -> list[Path]:
    folders = sorted(path.parent for path in root.glob("*/rgb.txt"))
    if not folders:
        raise SourceError(
            f"{root}: neither it nor a folder in it contains rgb.txt, which tum needs"
        )
    return folders


def _calibration(folder: Path, camera_file: Path | None) -> RgbdCalibration:
    camera, distortion = _lens(folder, camera_file)
    return registered(camera, UNITS_PER_METRE, distortion=distortion, pose="world_from_depth")


def _lens(folder: Path, camera_file: Path | None) -> tuple[Camera, Distortion | None]:
    if camera_file is not None:
        try:
            return lens_from_json(read_json(camera_file, "tum"), str(camera_file))
        except GeometryError as error:
            raise SourceError(str(error)) from error
    # Either a link's own name or that of its target may say it.
    names = f"{folder.name} {folder.resolve().name}"
    for name, ((fx, fy, cx, cy), coefficients) in _LENSES.items():
        if name in names:
            camera = Camera(640, 480, fx=fx, fy=fy, cx=cx, cy=cy)
            lens = None if coefficients is None else Distortion("radial-tangential", coefficients)
            return camera, lens
    raise SourceError(
        f"{folder}: the name has none of {', '.join(_LENSES)}, so the lens is not known; give it "
        'with --camera FILE: {"width": 640, "height": 480, "fx": 525.0, "fy": 525.0, "cx": 319.5, '
        '"cy": 239.5, "distortion": {"model": "radial-tangential", "coefficients": [0, 0, 0, 0]}} '
        "(without distortion if there is none)"
    )


def _listed(folder: Path, left_out: list[LeftOut]) -> list[RgbdFiles]:
    color, depth = _listing(folder / "rgb.txt"), _listing(folder / "depth.txt")
    pose_times, poses = _trajectory(folder / "groundtruth.txt", left_out)
    color_times = [time for time, _ in color]
    frames: list[RgbdFiles] = []
    alone: list[Path] = []
    for number, (time, words) in enumerate(depth):
        near_color = nearest_index(color_times, time, MAX_GAP_S)
        near_pose = nearest_index(pose_times, time, MAX_GAP_S)
        if near_color is None or (pose_times and near_pose is None):
            alone.append(folder / words[0])
            continue
        frames.append(
            RgbdFiles(
                key=safe_key(folder.name, f"{number:06d}"),
                sequence=folder.name,
                color=folder / color[near_color][1][0],
                depth=folder / words[0],
                world_from_depth=None if near_pose is None else poses[near_pose],
                time_offset_s=color_times[near_color] - time,
                speed_m_s=0.0 if near_pose is None else speed_between(poses, pose_times, near_pose),
            )
        )
    if not frames:
        raise SourceError(
            f"{folder}: none of the {len(depth)} depth images has a colour image, and a pose if "
            f"there are poses, within {MAX_GAP_S} s; check that the lists belong to one recording"
        )
    if alone:
        left_out.append(LeftOut(folder.name, without_moment(alone, MAX_GAP_S)))
    return frames


def _listing(path: Path) -> Listing:
    """Lines `time words`, sorted by time; `#` begins a comment."""
    rows: Listing = []
    for number, line in enumerate(read_text(path, "tum").splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            time = float(words[0])
        except ValueError as error:
            raise SourceError(
                f"{path}: line {number} is {line!r}; expected a time first"
            ) from error
        if len(words) < 2 or not np.isfinite(time):
            raise SourceError(f"{path}: line {number} is {line!r}; expected a time and a value")
        rows.append((time, words[1:]))
    return sorted(rows)


def _trajectory(
    path: Path, left_out: list[LeftOut]
) -> tuple[list[float], list[Float64[np.ndarray, "4 4"]]]:
    """Times and world_from_camera; both empty if the file does not exist.

    Rows without a pose, which hold NaN or zeros for the quaternion, are left out; so are those that
    are not a rotation, which are added to `left_out`.
    """
    if not path.is_file():
        return [], []
    times: list[float] = []
    poses: list[Float64[np.ndarray, "4 4"]] = []
    errors: list[str] = []
    for time, words in _listing(path):
        row = _pose_row(words, path)
        position, quaternion = row[:3], row[3:]
        if np.isnan(row).any() or not any(quaternion):
            continue
        try:
            wxyz = (quaternion[3], *quaternion[:3])
            poses.append(transform_from_quaternion(wxyz, position, f"{time:f}"))
            times.append(time)
        except GeometryError as error:
            errors.append(str(error))
    if errors and not poses:
        raise SourceError(f"{path}: no row is a pose '{_POSE}'; the first: {errors[0]}")
    if errors:
        rows = "1 row is not a pose" if len(errors) == 1 else f"{len(errors)} rows are not poses"
        left_out.append(LeftOut(path.parent.name, f"{path.name}: {rows}; the first: {errors[0]}"))
    return times, poses


def _pose_row(words: list[str], path: Path) -> list[float]:
    try:
        row = [float(word) for word in words]
    except ValueError as error:
        raise SourceError(f"{path}: {' '.join(words)} is not a pose '{_POSE}': {error}") from error
    if len(row) != 7:
        raise SourceError(
            f"{path}: {' '.join(words)} is not a pose '{_POSE}': it has {len(row)} numbers"
        )
    return row
