"""`redwood`: the RGB-D layout of Open3D's reconstruction system and of the Redwood data sets.

`color/` (or `image/`, `rgb/`) and `depth/` hold images that belong together in sorted order or, in
the object scans, by the times in their names (`0000123-000004067811.png`), depth in millimetres and
registered to colour; a JSON file holds `width`, `height` and `intrinsic_matrix`
(nine numbers, column by column), as Open3D's `PinholeCameraIntrinsic` writes; `trajectory.log`
holds world_from_camera as the Redwood page "file format" describes: a line of three integers, then
4 x 4.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.listing import (
    chosen_frames,
    existing_root,
    known_frame,
    natural_order,
    safe_key,
    visible_files,
)
from p2pkit.datasets.rgbd.calibration import RgbdCalibration
from p2pkit.datasets.rgbd.reading import RgbdFiles, load_rgbd, nearest_index, rgbd_fingerprint
from p2pkit.datasets.text_files import json_field, numeric_array, read_json, read_text
from p2pkit.errors import GeometryError, SourceError
from p2pkit.geometry.camera import camera_from_matrix
from p2pkit.geometry.transforms import nearest_rigid

COLOR_FOLDERS = ("color", "image", "rgb")
INTRINSICS = ("intrinsic.json", "camera_intrinsic.json", "camera.json", "camera_primesense.json")
TRAJECTORIES = ("trajectory.log", "scene/trajectory.log")
INTRINSICS_FORM = (
    'Open3D\'s form of intrinsic.json: {"width": 640, "height": 480, "intrinsic_matrix": '
    "[525, 0, 0, 0, 525, 0, 319.5, 239.5, 1]} (column by column)"
)
UNITS_PER_METRE = 1000.0
MAX_GAP_S = 0.02
"""Where the images' names tell their times, colour is at most this far from depth."""
_TIMED = re.compile(r"\d+-(\d+)")


class Redwood:
    """A folder in Open3D's layout, or a folder of such folders, as a `FrameSource`.

    Raises:
        SourceError: colour and depth do not pair, or intrinsics or trajectory are not usable.
    """

    name = "redwood"
    label_names: Sequence[str] | None = None
    ignore_label: int | None = None

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        folders = (
            [root]
            if (root / "depth").is_dir()
            else sorted(path.parent for path in root.glob("*/depth") if path.is_dir())
        )
        if not folders:
            raise SourceError(f"{root}: neither it nor a folder of it holds the folder depth")
        self._calibrations = {folder.name: _calibration(folder) for folder in folders}
        listed = [frame for folder in folders for frame in _listed(folder)]
        self._frames = chosen_frames(listed, options)

    def keys(self) -> Sequence[str]:
        """`FOLDER_000012`: the number is the frame's place in sorted order."""
        return list(self._frames)

    def load(self, key: str) -> Frame:
        """Read one frame.

        Raises:
            FrameError: an image is missing, damaged or of another size, or no depth is valid.
        """
        files = known_frame(self._frames, key)
        return load_rgbd(files, self._calibrations[files.sequence])

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, poses and calibrations."""
        return rgbd_fingerprint(self.name, self._frames.values(), self._calibrations)


def _calibration(folder: Path) -> RgbdCalibration:
    path = next((folder / name for name in INTRINSICS if (folder / name).is_file()), None)
    if path is None:
        raise SourceError(f"{folder} holds none of {', '.join(INTRINSICS)}. {INTRINSICS_FORM}")
    value = read_json(path, "redwood")
    size = (json_field(value, "width", path), json_field(value, "height", path))
    numbers = numeric_array(
        json_field(value, "intrinsic_matrix", path), "intrinsic_matrix", path
    ).reshape(-1)
    if len(numbers) != 9 or not all(isinstance(length, int) for length in size):
        raise SourceError(
            f"{path}: width and height must be whole numbers and intrinsic_matrix 9 numbers; found "
            f"{size} and {len(numbers)} numbers"
        )
    try:
        camera = camera_from_matrix(numbers.reshape(3, 3).T, size, "intrinsic_matrix")
    except GeometryError as error:
        raise SourceError(f"{path}: {error}") from error
    return RgbdCalibration(
        units_per_metre=UNITS_PER_METRE,
        depth=camera,
        color=camera,
        color_from_depth=np.eye(4),
        pose="world_from_depth",
        invalid_depth=(0,),
    )


def _listed(folder: Path) -> list[RgbdFiles]:
    color_folder = next((folder / name for name in COLOR_FOLDERS if (folder / name).is_dir()), None)
    if color_folder is None:
        raise SourceError(f"{folder} holds none of the folders {', '.join(COLOR_FOLDERS)}")
    color = _in_order(color_folder, (".jpg", ".png"))
    depth = _in_order(folder / "depth", (".png",))
    poses = _trajectory(folder)
    if poses is not None and len(poses) != len(depth):
        raise SourceError(
            f"{folder}: the trajectory has {len(poses)} poses for {len(depth)} depth images; each "
            "image needs one"
        )
    return [
        RgbdFiles(
            key=safe_key(folder.name, f"{number:06d}"),
            sequence=folder.name,
            color=beside,
            depth=depth[number],
            world_from_depth=None if poses is None else poses[number],
            time_offset_s=offset,
        )
        for number, beside, offset in _paired(folder, color, depth)
    ]


def _paired(
    folder: Path, color: list[Path], depth: list[Path]
) -> Sequence[tuple[int, Path, float | None]]:
    """Place of each depth image, its colour image, and how much later that is where names tell."""
    times = [[_named_time(path) for path in paths] for paths in (color, depth)]
    color_times, depth_times = ([time for time in some if time is not None] for some in times)
    if depth and len(color_times) == len(color) and len(depth_times) == len(depth):
        near = [nearest_index(color_times, time, MAX_GAP_S) for time in depth_times]
        found = [
            (number, color[place], color_times[place] - depth_times[number])
            for number, place in enumerate(near)
            if place is not None
        ]
        if found:
            return found
    if len(color) != len(depth) or not depth:
        raise SourceError(
            f"{folder} holds {len(color)} colour and {len(depth)} depth images; as many of one as "
            "of the other are needed, since they are paired in sorted order"
        )
    return [(number, path, None) for number, path in enumerate(color)]


def _named_time(path: Path) -> float | None:
    """Seconds out of names such as `0000123-000004067811.png`: number and microseconds."""
    match = _TIMED.fullmatch(path.stem)
    return None if match is None else int(match[1]) / 1e6


def _in_order(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Images by the numbers in their names, as Open3D sorts them: 10.png comes after 9.png."""
    found = (path for path in visible_files(folder, "*") if path.suffix in suffixes)
    return sorted(found, key=lambda path: natural_order(path.name))


def _trajectory(folder: Path) -> list[Float64[np.ndarray, "4 4"]] | None:
    path = next((folder / name for name in TRAJECTORIES if (folder / name).is_file()), None)
    if path is None:
        return None
    lines = [line.split() for line in read_text(path, "redwood").splitlines() if line.strip()]
    if not lines or len(lines) % 5:
        raise SourceError(f"{path} has {len(lines)} lines; each pose takes five")
    poses: list[Float64[np.ndarray, "4 4"]] = []
    for start in range(0, len(lines), 5):
        where = f"{path}: the pose at line {start + 1}"
        try:
            rows = [[float(word) for word in line] for line in lines[start + 1 : start + 5]]
            poses.append(nearest_rigid(np.array(rows), where))
        except (ValueError, GeometryError) as error:
            raise SourceError(f"{where} is not 4 x 4 and rigid: {error}") from error
    return poses
