"""`redwood`: the RGB-D layout of Open3D's reconstruction system and of the Redwood data sets.

`color/` (or `image/`, `rgb/`) and `depth/` hold images that belong together by the numbers in their
names or, in the object scans, by their times (`0000123-000004067811.png`), depth registered to
colour; a JSON file holds `width`, `height` and `intrinsic_matrix` (nine numbers, column by column),
as Open3D's `PinholeCameraIntrinsic` writes, and `depth_scale`, units per metre, where Open3D
recorded from a sensor (1000 without it); `trajectory.log` holds world_from_camera as the Redwood
page "file format" describes: a line of three integers, the first of which numbers the image, then
4 x 4. Colour and depth may differ in size; the intrinsics are scaled to both.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.files.images import image_size
from p2pkit.datasets.files.text import json_field, numeric_array, read_json, read_text
from p2pkit.datasets.left_out import LeftOut
from p2pkit.datasets.listing import safe_key, visible_files
from p2pkit.datasets.pairing import named_number, named_time, pair_images, without_partner
from p2pkit.datasets.registry import LARGEST_UNITS
from p2pkit.datasets.rgbd.calibration import RgbdCalibration, at_image_sizes, registered
from p2pkit.datasets.rgbd.reading import RgbdFiles, SequencesOfImages, rigid_poses
from p2pkit.errors import GeometryError, SourceError
from p2pkit.geometry.camera import camera_from_matrix

COLOR_FOLDERS = ("color", "image", "rgb")
INTRINSICS = ("intrinsic.json", "camera_intrinsic.json", "camera.json", "camera_primesense.json")
TRAJECTORIES = ("trajectory.log", "scene/trajectory.log")
INTRINSICS_FORM = (
    "If intrinsic.json is missing, write it in Open3D's format: "
    '{"width": 640, "height": 480, "intrinsic_matrix": '
    "[525, 0, 0, 0, 525, 0, 319.5, 239.5, 1]} (column by column)"
)
UNITS_PER_METRE = 1000.0
MAX_GAP_S = 0.02
"""Where the images' names give their times, colour is at most this far from depth."""

Row = tuple[int, Float64[np.ndarray, "4 4"]]


class Redwood(SequencesOfImages):
    """A folder in Open3D's layout, or a folder of such folders, as a `FrameSource`.

    Keys are `FOLDER_000012`: the number is the depth image's place in the order of numbers.

    Raises:
        SourceError: no sequence is left in which colour and depth pair, and intrinsics and
            trajectory are usable.
    """

    name = "redwood"

    def _folders(self, root: Path) -> list[Path]:
        if (root / "depth").is_dir():
            return [root]
        folders = sorted(path.parent for path in root.glob("*/depth") if path.is_dir())
        if not folders:
            raise SourceError(f"{root}: neither it nor a folder in it contains the folder depth")
        return folders

    def _read(self, folder: Path) -> tuple[list[RgbdFiles], RgbdCalibration]:
        listed = _listed(folder, self.left_out)
        return listed, _at_sizes(_calibration(folder), listed, folder)


def _at_sizes(
    calibration: RgbdCalibration, listed: list[RgbdFiles], folder: Path
) -> RgbdCalibration:
    """At the sizes of the first frame whose images can be read; loading reports the others."""
    for files in listed:
        try:
            sizes = image_size(files.color), image_size(files.depth)
        except SourceError:
            continue
        return at_image_sizes(calibration, *sizes, f"the intrinsics of {folder.name}")
    return calibration


def _calibration(folder: Path) -> RgbdCalibration:
    path = next((folder / name for name in INTRINSICS if (folder / name).is_file()), None)
    if path is None:
        raise SourceError(f"{folder} contains none of {', '.join(INTRINSICS)}. {INTRINSICS_FORM}")
    value = read_json(path, "redwood")
    size = (json_field(value, "width", path), json_field(value, "height", path))
    numbers = numeric_array(
        json_field(value, "intrinsic_matrix", path), "intrinsic_matrix", path
    ).reshape(-1)
    if len(numbers) != 9 or not all(isinstance(length, int) for length in size):
        raise SourceError(
            f"{path}: expected whole numbers width and height and 9 numbers in intrinsic_matrix, "
            f"found {size} and {len(numbers)} numbers"
        )
    try:
        camera = camera_from_matrix(numbers.reshape(3, 3).T, size, "intrinsic_matrix")
    except GeometryError as error:
        raise SourceError(f"{path}: {error}") from error
    return registered(camera, _depth_scale(value, path), pose="world_from_depth")


