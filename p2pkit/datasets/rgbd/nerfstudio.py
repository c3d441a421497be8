"""`nerfstudio`: `transforms.json` with depth images, as nerfstudio, Polycam and Record3D export.

Nerfstudio's page "Data conventions": `frames` with `file_path`, `depth_file_path` and
`transform_matrix`, world_from_camera with OpenGL's axes (x right, y up, z backward), z up in the
world; intrinsics `fl_x fl_y cx cy w h` and distortion `k1 k2 k3 k4 p1 p2` for all frames or for
each. A pixel's centre is at half-integers, so that 0.5 px are subtracted from `cx` and `cy`. Depth
is registered to colour, in millimetres unless `depth_unit_scale_factor` (metres per unit) says
otherwise, and may be smaller than colour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.files.images import image_size
from p2pkit.datasets.files.text import json_field, numeric_array, read_json
from p2pkit.datasets.left_out import LeftOut, read_sequences
from p2pkit.datasets.listing import natural_order, safe_key
from p2pkit.datasets.pairing import without_partner
from p2pkit.datasets.rgbd.calibration import RgbdCalibration, at_image_sizes, registered
from p2pkit.datasets.rgbd.reading import (
    RgbdFiles,
    SeparateImages,
    rgbd_fingerprint,
    rigid_poses,
)
from p2pkit.datasets.world import near_world
from p2pkit.errors import FrameError, GeometryError, SourceError
from p2pkit.files import sha256_json
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.lens_distortion import Distortion

FILE = "transforms.json"
METRES_PER_UNIT = 0.001
RAW_EXPORT = (
    "Convert Polycam's raw export to a transforms.json with nerfstudio's `ns-process-data polycam "
    "--use-depth`"
)
_MODELS = ("OPENCV", "OPENCV_FISHEYE", "PINHOLE", "SIMPLE_PINHOLE")


@dataclass(frozen=True, kw_only=True)
class _PosedFiles(RgbdFiles):
    """A frame with its own calibration, for images of the size that `transforms.json` gives."""

    calibration: RgbdCalibration


class Nerfstudio(SeparateImages):
    """A folder with `transforms.json`, or a folder of such folders, as a `FrameSource`.

    Keys are `FOLDER_NAME`, the name of the colour image without its ending; where two images have
    one name, as those of several cameras, NAME is the whole `file_path`.

    Raises:
        SourceError: no `transforms.json` has usable intrinsics, poses and depth images.
    """

    name = "nerfstudio"

    def _list(self, root: Path) -> list[RgbdFiles]:
        here = (root / FILE).is_file()
        folders = [root] if here else sorted(path.parent for path in root.glob(f"*/{FILE}"))
        if not folders:
            raise SourceError(f"{root}: neither it nor a folder in it contains {FILE}")

        def read(folder: Path) -> list[RgbdFiles]:
            return list(_listed(folder, self.left_out))

        found = read_sequences(folders, read, self.left_out, root)
        listed, self._origins = near_world(found, "world_from_depth")
        return listed

    def _calibration(self, files: RgbdFiles) -> RgbdCalibration:
        """At the size of the frame's depth image."""
        assert isinstance(files, _PosedFiles)
        color = files.calibration.color
        try:
            size = image_size(files.depth)
            return at_image_sizes(files.calibration, (color.width, color.height), size, FILE)
        except SourceError as error:
            raise FrameError(files.key, str(error)) from error

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, poses, and the calibration or a digest of those of all frames."""
        frames = self._frames.values()
        found = [files.calibration.to_json() for files in frames if isinstance(files, _PosedFiles)]
        is_one = all(other == found[0] for other in found)
        return {
            **rgbd_fingerprint(self.name, frames, {}),
            "calibration": found[0] if is_one else sha256_json(found),
            **self._units_json(),
            **self._origins,
        }


def _listed(folder: Path, left_out: list[LeftOut]) -> list[_PosedFiles]:
    path = folder / FILE
    value = read_json(path, "nerfstudio")
    entries = json_field(value, "frames", path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SourceError(f"{path}: expected a list of objects in frames")
    entries.sort(key=lambda entry: natural_order(str(entry.get("file_path", ""))))
    with_depth = [entry for entry in entries if entry.get("depth_file_path")]
    if not with_depth:
        raise SourceError(
            f"{path}: none of its {len(entries)} frames names a depth image in depth_file_path; "
            "p2pkit needs measured depth: export with it (Polycam and Record3D record it on phones "
            f"with LiDAR). {RAW_EXPORT}"
        )
    if alone := [entry for entry in entries if not entry.get("depth_file_path")]:
        images = [folder / str(entry.get("file_path", "?")) for entry in alone]
        left_out.append(LeftOut(folder.name, without_partner(images, "depth_file_path")))
    scale = _world_scale(value, path)
    images = [Path(str(json_field(entry, "file_path", path))) for entry in with_depth]
    stored = {
        folder / image: _matrix(entry, path)
        for image, entry in zip(images, with_depth, strict=True)
    }
    poses = rigid_poses(stored, path, folder.name, left_out)
    for pose in poses.values():
        pose[:3, 3] /= scale
    return [
        _frame(entry, value, folder, key, poses[folder / image])
        for entry, key, image in zip(with_depth, _keys(folder, images), images, strict=True)
        if folder / image in poses
    ]


def _matrix(entry: dict[str, Any], path: Path) -> Float64[np.ndarray, "..."]:
    name = "transform_matrix"
    return numeric_array(json_field(entry, name, path), name, path, finite=False)


def _keys(folder: Path, images: list[Path]) -> list[str]:
    """By the images' names, or by their paths where cameras' folders repeat the names."""
    keys = [safe_key(folder.name, image.stem) for image in images]
    if len(set(keys)) == len(keys):
        return keys
    return [safe_key(folder.name, *image.parent.parts, image.stem) for image in images]


def _frame(
    entry: dict[str, Any],
    shared: dict[str, Any],
    folder: Path,
    key: str,
    world_from_color: Float64[np.ndarray, "4 4"],
) -> _PosedFiles:
    path = folder / FILE
    color = folder / str(entry["file_path"])
    calibration = _calibration(shared | entry, path, f"{path}: {color.name}")
    return _PosedFiles(
        key=key,
        sequence=folder.name,
        color=color,
        depth=folder / str(entry["depth_file_path"]),
        world_from_depth=calibration.world_from_depth(world_from_color),
        calibration=calibration,
    )


def _calibration(value: Mapping[str, Any], path: Path, where: str) -> RgbdCalibration:
    model = str(value.get("camera_model", "OPENCV"))
    if model not in _MODELS:
        raise SourceError(f"{where}: camera_model is {model}; expected {', '.join(_MODELS)}")
    width, height = (_number(value, name, path) for name in ("w", "h"))
    focal, middle = _number(value, "fl_x", path), (width / 2, height / 2)
    try:
        camera = Camera(
            int(width),
            int(height),
            fx=focal,
            fy=_number(value, "fl_y", path, focal),
            cx=_number(value, "cx", path, middle[0]) - 0.5,
            cy=_number(value, "cy", path, middle[1]) - 0.5,
        )
        lens = _distortion(value, model, path)
    except GeometryError as error:
        raise SourceError(f"{where}: {error}") from error
    metres = _number(value, "depth_unit_scale_factor", path, METRES_PER_UNIT)
    if not metres > 0:
        raise SourceError(
            f"{path}: depth_unit_scale_factor is {metres:g}; expected metres per unit"
        )
    return registered(
        camera, 1 / metres, distortion=lens, pose="world_from_color", pose_axes="opengl"
    )


def _distortion(value: Mapping[str, Any], model: str, path: Path) -> Distortion | None:
    names = ("k1", "k2", "k3", "k4", "p1", "p2")
    k1, k2, k3, k4, p1, p2 = (_number(value, name, path, 0.0) for name in names)
    if not any((k1, k2, k3, k4, p1, p2)) or model.endswith("PINHOLE"):
        return None
    if model == "OPENCV_FISHEYE":
        return Distortion("fisheye", (k1, k2, k3, k4))
    if k4:
        raise SourceError(f"{path}: k4 is {k4:g}; OPENCV lenses are read up to k3")
    return Distortion("radial-tangential", (k1, k2, p1, p2, k3))


def _number(value: Mapping[str, Any], name: str, path: Path, default: float | None = None) -> float:
    found = value.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int | float) or not np.isfinite(found):
        raise SourceError(f"{path}: {name} is {found!r}; expected a number for all frames or each")
    return float(found)


def _world_scale(value: dict[str, Any], path: Path) -> float:
    """By how much `applied_transform` and `applied_scale` have scaled the world's metres.

    Rotations and shifts of the world stay: poses are needed relative to each other only.
    """
    scale = _number(value, "applied_scale", path, 1.0)
    if "applied_transform" in value:
        applied = numeric_array(value["applied_transform"], "applied_transform", path)
        if applied.shape not in ((3, 4), (4, 4)):
            raise SourceError(f"{path}: applied_transform is {applied.shape}; expected 3 x 4")
        turn: Float64[np.ndarray, "3 3"] = applied[:3, :3]
        stretch = float(np.cbrt(np.linalg.det(turn)))
        if not stretch > 0 or not np.allclose(turn @ turn.T, stretch**2 * np.eye(3), atol=1e-3):
            raise SourceError(
                f"{path}: applied_transform mirrors or stretches the world: {applied.tolist()}"
            )
        scale *= stretch
    if not scale > 0:
        raise SourceError(f"{path}: applied_scale is {scale:g}; expected a positive number")
    return scale
