"""`sunrgbd`: SUN RGB-D in its published layout.

Song et al., "SUN RGB-D: A RGB-D Scene Understanding Benchmark Suite", CVPR 2015, and the toolbox's
readme. Anywhere below the folder, a frame's folder holds `image/*.jpg`, `depth_bfx/*.png` (filled)
or `depth/*.png`, and `intrinsics.txt` (3 x 3). Depth is millimetres whose 16 bits are rotated left
by three. Its poses are tilts only, and its labels are a MATLAB file: neither is read.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from p2pkit.datasets.left_out import LeftOut
from p2pkit.datasets.listing import folders_with, safe_key, visible_files
from p2pkit.datasets.rgbd.calibration import RgbdCalibration, registered
from p2pkit.datasets.rgbd.reading import RgbdFiles, SeparateImages, rgbd_fingerprint
from p2pkit.datasets.text_files import TEXT_ENCODING
from p2pkit.errors import FrameError, GeometryError, SourceError
from p2pkit.files import sha256_json
from p2pkit.geometry.camera import Camera, camera_from_matrix, check_size_fits

DEPTH_FOLDERS = ("depth_bfx", "depth")
UNITS_PER_METRE = 1000.0
# What tar stores take; sun3ddata has folders such as
# mit_lab_16/lab_16_nov_2_2012_scan1_erika/0000001-000000020431.
LONGEST_KEY = 80


class SunRgbd(SeparateImages):
    """SUN RGB-D frames as a `FrameSource`; a sequence is the folder that holds the frames' folders.

    Keys are the paths of the frames' folders below the given one, with `_` for `/`, at most 80
    characters long.

    Raises:
        SourceError: no frame's folder is below the given one.
    """

    name = "sunrgbd"

    def _list(self, root: Path) -> list[RgbdFiles]:
        folders = folders_with(root, "intrinsics.txt")
        found = [_files(folder, root, self.left_out) for folder in folders]
        listed = [files for files in found if files is not None]
        if not listed:
            raise SourceError(
                f"{root}: no folder below contains intrinsics.txt, image/*.jpg and one of "
                f"{', '.join(DEPTH_FOLDERS)}; {len(folders)} contain intrinsics.txt"
            )
        return listed

    def _decoded(self, depth: np.ndarray, files: RgbdFiles) -> np.ndarray:
        """Millimetres, by rotating the 16 bits right by three, as the toolbox's read3dPoints.m."""
        return (depth >> 3) | (depth << 13)

    def _calibration(self, files: RgbdFiles) -> RgbdCalibration:
        return registered(_camera(files), UNITS_PER_METRE)

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, and a digest of all intrinsics."""
        frames = self._frames.values()
        texts = [_intrinsics(files).read_text(errors="replace") for files in frames]
        found = rgbd_fingerprint(self.name, frames, {})
        return found | {"calibration": sha256_json(texts)} | self._units_json()


def _files(folder: Path, root: Path, left_out: list[LeftOut]) -> RgbdFiles | None:
    color = visible_files(folder / "image", "*.jpg")
    found = (visible_files(folder / name, "*.png") for name in DEPTH_FOLDERS)
    depth = next(filter(None, found), [])
    if not color and not depth:
        return None
    if len(color) != 1 or len(depth) != 1:
        reason = f"{len(color)} colour and {len(depth)} depth images; expected one of each"
        left_out.append(LeftOut(str(folder.relative_to(root)), reason))
        return None
    parts = folder.relative_to(root).parts or (folder.name,)
    return RgbdFiles(key=_key(parts), sequence="_".join(parts[:-1]), color=color[0], depth=depth[0])


def _key(parts: tuple[str, ...]) -> str:
    """The path as a key; of a long one both ends, and a digest of all of it between them."""
    key = safe_key(*parts)
    if len(key) <= LONGEST_KEY:
        return key
    digest = sha256("/".join(parts).encode()).hexdigest()[:8]
    return f"{key[:24]}-{digest}-{key[-46:]}"


def _intrinsics(files: RgbdFiles) -> Path:
    return files.depth.parents[1] / "intrinsics.txt"


def _camera(files: RgbdFiles) -> Camera:
    """The frame's own intrinsics, at the size of its depth image."""
    path = _intrinsics(files)
    try:
        numbers = np.array([float(word) for word in path.read_text(TEXT_ENCODING).split()])
        with Image.open(files.depth) as image:
            size = image.size
        camera = camera_from_matrix(numbers.reshape(3, 3), size, path.name)
        return check_size_fits(camera, files.depth.name)
    except (OSError, SyntaxError, ValueError, GeometryError) as error:
        raise FrameError(files.key, f"intrinsics.txt or the depth's size: {error}") from error