def _depth_scale(value: dict[str, Any], path: Path) -> float:
    """Units per metre as Open3D's recorders note them; millimetres where they are not noted."""
    scale = value.get("depth_scale", UNITS_PER_METRE)
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not is_number or not 0 < scale <= LARGEST_UNITS:
        raise SourceError(
            f"{path}: depth_scale is {scale!r}; expected units per metre, a positive number up to "
            f"{LARGEST_UNITS:g}"
        )
    return float(scale)


def _listed(folder: Path, left_out: list[LeftOut]) -> list[RgbdFiles]:
    color_folder = next((folder / name for name in COLOR_FOLDERS if (folder / name).is_dir()), None)
    if color_folder is None:
        raise SourceError(f"{folder} contains none of the folders {', '.join(COLOR_FOLDERS)}")
    color = _images(color_folder, (".jpg", ".jpeg", ".png"))
    depth = _images(folder / "depth", (".png",))
    found = pair_images(color, depth, max_gap_s=MAX_GAP_S)
    if found.alone:
        reason = without_partner(found.alone, "partner by number or time")
        left_out.append(LeftOut(folder.name, reason))
    poses = _poses(folder, color, depth, left_out)
    place = {path: number for number, path in enumerate(depth)}
    return [
        RgbdFiles(
            key=safe_key(folder.name, f"{place[pair.second]:06d}"),
            sequence=folder.name,
            color=pair.first,
            depth=pair.second,
            world_from_depth=None if poses is None else poses[pair.second],
            time_offset_s=pair.offset_s,
        )
        for pair in found.pairs
        if poses is None or pair.second in poses
    ]


def _images(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Images by the numbers in their names, as Open3D sorts them: 10.png comes after 9.png."""
    return [path for path in visible_files(folder, "*") if path.suffix.lower() in suffixes]


def _poses(
    folder: Path, color: list[Path], depth: list[Path], left_out: list[LeftOut]
) -> dict[Path, Float64[np.ndarray, "4 4"]] | None:
    """The rigid pose of each depth image that has one; None without a trajectory."""
    path = next((folder / name for name in TRAJECTORIES if (folder / name).is_file()), None)
    if path is None:
        return None
    rows = _trajectory(path)
    numbers = _pose_numbers(depth)
    first = min((one for one in _pose_numbers([*color, *depth]) if one is not None), default=0)
    stored = _by_number(rows, depth, numbers)
    if stored is None:
        stored = _by_position(rows, depth, folder)
    elif first > min(number for number, _ in rows) == 0:
        raise SourceError(
            f"{folder}: {path.name} numbers its {len(rows)} poses from 0, but the {len(depth)} "
            f"depth images are numbered from {first}, so pose {first} may be of image {first} or, "
            f"where images count from 1, of image {first + 1}; keep only the poses of these "
            f"images in {path.name}, or number images and poses from 0"
        )
    return rigid_poses(stored, path, folder.name, left_out)


def _pose_numbers(images: list[Path]) -> list[int | None]:
    """The numbers in the names; None where these are times."""
    return [named_number(one) if named_time(one) is None else None for one in images]


def _by_number(
    rows: list[Row], depth: list[Path], numbers: list[int | None]
) -> dict[Path, Float64[np.ndarray, "4 4"]] | None:
    """The poses with the images' numbers; None unless each image has exactly one."""
    by_number = dict(rows)
    if len(by_number) < len(rows) or not all(number in by_number for number in numbers):
        return None
    return {
        image: by_number[number]
        for image, number in zip(depth, numbers, strict=True)
        if number is not None
    }


def _by_position(
    rows: list[Row], depth: list[Path], folder: Path
) -> dict[Path, Float64[np.ndarray, "4 4"]]:
    """The poses in the images' order, of a trajectory with as many."""
    if len(rows) != len(depth):
        raise SourceError(
            f"{folder}: the trajectory has {len(rows)} poses for {len(depth)} depth images; "
            "expected one for each image, by number or by position"
        )
    return {image: pose for image, (_, pose) in zip(depth, rows, strict=True)}


def _trajectory(path: Path) -> list[Row]:
    """Number and world_from_camera of each pose, as stored."""
    lines = [line.split() for line in read_text(path, "redwood").splitlines() if line.strip()]
    if not lines or len(lines) % 5:
        raise SourceError(f"{path} has {len(lines)} lines; expected five for each pose")
    poses: list[Row] = []
    for start in range(0, len(lines), 5):
        where = f"{path}: the pose at line {start + 1}"
        try:
            number = int(lines[start][0])
            rows = [[float(word) for word in line] for line in lines[start + 1 : start + 5]]
            poses.append((number, np.array(rows).reshape(4, 4)))
        except ValueError as error:
            raise SourceError(f"{where} is not 4 x 4: {error}") from error
    return poses
